"""An elementwise function's expansions over all variances, kept: a recurrent net asks for them at every step.

The Hermite coefficients of f(m + √v z) are smooth in log v. They are evaluated once at Chebyshev points between the
least and the largest variance, and interpolated between those.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from gradvitals.maths.expansion import Values

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Function: TypeAlias = "Callable[[Array], Array]"

#: Variances that are covered; others count as the nearest of these.
_LEAST, _MOST = 1e-8, 1e4
#: Points in log v: the error is below 1e-6 (tested).
_POINTS = 128
#: Terms of the expansion; what they leave out is put into one more: of pairs, 1e-4 are wrong at deviations of four.
_ORDER = 32
#: Terms smaller than this share of the largest one are dropped: of their products the square is.
_NEGLIGIBLE = 1e-5


def sigmoid(z: Array) -> Array:
    """1/(1 + e⁻ᶻ)."""
    return np.asarray(0.5 + 0.5 * np.tanh(z / 2))


def sigmoid_slope(z: Array) -> Array:
    """Its derivative."""
    return np.asarray(sigmoid(z) * sigmoid(-z))


def tanh_slope(z: Array) -> Array:
    """1 − tanh²."""
    return np.asarray(1 - np.tanh(z) ** 2)


@dataclass(frozen=True, slots=True)
class Rows:
    """A function's expansion for some variables: E[f], E[f²], coefficients and what these leave out, row by row.

    ``answer`` is d log E[f²]/d log v, and ``kurtosis`` E[f⁴]/E[f²]².
    """

    mean: Array
    second: Array
    terms: Array
    left: Array
    answer: Array
    kurtosis: Array


class Duals:
    """A function of z ~ N(mean, v) for any v between 1e-8 and 1e4."""

    def __init__(self, function: Function, mean: float) -> None:
        angles = np.pi * np.arange(_POINTS) / (_POINTS - 1)
        low, high = math.log(_LEAST), math.log(_MOST)
        self._nodes = (low + high) / 2 + (high - low) / 2 * np.cos(angles)
        self._factors = np.where(np.arange(_POINTS) % 2, -1.0, 1.0)
        self._factors[[0, -1]] /= 2
        variance = np.exp(self._nodes)
        expansion = Values(function, np.full(_POINTS, mean), variance).expansion(order=_ORDER)
        coefficients = np.zeros((_POINTS, _ORDER))
        coefficients[:, : expansion.coefficients.shape[1]] = expansion.coefficients
        # Of a function through zero all is relative to v, so that nothing is lost where it is small.
        self._scaled = abs(float(function(np.full(1, mean))[0])) < 1e-12
        scale = variance if self._scaled else np.ones(_POINTS)
        second = expansion.second / scale
        left = np.maximum(second - (coefficients**2).sum(axis=1) / scale, 0.0)
        answer = np.gradient(np.log(expansion.second), self._nodes)
        kurtosis = expansion.fourth / expansion.second**2
        self._table = np.column_stack([coefficients / np.sqrt(scale)[:, None], second, left, answer, kurtosis])

    def rows(self, variance: Array) -> Rows:
        """The expansion for variables of these variances, (n,)."""
        found = self._at(np.log(np.clip(variance, _LEAST, _MOST)))
        a, second, left, answer, kurtosis = np.split(found, [_ORDER, _ORDER + 1, _ORDER + 2, _ORDER + 3], axis=1)
        scale = np.minimum(variance, _MOST)[:, None] if self._scaled else 1.0  # beyond, it is at its ends
        a, left = a * np.sqrt(scale), np.sqrt(np.maximum(left * scale, 0.0))
        return Rows(a[:, 0], (second * scale)[:, 0], a, left[:, 0], answer[:, 0], kurtosis[:, 0])

    def kernel(self, covariance: Array) -> Array:
        """E[f(zᵢ)f(zⱼ)] of variables with these covariances, (n, n).

        >>> of(np.tanh, 0.0).kernel(np.array([[1.0, 0.5], [0.5, 1.0]])).round(4)
        array([[0.3943, 0.1863],
               [0.1863, 0.3943]])
        """
        variance = np.maximum(covariance.diagonal(), 0.0)
        rows = self.rows(variance)
        root = np.sqrt(np.maximum(variance, 1e-300))
        found = _summed(rows, rows, covariance / np.multiply.outer(root, root))
        np.fill_diagonal(found, rows.second)
        return found

    def _at(self, points: Array) -> Array:
        """The table between its nodes (Berrut and Trefethen, 2004, eq. 4.2)."""
        apart = points[:, None] - self._nodes
        apart[apart == 0] = 1e-300  # a node's own share is all
        terms = self._factors / apart
        terms /= terms.sum(axis=1, keepdims=True)
        return np.asarray(terms @ self._table)


def _summed(one: Rows, two: Rows, correlation: Array) -> Array:
    """Σₖ aₖ a′ₖ cᵏ by Horner's rule, for rows (n,), (m,) and their correlations (n, m)."""
    c = np.clip(correlation, -1.0, 1.0)
    sizes = np.abs(two.terms).max(axis=0)
    orders = int(np.max(np.nonzero(sizes > _NEGLIGIBLE * sizes.max())[0], initial=0)) + 1
    total = np.zeros_like(c)
    if two.left.max() > _NEGLIGIBLE * sizes.max():  # what is left out counts as one more term
        total += np.multiply.outer(one.left, two.left) * c ** (_ORDER - orders + 1)
    for k in range(orders - 1, -1, -1):
        total += np.multiply.outer(one.terms[:, k], two.terms[:, k])
        if k:
            total *= c
    return total


class Growing:
    """A function of variables that come step by step, n at a time: what the new ones have in common with all so far."""

    def __init__(self, function: Function, mean: float, steps: int, samples: int) -> None:
        self._duals = of(function, mean)
        self._steps, self._samples = 0, samples
        self._root = np.empty(steps * samples)
        self._terms, self._left = np.empty((steps * samples, _ORDER)), np.empty(steps * samples)

    def step(self, covariance: Array) -> tuple[Array, Rows]:
        """Kernel (t + 1, n, n) of all with the new ones, from their covariances in the same shape; and the new rows."""
        n, start = self._samples, self._steps * self._samples
        stop = start + n
        variance = np.maximum(covariance[-1].diagonal(), 0.0)
        new = self._duals.rows(variance)
        self._root[start:stop] = root = np.sqrt(np.maximum(variance, 1e-300))
        self._terms[start:stop], self._left[start:stop] = new.terms, new.left
        self._steps += 1
        known = Rows(new.mean, new.second, self._terms[:stop], self._left[:stop], new.answer, new.kurtosis)
        correlation = covariance.reshape(stop, n) / np.multiply.outer(self._root[:stop], root)
        found = _summed(known, new, correlation).reshape(covariance.shape)
        np.fill_diagonal(found[-1], new.second)
        return found, new


@functools.lru_cache(maxsize=64)
def of(function: Function, mean: float) -> Duals:
    """The expansions of a function at one mean; made once."""
    return Duals(function, mean)
