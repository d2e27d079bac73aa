"""What is differentiated: how a model's output, of whatever type, becomes one scalar."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from gradvitals.vocabulary.errors import InputError, ModelError


def scalar(output: Any, loss: Callable[[Any], Any] | None) -> tuple[torch.Tensor | None, str]:
    """Turn an output into the scalar that is differentiated.

    Parameters
    ----------
    output : any
        What the model returned.
    loss : callable, optional
        Maps the output to a scalar tensor.

    Returns
    -------
    value : torch.Tensor or None
        A tensor of shape (), or None where there is neither a loss nor a scalar in the output: then the caller sends
        back a random cotangent.
    kind : str
        ``"loss"``; ``"output-loss"`` for the output's own ``loss`` (attribute or key), or an output that is a scalar;
        ``"random"`` for None.

    Raises
    ------
    ModelError
        When the loss raises.
    InputError
        When the loss isn't a real scalar tensor.

    Examples
    --------
    >>> y = torch.tensor([1.0, 2.0])
    >>> scalar(y, lambda y: y.sum()), scalar({"loss": y[0]}, None), scalar(y, None)
    ((tensor(3.), 'loss'), (tensor(1.), 'output-loss'), (None, 'random'))

    """
    if loss is not None:
        try:
            value = loss(output)
        except Exception as error:
            raise ModelError(
                "the loss raised",
                f"{type(error).__name__}: {error}",
                f"it is called with the model's output, here {_describe(output)}; call it by hand to see it fail",
            ) from error
        return _require_scalar(value), "loss"
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    for candidate in (own, output):
        if isinstance(candidate, torch.Tensor) and candidate.is_floating_point() and candidate.numel() == 1:
            return candidate.reshape(()), "output-loss"
    return None, "random"


def cotangents(tensors: list[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """Random cotangents of unit RMS, one per tensor, like it; the global generator isn't touched."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(tensor.shape, generator=generator, dtype=torch.float64) for tensor in tensors]
    return [
        (noise / noise.square().mean().sqrt()).to(tensor.device, tensor.dtype)
        for noise, tensor in zip(drawn, tensors, strict=True)
    ]


def output_tensors(output: Any, name: str = "output") -> list[tuple[str, torch.Tensor]]:
    """All floating-point tensors of an output, with their paths in it.

    >>> [path for path, _ in output_tensors({"logits": torch.ones(2), "states": (torch.ones(1), torch.tensor(3))})]
    ['output.logits', 'output.states[0]']
    """
    return [(path, tensor) for path, tensor in tensors_in(output, name) if tensor.is_floating_point()]


def tensors_in(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in nested tuples, lists, mappings and dataclasses, with its path."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_in(item, f"{name}.{key}")
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for key, item in zip(value._fields, value, strict=True):
            yield from tensors_in(item, f"{name}.{key}")
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from tensors_in(item, f"{name}[{index}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name, None), f"{name}.{field.name}")


def _require_scalar(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() == 1:
        return value.reshape(())
    if not isinstance(value, torch.Tensor):
        raise InputError(
            "the loss is not a tensor",
            f"it returned {_describe(value)}",
            "return the tensor itself: no .item(), float() or .numpy() inside the loss",
        )
    if not value.is_floating_point():
        raise InputError(
            "the loss is not a real number",
            f"it returned {_describe(value)}",
            "return a floating-point tensor; counts and classes have no slope",
        )
    raise InputError(
        "the loss is not a scalar",
        f"it returned {_describe(value)}",
        "reduce it to one number, for example with .mean() or .sum()",
    )


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    return f"{type(value).__name__}"
