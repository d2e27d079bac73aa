"""Scores of a softmax attention: products of queries and keys, and what is done to them before they mix values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gradvitals.frameworks.torch.prediction import softmax
from gradvitals.frameworks.torch.prediction.operation import Operation, Step, rule
from gradvitals.frameworks.torch.prediction.values import Constant, Node, Noise
from gradvitals.maths.field import Axis, Field, Layout, Role, constant_field
from gradvitals.maths.roles import permuted, summed


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Products of queries and keys, before or behind the softmax.

    Parameters
    ----------
    query, key : Node
        Of layouts whose last two dimensions are positions and units.
    layout : Layout
        Of the scores: batch dimensions, query positions, key positions.
    scale : float
        The number that the products were multiplied by.
    bias : array or None
        What is added to the scores: of the shape of the scores' last two dimensions, with the batch in front where it
        differs.
    extra : float
        Variance of something random that was added.
    added : tuple of (Node, float)
        Signals that were added, which are sent a gradient, each with its factor.
    shown : Node or None
        Capped scores, or the weights once they have mixed something, as a signal for the report.
    undropped : Node or None
        The weights before a dropout, likewise.
    capped : tuple of (Node, float)
        Capped scores that are shown their gradient, each with the factor that came after.
    kept : float
        Behind the softmax: 1/(1 − p) of a dropout on the weights.
    is_softmax : bool

    """

    query: Node
    key: Node
    layout: Layout
    shape: tuple[int, ...]
    scale: float = 1.0
    bias: Any = None
    extra: float = 0.0
    added: tuple[tuple[Node, float], ...] = ()
    kept: float = 1.0
    is_softmax: bool = False
    order: tuple[int, ...] = ()
    shown: Node | None = None
    undropped: Node | None = None
    capped: tuple[tuple[Node, float], ...] = ()

    def reshaped_to(self, shape: tuple[int, ...]) -> Scores:
        """Batch dimensions fused or split, and dimensions of size 1 anywhere."""
        whole = _long(shape) == _long(self.shape)
        if math.prod(shape) != math.prod(self.shape) or not (
            whole or (not self.order and _long(shape)[-2:] == _long(self.shape)[-2:])
        ):
            raise NotImplementedError("scores in another shape")
        bias = self.bias
        if bias is not None and bias.ndim > 2 and bias.ndim != len(shape):
            full = np.broadcast_to(bias, self.shape) if bias.ndim == len(self.shape) else bias
            bias = full.reshape(shape) if full.size == math.prod(shape) else bias
        return replace(self, shape=shape, bias=bias)

    def permuted_to(self, dims: Sequence[int]) -> Scores:
        """The same in another order of dimensions, which only matters for queries and keys."""
        rank = len(self.shape)
        long = [d for d in range(rank) if self.shape[d] > 1]
        moved = [long.index(d) for d in dims if d in long]
        order = [self.order[at] for at in moved] if self.order else moved
        stays = not self.order and moved[-2:] == [len(long) - 2, len(long) - 1]
        bias = self.bias
        if bias is not None and bias.ndim > 2:
            bias = bias.reshape((*(1,) * (rank - bias.ndim), *bias.shape)).transpose(dims)
        shape = tuple(self.shape[d] for d in dims)
        return replace(self, shape=shape, bias=bias, order=() if stays or order == sorted(order) else tuple(order))

    def expanded_to(self, shape: tuple[int, ...]) -> Scores:
        """Nothing to be expanded."""
        if shape == self.shape:
            return self
        raise NotImplementedError("expanded scores")

    def piece_of(self, dim: int, index: Sequence[int], *, drop: bool) -> Scores:
        """One of the batch, or of the heads: as good as any other."""
        rank = len(self.shape)
        if dim >= rank - 2 or self.bias is not None:
            raise NotImplementedError("a piece of scores")
        kept = () if drop else (len(index),)
        return replace(self, shape=(*self.shape[:dim], *kept, *self.shape[dim + 1 :]))


def _long(shape: Sequence[int]) -> list[int]:
    """A shape without dimensions of size 1."""
    return [n for n in shape if n > 1]


# ---- from products to scores ----


def takes_product(operation: Operation, a: Any, b: Any) -> bool:
    """Whether a batched product is one of queries with keys, or of weights with values; if so, it is recorded."""
    if isinstance(a, Scores) and isinstance(b, Node):
        if not a.is_softmax or a.order:
            raise NotImplementedError("scores that multiply something before a softmax")
        from gradvitals.frameworks.torch.prediction.attention import attend

        attend(operation, a.query, a.key, b, a, operation.first)
        return True
    if not (isinstance(a, Node) and isinstance(b, Node)):
        return False
    first, second = a.field.layout, b.field.layout
    rows = any(axis.is_mapped for axis in first[-2])
    columns = any(axis.is_mapped for axis in second[-1])
    contracted = any(axis.is_mapped for axis in first[-1]) or any(axis.is_mapped for axis in second[-2])
    if not rows or not columns or contracted:
        return False
    rank = len(second)
    swap = [*range(rank - 2), rank - 1, rank - 2]
    key = Node(permuted(b.field, swap), tags=b.lasting_tags)
    operation.trace.steps.append(Step(key, (b,), lambda g: [permuted(g, swap)]))
    layout = (*first[:-1], second[-1])
    operation.trace.bind(operation.first, Scores(a, key, layout, tuple(operation.first.shape)))
    return True


def takes_sum(operation: Operation, a: Any, b: Any, sign_a: float, sign_b: float) -> bool:
    """Whether a mask or bias is added to scores."""
    va, vb = operation.value(a), operation.value(b)
    if not isinstance(va, Scores) and not isinstance(vb, Scores):
        return False
    scores, other, sign = (va, vb, sign_b) if isinstance(va, Scores) else (vb, va, sign_a)
    added = b if isinstance(va, Scores) else a
    if isinstance(added, (int, float)) or (isinstance(other, Constant) and other.held.numel() == 1):
        operation.trace.bind(operation.first, scores)
        return True
    operation.trace.bind(operation.first, with_added(scores, other, sign))
    return True


def with_added(scores: Scores, other: Any, sign: float = 1.0) -> Scores:
    """Scores plus a mask of known values, or plus something random."""
    if isinstance(other, Constant):
        value = other.value.detach().double().numpy() * sign
        known = value if scores.bias is None else scores.bias + value
        return replace(scores, bias=_fitted(known, scores.shape))
    if isinstance(other, Node):
        extra = _between_keys(other.field, scores.shape[-1])
        bias = scores.bias
        hidden: Any = other.tags.get("hidden")
        if hidden is not None:
            bias = _fitted(np.where(hidden, -np.inf, 0.0 if bias is None else bias), scores.shape)
        return replace(scores, bias=bias, extra=scores.extra + extra, added=(*scores.added, (other, sign)))
    raise NotImplementedError("something unknown added to scores")


def _between_keys(field: Field, keys: int) -> float:
    """The variance of what is added to scores between the keys of a query: what all share no softmax sees."""
    whole = float(field.second.mean() - (field.mean**2).mean())
    last = field.layout[-1]
    if not last:
        return 0.0 if keys > 1 else whole
    if not all(axis.is_mapped for axis in last):
        return whole
    n = math.prod(axis.size for axis in last)
    average = summed(field, [len(field.layout) - 1]).times(1 / n)
    common = float(average.second.mean() - (average.mean**2).mean())
    return max(whole - common, 0.0) * n / max(n - 1, 1)


def _variance(scores: Scores) -> float:
    """Of the products."""
    units = math.prod(axis.size for axis in scores.query.field.layout[-1])
    return scores.scale**2 * units * scores.query.field.mean_square * scores.key.field.mean_square


def takes_function(operation: Operation, function: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Whether scores are bounded by a smooth function (soft capping): to first order a factor, its mean slope."""
    scores = operation.value(operation.args[0])
    if not isinstance(scores, Scores):
        return False
    if scores.is_softmax or scores.bias is not None:
        raise NotImplementedError("a function of scores behind a mask or softmax")
    deviation = math.sqrt(_variance(scores) + scores.extra)
    z = np.linspace(-6.0, 6.0, 241)
    density = np.exp(-z * z / 2)
    density /= density.sum()
    values = function(torch.from_numpy(z * deviation)).double().numpy()
    slope = float((density * values * z).sum()) / deviation if deviation > 0 else 1.0  # Stein's lemma
    units = tuple((Axis(n, Role.UNIT),) if n > 1 else () for n in scores.shape)
    size = constant_field(units, float((density * values**2).sum()), float((density * values).sum()))
    shown = Node(replace(size, inherited=scores.query.field.scatter + scores.key.field.scatter))
    made = replace(_scaled(scores, slope), shown=shown)
    operation.trace.bind(operation.first, replace(made, capped=(*made.capped, (shown, 1.0))))
    return True


def _fitted(bias: Any, shape: tuple[int, ...]) -> Any:
    """A bias as an array with as many dimensions as the scores, broadcastable to them."""
    while bias.ndim > len(shape) and bias.shape[0] == 1:
        bias = bias[0]
    return bias


def takes_factor(operation: Operation, a: Any, b: Any, *, divides: bool) -> bool:
    """Whether scores are scaled, or a dropout mask is put on softmax weights."""
    va, vb = operation.value(a), operation.value(b)
    if not isinstance(va, Scores) and not isinstance(vb, Scores):
        return False
    scores, other, plain = (va, vb, b) if isinstance(va, Scores) else (vb, va, a)
    if isinstance(other, Noise) and scores.is_softmax:
        kept = scores.kept * other.second / max(other.mean**2, 1e-300)
        made = replace(scores, kept=kept, shown=Node(None), undropped=scores.undropped or scores.shown)
        operation.trace.bind(operation.first, made)
        return True
    number = float(plain) if isinstance(plain, (int, float)) else None
    if isinstance(other, Constant) and other.held.numel() == 1:
        number = float(other.value)
    if number is None or scores.is_softmax:
        raise NotImplementedError("scores times a tensor")
    operation.trace.bind(operation.first, _scaled(scores, 1 / number if divides else number))
    return True


def _scaled(scores: Scores, factor: float) -> Scores:
    return replace(
        scores,
        scale=scores.scale * factor,
        bias=None if scores.bias is None else scores.bias * factor,
        extra=scores.extra * factor**2,
        added=tuple((node, by * factor) for node, by in scores.added),
        capped=tuple((node, by * factor) for node, by in scores.capped),
        shown=None,
    )


def takes_mask(operation: Operation) -> bool:
    """Whether masked_fill or where puts −∞ (or a very negative number) into scores."""
    name = operation.name.removeprefix("aten::").removesuffix("_")
    if name == "masked_fill":
        scores, mask, fill = operation.value(operation.args[0]), operation.value(operation.args[1]), operation.args[2]
        where = None if not isinstance(mask, Constant) else mask.value.bool().numpy()
    elif name == "where":
        condition, yes, no = operation.args[:3]
        known = operation.value(condition)
        scores, other = operation.value(yes), operation.value(no)
        if not isinstance(scores, Scores):
            return False
        fill = other.value if isinstance(other, Constant) else None
        where = None if not isinstance(known, Constant) else ~known.value.bool().numpy()
    else:
        return False
    if not isinstance(scores, Scores):
        return False
    value = operation.value(fill) if isinstance(fill, torch.Tensor) else fill
    number = float(value.value.max()) if isinstance(value, Constant) else float(value if value is not None else 0)
    if where is None or number > -100:
        raise NotImplementedError("scores masked by something unknown")
    bias = np.where(where, -np.inf, 0.0)
    bias = bias if scores.bias is None else np.where(where, -np.inf, scores.bias)
    operation.trace.bind(operation.first, replace(scores, bias=_fitted(bias, scores.shape)))
    return True


@rule("_softmax", "softmax", "_safe_softmax", "special_softmax")
def _softmax(operation: Operation) -> None:
    given = operation.value(operation.args[0])
    dim = operation.args[1] % operation.args[0].dim()
    if isinstance(given, Scores):
        if dim != len(given.shape) - 1 or given.order:
            raise NotImplementedError("a softmax over queries")
        operation.trace.bind(operation.first, replace(given, is_softmax=True, shown=Node(None)))
        return
    x = operation.node(operation.args[0])
    if math.prod(axis.size for axis in x.layout[dim]) <= softmax.FEW_UNITS:
        from gradvitals.frameworks.torch.prediction import repeated

        if repeated.attempt(operation) is None:
            return
    softmax.over_units(operation, x, dim)
