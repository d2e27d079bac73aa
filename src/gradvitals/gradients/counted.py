"""A problem that counts its evaluations, tells how far the work has come, and stops when the budget is spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gradvitals.frameworks.problem import Array, Gradient, Problem


class BudgetSpent(Exception):  # noqa: N818 - not an error: what is unsettled stays unresolved
    """There are no evaluations left."""


class Counted:
    """The same problem, counted.

    Parameters
    ----------
    problem : Problem
    progress : callable, optional
        Called with (evaluations done, evaluations expected).
    expected : int
        A first guess for the progress bar.
    budget : int, optional
        The most evaluations that are made.

    """

    def __init__(
        self,
        problem: Problem,
        progress: Callable[[int, int], None] | None = None,
        *,
        expected: int = 1,
        budget: int | None = None,
    ) -> None:
        self._progress = progress
        self._expected = expected
        self._budget = budget
        self.evaluations = 0
        self.backwards = 0
        self.turn_to(problem)

    def turn_to(self, problem: Problem) -> None:
        """Go on counting with another form of the problem (its float64 shadow)."""
        self._problem = problem
        self.tensors = problem.tensors
        self.sample_sizes = problem.sample_sizes
        self.objective = problem.objective
        self.roundoff = problem.roundoff
        self.point = problem.point
        self.rounded = problem.rounded
        self.representable = problem.representable
        self.shadow = problem.shadow

    @property
    def points(self) -> int:
        """Every point at which F was computed, for a value or on the way to a gradient."""
        return self.evaluations + self.backwards

    @property
    def evaluation(self) -> str:
        return self._problem.evaluation

    @evaluation.setter
    def evaluation(self, how: str) -> None:
        self._problem.evaluation = how

    @property
    def output_roundoff(self) -> Array:
        return self._problem.output_roundoff

    @property
    def output_sizes(self) -> tuple[int, ...]:
        return self._problem.output_sizes

    def value(self, moved: Mapping[int, Array]) -> Array:
        self._count(1)
        return self._problem.value(moved)

    def values(self, points: Sequence[Mapping[int, Array]]) -> Array:
        self._count(len(points))
        return self._problem.values(points)

    def gradient(self, cotangent: Array, moved: Mapping[int, Array] | None = None) -> tuple[Gradient, ...]:
        self.backwards += 1
        return self._problem.gradient(cotangent, moved)

    def _count(self, points: int) -> None:
        if self._budget is not None and self.evaluations + points > self._budget:
            raise BudgetSpent
        self.evaluations += points
        if self._progress is not None:
            self._expected = max(self._expected, self.evaluations + 1)
            self._progress(self.evaluations, self._expected)
