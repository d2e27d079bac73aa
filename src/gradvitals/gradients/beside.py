"""The same problem a step beside its point, where the kinks that it lies on no longer matter.

A batch of zeros, a bias of zeros, a tie: a point may lie on a kink exactly, where any slope between two is right. A
step beside it the same code has one slope, which can be checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from gradvitals.frameworks.problem import Array, Gradient, Problem
from gradvitals.gradients.measure_base import Base

#: The step, in the scale of each tensor: the finer half of every ladder stays on one side of the kink. In coarse
#: formats so few numbers lie as near that many of them tie; the second step is for those.
STEPS = (0.0625, 0.5)


class Beside:
    """A problem moved by a random step of a fixed length in all tensors.

    Parameters
    ----------
    problem : Problem
    base : Base
        What is known at its own point.
    rng : numpy.random.Generator
    step : float
        How far, relative to the scale of each tensor.

    """

    def __init__(self, problem: Problem, base: Base, rng: np.random.Generator, step: float = STEPS[0]) -> None:
        self._problem = problem
        self._points = {
            at: problem.rounded(at, x + step * scale * rng.choice((-1.0, 1.0), x.size) * rng.uniform(0.5, 1.0, x.size))
            for at, (x, scale) in enumerate(zip(base.points, base.scales, strict=True))
        }
        # In coarse formats one unit in the last place reaches over the next kink: where the formula can be computed in
        # float64, it is asked for itself.
        self._is_wide = problem.wide_gradient(base.cotangent, self._points) is not None
        self.tensors = tuple(
            replace(tensor, roundoff=problem.roundoff) if self._is_wide else tensor for tensor in problem.tensors
        )
        self.sample_sizes = problem.sample_sizes
        self.objective = problem.objective
        self.roundoff = problem.roundoff
        self.rounded = problem.rounded
        self.representable = problem.representable

    @property
    def evaluation(self) -> str:
        return self._problem.evaluation

    @property
    def output_roundoff(self) -> Array:
        return self._problem.output_roundoff

    @property
    def output_sizes(self) -> tuple[int, ...]:
        return self._problem.output_sizes

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        return self._problem.output_shapes

    @property
    def input_shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return self._problem.input_shapes

    def hand_written(self) -> tuple[str, ...] | None:
        return self._problem.hand_written()

    def cuts(self) -> tuple[str, ...]:
        return self._problem.cuts()

    def point(self, tensor: int) -> Array:
        return self._points[tensor].copy()

    def value(self, moved: Mapping[int, Array]) -> Array:
        return self._problem.value({**self._points, **moved})

    def values(self, points: Sequence[Mapping[int, Array]]) -> Array:
        return self._problem.values([{**self._points, **moved} for moved in points])

    def gradient(self, cotangent: Array, moved: Mapping[int, Array] | None = None) -> tuple[Gradient, ...]:
        there = {**self._points, **(moved or {})}
        wide = self._problem.wide_gradient(cotangent, there) if self._is_wide else None
        return self._problem.gradient(cotangent, there) if wide is None else wide

    def shadow(self, within: Array | None = None) -> Problem | None:
        del within
        return None

    def wide_gradient(self, cotangent: Array, moved: Mapping[int, Array] | None = None) -> tuple[Gradient, ...] | None:
        del cotangent, moved
        return None

    def tangent(self, direction: Mapping[int, Array]) -> Array | None:
        del direction
        return None
