"""A problem that counts its evaluations, tells how far the work has come, and stops when the budget is spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradvitals.frameworks.problem import Array, Gradient, Problem


class BudgetSpent(Exception):  # noqa: N818 - not an error: what is unsettled stays unresolved
    """There are no evaluations left."""


@dataclass(slots=True)
class Count:
    """What was done so far: points at which F was evaluated, and backward passes.

    Parameters
    ----------
    expected : int
        A first guess for the progress bar.
    progress : callable, optional
        Called with (evaluations done, evaluations expected).
    budget : int, optional
        The most evaluations that are made.

    """

    expected: int = 1
    progress: Callable[[int, int], None] | None = None
    budget: int | None = None
    evaluations: int = 0
    backwards: int = 0

    @property
    def points(self) -> int:
        """Every point at which F was computed, for a value or on the way to a gradient."""
        return self.evaluations + self.backwards

    def add(self, points: int) -> None:
        """Count evaluations before they are made. Raises BudgetSpent where there are too few left."""
        if self.budget is not None and self.evaluations + points > self.budget:
            raise BudgetSpent
        self.evaluations += points
        if self.progress is not None:
            self.expected = max(self.expected, self.evaluations + 1)
            self.progress(self.evaluations, self.expected)


class Counted:
    """A problem whose evaluations are counted; several forms of one problem share a count.

    Parameters
    ----------
    problem : Problem
    count : Count

    """

    def __init__(self, problem: Problem, count: Count) -> None:
        self.problem = problem
        self.count = count
        self.tensors = problem.tensors
        self.sample_sizes = problem.sample_sizes
        self.objective = problem.objective
        self.roundoff = problem.roundoff
        self.point = problem.point
        self.rounded = problem.rounded
        self.representable = problem.representable
        self.shadow = problem.shadow
        self.tangent = problem.tangent
        self.input_shapes = problem.input_shapes
        self.hand_written = problem.hand_written
        self.cuts = problem.cuts

    @property
    def evaluation(self) -> str:
        return self.problem.evaluation

    @property
    def output_roundoff(self) -> Array:
        return self.problem.output_roundoff

    @property
    def output_sizes(self) -> tuple[int, ...]:
        return self.problem.output_sizes

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        return self.problem.output_shapes

    def value(self, moved: Mapping[int, Array]) -> Array:
        self.count.add(1)
        return self.problem.value(moved)

    def start(self) -> Array:
        """F at the point, which some problems have evaluated already when they are opened."""
        self.count.add(1)
        known: Array | None = getattr(self.problem, "start", None)
        return self.problem.value({}) if known is None else known

    def again(self, value: Array) -> Array:
        """F at the point once more, after the gradient was asked for there.

        What some problems' gradients computed on their way counts where it is ``value`` to the last bit; recorded for
        it, a function may round otherwise.
        """
        known: Array | None = getattr(self.problem, "start_again", None)
        return value if known is not None and np.array_equal(known, value) else self.value({})

    def values(self, points: Sequence[Mapping[int, Array]]) -> Array:
        self.count.add(len(points))
        return self.problem.values(points)

    def gradient(self, cotangent: Array, moved: Mapping[int, Array] | None = None) -> tuple[Gradient, ...]:
        self.count.backwards += 1
        return self.problem.gradient(cotangent, moved)

    def wide_gradient(self, cotangent: Array, moved: Mapping[int, Array] | None = None) -> tuple[Gradient, ...] | None:
        found = self.problem.wide_gradient(cotangent, moved)
        self.count.backwards += found is not None
        return found
