"""What is known of a tensor while a model is traced: its values, the moments of its values, or how it was drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from gradvitals.maths.field import Field, Role
from gradvitals.maths.meanfield import Expansion, expand

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

_keys = itertools.count()

#: An elementwise function of a float64 tensor.
Function: TypeAlias = Callable[[torch.Tensor], torch.Tensor]

#: Relative differences of variances, and differences of means in standard deviations, below which places share one
#: evaluation of an activation: half of it is the error of an RMS.
_ALIKE = 2e-3
#: A variance below this share of the mean's square is rounding.
_CERTAIN = 1e-12
#: Of a distribution that is drawn from: probabilities are kept to a hundredth of a per cent.
_QUANTILES = 10_000
#: The relative step by which an activation's answer to a change of variance is measured.
_NUDGE = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A tensor whose values are known: a parameter, an input, or what was made of such or of nothing.

    Parameters
    ----------
    value : torch.Tensor
    learned : bool
        It is a parameter or was made of one: its entries count as random.
    data : bool
        It is a floating-point input or was made of one.
    owned : bool
        It was made while tracing, so that it may be changed in place.
    name : str or None
        The parameter's path.

    """

    value: torch.Tensor
    learned: bool = False
    data: bool = False
    owned: bool = True
    name: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A parameter without values (on the meta device): its shape and moments."""

    shape: tuple[int, ...]
    second: float
    mean: float = 0.0
    name: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Noise:
    """Entries drawn independently of all others (a dropout mask), by the quantiles of their distribution."""

    quantiles: Array

    @property
    def mean(self) -> float:
        """E[x]."""
        return float(self.quantiles.mean())

    @property
    def second(self) -> float:
        """E[x²]."""
        return float(np.square(self.quantiles).mean())

    @classmethod
    def of_two(cls, low: float, high: float, share: float) -> Noise:
        """One of two numbers, the higher with a probability."""
        many = round(_QUANTILES * share)
        return cls(np.concatenate([np.full(_QUANTILES - many, low), np.full(many, high)]))

    @classmethod
    def uniform(cls, low: float, high: float) -> Noise:
        """Evenly between two numbers."""
        return cls(low + (high - low) * (np.arange(_QUANTILES) + 0.5) / _QUANTILES)

    @classmethod
    def normal(cls, mean: float, deviation: float) -> Noise:
        """Gaussian."""
        evenly = torch.from_numpy((np.arange(_QUANTILES) + 0.5) / _QUANTILES)
        standard = torch.special.ndtri(evenly).numpy()
        return cls(mean + deviation * standard / np.sqrt(np.square(standard).mean()))


@dataclass(slots=True, eq=False)
class Node:
    """A signal: its moments, and the operation on one other signal that it is, if it is elementwise.

    A chain of elementwise operations is one function of the signal at its start, which is nearly Gaussian: so that
    ``x * sigmoid(x)`` is evaluated as what it is, and not as a product of strangers.
    """

    _field: Field | None
    source: Node | None = None
    function: Function | None = None
    tags: dict[str, object] = field(default_factory=dict)
    key: int = field(default_factory=lambda: next(_keys))
    _derivative: tuple[Expansion, Array] | None = None

    @property
    def field(self) -> Field:
        """Its moments, evaluated when they are first asked for."""
        if self._field is None:
            if self.source is None or self.function is None:
                raise ValueError("a node needs moments, or a source and a function")
            self._field = applied(self.source.field, self.function)
        return self._field

    @property
    def is_known(self) -> bool:
        """Whether there is something to tell its moments from."""
        return self._field is not None or self.source is not None

    @property
    def root(self) -> Node:
        """The signal that it is a function of: itself, where no function is known."""
        return self if self.source is None else self.source

    @property
    def root_function(self) -> Function:
        """The function of its root."""
        return self.function if self.function is not None else _identity

    @property
    def lasting_tags(self) -> dict[str, object]:
        """What stays true of a function of it, or of its entries in another order."""
        return {name: value for name, value in self.tags.items() if name not in {"terms", "joined"}}

    def replaced(self, new: Field) -> Node:
        """The same history with other moments (a layout that changed)."""
        return Node(new, tags=self.lasting_tags)


def _identity(x: torch.Tensor) -> torch.Tensor:
    return x


Value: TypeAlias = "Constant | Weight | Noise | Node | object"


def in_numpy(function: Function) -> Callable[[Array], Array]:
    """A torch function as one of NumPy arrays."""

    def call(x: Array) -> Array:
        with torch.no_grad():
            return np.asarray(function(torch.from_numpy(np.ascontiguousarray(x))).double().numpy())

    return call


def slope_of(function: Function) -> Callable[[Array], Array]:
    """The derivative of an elementwise torch function, by its own backward pass."""

    def call(x: Array) -> Array:
        with torch.enable_grad():
            point = torch.from_numpy(np.ascontiguousarray(x)).requires_grad_()
            value = function(point)
            if not value.requires_grad:
                return np.zeros_like(x)
            (slope,) = torch.autograd.grad(value.double().sum(), point)
        return np.asarray(slope.numpy())

    return call


def _rows(field: Field) -> tuple[Array, Array, NDArray[np.intp]]:
    """The different means and variances over places and pixels, and which of them each has."""
    mean, second = field.mean.reshape(-1), field.second.reshape(-1)
    variance = np.maximum(second - mean * mean, 0.0)
    deviation = np.sqrt(np.maximum(variance, 1e-300))
    with np.errstate(all="ignore"):
        keys = np.stack([np.round(np.log(np.maximum(variance, 1e-300)) / _ALIKE), np.round(mean / deviation / _ALIKE)])
    _, inverse = np.unique(keys, axis=1, return_inverse=True)
    inverse = inverse.reshape(-1)
    counts = np.bincount(inverse)
    return np.bincount(inverse, mean) / counts, np.bincount(inverse, variance) / counts, inverse


def correlations(field: Field) -> tuple[Array, Array, Array]:
    """By place: mean and variance (averaged over pixels), and the correlations of every two places, as a matrix."""
    n = field.kernel.shape[: field.places]
    count = int(np.prod(n)) if n else 1
    outer = field.outer_mean().reshape(count, count)
    mean = np.sqrt(np.maximum(np.diagonal(outer), 0.0)) if not field.has_pixels else None
    if mean is not None:
        mean = field.mean.reshape(-1)
    else:
        pixels = tuple(at for at, axis in enumerate(field.mapped) if axis.role.value == "pixel")
        mean = field.mean.mean(axis=pixels).reshape(-1)
    variance = np.maximum(field.place_second().reshape(-1) - mean * mean, 0.0)
    deviation = np.sqrt(np.maximum(variance, _CERTAIN * (variance + mean * mean) + 1e-300))
    scale = np.multiply.outer(deviation, deviation)
    return mean, variance, np.clip((field.kernel.reshape(count, count) - outer) / scale, -1.0, 1.0)


def applied(field: Field, function: Function) -> Field:
    """What an elementwise function makes of a field, whose entries count as Gaussian."""
    f = in_numpy(function)
    means, variances, inverse = _rows(field)
    rows = expand(f, means, variances)
    kernel = _kernel(field, lambda m, v: expand(f, m, v))
    carried = _answer(field, rows) ** 2
    nudged = expand(f, means[:1] * np.sqrt(1 + _NUDGE), variances[:1] * (1 + _NUDGE))
    before = max(float(rows.second[0]), 1e-300)
    slope = np.log(max(float(nudged.second[0]), 1e-300) / before) / np.log1p(_NUDGE)
    counts = np.bincount(inverse)
    second = float((rows.second * counts).sum() / counts.sum())
    fourth = float((rows.fourth * counts).sum() / counts.sum())
    kurtosis = min(fourth / max(second * second, 1e-300), 1e3) if second > 0 else 1.0
    shape = field.second.shape
    profile = None
    if field.has_pixels:
        mean = rows.mean[inverse].reshape(shape)
        own = float(mean.mean()) ** 2
        beyond = max(float(np.mean(kernel)) - own, 0.0)
        profile = (mean * float(mean.mean()) + beyond * field.rows) / max(own + beyond, 1e-300)
    return Field(
        field.layout,
        rows.mean[inverse].reshape(shape),
        rows.second[inverse].reshape(shape),
        kernel,
        inherited=float(slope**2) * field.inherited,
        profile=profile,
        blur=field.blur * carried,
        shared_blur=field.shared_blur * carried,
        kurtosis=kurtosis,
        own=max(kurtosis - 1, 0.0) * together(field, f),
    ).consistent()


def _answer(field: Field, rows: Expansion) -> float:
    """How strongly the correlation of two entries answers to that of what they are functions of."""
    same, different = field.pair_means()
    mean = float(field.mean.mean()) ** 2
    c = float(np.clip((different - mean) / max(same - mean, 1e-300), 0.0, 1.0))
    power = rows.coefficients[0] ** 2
    order = np.arange(1, len(power))
    return min(float((order * power[1:] * c ** (order - 1)).sum() / max(float(rows.second[0]), 1e-300)), 1.0)


def together(field: Field, f: Callable[[Array], Array]) -> float:
    """The mean correlation of f² between two entries of a unit: how far its fluctuations are the same everywhere."""
    mean, variance, correlation = correlations(field)
    squares = expand(lambda z: f(z) ** 2, mean.mean(keepdims=True), variance.mean(keepdims=True))
    power = squares.coefficients[0] ** 2
    total = max(float(squares.second[0] - squares.mean[0] ** 2), 1e-300)
    count = max(field.count(), 1)
    n = len(correlation)
    places = max(count // max(math.prod(a.size for a in field.axes if a.role is Role.PIXEL), 1), 1)
    own = np.diagonal(correlation)
    off = (correlation.sum() - own.sum()) / (n * (n - 1)) if n > 1 else 0.0
    size = (correlation**2).sum() - (own**2).sum()
    root = math.sqrt(size / (n * (n - 1))) if n > 1 else 0.0
    found = 0.0
    for k in range(1, len(power)):
        pair = float(np.clip(off, -1, 1)) if k == 1 else min(root + math.sqrt(field.shared_blur), 1.0) ** k
        inside = float(np.mean(np.clip(own, -1, 1) ** k)) if field.has_pixels else 1.0
        same = 1 / count + (1 / places - 1 / count) * inside
        found += power[k] * (same + (1 - 1 / places) * pair)
    return float(np.clip(found / total, 1 / count, 1.0))


def _kernel(field: Field, expansion: Callable[[Array, Array], Expansion]) -> Array:
    mean, variance, correlation = correlations(field)
    spread = np.ptp(variance) <= _ALIKE * max(float(variance.max()), 1e-300)
    if spread and np.ptp(mean) <= _ALIKE * max(float(np.sqrt(variance.max())), 1e-300):
        made = expansion(mean.mean(keepdims=True), variance.mean(keepdims=True))
    else:
        made = expansion(mean, variance)
    return made.kernel(correlation).reshape(field.kernel.shape)


def backwards(gradient: Field, source: Field, function: Function) -> Field:
    """The gradient with respect to a signal, from that with respect to an elementwise function of it."""
    f, slope = in_numpy(function), slope_of(function)
    means, variances, inverse = _rows(source)
    rows = expand(slope, means, variances)

    def derivative(mean: Array, variance: Array) -> Expansion:
        direct = expand(slope, mean, variance)
        return expand(f, mean, variance).derivative(variance, direct.second, direct.fourth)

    shape = source.second.shape
    kernel = _kernel(source, derivative) * gradient.kernel
    counts = np.bincount(inverse)
    second = float((rows.second * counts).sum() / counts.sum())
    fourth = float((rows.fourth * counts).sum() / counts.sum())
    flatness = min(fourth / max(second * second, 1e-300), 1e3) if second > 0 else 1.0
    alike = gradient.agreement()
    # Hanin and Nica (2020): slopes that all samples share, and gradients that are (or by chance are) alike.
    own = max(flatness - 1, 0.0) * together(source, slope) * (1 + 2 * alike) + 2 * alike
    return Field(
        gradient.layout,
        np.zeros(shape),
        gradient.second * rows.second[inverse].reshape(shape),
        kernel,
        inherited=gradient.inherited,
        profile=gradient.profile,
        kurtosis=min(gradient.kurtosis * flatness, 1e3),
        blur=gradient.blur,
        shared_blur=gradient.shared_blur,
        own=own,
    ).consistent()
