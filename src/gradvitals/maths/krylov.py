"""The largest singular value of a matrix that can only be multiplied with, and a bound that it is true to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

#: The bound above holds with this probability less than 1, over the random start.
FAILURE = 0.01
#: Entries of all vectors that are kept (half a gigabyte): larger matrices get fewer steps, and a wider bound.
_MOST_KEPT = 2**26
_FEWEST_STEPS = 3
#: A remainder this small beside what it was taken from is rounding: there is no further direction.
_EXHAUSTED = 1e-14
#: The first step after which the bound is looked at, and how many times later the next: looking costs as well.
_FIRST_LOOK, _NEXT_LOOK = 5, 1.25
#: Relative heights at which the bound is looked for, first coarsely and then between two of them.
_HEIGHTS = np.logspace(-15, 4, 191)


class Operator(Protocol):
    """Matrices of one shape, one per sample, known by what they make of vectors.

    ``shape`` is (samples, outputs, inputs), ``roundoff`` the relative rounding of a product.
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def roundoff(self) -> float: ...

    def forward(self, vectors: Array) -> Array:
        """J·v of each sample: (samples, inputs) to (samples, outputs)."""
        ...

    def transposed(self, vectors: Array) -> Array:
        """Jᵀ·u of each sample: (samples, outputs) to (samples, inputs)."""
        ...


@dataclass(frozen=True, slots=True)
class Krylov:
    """What was seen of A, the smaller of JᵀJ and JJᵀ, of dimension D: A·V = V·T + beyond·(next vector)·eᵀ.

    Parameters
    ----------
    diagonal : array of shape (N, K)
        Of T; zero where a sample's directions were exhausted.
    beside : array of shape (N, K)
        Beside the diagonal; the last is ``beyond``.
    basis : array of shape (N, K, D)
        V, by orthonormal rows.
    upper : array of shape (N,)
        What the largest eigenvalue of A doesn't exceed, but with probability ``FAILURE`` over all samples.
    products : int
        Products with J or Jᵀ, of all samples at once.
    defect : float
        How far J and Jᵀ were from being transposes of one another, relative: what rounding makes of a product.

    """

    diagonal: Array
    beside: Array
    basis: Array
    upper: Array
    products: int
    defect: float

    @property
    def tridiagonal(self) -> Array:
        """T of each sample."""
        return _tridiagonal(self.diagonal, self.beside)

    @property
    def largest(self) -> Array:
        """The largest eigenvalue of T, which that of A isn't below: of shape (N,)."""
        return _top(self.diagonal, self.beside)


def times_smaller(operator: Operator, vectors: Array) -> tuple[Array, Array]:
    """The squared length of J·v (or Jᵀ·v, whichever takes shorter vectors), and A·v: two products."""
    _, outputs, inputs = operator.shape
    there, back = (
        (operator.forward, operator.transposed) if inputs <= outputs else (operator.transposed, operator.forward)
    )
    image = there(vectors)
    return np.einsum("nd,nd->n", image, image), back(image)


def lanczos(operator: Operator, rng: np.random.Generator, *, tolerance: float, most: int) -> Krylov:
    """Lanczos from a random start, every sample by itself, until the largest of all eigenvalues is known.

    Parameters
    ----------
    operator : Operator
    rng : numpy.random.Generator
    tolerance : float
        Relative, of the largest singular value.
    most : int
        Steps of two products each.

    Returns
    -------
    Krylov

    Raises
    ------
    ValueError
        When a product isn't finite.

    Notes
    -----
    The bound above is no residual (which says only that there is *some* eigenvalue nearby): let γ be the start's share
    of the direction wanted and p_j the j-th orthonormal Lanczos polynomial. The basis vectors' shares of it are
    γ·p_j(λ), and their squares sum to 1 at most, so that Σ p_j(λ)² ≤ 1/γ²; above the largest eigenvalue of T the sum
    grows without end. How small γ may be, by chance, is known for a start that is uniform on the sphere.

    References
    ----------
    Golub and Kahan (1965); Simon and Zha (2000) on orthogonalising one side; Kuczyński and Woźniakowski (1992) and
    Hochstenbach (2013) on probabilistic bounds.

    """
    samples, outputs, inputs = operator.shape
    size = min(outputs, inputs)
    most = max(1, min(most, size, max(_FEWEST_STEPS, _MOST_KEPT // max(samples * size, 1))))
    threshold = math.log(1 / smallest_share(size, FAILURE / samples))
    basis = np.zeros((samples, most, size))
    diagonal, beside = np.zeros((samples, most)), np.zeros((samples, most))
    vector = rng.standard_normal((samples, size))
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    defect, steps, look = 0.0, 0, _FIRST_LOOK
    for step in range(most):
        basis[:, step] = vector
        squares, image = times_smaller(operator, vector)
        if not np.isfinite(image).all():
            raise ValueError("a product with the matrix is not finite")
        defect = max(defect, _defect(squares, np.einsum("nd,nd->n", vector, image), image))
        diagonal[:, step] = squares
        scale = np.linalg.norm(image, axis=1)
        for _ in range(2):  # twice is enough (Parlett, 1980, section 6-9)
            image = left_open(basis[:, : step + 1], image)
        rest = np.linalg.norm(image, axis=1)
        rest[rest <= _EXHAUSTED * scale] = 0.0
        beside[:, step] = rest
        vector = np.divide(image, rest[:, None], out=np.zeros_like(image), where=rest[:, None] > 0)
        steps = step + 1
        if steps < look:
            continue
        look = math.ceil(_NEXT_LOOK * steps)
        top = _top(diagonal[:, :steps], beside[:, :steps])
        close = np.full((samples, 1), float(top.max()) * (1 + tolerance) ** 2)
        if bool((_log_sum(diagonal[:, :steps], beside[:, :steps], close) >= 2 * threshold).all()):
            break
    upper = _upper(diagonal[:, :steps], beside[:, :steps], 2 * threshold)
    return Krylov(diagonal[:, :steps], beside[:, :steps], basis[:, :steps], upper, 2 * steps, defect)


def left_open(basis: Array, vectors: Array) -> Array:
    """Each sample's vector without what lies in its basis."""
    shares = basis @ vectors[:, :, None]
    return np.asarray(vectors - (shares.transpose(0, 2, 1) @ basis)[:, 0])


def smallest_share(size: int, failure: float) -> float:
    """What a random unit vector's share of a given direction stays below with that probability, at most.

    >>> rng = np.random.default_rng(0)
    >>> start = rng.standard_normal((20_000, 50))
    >>> share = np.abs(start[:, 0]) / np.linalg.norm(start, axis=1)
    >>> bool(0.09 < (share < smallest_share(50, 0.1)).mean() < 0.11)
    True
    """
    if size == 1:
        return 1.0
    if size == 2:
        return math.sin(math.pi * failure / 2)
    density = math.exp(math.lgamma(size / 2) - math.lgamma((size - 1) / 2)) / math.sqrt(math.pi)  # its largest, at 0
    return failure / (2 * density)


def _defect(squares: Array, again: Array, image: Array) -> float:
    """‖Jv‖² against ⟨v, JᵀJv⟩, relative to the length of JᵀJv."""
    scale = np.linalg.norm(image, axis=1)
    apart = np.divide(np.abs(squares - again), scale, out=np.zeros_like(scale), where=scale > 0)
    return float(apart.max(initial=0.0))


def _tridiagonal(diagonal: Array, beside: Array) -> Array:
    matrix = np.zeros((*diagonal.shape, diagonal.shape[1]))
    at = np.arange(diagonal.shape[1])
    matrix[:, at, at] = diagonal
    matrix[:, at[:-1], at[1:]] = matrix[:, at[1:], at[:-1]] = beside[:, :-1]
    return matrix


def _top(diagonal: Array, beside: Array) -> Array:
    return np.asarray(np.linalg.eigvalsh(_tridiagonal(diagonal, beside))[:, -1]).clip(min=0.0)


def _upper(diagonal: Array, beside: Array, threshold: float) -> Array:
    """By sample the least λ above the largest eigenvalue of T at which log Σ p_j(λ)² reaches the threshold."""
    top = _top(diagonal, beside)
    heights = np.broadcast_to(_HEIGHTS, (len(top), len(_HEIGHTS)))
    for _ in range(2):
        reached = _log_sum(diagonal, beside, top[:, None] * (1 + heights)) >= threshold
        reached[:, -1] = True
        first = reached.argmax(axis=1)
        above = np.take_along_axis(heights, first[:, None], axis=1)[:, 0]
        below = np.take_along_axis(heights, np.maximum(first - 1, 0)[:, None], axis=1)[:, 0]
        below[first == 0] = 0.0
        heights = np.linspace(below, above, 33, axis=1)
    found = np.where(above >= _HEIGHTS[-1], math.inf, top * (1 + above))
    return np.where(top > 0, found, 0.0)


def _log_sum(diagonal: Array, beside: Array, values: Array) -> Array:
    """The logarithm of Σ_j p_j(λ)² at each λ from the largest eigenvalue of T on, of shape (N, M).

    It grows with λ, and is infinite where a sample's directions were exhausted.
    """
    previous, current = np.zeros_like(values), np.ones_like(values)
    total, shift = np.ones_like(values), np.zeros_like(values)
    before = np.zeros((len(values), 1))
    done = np.zeros(values.shape, dtype=bool)
    for step in range(diagonal.shape[1]):
        after = beside[:, step, None]
        top = (values - diagonal[:, step, None]) * current - before * previous
        done |= after == 0
        following = np.divide(top, after, out=np.zeros_like(top), where=after > 0)
        previous, current, before = current, following, after
        total += current**2
        large = np.maximum(np.abs(current), 1.0)  # kept in range: the logarithm is what counts
        previous, current, total = previous / large, current / large, total / large**2
        shift += 2 * np.log(large)
    return np.where(done, math.inf, np.log(total) + shift)
