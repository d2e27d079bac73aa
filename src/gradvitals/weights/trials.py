"""What short trainings from several starts say: the best rate of each start, its last loss, and its curve."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gradvitals.vocabulary.finding import Fact
from gradvitals.vocabulary.report import Table

#: The loss of a run is the mean over its last steps: batches differ.
_LAST = 0.05
#: Points of a curve: as many as a drawing shows apart.
_POINTS = 40
_SPARKS = "▁▂▃▄▅▆▇█"
_SPARK_CELLS = 20


@dataclass(frozen=True, slots=True)
class Trial:
    """One training.

    Parameters
    ----------
    method : str
        The start.
    seed : int
    rate : float
        Learning rate.
    losses : tuple of float
        Before each step; the last is not finite where the run broke off.
    steps : int
        How many were asked for.

    """

    method: str
    seed: int
    rate: float
    losses: tuple[float, ...]
    steps: int

    @property
    def is_broken(self) -> bool:
        """Whether the loss left the finite numbers."""
        return not self.losses or not math.isfinite(self.losses[-1])

    @property
    def last(self) -> float:
        """Mean loss over the last steps; infinite where the run broke off."""
        return math.inf if self.is_broken else statistics.fmean(self.losses[-max(1, round(_LAST * self.steps)) :])

    def at(self, step: int) -> float:
        """The loss around a step; behind the end of a run that was stopped early, its last."""
        if step >= len(self.losses):
            return self.last
        width = max(1, self.steps // _POINTS)
        return statistics.fmean(self.losses[step : step + width])


@dataclass(frozen=True, slots=True)
class Outcome:
    """The trials of one start at the learning rate that served it best."""

    method: str
    rate: float
    trials: tuple[Trial, ...]
    broken: int

    @property
    def last(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(trial.last for trial in self.trials)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        lasts = [trial.last for trial in self.trials]
        return statistics.stdev(lasts) if len(lasts) > 1 and all(map(math.isfinite, lasts)) else None

    @property
    def first(self) -> float:
        """Mean loss over seeds before any step."""
        return statistics.fmean(trial.losses[0] for trial in self.trials)

    def first_below(self, loss: float) -> int | None:
        """The first step whose mean loss over seeds is no larger; None where there is none."""
        steps = _steps(self.trials[0].steps, self.trials[0].steps)
        return next((step for step, mean in zip(steps, self.curve(steps), strict=True) if mean <= loss), None)

    def curve(self, steps: Sequence[int]) -> tuple[float, ...]:
        """Mean loss over seeds at some steps."""
        return tuple(statistics.fmean(trial.at(step) for trial in self.trials) for step in steps)


def outcomes(trials: Iterable[Trial]) -> tuple[Outcome, ...]:
    """The best rate of each start by the mean of its last losses; the best start first.

    Starts are compared over those seeds that every one of them has finished, where there are any.
    """
    by_method: dict[str, dict[float, dict[int, Trial]]] = {}
    for trial in trials:
        by_method.setdefault(trial.method, {}).setdefault(trial.rate, {})[trial.seed] = trial
    common = _common([seeds for rates in by_method.values() for seeds in rates.values()])
    found = []
    for method, rates in by_method.items():
        sets = {
            rate: tuple(trial for seed, trial in seeds.items() if not common or seed in common)
            for rate, seeds in rates.items()
        }
        rate = min(sets, key=lambda rate: statistics.fmean(trial.last for trial in sets[rate]))
        broken = sum(trial.is_broken for trials in sets.values() for trial in trials)
        found.append(Outcome(method, rate, sets[rate], broken))
    return tuple(sorted(found, key=lambda outcome: outcome.last))


def _common(seeds: Sequence[Mapping[int, Trial]]) -> set[int]:
    return set.intersection(*(set(one) for one in seeds)) if seeds else set()


def starts_table(found: Sequence[Outcome]) -> Table:
    """One row per start, the best first."""
    columns = ("method", "rate", "loss_first", "loss_last", "loss_spread", "trials", "broken", "curve")
    first = [outcome.first for outcome in found]
    curves = [outcome.curve(_steps(outcome.trials[0].steps, _SPARK_CELLS)) for outcome in found]
    low = min((value for curve in curves for value in curve if math.isfinite(value)), default=0.0)
    high = max((value for value in first if math.isfinite(value)), default=1.0)
    rows: list[tuple[Fact, ...]] = []
    for outcome, start, curve in zip(found, first, curves, strict=True):
        sparks = "".join(_spark(value, low, high) for value in curve)
        sizes = (start, outcome.last, outcome.spread)
        rows.append((outcome.method, outcome.rate, *sizes, len(outcome.trials), outcome.broken, sparks))
    return Table("starts", columns, ("",) * len(columns), tuple(rows))


def curves_table(found: Sequence[Outcome]) -> Table:
    """One row per start and step."""
    rows = [
        (outcome.method, step, loss)
        for outcome in found
        for steps in [_steps(outcome.trials[0].steps, _POINTS)]
        for step, loss in zip(steps, outcome.curve(steps), strict=True)
    ]
    return Table("curves", ("method", "step", "loss"), ("", "", ""), tuple(rows))


def _steps(steps: int, points: int) -> list[int]:
    """Steps at even distances, the first and the last among them."""
    points = min(points, steps)
    return [round(at * (steps - 1) / max(1, points - 1)) for at in range(points)]


def _spark(value: float, low: float, high: float) -> str:
    """A block whose height is a loss; a loss above the highest start, or none, is a full one or a cross.

    >>> [_spark(value, 0.0, 1.0) for value in (0.0, 0.5, 1.0, 7.0, math.inf)]
    ['▁', '▅', '█', '█', '×']
    """
    if not math.isfinite(value):
        return "×"
    share = (value - low) / (high - low) if high > low else 0.0
    return _SPARKS[min(7, max(0, int(share * 8)))]
