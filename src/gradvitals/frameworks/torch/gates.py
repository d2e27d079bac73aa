"""How far the gates of a recurrent layer are flat, which its outputs don't show."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gradvitals.frameworks.torch.flatness import flat_sides
from gradvitals.frameworks.torch.moments import is_readable

#: Sequences and steps that are looked at: a share over thousands of values has settled.
_SAMPLES, _STEPS = 16, 64


def flat_share(module: nn.Module, args: tuple[Any, ...], output: Any) -> float | None:
    """Share of the first layer's sigmoids and tanhs whose slope is below 2.5 % of its largest; None of other modules.

    Of a stack the state of the first layer isn't seen: there only what the input gives to its gates counts.
    """
    with torch.no_grad():
        try:
            if isinstance(module, nn.RNNBase):
                return _of_layer(module, args, output)
            if isinstance(module, (nn.LSTMCell, nn.GRUCell, nn.RNNCell)) and _is_plain(args[0]):
                return _of_cell(module, args, output)
        except (AttributeError, IndexError, RuntimeError):  # an odd layout: the output is there as of any other call
            return None
    return None


def _of_layer(module: nn.RNNBase, args: tuple[Any, ...], output: Any) -> float | None:
    x = args[0]
    out = output[0]
    if isinstance(x, nn.utils.rnn.PackedSequence):
        x, out = x.data[:, None], out.data[:, None]
        is_alone = False
    elif _is_plain(x) and x.ndim == 3:
        x, out = (y.transpose(0, 1) if module.batch_first else y for y in (x, out))
        is_alone = module.num_layers == 1
    else:
        return None
    few = torch.arange(0, len(x), max(len(x) // _STEPS, 1), device=x.device)
    if module.mode == "RNN_TANH":
        return _flat("tanh", torch.atanh(out[few, :_SAMPLES].double()))
    if module.mode not in {"LSTM", "GRU"}:
        return None
    x = x[few, :_SAMPLES]
    state = None
    if is_alone and not module.proj_size:
        width = module.hidden_size
        before = torch.cat([torch.zeros_like(out[:1, :_SAMPLES, :width]), out[:-1, :_SAMPLES, :width]])
        state = before[few]
    into, over, *_ = module.all_weights[0]
    return _share(module.mode, into, over, _biases(module, "_l0"), x, state)


def _of_cell(module: nn.RNNCellBase, args: tuple[Any, ...], output: Any) -> float | None:
    if isinstance(module, nn.RNNCell):
        return _flat("tanh", torch.atanh(output.double())) if module.nonlinearity == "tanh" else None
    state = args[1] if len(args) > 1 else None
    state = state[0] if isinstance(state, (tuple, list)) else state
    kind = "LSTM" if isinstance(module, nn.LSTMCell) else "GRU"
    return _share(kind, module.weight_ih, module.weight_hh, _biases(module, ""), args[0], state)


def _share(
    kind: str,
    into: torch.Tensor,
    over: torch.Tensor,
    biases: tuple[torch.Tensor | None, torch.Tensor | None],
    x: torch.Tensor,
    state: torch.Tensor | None,
) -> float:
    given = nn.functional.linear(x, into, biases[0])
    kept = given.new_zeros(given.shape) if state is None else nn.functional.linear(state, over)
    if biases[1] is not None:
        kept = kept + biases[1]
    if kind == "LSTM":
        first, forget, candidate, last = (given + kept).chunk(4, -1)
        flat = [_flat("sigmoid", gate) for gate in (first, forget, last)]
        return (sum(flat) + _flat("tanh", candidate)) / 4
    reset, update, candidate = given.chunk(3, -1)
    kept_reset, kept_update, kept_candidate = kept.chunk(3, -1)
    reset = reset + kept_reset
    flat = [_flat("sigmoid", gate) for gate in (reset, update + kept_update)]
    return (sum(flat) + _flat("tanh", candidate + torch.sigmoid(reset) * kept_candidate)) / 3


def _flat(name: str, values: torch.Tensor) -> float:
    low, high = flat_sides(name)
    return float(((values <= low) | (values >= high)).double().mean())


def _biases(module: nn.Module, ending: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    return getattr(module, f"bias_ih{ending}", None), getattr(module, f"bias_hh{ending}", None)


def _is_plain(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and is_readable(x)
