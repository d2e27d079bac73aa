"""One forward and one backward pass of a case, layer by layer, leaving no trace."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from gradvitals.frameworks.capture import Call, Capture, Moments, ParameterRecord
from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.inputs import named_inputs, validate
from gradvitals.frameworks.torch.moments import is_readable, moments, sample_spread
from gradvitals.frameworks.torch.objective import cotangents, output_tensors, scalar
from gradvitals.frameworks.torch.parameters import parameter_records
from gradvitals.frameworks.torch.recorder import Recorder
from gradvitals.frameworks.torch.shards import resharded
from gradvitals.frameworks.torch.stance import run_eagerly
from gradvitals.frameworks.torch.state import preserved, seed_everything
from gradvitals.frameworks.torch.steps import over_time
from gradvitals.vocabulary.errors import InputError, ModelError

__all__ = ["Call", "Capture", "Moments", "ParameterRecord", "capture"]


def capture(case: Case, *, seed: int = 0, backward: bool = True) -> Capture:
    """Run a module forwards and backwards once and record every call of a layer or activation.

    The model runs in the mode that it is in, under the contexts in force (autocast); gradients are recorded also under
    ``torch.no_grad()``. Frozen parameters stay frozen: a layer that no gradient reaches has none. Leaf modules are
    recorded, and outside them functional activations, products with a weight, and any function that makes NaN or
    infinity of finite values. A module without children that is the whole model is looked into.

    Parameters
    ----------
    case : Case
        Its model is a ``torch.nn.Module``.
    seed : int
        Of the random generators for this pass (dropout), and of the random cotangent.
    backward : bool
        Whether to run backwards.

    Returns
    -------
    Capture

    Raises
    ------
    InputError
        On inputs that can't be worked with, a model that isn't a module, a loss that isn't a scalar.
    ModelError
        When the model or the loss raises.

    Notes
    -----
    Dataflow is followed through torch functions only: behind a detour through NumPy a call has no ``sources``.

    """
    model = getattr(case.model, "_orig_mod", case.model)  # hooks don't fire inside a compiled graph
    if not isinstance(model, nn.Module):
        raise InputError(
            "the layers of this model can't be seen",
            f"got {type(model).__name__} {case.subject!r}",
            "pass a torch.nn.Module; a plain function has no layers to look into",
        )
    validate(case)
    inputs = [tensor for _, tensor in named_inputs(case)]
    given = [moments(tensor) if tensor.is_floating_point() else None for tensor in inputs]
    spreads = [spread for spread in map(_spread, inputs) if spread is not None]
    with preserved(model, (case.args, case.keywords)), torch.enable_grad():
        seed_everything(seed)
        with contextlib.closing(Recorder(model, inputs)) as recorder:
            with run_eagerly(), resharded(model):
                output = forward(model, case, recorder)
            value, objective = scalar(output, case.loss)
            leaves = [tensor for tensor in (*model.parameters(), *inputs) if tensor.requires_grad]
            with resharded(model):
                gradients = _backward(output, value, leaves, recorder.gathered, seed) if backward else {}
            # Random cotangents have unit RMS in each sample, where a mean over the batch divides by its size.
            scale = 1.0 if value is not None else 1 / max(recorder.batch, 1)
            steps = (over_time(call, seed) for call in recorder.recurrent) if backward else ()
            return Capture(
                calls=recorder.calls,
                parameters=parameter_records(model, gradients, scale),
                output=tuple(moments(tensor) for _, tensor in output_tensors(output)),
                loss=None if value is None else float(value.detach()),
                objective=objective,
                streams=recorder.streams,
                steps=tuple(step for step in steps if step is not None),
                unseen=_unseen(model),
                untracked=sum(_is_untracked(module) for module in model.modules()),
                input_rms=next((before.rms for before in given if before is not None), None),
                input_spread=max(spreads, default=None),
                compiled=model is not case.model or any(hasattr(module, "_orig_mod") for module in model.modules()),
            )


def _spread(tensor: torch.Tensor) -> float | None:
    """How far the samples of an input lie apart; of integers whether any differ."""
    if tensor.ndim < 1 or len(tensor) < 2 or not is_readable(tensor):
        return None
    if tensor.is_floating_point():
        return sample_spread(tensor.unsqueeze(-1) if tensor.ndim == 1 else tensor)
    return float(not bool((tensor == tensor[:1]).all()))


def _is_untracked(module: nn.Module) -> bool:
    """Whether a normalisation in evaluation mode has its statistics still as they were made: 0 and 1."""
    mean, variance = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    if module.training or not isinstance(mean, torch.Tensor) or not isinstance(variance, torch.Tensor):
        return False
    return not bool(mean.any()) and bool((variance == 1).all())


def _unseen(model: nn.Module) -> tuple[str, ...]:
    """Scripted modules, the outermost of each: Python doesn't run what they hold."""
    found: list[str] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") or not outer for outer in found)
        if isinstance(module, torch.jit.ScriptModule) and not inside:
            found.append(path)
    return tuple(path or type(model).__name__ for path in found)


def forward(model: nn.Module, case: Case, recorder: Recorder) -> Any:
    """The model's output, with the recorder listening. Raises ModelError, with the layer in which it happened."""
    try:
        with recorder.listening():
            return model(*case.args, **case.keywords)
    except Exception as error:
        raise ModelError(
            "the model raised in its forward pass",
            f"in {recorder.innermost}: {type(error).__name__}: {error}",
            "call it by hand with these inputs to see it fail; check their shapes, types and device",
        ) from error


def _backward(
    output: Any,
    value: torch.Tensor | None,
    leaves: list[torch.Tensor],
    gathered: Mapping[int, torch.Tensor],
    seed: int,
) -> dict[int, torch.Tensor]:
    """Send the gradient back, past the hooks on the outputs; returns it at the leaves, by id, where it reached them."""
    targets = [value] if value is not None else [tensor for _, tensor in output_tensors(output)]
    roots = [tensor for tensor in targets if tensor.requires_grad]
    if not roots or not leaves:
        return {}
    sent = None if value is not None else cotangents(roots, seed)
    try:
        found = _gradients(roots, [gathered.get(id(leaf), leaf) for leaf in leaves], sent)
    except Exception as error:
        raise ModelError(
            "the backward pass raised",
            f"{type(error).__name__}: {error}",
            "call loss.backward() by hand to see it fail; look at the model's own autograd.Functions and in-place code",
        ) from error
    return {id(leaf): grad for leaf, grad in zip(leaves, found, strict=True) if grad is not None}


def _gradients(
    roots: list[torch.Tensor], leaves: list[torch.Tensor], sent: list[torch.Tensor] | None
) -> list[torch.Tensor | None]:
    """Gradients at the leaves, with no optimiser hook fired; re-entrant checkpoints only run under ``backward()``."""
    try:
        return list(torch.autograd.grad(roots, leaves, sent, retain_graph=True, allow_unused=True))
    except RuntimeError as error:
        if "checkpoint" not in str(error).lower():
            raise
    for leaf in leaves:
        leaf.grad = None
    torch.autograd.backward(roots, sent)
    return [leaf.grad for leaf in leaves]
