"""Mehler's formula for every two of many Gaussian variables: E[f(zᵢ)f(zⱼ)] = Σₖ aᵢₖ aⱼₖ cᵢⱼᵏ, quickly.

The series is developed about the middle of the correlations that occur, where it needs fewer terms, and its
coefficients are products of few vectors: the rows of places whose variances are alike are nearly multiples of one.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

#: Terms of the Hermite expansion: what ReLU's leaves out is 0.4 % of its second moment, and is put into one more term.
ORDER = 48
#: Terms that carry less than this share of the second moment are dropped.
_NEGLIGIBLE = 1e-9
#: Rows of a kernel that are summed at once: they stay in the processor's cache.
_BLOCK = 64
#: As many rows are taken as they are; of more, fewer vectors are found that they are made of.
_DIRECT = 16
#: Of the vectors of which coefficients are made, those smaller than this share of the largest are dropped.
_RANK = 1e-10


def kernel(a: Array, second: Array, correlation: Array, between: Array | None = None) -> Array:
    """Sum the series for all pairs.

    Parameters
    ----------
    a : array of shape (m, K)
        Hermite coefficients by row.
    second : array of shape (m,)
        E[f²]: what the coefficients leave of it is put into one more term, of order K + 2.
    correlation : array of shape (n, n)
        Symmetric; cut to −1 … 1.
    between : array of shape (n, m), optional
        The places' rows as mixtures of the given ones. Without it m is n, or 1: one row stands for all.

    Returns
    -------
    array of shape (n, n)

    References
    ----------
    Daniely, Frostig and Singer (2016), section 4.

    """
    c = np.clip(correlation, -1.0, 1.0)
    own = c.diagonal().copy()
    power = a * a
    left = np.maximum(second - power.sum(axis=1), 0.0)
    if (left <= _NEGLIGIBLE * second).all():
        left = np.zeros_like(left)
    basis = np.append(a, np.sqrt(left)[:, None], axis=1)
    exponents = np.arange(basis.shape[1])
    exponents[-1] += 2
    shares = (basis * basis / np.maximum(second, 1e-300)[:, None]).max(axis=0)
    np.fill_diagonal(c, c[0, -1])
    middle, turned = _series(shares, exponents, float(c.min()), float(c.max()))
    rows, few = between if between is not None or len(basis) == 1 else np.eye(len(basis)), basis
    if len(basis) > _DIRECT:
        u, s, few = np.linalg.svd(basis, full_matrices=False)
        kept = max(int((s > _RANK * s[0]).sum()), 1)
        rows, few = (u if between is None else between @ u)[:, :kept] * s[:kept], few[:kept]
    matrices = np.moveaxis((few[:, None, :] * few[None, :, :]) @ turned.T, 2, 0)
    c -= middle
    total = _summed(rows, matrices, c)
    mine = basis if between is None else between @ basis
    np.fill_diagonal(
        total, (mine * mine if np.all(own == 1.0) else mine * mine * own[:, None] ** exponents).sum(axis=1)
    )
    return total


def _series(shares: Array, exponents: Array, low: float, high: float) -> tuple[float, Array]:
    """The correlation to develop about, and by new order the share of each old one that matters."""
    middle, reach = (low + high) / 2, (high - low) / 2
    binomials, behind = _binomials()
    rows = binomials[:, exponents]
    powers = abs(middle) ** np.arange(len(binomials))
    turned = rows * powers[behind[:, exponents]]
    carried = (turned @ shares) * reach ** np.arange(len(binomials))
    orders = max(int((carried[::-1].cumsum()[::-1] > _NEGLIGIBLE).sum()), 1)
    if middle < 0:
        turned = turned * np.where(behind[:, exponents] % 2, -1.0, 1.0)
    return middle, turned[:orders]


@functools.lru_cache(maxsize=1)
def _binomials() -> tuple[Array, NDArray[np.intp]]:
    """Of k over p the value, (p, k), and how far k is beyond p (zero where it isn't)."""
    n = ORDER + 3
    values = np.array([[math.comb(k, p) for k in range(n)] for p in range(n)], dtype=np.float64)
    return values, np.maximum(np.arange(n)[None, :] - np.arange(n)[:, None], 0)


def _summed(rows: Array | None, matrices: Array, c: Array) -> Array:
    """Σₚ (w Mₚ wᵀ) cᵖ by Horner's rule, block by block; what lies before a block's own rows is known by symmetry."""
    total = np.empty_like(c)
    alike = matrices.shape[1] == 1
    left = rows @ matrices if rows is not None and not alike else None
    for start in range(0, len(c), _BLOCK):
        mine, others = slice(start, start + _BLOCK), slice(start, None)
        factor = np.ascontiguousarray(c[mine, others])
        if rows is None or left is None:
            part = np.full_like(factor, matrices[-1, 0, 0])
            for number in matrices[-2::-1, 0, 0].tolist():
                part *= factor
                part += number
            if rows is not None:
                part *= rows[mine] * rows[others, 0]
        else:
            across = np.ascontiguousarray(rows[others].T)
            part = left[-1, mine] @ across
            for p in range(len(matrices) - 2, -1, -1):
                part *= factor
                part += left[p, mine] @ across
        total[mine, others], total[others, mine] = part, part.T
    return total
