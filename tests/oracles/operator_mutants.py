"""Mistakes to put into the gradients of the cases of :mod:`oracles.operators`.

One input goes through an identity whose backward pass spoils the gradient; or all outputs do, and the cotangents that
come in are misread.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch

from oracles import mutations, operators

#: A single entry is spoilt only where its gradient is at least this much of the tensor's RMS.
LEAST_ENTRY = 0.3
#: A gradient that moves by this share when its point moves by a few roundoffs is nothing but rounding.
ALL_ROUNDING = 0.1

#: Where one entry is spoilt: by how much of itself.
ENTRY_KINDS = {"entry zeroed": 1.0, "entry 1 %": 0.01}
GRADIENT_KINDS = ("× 1.01", "× 1.001", "× 2", "sign", *ENTRY_KINDS, "+ 1e-3", "flipped")
COTANGENT_KINDS = ("ignores cotangent", "expanded", "strided")
KINDS = (*GRADIENT_KINDS, *COTANGENT_KINDS)


@dataclass(frozen=True, slots=True)
class Mutant:
    """The function of a case with a mistake in its backward pass.

    ``position`` is the input whose gradient is spoilt, None where the incoming cotangent is misread. ``change`` is
    what the mistake really does to the native gradient: relative to its 2-norm, or, where one entry is wrong, to its
    RMS.
    """

    kind: str
    function: object
    position: int | None
    change: float


def mutants(case):
    """All mistakes that count in a case, and why others don't: a list of Mutant and Unusable.

    A mistake counts only where it changes the float64 gradient (and, after rounding, the one in the case's own dtype)
    by at least half of what its kind stands for.
    """
    rng = random.Random(operators.seed(case.name) + case.sample)  # noqa: S311 - a reproducible choice is wanted
    sound = [at for at in range(len(case.inputs)) if _is_more_than_rounding(case, at)]
    if not sound:
        zero = not any(np.any(g) for g in case.reference.wide)
        return [operators.Unusable(f"every kind: the gradient is {'zero' if zero else 'nothing but rounding'}")]
    position = rng.choice(sound)
    found = []
    for mutation in _mutations(case, position, rng):
        share = min(
            _share(mutation, _spoilt(mutation.spoil, g, dtype), g)
            for g, dtype in ((case.reference.wide[position], "float64"), (case.reference.native[position], case.dtype))
        )
        if share < mutations.COUNTING_SHARE:
            found.append(operators.Unusable(f"{mutation.kind}: too small a change"))
            continue
        native = case.reference.native[position]
        difference = _spoilt(mutation.spoil, native, case.dtype) - native
        entries = native[0].size if mutation.kind in ENTRY_KINDS else 1
        change = float(np.linalg.norm(difference) / np.linalg.norm(native) * math.sqrt(entries))
        found.append(Mutant(mutation.kind, InputSpoilt(case.function, position, mutation.spoil), position, change))
    for kind in COTANGENT_KINDS:
        function = OutputsSpoilt(case.function, _MISREAD[kind])
        change = _cotangent_change(case, function, kind)
        small = change < mutations.COUNTING_SHARE
        found.append(
            operators.Unusable(f"{kind}: too small a change") if small else Mutant(kind, function, None, change)
        )
    return found


def _mutations(case, position, rng):
    wide = case.reference.wide[position]
    sizes = np.sqrt((wide**2).mean(axis=0))
    large = np.argwhere(sizes >= LEAST_ENTRY * np.sqrt((sizes**2).mean()))
    index = tuple(int(i) for i in large[rng.randrange(len(large))])
    yield mutations.scaled("× 1.01", 1.01)
    yield mutations.scaled("× 1.001", 1.001)
    yield mutations.scaled("× 2", 2.0)
    yield mutations.scaled("sign", -1.0)
    yield mutations.entry_scaled("entry zeroed", index, 0.0, ENTRY_KINDS["entry zeroed"])
    yield mutations.entry_scaled("entry 1 %", index, 1.01, ENTRY_KINDS["entry 1 %"])
    yield mutations.Mutation("+ 1e-3", lambda g: g + 1e-3, 1e-3)
    longest = int(np.argmax(sizes.shape)) if sizes.ndim else None
    yield mutations.Mutation("flipped", lambda g: g if longest is None else g.flip(longest), 1.0)


def _share(mutation, spoilt, gradients):
    """The change over the nominal one; where a single entry is wrong, of that entry."""
    difference = spoilt - gradients
    touched = difference != 0 if mutation.kind in ENTRY_KINDS else np.ones(difference.shape, bool)
    size = np.linalg.norm(gradients[touched])
    return float(np.linalg.norm(difference[touched]) / size) / mutation.nominal if size else 0.0


def _spoilt(spoil, gradients, dtype):
    """Gradients for several cotangents as the mistake makes them, in the arithmetic of a dtype."""
    return np.stack([operators.array(spoil(g)) for g in torch.from_numpy(gradients).to(operators.DTYPES[dtype])])


def _is_more_than_rounding(case, at):
    """Whether a gradient keeps its value when the point moves by a few units in float64's last place."""
    wide = case.reference.wide[at]
    size = np.linalg.norm(wide)
    if size == 0 or case.reference.own_error(at) > ALL_ROUNDING:
        return False
    if not case.reference.from_float64:
        return True
    moved = [x.double() * (1 + 4 * torch.finfo(torch.float64).eps) for x in case.inputs]
    cotangents = operators.cotangents(case.function, case.inputs, operators.seed(case.name) + case.sample)
    there = np.stack([operators.pulled_back(case.function, moved, w)[at] for w in cotangents])
    return bool(np.linalg.norm(there - wide) <= ALL_ROUNDING * size)


class _Spoiling(torch.autograd.Function):
    """The identity, whose backward pass is not one."""

    @staticmethod
    def forward(ctx, x, spoil):
        ctx.spoil = spoil
        return x.clone()

    @staticmethod
    def backward(ctx, cotangent):
        return ctx.spoil(cotangent), None


class InputSpoilt:
    """A function with the gradient of one input spoilt.

    ``changes`` are the relative changes (2-norm) of the gradients that were asked for, for the cotangents that whoever
    asked had chosen.
    """

    def __init__(self, function, position, spoil):
        self._function, self._position, self._spoil = function, position, spoil
        self.changes = []

    def __call__(self, *inputs):
        spoilt = (_Spoiling.apply(x, self._watched) if at == self._position else x for at, x in enumerate(inputs))
        return self._function(*spoilt)

    def _watched(self, gradient):
        spoilt = self._spoil(gradient)
        if not torch._C._functorch.is_batchedtensor(gradient):
            size = float(gradient.double().norm())
            self.changes += [float((spoilt.double() - gradient.double()).norm()) / size] if size else []
        return spoilt


class OutputsSpoilt:
    """A function that misreads the cotangents of its outputs."""

    def __init__(self, function, misread):
        self._function, self._misread = function, misread

    def __call__(self, *inputs):
        return tuple(_Spoiling.apply(y, self._misread) for y in self._function(*inputs))


def _is_expanded(w):
    return any(stride == 0 and size > 1 for stride, size in zip(w.stride(), w.shape, strict=True))


def _in_memory_order(w):
    """The cotangent as a kernel sees it that takes it for contiguous; beyond its memory there are zeros."""
    held = w.untyped_storage().nbytes() // w.element_size() - w.storage_offset()
    memory = w.as_strided((min(held, w.numel()),), (1,))
    return torch.cat([memory, memory.new_zeros(w.numel() - memory.numel())]).reshape(w.shape)


_MISREAD = {
    "ignores cotangent": torch.ones_like,
    "expanded": lambda w: _in_memory_order(w) if _is_expanded(w) else w,
    "strided": lambda w: _in_memory_order(w) if not (w.is_contiguous() or _is_expanded(w)) else w,
}

_LAID_OUT = {
    "ignores cotangent": lambda w: w,
    "expanded": lambda w: torch.ones((), dtype=w.dtype).expand(w.shape),
    "strided": lambda w: torch.stack([w, torch.zeros_like(w)], -1)[..., 0],
}


def _cotangent_change(case, function, kind):
    """Relative change of the gradient, over all inputs, for cotangents of the sort that such a mistake is about."""
    inputs = [x.double() for x in case.inputs] if case.reference.from_float64 else case.inputs
    right, wrong = [], []
    for drawn in operators.cotangents(case.function, inputs, operators.seed(case.name) + case.sample):
        cotangent = [_LAID_OUT[kind](w) for w in drawn]
        for found, asked in ((right, case.function), (wrong, function)):
            found.append(np.concatenate([g.ravel() for g in operators.pulled_back(asked, inputs, cotangent)]))
    size = np.linalg.norm(right)
    return float(np.linalg.norm(np.subtract(wrong, right)) / size) if size else 0.0
