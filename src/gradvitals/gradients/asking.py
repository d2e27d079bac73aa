"""Asking a backward pass in several ways, and telling a difference that means something from rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradvitals.frameworks.problem import Array, Gradient, Problem
from gradvitals.frameworks.pullback import PlainPullback, Pull, Pullback
from gradvitals.vocabulary.errors import GradvitalsError

#: Gradients that differ less than this, relatively (2-norm), may be the same sums in another order; by unit roundoff
#: of the coarsest dtype. The least precise backward pass of PyTorch's operators (logcumsumexp) loses 6e-4 in float32;
#: the mistakes that are looked for change gradients by much more.
ALIKE = ((1e-12, 1e-6), (1e-6, 2e-3), (1e-3, 2e-2), (1.0, 5e-2))
#: A difference must exceed the gradient's own rounding by this factor: another order of summation may be worse than
#: the one whose rounding was seen.
WELL_ABOVE = 4.0
#: Rounding that is assumed of a gradient that nearly cancels, in unit roundoffs of the largest one.
_ASSUMED_UNITS = 32.0

#: Gradients, flat, one per tensor; zeros where there is none.
Gradients = tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """A rule that the backward pass breaks.

    Attributes
    ----------
    kind : str
        ignores-cotangent, nonzero-at-zero, not-linear, cotangent-strides, cotangent-expanded, modifies-cotangent,
        second-pass, output-alone, input-strides, value-strides, double-use, call-between, needs-input-grad,
        forward-reverse-differ.
    tensors : tuple of int
        Whose gradients are affected.
    relative : float
        How much the worst of them differs, relative to what it should be (2-norm); infinite where it is NaN, or
        should be zero.
    layouts : tuple of str
        The memory layouts in which it differs.
    raised : str
        What the backward pass raised, where it gave no gradient at all.

    """

    kind: str
    tensors: tuple[int, ...]
    relative: float = 0.0
    layouts: tuple[str, ...] = ()
    raised: str = ""


class Asking:
    """Forward and backward passes of a problem, counted."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.forwards = self.backwards = 0
        self._pullback: Callable[..., Pullback] | None = getattr(problem, "pullback", None)
        #: The layouts that cotangents may have besides "plain".
        self.layouts: tuple[str, ...] = getattr(problem, "layouts", ())

    def forward(
        self,
        moved: Mapping[int, Array] | None = None,
        *,
        layout: str = "plain",
        shared: Sequence[tuple[int, int]] = (),
        only: Sequence[int] | None = None,
    ) -> Pullback | None:
        """A forward pass; None where the function refuses it."""
        self.forwards += 1
        try:
            if self._pullback is None:
                return PlainPullback(self.problem)
            made = self._pullback(moved, layout=layout, shared=shared, only=only)
        except (GradvitalsError, RuntimeError):
            return None
        self.forwards -= getattr(made, "is_known", False)
        return made

    def send(self, pullback: Pullback, cotangent: Array, layout: str = "plain") -> Pull:
        """A backward pass."""
        self.backwards += 1
        self.forwards += pullback.runs_anew
        return pullback.send(cotangent, layout)

    def gradients(self, pullback: Pullback | None, cotangent: Array, layout: str = "plain") -> Gradients | None:
        """What a backward pass gives; None where it gives nothing that could be compared."""
        return None if pullback is None else self.read(self.send(pullback, cotangent, layout))

    def read(self, pull: Pull) -> Gradients | None:
        """Flat arrays; None where the backward pass raised."""
        return None if pull.raised else self.flat(pull.gradients)

    def flat(self, gradients: Sequence[Gradient]) -> Gradients | None:
        """Flat arrays; None where one has another shape than its tensor."""
        if any(gradient.got_shape is not None or gradient.stopped for gradient in gradients):
            return None
        return tuple(
            np.zeros(tensor.size) if gradient.value is None else gradient.value
            for tensor, gradient in zip(self.problem.tensors, gradients, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Rounding:
    """How much gradients may differ without meaning anything: relatively, and absolutely per tensor (2-norm)."""

    share: float
    floors: tuple[float, ...]

    def apart(self, found: Gradients, expected: Gradients, times: float = 1.0) -> dict[int, float]:
        """The tensors whose gradients differ, and how much relatively; entries not finite to begin with can't."""
        differing: dict[int, float] = {}
        for at, (one, other, floor) in enumerate(zip(found, expected, self.floors, strict=True)):
            finite = np.isfinite(other)
            if one is other or not finite.any():
                continue
            if not finite.all():
                one, other = one[finite], other[finite]  # noqa: PLW2901
            with np.errstate(invalid="ignore", over="ignore"):
                size, difference = float(np.linalg.norm(other)), float(np.linalg.norm(one - other))
            if not difference <= max(self.share * size, times * floor):
                differing[at] = difference / size if size and np.isfinite(difference) else np.inf
        return differing

    def wider(self, one: Gradients, other: Gradients) -> Rounding:
        """Taking what two gradients differ by for rounding."""
        seen = [
            float(np.linalg.norm(np.nan_to_num(a - b, posinf=0, neginf=0))) for a, b in zip(one, other, strict=True)
        ]
        return Rounding(self.share, tuple(f + WELL_ABOVE * s for f, s in zip(self.floors, seen, strict=True)))


def alike_within(problem: Problem) -> float:
    """The relative difference within which gradients of a problem's dtypes are the same."""
    coarsest = max(tensor.roundoff for tensor in problem.tensors)
    return next(share for bound, share in ALIKE if coarsest < bound)


def rounding_of(problem: Problem, gradients: Gradients) -> Rounding:
    """What may be rounding before any has been seen."""
    coarsest = max(tensor.roundoff for tensor in problem.tensors)
    scales = [_scale(problem.point(at)) for at in range(len(gradients))]
    sizes = [np.linalg.norm(g) * s for g, s in zip(gradients, scales, strict=True) if np.isfinite(g).all()]
    largest = float(max(sizes, default=0.0))
    return Rounding(alike_within(problem), tuple(_ASSUMED_UNITS * coarsest * largest / scale for scale in scales))


def joined(pieces: Sequence[Fault]) -> Fault:
    """Several sights of one fault as one."""
    return Fault(
        pieces[0].kind,
        tuple(sorted({at for piece in pieces for at in piece.tensors})),
        max(piece.relative for piece in pieces),
        tuple(dict.fromkeys(layout for piece in pieces for layout in piece.layouts)),
        next((piece.raised for piece in pieces if piece.raised), ""),
    )


def _scale(x: Array) -> float:
    rms = float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0
    return rms if rms > 0 and np.isfinite(rms) else 1.0
