"""Singular values of Jacobians from products with them: the largest, their mean square and spread, the condition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gradvitals.maths.krylov import Krylov, Operator, lanczos, left_open, times_smaller

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

#: Relative accuracy at which the search for the largest singular value ends.
TOLERANCE = 1e-5
#: Steps of two products each: with what comes before, 30 forward passes' worth.
MOST_STEPS = 8
#: Up to this dimension a matrix is formed, and everything about it known: it costs as many products, made in batches.
DENSE = 128
#: Random vectors over all samples for the mean square, of what the steps before left: it is known to some per cent;
#: and how many of them each sample gets at least and at most.
_PROBES, _FEWEST_PROBES, _MOST_PROBES = 16, 2, 8
#: Quantile of the normal distribution for a two-sided interval of 95 %, and what few degrees of freedom add to it.
_NORMAL_95, _FEW = 1.96, 2.4
#: Roundings of a product that an error is never stated below.
_ROUNDINGS = 4.0


class Formable(Operator, Protocol):
    """An operator that can be written down."""

    def dense(self) -> Array:
        """The matrices, of shape (samples, outputs, inputs)."""
        ...


@dataclass(frozen=True, slots=True)
class Spectrum:
    """What is known of the singular values of one matrix per sample, all samples' values together.

    Parameters
    ----------
    samples, outputs, inputs : int
    sigma_max : float
        The largest of all; where it wasn't formed a lower bound, met to within the error.
    sigma_max_error : float
        The largest lies between ``sigma_max`` and that plus this, with a probability of 99 %.
    mean_square : float
        Mean of the squared singular values, min(outputs, inputs) of each sample.
    mean_square_error : float
        Half its interval of 95 %.
    square_variance : float
        Variance of the squared singular values over their mean's square: 0 where all are alike (dynamical isometry);
        L of L linear layers with Gaussian weights. NaN where all are zero.
    square_variance_error : float
        Half its interval of 95 %.
    condition : float or None
        σmax/σmin of the sample where it is largest, infinite where rounding can't tell σmin from 0; None where the
        matrix is too large to be formed.
    products : int
        Products with J or Jᵀ, each of all samples at once.

    References
    ----------
    Pennington, Schoenholz and Ganguli (2017), section 2, on the first two moments of the squared singular values.

    """

    samples: int
    outputs: int
    inputs: int
    sigma_max: float
    sigma_max_error: float
    mean_square: float
    mean_square_error: float
    square_variance: float
    square_variance_error: float
    condition: float | None
    products: int


@dataclass(frozen=True, slots=True)
class Matrices:
    """Matrices that are known: of shape (samples, outputs, inputs).

    Examples
    --------
    >>> found = spectrum(Matrices(np.diag([3.0, 2.0, 1.0])[None]))
    >>> found.sigma_max, round(found.condition, 6), round(found.mean_square, 6)
    (3.0, 3.0, 4.666667)

    """

    values: Array
    roundoff: float = 2.0**-53

    @property
    def shape(self) -> tuple[int, int, int]:
        samples, outputs, inputs = self.values.shape
        return samples, outputs, inputs

    def forward(self, vectors: Array) -> Array:
        return np.asarray(np.einsum("noi,ni->no", self.values, vectors))

    def transposed(self, vectors: Array) -> Array:
        return np.asarray(np.einsum("noi,no->ni", self.values, vectors))

    def dense(self) -> Array:
        return self.values


def spectrum(operator: Formable, *, seed: int = 0, most: int = MOST_STEPS, dense: int = DENSE) -> Spectrum:
    """Find what can be known of the singular values.

    Up to a dimension of ``dense`` the matrices are formed. Beyond, Lanczos steps find the largest singular value with a
    bound above; random vectors in the space that these steps left open give the mean square and the spread of the
    squares, to which the steps contribute exactly.

    Parameters
    ----------
    operator : Formable
    seed : int
        Of the random vectors.
    most : int
        Lanczos steps, of two products each.
    dense : int
        The largest min(outputs, inputs) of a matrix that is formed.

    Returns
    -------
    Spectrum

    Raises
    ------
    ValueError
        When a product isn't finite.

    References
    ----------
    Hutchinson (1990) and Meyer, Musco, Musco and Woodruff (2021, Hutch++) on traces; Chen and Hallman (2023) on taking
    the exact part from a Krylov space; Hochstenbach (2013) on the bound.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> layers = rng.standard_normal((5, 400, 400)) / 20
    >>> found = spectrum(Matrices(np.linalg.multi_dot(layers)[None]))
    >>> bool(abs(found.square_variance - 5) < 2), found.condition
    (True, None)

    """
    _, outputs, inputs = operator.shape
    if min(outputs, inputs) <= dense:
        return formed(operator)
    rng = np.random.default_rng(seed)
    krylov = lanczos(operator, rng, tolerance=TOLERANCE, most=most)
    return _by_products(operator, krylov, rng)


def formed(operator: Formable) -> Spectrum:
    """Write the matrices down, and take all their singular values. Raises ValueError where they aren't finite."""
    matrices = operator.dense()
    samples, outputs, inputs = matrices.shape
    if not np.isfinite(matrices).all():
        raise ValueError("the matrix is not finite")
    values = np.linalg.svd(matrices, compute_uv=False)
    squares = values**2
    mean = float(squares.mean())
    relative = _ROUNDINGS * operator.roundoff
    # Independent roundings of the entries make a matrix of this norm: values below can't be told from zero.
    nothing = values[:, :1] * relative * math.sqrt(max(outputs, inputs))
    largest, least = values[:, 0], np.where(values[:, -1:] > nothing, values[:, -1:], 0.0)[:, 0]
    conditions = np.divide(largest, least, out=np.full(samples, math.inf), where=least > 0)
    variance = float(squares.var()) / mean**2 if mean > 0 else math.nan
    return Spectrum(
        samples,
        outputs,
        inputs,
        sigma_max=float(values.max()),
        sigma_max_error=float(values.max()) * relative,
        mean_square=mean,
        mean_square_error=2 * mean * relative,
        square_variance=variance,
        square_variance_error=4 * (1 + variance) * relative,
        condition=float(conditions.max()),
        products=min(outputs, inputs),
    )


def _by_products(operator: Operator, krylov: Krylov, rng: np.random.Generator) -> Spectrum:
    """What steps and random vectors say."""
    samples, outputs, inputs = operator.shape
    size = min(outputs, inputs)
    relative = _ROUNDINGS * max(krylov.defect, operator.roundoff)
    largest = math.sqrt(float(krylov.largest.max()))
    upper = math.sqrt(float(krylov.upper.max()))
    first, second = _exact_part(krylov)
    count = min(_MOST_PROBES, max(_FEWEST_PROBES, -(-_PROBES // samples)))
    lengths, squared, scatter = (
        np.stack(part, axis=1) for part in zip(*_probes(operator, krylov, rng, count), strict=True)
    )
    traces = first + lengths.mean(axis=1)
    mean = float(traces.mean()) / size
    fourth = float((second + squared.mean(axis=1)).mean()) / size
    # Of ⟨g, Bg⟩ with g uniform on a sphere, by what Bg has beside g: never zero by chance, as a scatter of few may be.
    quantile = _NORMAL_95 + _FEW / (samples * (count - 1))
    error = quantile * math.sqrt(float(2 * scatter.mean(axis=1).sum()) / count) / (samples * size)
    variance, variance_error = math.nan, math.nan
    if mean > 0:
        ratio = fourth / mean**2
        pulls = squared / (fourth * size) - 2 * lengths / (mean * size)
        within = pulls.var(axis=1, ddof=1).sum() / count
        variance = max(ratio - 1, 0.0)
        variance_error = quantile * ratio * math.sqrt(float(within)) / samples + 4 * ratio * relative
    return Spectrum(
        samples,
        outputs,
        inputs,
        sigma_max=largest,
        sigma_max_error=max(upper - largest, 0.0) + relative * largest,
        mean_square=mean,
        mean_square_error=error + 2 * relative * mean,
        square_variance=variance,
        square_variance_error=variance_error,
        condition=None,
        products=krylov.products + 2 * count,
    )


def _exact_part(krylov: Krylov) -> tuple[Array, Array]:
    """tr(VᵀAV) and ‖AV‖² of each sample, which the steps give without a random vector."""
    beside = krylov.beside**2
    first = krylov.diagonal.sum(axis=1)
    second = (krylov.diagonal**2).sum(axis=1) + 2 * beside[:, :-1].sum(axis=1) + beside[:, -1]
    return first, second


def _probes(
    operator: Operator, krylov: Krylov, rng: np.random.Generator, count: int
) -> list[tuple[Array, Array, Array]]:
    """By random vector g, uniform on a sphere in the space that the basis leaves open, of each sample: ⟨g, Ag⟩, ‖Ag‖²,
    and the squared length of what Bg has beside g, B being A within that space.
    """
    samples, outputs, inputs = operator.shape
    size, basis = min(outputs, inputs), krylov.basis
    dimensions = size - (np.abs(basis).max(axis=2, initial=0.0) > 0).sum(axis=1)
    found = []
    for _ in range(count):
        vector = left_open(basis, left_open(basis, rng.standard_normal((samples, size))))
        length = np.linalg.norm(vector, axis=1, keepdims=True)
        vector *= np.divide(
            np.sqrt(dimensions)[:, None], length, out=np.zeros_like(length), where=dimensions[:, None] > 0
        )
        squares, image = times_smaller(operator, vector)
        inside = left_open(basis, image)
        along = np.divide(squares, dimensions, out=np.zeros_like(squares), where=dimensions > 0)
        beside = inside - along[:, None] * vector
        found.append((squares, np.einsum("nd,nd->n", image, image), np.einsum("nd,nd->n", beside, beside)))
    return found
