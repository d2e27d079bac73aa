"""Recurrent layers over time: how much the last step's output still depends on each step's input."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gradvitals.frameworks.capture import Steps
from gradvitals.frameworks.torch.moments import is_readable
from gradvitals.frameworks.torch.objective import cotangents
from gradvitals.frameworks.torch.shards import is_sharded

#: Samples that are run once more: an RMS over this many sequences is known to a few per cent.
_SAMPLES = 16
#: Sequences of fewer steps have no trend over time.
_FEWEST = 4


@dataclass(frozen=True, slots=True)
class RecurrentCall:
    """A call of a recurrent layer, and what went in."""

    path: str
    module: nn.RNNBase
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def over_time(call: RecurrentCall, seed: int) -> Steps | None:
    """Run the layer once more on a few samples, alone, and send a random gradient back from its last output.

    None of packed sequences, single sequences without a batch, short ones, and weights that are spread over processes.
    """
    given = dict(zip(("input", "hx"), call.args, strict=False)) | dict(call.kwargs)
    x = given.get("input")
    spread = any(map(is_sharded, call.module.parameters()))
    if not isinstance(x, torch.Tensor) or x.ndim != 3 or not is_readable(x) or spread:
        return None
    batch, time = (0, 1) if call.module.batch_first else (1, 0)
    if x.shape[time] < _FEWEST or not x.shape[batch]:
        return None
    x = x.detach().narrow(batch, 0, min(_SAMPLES, x.shape[batch])).clone().requires_grad_()
    with torch.enable_grad(), _reproducible(call.module, seed):
        output, _ = type(call.module).forward(call.module, x, _few(given.get("hx"), x.shape[batch]))
        if call.module.bidirectional:
            output = output[..., : output.shape[-1] // 2]
        last = output.select(time, output.shape[time] - 1)
        if not last.requires_grad:
            return None
        (echo,) = torch.autograd.grad([last], [x], cotangents([last], seed))
    kind = type(call.module).__name__
    return Steps(call.path, kind, _rms_along(output.detach(), time), _rms_along(echo, time))


def _few(state: Any, samples: int) -> Any:
    if isinstance(state, (tuple, list)):
        return tuple(_few(item, samples) for item in state)
    return state.detach()[:, :samples].contiguous() if isinstance(state, torch.Tensor) else None


@contextlib.contextmanager
def _reproducible(module: nn.Module, seed: int) -> Any:
    """The random state is as before afterwards; cuDNN can't run backwards in evaluation mode."""
    devices = [parameter.device for parameter in module.parameters() if parameter.device.type == "cuda"][:1]
    with torch.random.fork_rng(devices=devices), torch.backends.cudnn.flags(enabled=module.training):
        torch.manual_seed(seed)
        yield


def _rms_along(values: torch.Tensor, time: int) -> tuple[float, ...]:
    rows = values.detach().double().movedim(time, 0).flatten(1)
    return tuple(math.sqrt(float(square)) for square in rows.square().mean(dim=1))
