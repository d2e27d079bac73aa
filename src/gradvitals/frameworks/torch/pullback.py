"""One backward pass: gradients at the leaves, as they came."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import torch

from gradvitals.frameworks.problem import Array, Gradient, Tensor
from gradvitals.frameworks.torch.entries import flat_gradient
from gradvitals.vocabulary.errors import ModelError

#: Autograd's own words when a Function's backward returns a gradient of a wrong shape.
_WRONG_SHAPE = re.compile(
    r"invalid gradient at index \d+ - got \[([\d, ]*)\] but expected shape compatible with \[([\d, ]*)\]"
)


def split(cotangent: Array, outputs: Sequence[torch.Tensor]) -> list[Array]:
    """The part of a flat cotangent that belongs to each output; a complex one has two numbers an entry.

    Raises ModelError where they don't fit: a function may give more or fewer numbers elsewhere.
    """
    counts = [output.numel() * (2 if output.is_complex() else 1) for output in outputs]
    if sum(counts) != cotangent.size:
        raise ModelError(
            "the output has another size at another point",
            f"{cotangent.size} entries at the point itself, {sum(counts)} beside it",
            "select with indices or a mask that are made before, not by the values that are differentiated",
        )
    stops = itertools.accumulate(counts)
    return [cotangent[stop - count : stop].copy() for stop, count in zip(stops, counts, strict=True)]


def pulled_back(
    outputs: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    leaves: Sequence[torch.Tensor],
    tensors: Sequence[Tensor],
) -> tuple[Gradient, ...]:
    """Gradients of ⟨cotangents, outputs⟩ at the leaves.

    Parameters
    ----------
    outputs, cotangents : sequence of torch.Tensor
        Outputs that don't require gradients are passed over.
    leaves : sequence of torch.Tensor
    tensors : sequence of Tensor
        What the leaves are; a gradient of a wrong shape is told by its shape.

    Raises
    ------
    RuntimeError
        Whatever the backward pass raises, but for a gradient of a wrong shape.

    """
    live = [(out, part) for out, part in zip(outputs, cotangents, strict=True) if out.requires_grad]
    if not live:
        return (Gradient(None),) * len(leaves)
    roots, sent = zip(*live, strict=True)
    try:
        found = _grad(roots, sent, leaves)
    except RuntimeError as error:
        fault = _WRONG_SHAPE.search(str(error))
        if fault is None:
            raise
        got, expected = (tuple(int(n) for n in sizes.split(",") if n.strip()) for sizes in fault.groups())
        return _misshapen(tensors, got, expected)
    return tuple(Gradient(None if g is None else flat_gradient(g, leaf)) for g, leaf in zip(found, leaves, strict=True))


def _grad(
    roots: Sequence[torch.Tensor], sent: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor]
) -> Sequence[torch.Tensor | None]:
    try:
        return torch.autograd.grad(roots, leaves, sent, allow_unused=True, retain_graph=True)
    except RuntimeError as error:
        if "donated buffers" in str(error):  # compiled code may run backwards once only
            return torch.autograd.grad(roots, leaves, sent, allow_unused=True)
        # Re-entrant checkpoints run under backward() only.
        if "checkpoint" not in str(error).lower():
            raise
    return _backward(roots, sent, leaves)


def _backward(
    roots: Sequence[torch.Tensor], sent: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor]
) -> Sequence[torch.Tensor | None]:
    """Gradients as ``backward()`` leaves them in ``.grad``, which is as before afterwards."""
    hooks = [leaf._post_accumulate_grad_hooks or {} for leaf in leaves]  # noqa: SLF001 - they may step an optimiser
    kept = [(leaf, leaf.grad, held, dict(held)) for leaf, held in zip(leaves, hooks, strict=True)]
    try:
        for leaf, _, held, _ in kept:
            leaf.grad = None
            held.clear()
        torch.autograd.backward(roots, sent, retain_graph=True)
        return [leaf.grad for leaf in leaves]
    finally:
        for leaf, grad, held, contents in kept:
            leaf.grad = grad
            held.update(contents)


def _misshapen(tensors: Sequence[Tensor], got: tuple[int, ...], expected: tuple[int, ...]) -> tuple[Gradient, ...]:
    """Autograd names the shapes and not the tensor: it is the one of that shape, or something inside the function."""
    fits = [tensor.shown_shape == expected for tensor in tensors]
    if not any(fits):
        return (Gradient(None, got),) * len(fits)
    return tuple(Gradient(None, got) if fit else Gradient(None, stopped=True) for fit in fits)
