"""What an elementwise function makes of a signal's moments, and of a gradient's on the way back."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from gradvitals.maths.expansion import Expansion, Nodes, Values, expand
from gradvitals.maths.field import Field, Role

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

#: An elementwise function of a float64 tensor.
Function: TypeAlias = Callable[[torch.Tensor], torch.Tensor]

#: Relative differences of variances, and differences of means in standard deviations, below which places share one
#: evaluation of an activation: half of it is the error of an RMS.
_ALIKE = 2e-3
#: A variance below this share of the mean's square is rounding.
_CERTAIN = 1e-12
#: The relative step by which an activation's answer to a change of variance is measured.
_NUDGE = 0.02
#: Of what is evaluated at once: the rows themselves, the one of least variance, the same nudged, and the average.
_ROWS, _LEAST, _NUDGED, _AVERAGE = slice(0, -3), slice(-3, -2), slice(-2, -1), slice(-1, None)


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
            (slope,) = torch.autograd.grad(value, point, torch.ones_like(value))
        return np.asarray(slope.numpy())

    return call


class Transformed:
    """An elementwise function of a field, whose entries count as Gaussian; what both ways need is evaluated once.

    Places whose means and variances are alike share an evaluation. Where all are alike, or the field has pixels, so do
    their correlations; else each place has its own.
    """

    def __init__(self, field: Field, function: Function) -> None:
        self._field = field
        self._function = in_numpy(function)
        self._slope = slope_of(function)

    def forwards(self) -> Field:
        """The function's field."""
        field, rows = self._field, self._rows
        mean, second, fourth = (self._nodes.spread(moment) for moment in (rows.mean, rows.second, rows.fourth))
        inverse = self._inverse
        kernel = self._kernel(rows, lambda m, v: expand(self._function, m, v))
        least = self._values.expansion(_LEAST)
        carried = self._answer(least) ** 2
        nudged = float(self._values.even_moments(_NUDGED)[0][0])
        slope = np.log(max(nudged, 1e-300) / max(float(least.second[0]), 1e-300)) / np.log1p(_NUDGE)
        kurtosis = self._kurtosis(second, fourth)
        shape = field.second.shape
        by_place = mean[inverse].reshape(shape)
        profile = None
        if field.has_pixels:
            own = float(by_place.mean()) ** 2
            beyond = max(float(np.mean(kernel)) - own, 0.0)
            if own + beyond > _CERTAIN * float(second.max()):  # pixels have something in common
                profile = (by_place * float(by_place.mean()) + beyond * field.rows) / (own + beyond)
        return Field(
            field.layout,
            by_place,
            second[inverse].reshape(shape),
            kernel,
            inherited=field.inherited.times(float(slope)),
            profile=profile,
            blur=field.blur * carried,
            shared_blur=field.shared_blur * carried,
            kurtosis=kurtosis,
            own=max(kurtosis - 1, 0.0) * self._together(self._values),
        ).consistent()

    def backwards(self, gradient: Field) -> Field:
        """The gradient with respect to the field, from that with respect to its function."""
        field = self._field
        nodes = self._nodes
        slopes = Values(self._slope, *self._with_others)
        second, fourth = slopes.even_moments(_ROWS)
        derivative = self._rows.derivative(nodes.variance, second, fourth)
        second, fourth = nodes.spread(second), nodes.spread(fourth)

        def expansion(mean: Array, variance: Array) -> Expansion:
            moments = Values(self._slope, mean, variance).even_moments()
            return expand(self._function, mean, variance).derivative(variance, *moments)

        kernel = self._kernel(derivative, expansion) * gradient.kernel
        flatness = self._kurtosis(second, fourth)
        alike = gradient.agreement()
        # Hanin and Nica (2020): slopes that all samples share, and gradients that are (or by chance are) alike.
        own = max(flatness - 1, 0.0) * self._together(slopes) * (1 + 2 * alike) + (
            0.0 if gradient.own == 0 else 2 * alike
        )
        return Field(
            gradient.layout,
            np.zeros(field.second.shape),
            gradient.second * second[self._inverse].reshape(field.second.shape),
            kernel,
            inherited=gradient.inherited,
            profile=gradient.profile,
            kurtosis=min(gradient.kurtosis * flatness, 1e3),
            blur=gradient.blur,
            shared_blur=gradient.shared_blur,
            own=own,
        ).consistent()

    # ---- what is evaluated once ----

    @functools.cached_property
    def _grouped(self) -> tuple[Array, Array, NDArray[np.intp]]:
        """The different means and variances over places and pixels, and which of them each has."""
        mean, second = self._field.mean.reshape(-1), self._field.second.reshape(-1)
        variance = np.maximum(second - mean * mean, 0.0)
        if not self._field.has_pixels and not self._is_uniform:  # the kernel asks for every place's own
            return mean, variance, np.arange(len(mean))
        deviation = np.sqrt(np.maximum(variance, 1e-300))
        with np.errstate(all="ignore"):
            _, sizes = np.unique(np.round(np.log(np.maximum(variance, 1e-300)) / _ALIKE), return_inverse=True)
            kept, means = np.unique(np.round(mean / deviation / _ALIKE), return_inverse=True)
        _, inverse = np.unique(sizes.reshape(-1) * len(kept) + means.reshape(-1), return_inverse=True)
        inverse = inverse.reshape(-1)
        counts = np.bincount(inverse)
        return np.bincount(inverse, mean) / counts, np.bincount(inverse, variance) / counts, inverse

    @property
    def _points(self) -> tuple[Array, Array]:
        return self._grouped[:2]

    @property
    def _inverse(self) -> NDArray[np.intp]:
        return self._grouped[2]

    @functools.cached_property
    def _nodes(self) -> Nodes:
        return Nodes.of(*self._points)

    @functools.cached_property
    def _with_others(self) -> tuple[Array, Array]:
        """Means and variances to evaluate at: nodes; the row of least variance, and it nudged; and the average."""
        means, variances = self._points
        least = int(np.argmin(variances))
        mean, variance, _ = self._correlations
        more = [means[least], means[least] * math.sqrt(1 + _NUDGE), mean.mean()]
        spread = [variances[least], variances[least] * (1 + _NUDGE), variance.mean()]
        return np.append(self._nodes.mean, more), np.append(self._nodes.variance, spread)

    @functools.cached_property
    def _values(self) -> Values:
        return Values(self._function, *self._with_others)

    @functools.cached_property
    def _rows(self) -> Expansion:
        return self._values.expansion(_ROWS)

    @functools.cached_property
    def _correlations(self) -> tuple[Array, Array, Array]:
        """By place: mean and variance (averaged over pixels), and the correlations of every two places, as a matrix."""
        field = self._field
        n = field.kernel.shape[: field.places]
        count = int(np.prod(n)) if n else 1
        outer = field.outer_mean().reshape(count, count)
        if field.has_pixels:
            pixels = tuple(at for at, axis in enumerate(field.mapped) if axis.role is Role.PIXEL)
            mean = field.mean.mean(axis=pixels).reshape(-1)
        else:
            mean = field.mean.reshape(-1)
        variance = np.maximum(field.place_second().reshape(-1) - mean * mean, 0.0)
        deviation = np.sqrt(np.maximum(variance, _CERTAIN * (variance + mean * mean) + 1e-300))
        scale = np.multiply.outer(deviation, deviation)
        return mean, variance, np.clip((field.kernel.reshape(count, count) - outer) / scale, -1.0, 1.0)

    @functools.cached_property
    def _is_uniform(self) -> bool:
        """Whether all places share one mean and one variance."""
        mean, variance, _ = self._correlations
        alike = np.ptp(variance) <= _ALIKE * max(float(variance.max()), 1e-300)
        return bool(alike and np.ptp(mean) <= _ALIKE * max(float(np.sqrt(variance.max())), 1e-300))

    @functools.cached_property
    def _likeness(self) -> tuple[float, float]:
        """The mean correlation of two different places, and its root mean square."""
        correlation = self._correlations[2]
        n = len(correlation)
        if n <= 1:
            return 0.0, 0.0
        own = np.diagonal(correlation)
        size = np.einsum("ij,ij->", correlation, correlation) - (own**2).sum()
        return (correlation.sum() - own.sum()) / (n * (n - 1)), math.sqrt(max(size, 0.0) / (n * (n - 1)))

    # ---- what is made of it ----

    def _kernel(self, rows: Expansion, expansion: Callable[[Array, Array], Expansion]) -> Array:
        """The kernel by the places' expansions: those of the rows, where each place has a row or all share one."""
        mean, variance, correlation = self._correlations
        if self._is_uniform and len(rows.second) > 1:
            rows, between = expansion(mean.mean(keepdims=True), variance.mean(keepdims=True)), None
        elif not self._is_uniform and self._field.has_pixels:
            nodes = Nodes.of(mean, variance)
            rows, between = expansion(nodes.mean, nodes.variance), nodes.between
        else:
            between = self._nodes.between
        return rows.kernel(correlation, between).reshape(self._field.kernel.shape)

    def _kurtosis(self, seconds: Array, fourths: Array) -> float:
        counts = np.bincount(self._inverse)
        second = float((seconds * counts).sum() / counts.sum())
        fourth = float((fourths * counts).sum() / counts.sum())
        return min(fourth / max(second * second, 1e-300), 1e3) if second > 0 else 1.0

    def _answer(self, least: Expansion) -> float:
        """How strongly the correlation of two entries answers to that of what they are functions of."""
        same, different = self._field.pair_means()
        mean = float(self._field.mean.mean()) ** 2
        c = float(np.clip((different - mean) / max(same - mean, 1e-300), 0.0, 1.0))
        power = least.coefficients[0] ** 2
        order = np.arange(1, len(power))
        second = max(float(least.second[0]), 1e-300)
        return min(float((order * power[1:] * c ** (order - 1)).sum() / second), 1.0)

    def _together(self, values: Values) -> float:
        """The mean correlation of f² between two entries of a unit: how far its fluctuations are alike everywhere."""
        field = self._field
        correlation = self._correlations[2]
        squares = values.expansion(_AVERAGE, squared=True)
        power = squares.coefficients[0] ** 2
        total = max(float(squares.second[0] - squares.mean[0] ** 2), 1e-300)
        count = max(field.count(), 1)
        places = max(count // max(math.prod(a.size for a in field.axes if a.role is Role.PIXEL), 1), 1)
        off, root = self._likeness
        k = np.arange(1, len(power))
        pair = min(root + math.sqrt(field.shared_blur), 1.0) ** k
        pair[:1] = np.clip(off, -1, 1)
        inside = 1.0
        if field.has_pixels:
            own = np.clip(np.diagonal(correlation), -1, 1)
            inside = (own[None, :] ** k[:, None]).mean(axis=1)
        same = 1 / count + (1 / places - 1 / count) * inside
        found = float((power[1:] * (same + (1 - 1 / places) * pair)).sum())
        return float(np.clip(found / total, 1 / count, 1.0))


def applied(field: Field, function: Function) -> Field:
    """What an elementwise function makes of a field, whose entries count as Gaussian."""
    return Transformed(field, function).forwards()


def backwards(gradient: Field, source: Field, function: Function) -> Field:
    """The gradient with respect to a signal, from that with respect to an elementwise function of it."""
    return Transformed(source, function).backwards(gradient)
