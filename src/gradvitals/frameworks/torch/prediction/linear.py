"""Products with weights, and of two signals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradvitals.frameworks.torch.prediction.operation import Operation, rule
from gradvitals.frameworks.torch.prediction.values import Constant, Node, Weight
from gradvitals.maths.alignment import alike, gathered_to, spread_to
from gradvitals.maths.field import Axis, Field, Layout, Role
from gradvitals.maths.roles import fused, summed, with_role
from gradvitals.maths.scatter import COPIED_BACKWARDS, COPIED_FORWARDS, Scatter, summed_scatter

#: What log E[x²] is off by behind a weight that is a copy of one that came before, which isn't followed.
_COPIED = 0.12
#: A mean of a weight's entries that is this many standard errors from zero is meant, and not chance.
MEANT = 5.0


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and mean square of a weight's entries; a mean that chance explains is zero."""

    mean: float
    second: float


def moments_of(value: Constant | Weight) -> Moments:
    """The moments of a weight's entries."""
    if isinstance(value, Weight):
        return Moments(value.mean, value.second)
    mean, second = value.mean_and_square
    error = math.sqrt(max(second - mean * mean, 0.0) / max(value.held.numel(), 1))
    return Moments(mean if abs(mean) > MEANT * error else 0.0, second)


def contracted(field: Field, dim: int, weight: Moments) -> Field:
    """Sum over a dimension with independent weights: the field without that dimension."""
    variance = max(weight.second - weight.mean**2, 0.0)
    result = _independent_sum(field, dim, variance).without_mean()
    if weight.mean:
        alike = summed(field, [dim], keep=True).times(weight.mean)
        result = replace(
            result, mean=alike.mean, second=result.second + alike.second, kernel=result.kernel + alike.kernel
        )
    return replace(result.drawn(field.scatter), own=_shared_weights(field, dim))


def _shared_weights(field: Field, dim: int) -> float | None:
    """What one new unit adds to the variance of log E[y²] where the same weights serve other units beside it (channels,
    where tokens are mixed): two of these have sums that are alike by chance, as tr K² / (tr K)² over what is summed.
    """
    beside = [axis for d, axes in enumerate(field.layout) for axis in axes if d != dim]
    others = math.prod(axis.size for axis in beside if axis.role is Role.UNIT)
    if others == 1:
        return None
    apart, together = field, field
    for d, axes in enumerate(field.layout):
        for at in range(len(axes)):
            apart = apart if d == dim else with_role(apart, d, at, Role.UNIT)
            together = with_role(together, d, at, Role.UNIT) if d == dim else together
    n = math.prod(axis.size for axis in field.layout[dim])
    held = math.prod(apart.kernel.shape[: apart.places])
    k = apart.kernel.reshape(held, held)
    by_chance = float((k * k).sum()) / max(float(k.trace()), 1e-300) ** 2 * held / n
    return 2 * (together.agreement() + (others - 1) * max(min(by_chance, 1.0), 1 / n))


def _independent_sum(field: Field, dim: int, variance: float) -> Field:
    """The sum over a dimension of entries that were each multiplied with an independent one of zero mean."""
    for at in range(len(field.layout[dim])):
        field = with_role(field, dim, at, Role.UNIT)
    n = math.prod(axis.size for axis in field.layout[dim])
    return field.scaled(n * variance).with_layout((*field.layout[:dim], (), *field.layout[dim + 1 :]))


def product(operation: Operation, x: Node, dim: int, weight: Constant | Weight, units: int, at: int) -> Field:
    """A product that sums over dimension ``dim`` of a signal and puts ``units`` new units at dimension ``at``.

    Records the way back; the caller has arranged the output's dimensions as the input's without ``dim``.
    """
    moments = moments_of(weight)
    before = x.field
    made = contracted(before, dim, moments)
    layout = list(made.layout)
    layout.pop(dim)
    layout.insert(at, (Axis(units, Role.UNIT),) if units > 1 else ())
    made = replace(made, layout=tuple(layout), blur=before.blur + 1 / max(units, 1), shared_blur=before.blur)
    is_copy = operation.trace.is_copy(weight)
    if is_copy:
        made = replace(made, inherited=made.inherited + Scatter.of(_COPIED**2, COPIED_FORWARDS))

    inputs = max(math.prod(axis.size for axis in before.layout[dim]), 1)

    def pullback(gradient: Field) -> Sequence[Field]:
        own = _shared_weights(gradient, at)
        g = gradient
        for a in range(len(g.layout[at])):
            g = with_role(g, at, a, Role.UNIT, gradient=True)
        n = math.prod(axis.size for axis in g.layout[at])
        back = list(g.layout)
        back.pop(at)
        back.insert(dim, tuple(Axis(axis.size, Role.UNIT) for axis in before.layout[dim]))
        blur = gradient.blur + 1 / inputs
        scatter = gradient.scatter + Scatter.of(_COPIED**2, COPIED_BACKWARDS) if is_copy else gradient.scatter
        g = replace(g.drawn(scatter), blur=blur, shared_blur=gradient.blur, own=own)
        through = n * moments.second * taken_back(gradient.excess, inputs)
        return [gathered_to(g.scaled(through).with_layout(tuple(back)), before.layout)]

    operation.emit(made, [x], pullback)
    mixed = before
    for a in range(len(before.layout[dim])):
        mixed = with_role(mixed, dim, a, Role.UNIT)
    operation.learns(weight, mixed, times=made.units / max(units, 1))
    return made


def _is_weight(value: Any) -> bool:
    return isinstance(value, Weight) or (isinstance(value, Constant) and not value.data)


@rule("mm", "addmm", "linear")
def _mm(operation: Operation) -> None:
    with_bias = operation.name == "aten::addmm"
    a, b = operation.args[1:3] if with_bias else operation.args[:2]
    bias = operation.args[0] if with_bias else operation.argument(2, "bias")
    if operation.name == "aten::linear":
        x = operation.node(a)
        product(operation, x, len(x.field.layout) - 1, operation.value(b), b.shape[0], len(x.field.layout) - 1)
    else:
        _matrix_product(operation, a, b)
    if bias is not None:
        _add_bias(operation, bias)


def _add_bias(operation: Operation, bias: Any) -> None:
    """A learned vector over the units is random; as an operand of addmm it may as well be a signal."""
    made = operation.trace.value(operation.first)
    if not isinstance(made, Node):
        return
    scale = operation.kwargs.get("beta", 1)
    given = operation.beside(bias, made.field).times(float(scale))
    added = plus(made.field, given)
    made._field = added  # noqa: SLF001 - it was made in this very operation
    value = operation.value(bias)
    if not isinstance(value, Node):
        operation.learns(bias, None, times=added.units / max(bias.numel(), 1))
    if isinstance(value, Node):
        layout = value.field.layout
        operation.emit(added, [value], lambda g: [gathered_to(g.scaled(scale**2), layout)], node=made)


def plus(first: Field, second: Field, sign: float = 1.0) -> Field:
    """The sum of two independent fields under the first one's layout (or one that both can be spread to)."""
    if second.second.ndim or not _fits(second, first):
        first, other = alike(first, spread_to(second, first.layout))
        cross = _symmetric(sign * (np.multiply.outer(_place_mean(first), _place_mean(other))), first.places)
    else:  # the same everywhere (a bias over the units): broadcast
        other = second
        mean = _place_mean(first)
        cross = sign * float(other.mean) * (mean[(..., *[None] * mean.ndim)] + mean)
    total = first.second + other.second + 2 * sign * first.mean * other.mean
    kernel = first.kernel + other.kernel + cross
    shares = np.array([first.mean_square, other.mean_square])
    share = shares / max(shares.sum(), 1e-300)
    return replace(
        first,
        mean=first.mean + sign * other.mean,
        second=total,
        kernel=kernel,
        inherited=summed_scatter(first.inherited, other.inherited, float(share[0]), COPIED_FORWARDS),
        profile=common_rows(first, other),
        blur=_blur((first.blur, other.blur), share, first.units),
        shared_blur=_blur((first.shared_blur, other.shared_blur), share, first.units),
        own=None,
        kurtosis=3.0 + float(share[0] ** 2 * (first.kurtosis - 3) + share[1] ** 2 * (other.kurtosis - 3)),
    ).consistent()


def _fits(field: Field, other: Field) -> bool:
    """Whether each dimension has the other's axes, or is broadcast."""
    missing = len(other.layout) - len(field.layout)
    return (
        missing >= 0
        and not other.has_pixels
        and all(not dim or dim == wanted for dim, wanted in zip(field.layout, other.layout[missing:], strict=True))
    )


def _blur(parts: tuple[float, float], share: Any, units: int) -> float:
    """Of a sum: each part's own, and what two independent vectors have in common by chance."""
    return float(share[0] ** 2 * parts[0] + share[1] ** 2 * parts[1] + 2 * share[0] * share[1] / max(units, 1))


def common_rows(first: Field, second: Field) -> Any:
    """The profile of a sum."""
    if first.profile is None and second.profile is None:
        return None
    one, two = abs(first.pair_means()[1]), abs(second.pair_means()[1])
    return (one * first.rows + two * second.rows) / (one + two) if one + two > 0 else None


def _place_mean(field: Field) -> Any:
    pixels = tuple(at for at, axis in enumerate(field.mapped) if axis.role is Role.PIXEL)
    return field.mean.mean(axis=pixels) if pixels else field.mean


def _symmetric(cross: Any, places: int) -> Any:
    return cross + cross.transpose([*range(places, 2 * places), *range(places)])


def _matrix_product(operation: Operation, a: Any, b: Any) -> None:
    va, vb = operation.value(a), operation.value(b)
    signal_a, signal_b = isinstance(va, Node), isinstance(vb, Node)
    if signal_a and signal_b:
        two_signals(operation, va, vb)
    elif _is_weight(vb) and not (isinstance(va, Constant) and va.learned):
        x = operation.node(a, [Role.PLACE, Role.UNIT])
        if _is_mixture(vb, x.field, 1):
            mixed(operation, x, 1, vb, transposed=True)
        else:
            product(operation, x, 1, vb, b.shape[1], 1)
    elif _is_weight(va):
        x = operation.node(b, [Role.UNIT, Role.PLACE])
        if _is_mixture(va, x.field, 0):
            mixed(operation, x, 0, va, transposed=False)
        else:
            product(operation, x, 0, va, a.shape[0], 0)
    else:
        raise NotImplementedError("a product of two inputs")


def _is_mixture(value: Any, field: Field, dim: int) -> bool:
    """A matrix that isn't learned averages over places: it is taken as it is."""
    if not isinstance(value, Constant) or value.learned:
        return False
    dims = field.layout[dim]
    return len(dims) == 1 and dims[0].role is Role.PLACE and value.held.dim() == 2


def mixed(operation: Operation, x: Node, dim: int, matrix: Constant, *, transposed: bool) -> None:
    """Places mixed by known numbers, K′ = C K Cᵀ."""
    c = matrix.value.detach().double().numpy()
    c = c.T if transposed else c
    before = x.field

    if before.has_pixels:
        raise NotImplementedError("a matrix over places beside pixels")
    operation.emit(
        places_mixed(before, dim, c),
        [x],
        lambda g: [gathered_to(places_mixed(_sampled(_placed(g, dim)), dim, c.T), before.layout)],
    )


def places_mixed(field: Field, dim: int, matrix: Any) -> Field:
    """Places along a dimension of one axis multiplied by a matrix, (outputs, inputs)."""
    at, p = field.array_axis(dim, 0)
    places = field.places
    kernel = np.moveaxis(np.tensordot(matrix, field.kernel, (1, p)), 0, p)
    kernel = np.moveaxis(np.tensordot(matrix, kernel, (1, places + p)), 0, places + p)
    mean = np.moveaxis(np.tensordot(matrix, field.mean, (1, at)), 0, at)
    n = math.prod(kernel.shape[:places])
    second = np.diagonal(kernel.reshape(n, n)).reshape(kernel.shape[:places])
    layout = (*field.layout[:dim], (Axis(len(matrix), Role.PLACE),), *field.layout[dim + 1 :])
    return replace(field, layout=layout, mean=mean, second=second, kernel=kernel)


def _sampled(gradient: Field) -> Field:
    """Entries of a known mean square (a random gradient of unit RMS), of which some count more from now on."""
    return replace(gradient, kurtosis=max(gradient.kurtosis, 3.0))


def taken_back(excess: float, inputs: int) -> float:
    """By how much a unit's weights undo that its gradient was divided by the deviation that they made.

    For n independent inputs E[Σw²/v] = n E[w²]/E[v] exactly, where E[1/v] = n/(n − 2) / E[v].
    """
    return max(1 / excess, 1 - 2 / inputs) if excess > 1 and inputs > 2 else 1.0


def _placed(gradient: Field, dim: int) -> Field:
    return with_role(gradient, dim, 0, Role.PLACE, gradient=True)


@rule("bmm", "baddbmm")
def _bmm(operation: Operation) -> None:
    a, b = operation.args[-2:] if operation.name == "aten::bmm" else operation.args[1:3]
    va, vb = operation.value(a), operation.value(b)
    from gradvitals.frameworks.torch.prediction import scores

    if scores.takes_product(operation, va, vb):
        return
    if isinstance(va, Node) and isinstance(vb, Node):
        if not _is_of_product(operation, va, vb):
            two_signals(operation, va, vb)
    elif isinstance(va, Node) or (isinstance(va, Constant) and va.data and _is_weight(vb)):
        x = operation.node(a, [Role.PLACE, Role.PLACE, Role.UNIT])
        product(operation, x, 2, vb, b.shape[2], 2)
    elif isinstance(vb, (Node, Constant)):
        x = operation.node(b, [Role.PLACE, Role.UNIT, Role.PLACE])
        product(operation, x, 1, va, a.shape[1], 1)
    else:
        raise NotImplementedError("a product of two inputs")
    if operation.name == "aten::baddbmm":
        _add_bias(operation, operation.args[0])


def _is_of_product(operation: Operation, a: Node, b: Node) -> bool:
    """Whether one of them is a product of two signals itself, whose units have a part in common; then it is drawn."""
    if not any(node.call is not None and node.call.function is operation.function for node in (a, b)):
        return False
    from gradvitals.frameworks.torch.prediction import repeated  # which imports the rules

    return repeated.attempt(operation) is None


def two_signals(operation: Operation, a: Node, b: Node) -> None:
    """A product of two independent signals, summed over the last dimension of one and the last but one of the other."""
    first, second = a.field, b.field
    rank = len(first.layout)
    rows = (*first.layout[: rank - 2], first.layout[rank - 2], first.layout[rank - 1], ())
    columns = (*second.layout[: rank - 2], (), second.layout[rank - 2], second.layout[rank - 1])
    one, two = first.with_layout(rows), second.with_layout(columns)
    from gradvitals.maths.alignment import common_layout

    full = common_layout([rows, columns])
    if math.prod(axis.size for dim in full for axis in dim if axis.role is Role.PLACE) > 2**12:
        raise NotImplementedError("a product of two signals over many places")
    one, two = spread_to(one, full), spread_to(two, full)
    made = summed(times(one, two), [rank - 1], keep=False)
    made = made.drawn(first.scatter + second.scatter)

    def pullback(gradient: Field) -> Sequence[Field]:
        g = spread_to(gradient.with_layout((*gradient.layout[: rank - 1], (), gradient.layout[rank - 1])), full)
        return [
            gathered_to(times(g, two), rows).with_layout(first.layout),
            gathered_to(times(g, one), columns).with_layout(second.layout),
        ]

    operation.emit(made, [a, b], pullback)


@rule("_trilinear")
def _bilinear(operation: Operation) -> None:
    """y_o = Σ_ij a_i W_oij b_j, as torch.nn.Bilinear has it."""
    a, weight, b, *dims = operation.args
    value = operation.value(weight)
    if [list(d) for d in dims[:4]] != [[1, 3], [0], [1, 2], [2, 3]] or not _is_weight(value):
        raise NotImplementedError("a product of three of this kind")
    x, y = operation.node(a), operation.node(b)
    last = len(x.field.layout) - 1
    one, two = fused_dim(x.field, last), fused_dim(y.field, len(y.field.layout) - 1)
    units, n, m = (int(size) for size in weight.shape)
    moments = moments_of(value)
    lead, other = contracted(one, last, Moments(0.0, 1 / n)), contracted(two, last, Moments(0.0, 1 / m))
    lead, other = alike(lead, spread_to(other, lead.layout))
    inside = replace(times(lead, other), inherited=lead.inherited + other.inherited)
    layout = (*inside.layout[:last], (Axis(units, Role.UNIT),) if units > 1 else ())
    made = replace(inside.scaled(n * m * moments.second), layout=layout, kurtosis=3.0, blur=1 / max(units, 1))

    def pullback(gradient: Field) -> Sequence[Field]:
        g = contracted(gathered_to(gradient, layout), last, Moments(0.0, 1 / max(units, 1)))
        found = []
        for node, beside, size in ((x, other, m), (y, lead, n)):
            part = times(*alike(g, beside)).scaled(units * size * moments.second)
            back = (*part.layout[:last], tuple(Axis(axis.size, Role.UNIT) for axis in node.field.layout[-1]))
            found.append(gathered_to(replace(part, layout=back, kurtosis=3.0), node.field.layout))
        return found

    operation.emit(made, [x, y], pullback)
    operation.learns(value, replace(inside, layout=layout))


def times(first: Field, second: Field) -> Field:
    """The product of two independent fields of the same layout."""
    return replace(
        first,
        mean=first.mean * second.mean,
        second=first.second * second.second,
        kernel=first.kernel * second.kernel,
        inherited=first.inherited + second.inherited,
        own=None,
        kurtosis=min(first.kurtosis * second.kurtosis, 1e3),
    ).consistent()


def fused_dim(field: Field, dim: int) -> Field:
    """A dimension with one axis at most."""
    return fused(field, dim, 0, len(field.layout[dim])) if len(field.layout[dim]) > 1 else field


__all__ = ["Layout", "Moments", "contracted", "mixed", "moments_of", "plus", "product", "times"]
