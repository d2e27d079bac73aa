"""The double backward: the first gradient is the function, and what autograd says is its gradient the claim."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from gradvitals.frameworks.problem import Array, Gradient, Tensor, agree, values_one_by_one
from gradvitals.frameworks.torch import pullback
from gradvitals.frameworks.torch.entries import flat, moved_to, real_dtype, unit_roundoff, wider
from gradvitals.frameworks.torch.problem import TorchProblem
from gradvitals.frameworks.user_code import user_code
from gradvitals.vocabulary.errors import InputError, ModelError

#: Entries of the random cotangent lie between these, of either sign, so that none vanishes.
_COTANGENT = (0.5, 1.0)
_SEED = 20_240_229
#: Autograd's words for a backward pass without a backward pass of its own, and its node in the place of one.
_ONCE = ("differentiate twice", "is not implemented", "once_differentiable")
_ERROR_NODE = "torch::autograd::Error"


class SecondOrderProblem:
    """G(θ, v) = the gradient of ⟨v, F(θ)⟩ at θ, differentiated with respect to θ and to v.

    The function is what autograd gives for the first gradient; whether that one is right is the first order's
    question. Where F is a scalar v is 1, and not moved.

    Parameters
    ----------
    first : TorchProblem

    Raises
    ------
    InputError
        When no gradient reaches anything.
    ModelError
        When a backward pass can't be differentiated.

    """

    objective = "random"
    evaluation = "sequential"

    def __init__(self, first: TorchProblem) -> None:
        self._first = first
        self.wide = first.wide
        self.roundoff = first.roundoff
        self.sample_sizes = first.sample_sizes
        size = sum(first.output_sizes)
        rng = np.random.default_rng(_SEED)
        drawn = rng.choice((-1.0, 1.0), size) * rng.uniform(*_COTANGENT, size)
        self._cotangent = np.ones(1) if first.objective != "random" else first.representable(drawn)
        moves = first.objective == "random"
        dtypes = first.output_dtypes
        self._dtype = max((real_dtype(dtype) for dtype in dtypes), key=unit_roundoff)
        name = str(self._dtype).removeprefix("torch.")
        sent = Tensor("cotangent", "input", (size,), name, unit_roundoff(self._dtype))
        self.tensors = (*first.tensors, sent) if moves else first.tensors
        self._live: list[int] = []
        self._native = self
        with self._recorded({}, create_graph=True) as (_, gradients):
            if any(node.name() == _ERROR_NODE for node in _nodes(gradients)):
                raise _not_twice("the backward of an autograd.Function is marked @once_differentiable")
            self._live = [at for at, gradient in enumerate(gradients) if gradient is not None]
            self._dtypes = [gradient.dtype for gradient in gradients if gradient is not None]
        if not self._live:
            raise InputError(
                "there is no first gradient to differentiate",
                f"none of {', '.join(tensor.path for tensor in first.tensors)} has one",
                "check the first order before: gv.check(...) without order=2",
            )
        self._outputs = [flat(gradient) for gradient in self._first_gradients({})]
        self._pulled_back(np.ones(sum(self.output_sizes)), {})  # what can't be differentiated says so here

    def point(self, tensor: int) -> Array:
        return self._cotangent.copy() if tensor == len(self._first.tensors) else self._first.point(tensor)

    def rounded(self, tensor: int, values: Array) -> Array:
        if tensor < len(self._first.tensors):
            return self._first.rounded(tensor, values)
        return values if self.wide else self._first.representable(values)

    def value(self, moved: Mapping[int, Array]) -> Array:
        self._outputs = [flat(gradient) for gradient in self._first_gradients(moved)]
        return np.concatenate(self._outputs)

    def values(self, points: Sequence[Mapping[int, Array]]) -> Array:
        return values_one_by_one(self, points, sum(self.output_sizes))

    def shadow(self, within: Array | None = None) -> SecondOrderProblem | None:
        first = self._first.shadow()
        if first is None:
            return None
        native = self.value({})
        shadow = copy.copy(self)
        shadow._first, shadow.wide, shadow.roundoff = first, True, first.roundoff  # noqa: SLF001 - of this class
        shadow._native = self  # noqa: SLF001
        try:
            same = agree(shadow.value({}), native, self.roundoff, within)
        except (ModelError, InputError):
            return None
        return shadow if same else None

    @property
    def output_roundoff(self) -> Array:
        dtypes = [wider(dtype) if self.wide else dtype for dtype in self._dtypes]
        pairs = zip(self._outputs, dtypes, strict=True)
        return np.concatenate([np.full(output.size, unit_roundoff(dtype)) for output, dtype in pairs])

    @property
    def output_sizes(self) -> tuple[int, ...]:
        return tuple(output.size for output in self._outputs)

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(self._first.tensors[at].shape for at in self._live)

    @property
    def input_shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return self._first.input_shapes

    def cuts(self) -> tuple[str, ...]:
        return ()

    def hand_written(self) -> None:
        return None

    def representable(self, cotangent: Array) -> Array:
        found, start = [], 0
        for size, dtype in zip(self.output_sizes, self._dtypes, strict=True):
            found.append(flat(torch.from_numpy(cotangent[start : start + size].copy()).to(real_dtype(dtype))))
            start += size
        return np.concatenate(found)

    def gradient(self, cotangent: Array, moved: Mapping[int, Array] | None = None) -> tuple[Gradient, ...]:
        return self._native._pulled_back(cotangent, moved or {})  # noqa: SLF001 - of this class

    def wide_gradient(self, cotangent: Array, moved: Mapping[int, Array] | None = None) -> tuple[Gradient, ...] | None:
        if not self.wide:
            return None
        try:
            return self._pulled_back(cotangent, moved or {})
        except (ModelError, InputError):
            return None

    def tangent(self, direction: Mapping[int, Array]) -> Array | None:
        del direction
        return None

    def _first_gradients(self, moved: Mapping[int, Array]) -> list[torch.Tensor]:
        with self._recorded(moved, create_graph=False) as (leaves, gradients):
            return [
                torch.zeros_like(leaves[at]) if gradients[at] is None else _dense(gradients[at], leaves[at])
                for at in self._live
            ]

    def _pulled_back(self, cotangent: Array, moved: Mapping[int, Array]) -> tuple[Gradient, ...]:
        with self._recorded(moved, create_graph=True) as (leaves, gradients):
            live = [gradients[at] for at in self._live]
            roots = [_dense(g, leaves[at]) for g, at in zip(live, self._live, strict=True)]
            parts = [
                moved_to(root.detach(), part)
                for root, part in zip(roots, pullback.split(cotangent, roots), strict=True)
            ]
            with self._users_code():
                return pullback.pulled_back(roots, parts, leaves[: len(self.tensors)], self.tensors)

    @contextlib.contextmanager
    def _recorded(
        self, moved: Mapping[int, Array], *, create_graph: bool
    ) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor | None]]]:
        """Leaves (the cotangent last) and the first gradients at the tensors, with their graph if wanted."""
        count = len(self._first.tensors)
        values = moved.get(count, self._cotangent)
        here = {at: there for at, there in moved.items() if at < count}
        with self._first.recorded(here, wide=self.wide) as (starts, outputs):
            sent = torch.from_numpy(values.copy()).to(wider(self._dtype) if self.wide else self._dtype)
            sent.requires_grad_(create_graph)
            parts, at = [], 0
            for output in outputs:
                size = output.numel() * (2 if output.is_complex() else 1)
                part = sent[at : at + size]
                at += size
                if output.is_complex():
                    part = torch.view_as_complex(part.reshape(-1, 2))
                parts.append(part.to(output.device, output.dtype).reshape(output.shape))
            live = [(out, part) for out, part in zip(outputs, parts, strict=True) if out.requires_grad]
            with self._users_code():
                found = (
                    torch.autograd.grad(
                        [out for out, _ in live],
                        starts,
                        [part for _, part in live],
                        create_graph=create_graph,
                        allow_unused=True,
                    )
                    if live
                    else [None] * len(starts)
                )
            yield [*starts, sent], list(found)

    @contextlib.contextmanager
    def _users_code(self) -> Iterator[None]:
        try:
            with user_code("the backward pass"):
                yield
        except ModelError as error:
            if any(word in error.where for word in _ONCE):
                raise _not_twice(error.where) from error.__cause__
            raise


def _not_twice(where: str) -> ModelError:
    return ModelError(
        "a backward pass can't be differentiated a second time",
        where,
        "write the backward of this function with differentiable operations, without @once_differentiable (of "
        "attention, use the plain kernel: torch.nn.attention.sdpa_kernel); or check the first order",
    )


def _nodes(tensors: Sequence[torch.Tensor | None]) -> Iterator[Any]:
    """Every node of the graph behind some tensors."""
    waiting = [tensor.grad_fn for tensor in tensors if tensor is not None and tensor.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        ahead = {behind for behind, _ in node.next_functions if behind is not None} - seen
        seen |= ahead
        waiting += ahead


def _dense(gradient: torch.Tensor | None, leaf: torch.Tensor) -> torch.Tensor:
    if gradient is None:
        return torch.zeros_like(leaf)
    return gradient.to_dense() if gradient.layout != torch.strided else gradient
