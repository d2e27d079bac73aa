"""Everything that was measured of one tensor, in a form that candidates can be held against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.frameworks.problem import Array
from gradvitals.gradients.measure_entries import Entry
from gradvitals.gradients.measure_lines import SUSPECT_AT, Line
from gradvitals.vocabulary.finding import Estimate

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

#: A candidate may leave this share of what is missing besides the error bar: error bars are estimates.
LEEWAY = 3e-3
#: Of what is wrong, a candidate must explain at least so many observations more than it has free numbers.
_SPARE = 2
#: A coefficient that is zero within so many standard deviations explains nothing.
_SIGNIFICANT = 5.0


@dataclass(frozen=True, slots=True)
class Fit:
    """Coefficients by weighted least squares: their errors, and how many observations they were fitted to."""

    coefficients: Array
    errors: Array
    observations: int

    @property
    def estimate(self) -> Estimate:
        """The first coefficient."""
        return Estimate(float(self.coefficients[0]), float(self.errors[0]))


@dataclass(frozen=True, slots=True)
class Readings:
    """Observations of one tensor: slopes along single entries (first) and along dense directions.

    ``numeric``, ``analytic``, ``error`` and ``slack`` are of shape (K,): ``index`` and ``scale`` belong to the E
    entries, ``dense`` of shape (K − E, size) to the other directions.
    """

    numeric: Array
    analytic: Array
    error: Array
    slack: Array
    index: NDArray[np.int64]
    scale: Array
    dense: tuple[Array, ...]
    size: int

    @property
    def missing(self) -> Array:
        return self.numeric - self.analytic

    @property
    def bar(self) -> Array:
        """What must be exceeded for a slope to be something."""
        return SUSPECT_AT * self.error + self.slack

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Which observations are missing more than their bar."""
        largest = float(np.max(np.abs(self.missing), initial=0.0))
        return np.abs(self.missing) > SUSPECT_AT * self.error + self.slack + LEEWAY * largest

    @property
    def is_complete(self) -> bool:
        """Whether every entry was measured."""
        return len(np.unique(self.index)) == self.size

    @property
    def slopes(self) -> Array:
        """The measured gradient where it was measured, NaN elsewhere."""
        slopes = np.full(self.size, np.nan)
        slopes[self.index] = self.numeric[: len(self.index)] / self.scale
        return slopes

    def project(self, candidate: Array) -> Array:
        """What a gradient would give along every direction, of shape (K,)."""
        return np.concatenate([candidate[self.index] * self.scale, [float(candidate @ u) for u in self.dense]])

    def only(self, mask: NDArray[np.bool_]) -> Readings:
        """The entries in a part of the tensor; without the dense directions, which move the rest as well."""
        kept = np.flatnonzero(mask[self.index])
        return Readings(
            self.numeric[kept],
            self.analytic[kept],
            self.error[kept],
            self.slack[kept],
            self.index[kept],
            self.scale[kept],
            (),
            self.size,
        )

    def explained_by(self, candidate: Array) -> bool:
        """Whether nothing would be missing if this were the gradient."""
        return self._left_within(self.numeric - self.project(candidate))

    def fit(self, columns: Array) -> Fit | None:
        """Explain what is missing as a combination of columns, of shape (K, p); None where they don't explain it."""
        unknown = columns.shape[1]
        if int(self.wrong.sum()) < unknown + min(_SPARE, len(self.numeric) - unknown):
            return None
        largest = float(np.max(np.abs(self.missing), initial=0.0))
        if largest == 0 or len(self.numeric) < unknown:
            return None
        weight = 1 / np.maximum(self.error + self.slack / SUSPECT_AT, 1e-12 * largest)
        scaled = columns * weight[:, None]
        sizes = np.linalg.norm(scaled, axis=0)
        if not np.all(sizes > 0) or not np.isfinite(scaled).all():
            return None
        left, values, right = np.linalg.svd(scaled / sizes, full_matrices=False)
        if values[-1] < 1e-8 * values[0]:  # the columns can't be told apart here
            return None
        coefficients = right.T @ ((left.T @ (self.missing * weight)) / values) / sizes
        errors = np.sqrt(np.sum((right.T / values) ** 2, axis=1)) / sizes
        if not self._left_within(self.missing - columns @ coefficients):
            return None
        if not np.all(np.abs(coefficients).max(initial=0.0) > 0) or abs(coefficients[0]) <= _SIGNIFICANT * errors[0]:
            return None
        return Fit(coefficients, errors, len(self.numeric))

    def _left_within(self, left: Array) -> bool:
        largest = float(np.max(np.abs(self.missing), initial=0.0))
        return bool(np.all(np.abs(left) <= SUSPECT_AT * self.error + self.slack + LEEWAY * largest))


def readings(lines: Sequence[Line], entries: Sequence[Entry], at: int, size: int) -> Readings:
    """Gather lines that move one tensor alone, and the entries among them; what isn't finite is left out."""
    of_entries = {id(entry.line) for entry in entries}
    single = [entry for entry in entries if _usable(entry.line)]
    dense = [line for line in lines if id(line) not in of_entries and set(line.direction) == {at} and _usable(line)]
    everything = [*(entry.line for entry in single), *dense]
    numeric, analytic, error, slack = (
        np.array([getattr(line, name) for line in everything], dtype=np.float64)
        for name in ("numeric", "analytic", "error", "slack")
    )
    return Readings(
        numeric,
        analytic,
        error,
        slack,
        np.array([entry.index for entry in single], dtype=np.int64),
        np.array([entry.scale for entry in single], dtype=np.float64),
        tuple(line.direction[at] for line in dense),
        size,
    )


def _usable(line: Line) -> bool:
    return all(math.isfinite(value) for value in (line.numeric, line.analytic, line.error, line.slack))
