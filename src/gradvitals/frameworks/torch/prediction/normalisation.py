"""Normalisation: over units (layer norm), over the batch (batch norm), over groups of either."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradvitals.frameworks.torch.prediction.linear import plus
from gradvitals.frameworks.torch.prediction.operation import Operation, Step, rule
from gradvitals.frameworks.torch.prediction.values import Constant, Node, Weight
from gradvitals.maths.alignment import alike, gathered_to, spread_to
from gradvitals.maths.field import Field, Role
from gradvitals.maths.roles import with_role
from gradvitals.maths.scatter import NONE, Scatter

#: Of a relative variance of the channels' variances: with more, the mean of their inverse hardly exists.
_MOST_SCATTER = 0.5
#: Mean squares that differ by less than this share between places tell what was added to them under the root.
_EVEN = 1e-3
#: And of one that counts as none.
_LEAST_SCATTER = 1e-6


def _scale(operation: Operation, given: Any) -> tuple[float, float]:
    """Mean square and mean of a learned scale; one where there is none."""
    if given is None:
        return 1.0, 1.0
    value = operation.value(given)
    if isinstance(value, Constant):
        entries = value.value.detach().double()
        return float(entries.square().mean()), float(entries.mean())
    if isinstance(value, Weight):
        return value.second, value.mean
    raise NotImplementedError("a scale that is no parameter")


def affine(operation: Operation, field: Field, weight: Any, bias: Any) -> tuple[Field, float]:
    """Apply a learned scale and shift; returns the factor on a gradient's square as well."""
    square, _ = _scale(operation, weight)
    made = field.scaled(square)
    if weight is not None:
        operation.learns(weight, field, times=field.units / max(weight.numel(), 1))
    if bias is not None:
        operation.learns(bias, None, times=field.units / max(bias.numel(), 1))
        value = operation.value(bias)
        known = isinstance(value, Weight) and value.second == 0
        if not known:
            second, mean = _scale(operation, bias)
            if second > 0:
                from gradvitals.maths.field import constant_field

                made = plus(made, spread_to(constant_field(((),) * len(field.layout), second, mean), field.layout))
    return made, square


# ---- over units: layer norm, RMS norm ----


def _within(field: Field, dims: Sequence[int], *, centred: bool, epsilon: float) -> tuple[Field, Any, float, int]:
    """A field normalised over the units in some dimensions: it, 1/√v by place, the share kept, and how many entries."""
    n = math.prod(axis.size for d in dims for axis in field.layout[d])
    mean = field.mean if centred else np.zeros_like(field.mean)
    own = 1 / n if centred else 0.0
    variance = np.maximum((field.second - mean * mean) * (1 - own), 0.0)
    root = 1 / np.sqrt(variance + epsilon)
    inverse_root = by_place(field, root)
    centre = np.multiply.outer(by_place(field, mean), by_place(field, mean))
    kernel = (field.kernel - centre) * (1 - own) * np.multiply.outer(inverse_root, inverse_root)
    made = replace(
        field,
        mean=np.zeros_like(field.mean) if centred else field.mean * root,
        second=variance * root * root,
        kernel=kernel,
        inherited=NONE,
        kurtosis=1.0,
        own=None,
    )
    return made.consistent(), root, own, n


def _scatter(field: Field, weights: Any) -> Scatter:
    """How log Σ w v departs over networks, with the mean squares v of the places: those that weigh most count."""
    if field.has_pixels or weights.shape != field.second.shape or not weights.any():
        return field.scatter
    n = field.second.size
    w = weights.reshape(-1) / weights.sum()
    root = np.sqrt(np.maximum(field.second.reshape(-1), 1e-300))
    alike = (field.kernel.reshape(n, n) / np.multiply.outer(root, root)) ** 2 + field.shared_blur
    agreement = float(w @ np.minimum(alike, 1.0) @ w)
    return field.inherited + Scatter.of(max(field.kurtosis - 1, 0.0) * agreement / max(field.units, 1), field.cause)


def by_place(field: Field, array: Any) -> Any:
    """An array over places and pixels, averaged over the pixels."""
    pixels = tuple(at for at, axis in enumerate(field.mapped) if axis.role is Role.PIXEL)
    return array.mean(axis=pixels) if pixels else array


def _layer_norm(
    operation: Operation,
    x: Node,
    dims: Sequence[int],
    weight: Any,
    bias: Any,
    epsilon: float,
    *,
    centred: bool,
    scale: float = 1.0,
    output: Any = None,
) -> None:
    before = x.field
    for d in dims:
        for at in range(len(before.layout[d])):
            before = with_role(before, d, at, Role.UNIT)
    made, root, _, n = _within(before, dims, centred=centred, epsilon=epsilon)
    made, square = affine(operation, made.times(scale), weight, bias)
    square *= scale * scale
    directions = 2.0 if centred else 1.0
    # E[1/v] exceeds 1/E[v] where v varies: from place to place (over n units), and over weights for all at once.
    inverse = math.exp(before.inherited.chance + max(before.kurtosis - 1, 0.0) / n)

    def pullback(gradient: Field) -> Sequence[Field]:
        g = gathered_to(gradient, before.layout)
        kept = max(1 - directions / n, 0.0) * inverse
        inverse_root = by_place(before, root)
        g, _ = alike(g, before)
        g = replace(
            g,
            mean=np.zeros_like(g.mean),
            inherited=g.inherited + _scatter(before, g.second * root * root).times(-1.0) + Scatter.left_out(1 / n),
            second=g.second * square * kept * root * root,
            kernel=g.kernel * square * kept * np.multiply.outer(inverse_root, inverse_root),
        )
        return [gathered_to(g, x.field.layout)]

    operation.emit(made, [x], pullback, output=output)


@rule("native_layer_norm", "layer_norm")
def _native_layer_norm(operation: Operation) -> None:
    shape, weight, bias = (
        operation.argument(at, key) for at, key in ((1, "normalized_shape"), (2, "weight"), (3, "bias"))
    )
    rank = operation.args[0].dim()
    dims = list(range(rank - len(shape), rank))
    x = operation.node(operation.args[0], [*_lead_roles(rank - len(shape)), *[Role.UNIT] * len(shape)])
    _layer_norm(operation, x, dims, weight, bias, float(operation.argument(4, "eps", 1e-5)), centred=True)


def _lead_roles(n: int) -> list[Role]:
    return [Role.PLACE] * n


@rule("_fused_rms_norm", "rms_norm")
def _rms_norm(operation: Operation) -> None:
    shape, weight = operation.argument(1, "normalized_shape"), operation.argument(2, "weight")
    rank = operation.args[0].dim()
    x = operation.node(operation.args[0], [*_lead_roles(rank - len(shape)), *[Role.UNIT] * len(shape)])
    epsilon = operation.argument(3, "eps")
    dims = list(range(rank - len(shape), rank))
    _layer_norm(operation, x, dims, weight, None, 1.2e-7 if epsilon is None else float(epsilon), centred=False)


def by_hand(operation: Operation, x: Node, root: Node) -> None:
    """A signal times the inverse root of its own mean square, as models spell RMS norm."""
    dims = [
        d
        for d, (own, rest) in enumerate(zip(x.field.layout, root.field.layout, strict=True))
        if own and all(axis.role is Role.UNIT for axis in own) and all(axis.role is Role.COPY for axis in rest)
    ]
    divided = float(np.mean(root.field.mean)) ** -2
    epsilon = max(divided - x.field.mean_square, 0.0) if divided > 0 else 0.0
    if np.ptp(x.field.second) <= _EVEN * x.field.mean_square:
        _layer_norm(operation, x, dims, None, None, epsilon, centred=False)
        return
    # Of places that differ each is divided by its own: by a norm that is no root of a mean, all the same.
    left = float(np.mean(x.field.second) * np.mean(root.field.mean) ** 2)
    if root.field.mean.size == x.field.second.size:
        left = float(np.mean(x.field.second.reshape(-1) * root.field.mean.reshape(-1) ** 2))
    _layer_norm(operation, x, dims, None, None, 0.0, centred=False, scale=math.sqrt(left))


# ---- over the batch ----


@rule(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_batch_norm_with_update",
    "_batch_norm_no_update",
    "batch_norm",
    "_batch_norm_impl_index",
)
def _batch_norm(operation: Operation) -> None:
    name = operation.name.removeprefix("aten::")
    weight, bias = operation.argument(1, "weight"), operation.argument(2, "bias")
    running = operation.args[3:5] if len(operation.args) > 4 else (None, None)
    if name in {"_native_batch_norm_legit_no_training", "_batch_norm_no_update"}:
        training, epsilon = False, operation.args[6]
    elif name == "_batch_norm_with_update":
        training, epsilon = True, operation.args[6]
    elif name == "_native_batch_norm_legit" and isinstance(operation.args[3], bool):
        training, epsilon, running = operation.args[3], operation.args[5], (None, None)
    else:
        training, epsilon = operation.args[5], operation.args[7]
    shape = operation.args[0].shape
    roles = None
    if len(shape) == 3:
        from gradvitals.frameworks.torch.prediction.measured import place_roles

        first, second = place_roles([shape[0], shape[2]])
        roles = [first, Role.UNIT, second]
    x = operation.node(operation.args[0], roles)
    if not training:
        _fixed(operation, x, weight, bias, running, float(epsilon))
        return
    _over_batch(operation, x, weight, bias, float(epsilon))


def _fixed(operation: Operation, x: Node, weight: Any, bias: Any, running: Any, epsilon: float) -> None:
    """With running statistics it is a scale and a shift per channel."""
    mean, variance = (operation.value(item) for item in running)
    if not isinstance(mean, Constant) or not isinstance(variance, Constant):
        raise NotImplementedError("running statistics without values")
    root = (variance.value.double() + epsilon).rsqrt()
    scale = operation.value(weight) if weight is not None else None
    gamma = scale.value.detach().double() if isinstance(scale, Constant) else None
    factor = root if gamma is None else root * gamma
    shift = -(mean.value.double()) * factor
    offset = operation.value(bias) if bias is not None else None
    if isinstance(offset, Constant):
        shift = shift + offset.value.detach().double()
    square = float(factor.square().mean())
    from gradvitals.maths.field import constant_field

    added = constant_field(((),) * len(x.field.layout), float(shift.square().mean()), float(shift.mean()))
    made = plus(x.field.scaled(square), spread_to(added, x.field.layout))
    made = replace(made, mean=made.mean * 0 + x.field.mean * float(factor.mean()) + float(shift.mean()))
    operation.emit(made, [x], lambda g: [g.scaled(square)])


def _over_batch(operation: Operation, x: Node, weight: Any, bias: Any, epsilon: float) -> None:
    field = channels_as_units(x.field)
    whole = _normal_over_batch(field, epsilon)
    made, square = affine(operation, whole[0], weight, bias)

    def back(gradient: Field, before: Field, field: Field, normalised: tuple[Field, float, float]) -> Sequence[Field]:
        normal, inverse, variance = normalised
        g, x_hat = alike(gathered_to(gradient, field.layout), normal)
        g_row, g_total = _means(g)
        kernel, second = _centred(g, g_row, g_total)
        kernel, second = _without_signal(replace(g, kernel=kernel, second=second), x_hat)
        factor = square * inverse
        g = replace(g, second=np.maximum(second, 0.0) * factor, kernel=kernel * factor, mean=np.zeros_like(g.mean))
        g = replace(g, excess=max(inverse * variance, 1.0))
        channels = channels_as_units(before).layout[1]
        g = g.consistent().with_layout((g.layout[0], channels, *g.layout[2:]))
        return [gathered_to(g, before.layout)]

    node = operation.emit(made)
    joined = x.tags.get("joined")
    parts: tuple[Node, ...] = joined if isinstance(joined, tuple) else ()
    step = Step(node, (x,), lambda g: back(g, x.field, field, whole), shown=bool(parts), name=operation.name)
    operation.trace.steps.append(step)
    for part in parts:  # channels of different sizes, each divided by its own
        own = channels_as_units(part.field)
        own = own.with_layout((own.layout[0], field.layout[1], *own.layout[2:]))
        normalised = _normal_over_batch(own, epsilon)
        pullback = functools.partial(back, before=part.field, field=own, normalised=normalised)
        operation.trace.steps.append(Step(node, (part,), pullback, name=operation.name))


def _normal_over_batch(field: Field, epsilon: float) -> tuple[Field, float, float]:
    """A signal less its batch mean, over its deviation; E[1/(v + ε)] over channels, and E[v]."""
    row, total = _means(field)
    centred_kernel, centred_second = _centred(field, row, total)
    variance = max(float(centred_second.mean()), 0.0)
    centred = replace(field, mean=np.zeros_like(field.mean), second=centred_second, kernel=centred_kernel)
    scatter = max(field.kurtosis - 1, 0.0) * centred.agreement()
    share, inverse = _over_channels(variance, scatter, epsilon)
    normal = centred.scaled(share / max(variance, 1e-300))
    inherited = field.scatter.times(1 - share)
    return replace(normal, inherited=inherited, kurtosis=1.0, own=None).consistent(), inverse, variance


def _over_channels(variance: float, scatter: float, epsilon: float) -> tuple[float, float]:
    """E[v/(v + ε)] and E[1/(v + ε)] over channels, whose variances v are sums of squares: gamma distributed."""
    shape = 1 / min(max(scatter, _LEAST_SCATTER), _MOST_SCATTER)
    logarithm = np.linspace(-12.0, 12.0, 481) / math.sqrt(shape)
    weights = np.exp(shape * (logarithm - np.expm1(logarithm)))
    weights /= weights.sum()
    v = variance * np.exp(logarithm)
    return float((weights * v / (v + epsilon)).sum()), float((weights / (v + epsilon)).sum())


def channels_as_units(field: Field) -> Field:
    """A field whose second dimension holds units only."""
    for at in range(len(field.layout[1]) if len(field.layout) > 1 else 0):
        field = with_role(field, 1, at, Role.UNIT)
    return field


def _means(field: Field) -> tuple[Any, float]:
    """E[x_p · mean over the batch] by place (averaged over pixels), and E[mean²], of the whole batch."""
    n = math.prod(field.kernel.shape[: field.places])
    flat = field.kernel.reshape(n, n)
    places = math.prod(axis.size for axis in field.axes if axis.role is Role.PLACE)
    pixels = math.prod(axis.size for axis in field.axes if axis.role is Role.PIXEL)
    own = np.diagonal(flat)
    second = field.place_second().reshape(-1)
    inside = second / pixels + (1 - 1 / pixels) * own
    between = (flat.sum(axis=1) - own) / max(n - 1, 1)
    row = inside / places + (1 - 1 / places) * between
    return row, float(row.mean())


def _centred(field: Field, row: Any, total: float) -> tuple[Any, Any]:
    """Kernel and second moments with the batch mean taken off."""
    n = len(row)
    shape = field.kernel.shape
    kernel = (field.kernel.reshape(n, n) - row[:, None] - row[None, :] + total).reshape(shape)
    rows = row.reshape(shape[: field.places])
    mapped = iter(rows.shape)
    spread = rows.reshape([next(mapped) if axis.role is Role.PLACE else 1 for axis in field.mapped])
    second = field.second - 2 * spread * field.rows + total
    return kernel, np.maximum(second, 0.0)


def _without_signal(gradient: Field, normal: Field) -> tuple[Any, Any]:
    """Take off the part along the normalised signal, x̂·mean(g x̂), for a gradient independent of it."""
    n = math.prod(gradient.kernel.shape[: gradient.places])
    g, c = gradient.kernel.reshape(n, n), normal.kernel.reshape(n, n)
    places = math.prod(axis.size for axis in gradient.axes if axis.role is Role.PLACE)
    pixels = math.prod(axis.size for axis in gradient.axes if axis.role is Role.PIXEL)
    second_g, second_c = gradient.place_second().reshape(-1), normal.place_second().reshape(-1)
    product = g * c
    own = np.diagonal(product)
    inside = second_g * second_c / pixels + (1 - 1 / pixels) * own
    row = inside / places + (1 - 1 / places) * (product.sum(axis=1) - own) / max(n - 1, 1)
    total = float(row.mean())
    kernel = g + c * (total - row[:, None] - row[None, :])
    rows = (total - 2 * row).reshape(gradient.kernel.shape[: gradient.places])
    mapped = iter(rows.shape)
    spread = rows.reshape([next(mapped) if axis.role is Role.PLACE else 1 for axis in gradient.mapped])
    return kernel.reshape(gradient.kernel.shape), gradient.second + normal.second * spread


__all__ = ["affine", "by_hand", "by_place", "channels_as_units"]
