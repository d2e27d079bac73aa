"""Products with the Jacobian of one tensor in a recorded graph with respect to another, and with its transpose."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradvitals.vocabulary.errors import ModelError

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

#: Entries of cotangents that are sent back at once when a Jacobian is written down.
_AT_ONCE = 2**24
#: More rows than columns are formed where only rows can be had, up to this many.
_MOST_ROWS = 1024
#: What is pushed forwards and what is pulled back agree to this, or so many roundings, for random vectors; what a
#: backward pass hides from autograd (detach, NumPy) is missing in the one, by far more.
_AGREE, _AGREE_ROUNDINGS = 1e-2, 16.0
#: Autograd's node in the place of a backward pass that can't be differentiated.
_ERROR_NODE = "torch::autograd::Error"
_SEED = 20_240_601


@dataclass(frozen=True, slots=True)
class Rows:
    """How a tensor's samples lie: along an axis, in blocks of equal length; all of it is one where there are none."""

    shape: torch.Size
    axis: int = 0
    samples: int = 1

    @property
    def size(self) -> int:
        """Entries of one sample."""
        return self.shape.numel() // self.samples

    def apart(self, tensor: torch.Tensor) -> Array:
        """To one row per sample."""
        return np.asarray(self.flat(tensor.detach()).to("cpu", torch.float64).numpy())

    def flat(self, tensor: torch.Tensor) -> torch.Tensor:
        """To one row per sample, a tensor still."""
        return tensor.movedim(self.axis, 0).reshape(self.samples, -1)

    def together(self, rows: torch.Tensor) -> torch.Tensor:
        """Back, with any dimensions in front of (samples, entries)."""
        front = rows.shape[:-2]
        moved = [self.shape[self.axis], *(n for at, n in enumerate(self.shape) if at != self.axis)]
        return (
            rows.reshape(*front, *moved).movedim(len(front), len(front) + self.axis)
            if self.shape
            else rows.reshape(front)
        )


class TorchJacobian:
    """J = ∂end/∂start by the graph between them; where samples don't depend on one another, each sample's own.

    J·v is Jᵀ's own backward pass (double backward), or by ``tangent``, forward mode, where that can't be.

    Parameters
    ----------
    start, end : torch.Tensor
        In a graph that stays.
    samples : mapping of int to int
        How many samples there may be along the first (0) and second axis (1) of the start.
    tangent : callable, optional
        Maps a change of ``start`` to that of ``end``.

    Raises
    ------
    ModelError
        When the backward pass raises.

    """

    def __init__(
        self,
        start: torch.Tensor,
        end: torch.Tensor,
        samples: Mapping[int, int],
        tangent: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self._start, self._end, self._tangent = start, end, tangent
        self._graph: tuple[torch.Tensor, torch.Tensor] | ModelError | None = None
        self._batched = True
        #: Whether the end was computed from the start.
        self.is_connected = True
        self.inputs, self.outputs = self._layout(samples)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.inputs.samples, self.outputs.size, self.inputs.size

    @property
    def roundoff(self) -> float:
        return max(torch.finfo(tensor.dtype).eps for tensor in (self._start, self._end)) / 2

    def forward(self, vectors: Array) -> Array:
        moved = self.inputs.together(torch.from_numpy(vectors)).to(self._start)
        return self.outputs.apart(self._pushed(moved))

    def transposed(self, vectors: Array) -> Array:
        sent = self.outputs.together(torch.from_numpy(vectors)).to(self._end)
        found = self._back(sent)
        return self.inputs.apart(torch.zeros_like(self._start) if found is None else found)

    def dense(self) -> Array:
        """Each sample's J written down, row by row or column by column, whichever are fewer."""
        samples, outputs, inputs = self.shape
        by_rows = outputs <= inputs
        if not by_rows and outputs <= _MOST_ROWS:
            by_rows = not self._has_forward()
        count, size = outputs if by_rows else inputs, max(self._start.numel(), self._end.numel())
        chunk = max(1, _AT_ONCE // size)
        parts = [
            self._of_units(list(range(at, min(at + chunk, count))), by_rows=by_rows) for at in range(0, count, chunk)
        ]
        found = np.concatenate(parts).reshape(count, samples, -1)
        return np.ascontiguousarray(found.transpose((1, 0, 2) if by_rows else (1, 2, 0)))

    def _of_units(self, units: list[int], *, by_rows: bool) -> Array:
        """What the products make of unit vectors, the same in every sample: of shape (units, samples, other side)."""
        given, got = (self.outputs, self.inputs) if by_rows else (self.inputs, self.outputs)
        like = self._end if by_rows else self._start
        product = self._back if by_rows else self._pushed
        rows = np.zeros((len(units), given.samples, given.size))
        rows[np.arange(len(units)), :, units] = 1
        sent = given.together(torch.from_numpy(rows).to(like))
        if self._batched:
            try:
                together = self._many(sent, by_rows=by_rows)
                return np.stack([got.apart(one) for one in together])
            except (RuntimeError, NotImplementedError):  # an operation that can't be batched: one by one
                self._batched = False
        nothing = torch.zeros(got.shape, dtype=like.dtype, device=like.device)
        return np.stack([got.apart(nothing if (one := product(each)) is None else one) for each in sent])

    def _many(self, sent: torch.Tensor, *, by_rows: bool) -> torch.Tensor:
        source, target = (self._end, self._start) if by_rows else self._transposed_graph()
        (found,) = torch.autograd.grad(
            source, target, sent, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
        return target.new_zeros(len(sent), *target.shape) if found is None else found

    def _back(self, sent: torch.Tensor) -> torch.Tensor | None:
        try:
            (found,) = torch.autograd.grad(self._end, self._start, sent, retain_graph=True, allow_unused=True)
        except Exception as error:
            raise ModelError(
                "the backward pass raised",
                f"{type(error).__name__}: {error}",
                "call backward() by hand, with retain_graph=True, to see it fail; a Jacobian needs many of them",
            ) from error
        return found

    def _pushed(self, moved: torch.Tensor) -> torch.Tensor:
        """J·v."""
        if self._tangent is not None and not self._has_forward():
            return self._tangent(moved)
        pulled, sent = self._transposed_graph()
        return torch.autograd.grad(pulled, sent, moved, retain_graph=True)[0]

    def _has_forward(self) -> bool:
        """Whether the backward pass can be differentiated."""
        try:
            self._transposed_graph()
        except ModelError:
            return False
        return True

    def _transposed_graph(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Jᵀ·u as a graph, linear in u, whose own backward pass is J·v; made once. Raises ModelError where it isn't."""
        if self._graph is None:
            try:
                self._graph = _twice(self._start, self._end)
            except ModelError as error:
                self._graph = error
            except (RuntimeError, NotImplementedError) as error:
                self._graph = _only_once(str(error))
        if isinstance(self._graph, ModelError):
            raise self._graph
        return self._graph

    def _layout(self, samples: Mapping[int, int]) -> tuple[Rows, Rows]:
        """Along which axes the samples lie that don't depend on one another; all is one sample where none are."""
        for wanted, count in samples.items():
            for axes in sorted(itertools.product((0, 1), repeat=2), key=lambda pair: pair.count(1 - wanted)):
                pair = [Rows(x.shape, axis, count) for x, axis in zip((self._start, self._end), axes, strict=True)]
                if count > 1 and all(map(_is_possible, pair)) and self._are_independent(*pair):
                    return pair[0], pair[1]
        self.is_connected = self._back(torch.ones_like(self._end)) is not None
        return Rows(self._start.shape), Rows(self._end.shape)

    def _are_independent(self, inputs: Rows, outputs: Rows) -> bool:
        """Whether what is sent back from every other sample reaches those samples only."""
        generator = torch.Generator().manual_seed(_SEED)
        rows = torch.randn(outputs.samples, outputs.size, generator=generator, device="cpu")
        rows[::2] = 0
        found = self._back(outputs.together(rows).to(self._end))
        self.is_connected = found is not None
        return found is None or not bool(inputs.flat(found)[::2].any())


def _twice(start: torch.Tensor, end: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Jᵀ·u and u, with the graph between them. Raises ModelError where a part of it is missing."""
    generator = torch.Generator().manual_seed(_SEED)
    moved, sent = (torch.randn(x.shape, generator=generator, device="cpu").to(x) for x in (start, end))
    sent.requires_grad_()
    (pulled,) = torch.autograd.grad(end, start, sent, create_graph=True)
    if any(node.name() == _ERROR_NODE for node in _nodes(pulled)):
        raise _only_once("the backward of an autograd.Function is marked @once_differentiable")
    (pushed,) = torch.autograd.grad(pulled, sent, moved, retain_graph=True)
    with torch.no_grad():
        sides = [
            torch.linalg.vecdot(a.flatten().double(), b.flatten().double())
            for a, b in ((pulled, moved), (pushed, sent))
        ]
        scale = pulled.double().norm() * moved.double().norm() / max(start.numel(), 1) ** 0.5
        allowed = max(_AGREE, _AGREE_ROUNDINGS * max(torch.finfo(x.dtype).eps for x in (start, end)))
        if bool((sides[0] - sides[1]).abs() > allowed * scale):
            raise _only_once("a part of the backward pass is hidden from autograd")
    return pulled, sent


def _only_once(where: str) -> ModelError:
    return ModelError(
        "a backward pass can't be differentiated",
        where,
        "write it with differentiable operations, without @once_differentiable; the rest of the report doesn't need it",
    )


def _nodes(tensor: torch.Tensor) -> Iterator[Any]:
    """Every node of the graph behind a tensor."""
    waiting = [tensor.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is not None:
            yield node
            ahead = {behind for behind, _ in node.next_functions} - seen
            seen |= ahead
            waiting += ahead


def _is_possible(rows: Rows) -> bool:
    """Whether samples may lie along an axis: along the first also several rows of each."""
    if len(rows.shape) <= rows.axis:
        return False
    length = rows.shape[rows.axis]
    return length % rows.samples == 0 if rows.axis == 0 else length == rows.samples
