"""Softmax attention: scores, their softmax, and what it mixes; spelled out or in one fused operation.

For random queries and keys the scores are Gaussian, with covariances n·c·K_q[t, t′]·K_k[i, j]. Softmax weights are
taken as exponentials of them, each product normalised to sum to one over the keys that may be seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gradvitals.frameworks.torch.prediction import softmax
from gradvitals.frameworks.torch.prediction.operation import Operation, rule
from gradvitals.frameworks.torch.prediction.values import Constant, Node, Noise
from gradvitals.maths.alignment import gathered_to
from gradvitals.maths.field import Axis, Field, Layout, Role
from gradvitals.maths.roles import reshaped, with_role


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
    extra : float or array
        Variance of something random that was added.
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
    extra: Any = 0.0
    kept: float = 1.0
    is_softmax: bool = False

    def reshaped_to(self, shape: tuple[int, ...]) -> Scores:
        """Batch dimensions fused or split."""
        if shape[-2:] != self.shape[-2:]:
            raise NotImplementedError("scores in another shape")
        bias = self.bias
        if bias is not None and bias.ndim > 2:
            bias = bias if bias.ndim == len(shape) else _lead(bias, shape)
        return replace(self, shape=shape, bias=bias)

    def permuted_to(self, dims: Sequence[int]) -> Scores:
        """Only the batch dimensions may change places."""
        raise NotImplementedError("scores in another order")

    def expanded_to(self, shape: tuple[int, ...]) -> Scores:
        """Nothing to be expanded."""
        if shape == self.shape:
            return self
        raise NotImplementedError("expanded scores")


def _lead(bias: Any, shape: tuple[int, ...]) -> Any:
    """A bias with batch dimensions, averaged over those that can't be kept apart."""
    if bias.ndim == len(shape):
        return bias
    flat = np.broadcast_to(bias, (*bias.shape[:-2], *shape[-2:]))
    if math.prod(flat.shape[:-2]) == math.prod(shape[:-2]):
        return flat.reshape(shape)
    return flat


# ---- from products to scores ----


def takes_product(operation: Operation, a: Any, b: Any) -> bool:
    """Whether a batched product is one of queries with keys, or of weights with values; if so, it is recorded."""
    if isinstance(a, Scores) and isinstance(b, Node):
        if not a.is_softmax:
            raise NotImplementedError("scores that multiply something before a softmax")
        _mixed(operation, a, b)
        return True
    if not (isinstance(a, Node) and isinstance(b, Node)):
        return False
    first, second = a.field.layout, b.field.layout
    rows = any(axis.is_mapped for axis in first[-2])
    columns = any(axis.is_mapped for axis in second[-1])
    contracted = any(axis.is_mapped for axis in first[-1]) or any(axis.is_mapped for axis in second[-2])
    if not rows or not columns or contracted:
        return False
    from gradvitals.frameworks.torch.prediction.layouts import moved
    from gradvitals.maths.roles import permuted

    rank = len(second)
    swap = [*range(rank - 2), rank - 1, rank - 2]
    stand_in = torch.empty(0)
    saved = operation.trace.values.get(id(operation.first))
    key = Node(permuted(b.field, swap))
    from gradvitals.frameworks.torch.prediction.operation import Step

    operation.trace.steps.append(Step(key, (b,), lambda g: [permuted(g, swap)]))
    del stand_in, saved, moved
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
    if isinstance(added, (int, float)):
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
        field = other.field
        extra = float(field.second.mean() - (field.mean**2).mean())
        return replace(scores, extra=scores.extra + extra)
    raise NotImplementedError("something unknown added to scores")


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
        made = replace(scores, kept=scores.kept * other.second / max(other.mean**2, 1e-300))
        operation.trace.bind(operation.first, made)
        return True
    number = float(plain) if isinstance(plain, (int, float)) else None
    if isinstance(other, Constant) and other.value.numel() == 1:
        number = float(other.value)
    if number is None or scores.is_softmax:
        raise NotImplementedError("scores times a tensor")
    factor = 1 / number if divides else number
    bias = None if scores.bias is None else scores.bias * factor
    made = replace(scores, scale=scores.scale * factor, bias=bias, extra=scores.extra * factor**2)
    operation.trace.bind(operation.first, made)
    return True


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
        if dim != len(given.shape) - 1:
            raise NotImplementedError("a softmax over queries")
        operation.trace.bind(operation.first, replace(given, is_softmax=True))
        return
    softmax.over_units(operation, operation.node(operation.args[0]), dim)


# ---- from weights to the mixture ----


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """Kernels by batch and position, as (B, T, B, T) arrays, and the softmax's first-order weights (B, T, S)."""

    query: Any
    key: Any
    value: Any
    weights: Any
    factor: float
    order: int


def _batched(field: Field) -> tuple[Any, int, int]:
    """A kernel as (B, T, B, T) with the position axes of the last but one dimension behind those of the batch."""
    last = field.layout[-2]
    positions = math.prod(axis.size for axis in last if axis.role is Role.PLACE)
    n = math.prod(field.kernel.shape[: field.places])
    batch = n // max(positions, 1)
    return field.kernel.reshape(batch, positions, batch, positions), batch, positions


def _as_places(field: Field) -> Field:
    """Positions as places and everything else in the last dimension as units."""
    d = len(field.layout) - 1
    for at in range(len(field.layout[d])):
        field = with_role(field, d, at, Role.UNIT)
    return field


def _mixed(operation: Operation, scores: Scores, value: Node) -> None:
    """Weights times values."""
    attend(operation, scores.query, scores.key, value, scores, operation.first)


def attend(operation: Operation, query: Node, key: Node, value: Node, scores: Scores, output: Any) -> None:
    """Record the mixture of values by softmax weights, forwards and backwards."""
    q, k, v = (_as_places(node.field) for node in (query, key, value))
    units = math.prod(axis.size for axis in q.layout[-1])
    factor = scores.scale**2 * units
    if any(field.has_pixels for field in (q, k, v)):
        softmax.coarse(operation, (query, key, value), (q, k, v), scores, factor, output)
        return
    kq, batch, rows = _batched(q)
    kk, batch_k, columns = _batched(k)
    kv, batch_v, _ = _batched(v)
    small = min(batch, batch_k, batch_v)
    if {batch, batch_k, batch_v} != {small} and small == 1:
        kk, kv = softmax.repeated(kk, batch), softmax.repeated(kv, batch)
        kq = softmax.repeated(kq, max(batch_k, batch_v)) if batch == 1 else kq
        small = max(batch, batch_k, batch_v)
    kq, kk, kv = (array[:small, :, :small, :] for array in (kq, kk, kv))
    bias = softmax.bias_by_batch(scores.bias, scores.shape, small, rows, columns)
    blur = min(k.shared_blur, v.shared_blur)
    parts = softmax.Parts.of(kq, kk, kv, bias, factor, scores.extra, blur)
    mixed, own = parts.mixed(kv), parts.own_share()
    extra = (scores.kept - 1) * np.einsum("bti,bibi->bt", own + parts.sharper(own), kv)
    kernel = mixed
    index = np.arange(small)[:, None], np.arange(rows)[None, :]
    kernel[index[0], index[1], index[0], index[1]] += extra
    mean = np.einsum("bti,bi->bt", parts.weights, _mean_of(v, small, columns))
    made = _shaped(q, v, kernel, mean)
    deep = math.prod(axis.size for axis in v.layout[-1])
    groups = _heads(q) / max(_heads(k), 1)  # queries that share a key

    def pullback(gradient: Field) -> Sequence[Field]:
        g, _, _ = _batched(gathered_to(gradient, made.layout))
        g = g[:small, :, :small, :]
        to_value = parts.back_to_value(g, scores.kept, own)
        to_query, to_key = parts.back_to_scores(g * deep, scores.kept, own)
        scale = scores.scale**2
        return [
            gathered_to(_gradient_like(q, to_query * scale), query.field.layout),
            gathered_to(_gradient_like(k, to_key * scale * groups), key.field.layout),
            gathered_to(_gradient_like(v, to_value * groups), value.field.layout),
        ]

    operation.emit(made, [query, key, value], pullback, output=output)


def _heads(field: Field) -> int:
    return math.prod(axis.size for dim in field.layout[:-2] for axis in dim if axis.role in (Role.UNIT, Role.COPY))


def _mean_of(field: Field, batch: int, positions: int) -> Any:
    mean = field.mean.reshape(-1, positions)
    return np.broadcast_to(mean[:batch], (batch, positions)) if len(mean) >= batch else np.repeat(mean, batch, axis=0)


def _shaped(q: Field, v: Field, kernel: Any, mean: Any) -> Field:
    """A field of the queries' batch and positions with the values' units."""
    places = [n for n, axis in zip(q.second.shape, q.mapped, strict=True) if axis.role is Role.PLACE]
    n = math.prod(places)
    flat = kernel.reshape(kernel.shape[0] * kernel.shape[1], -1)
    if len(flat) != n:
        places = [len(flat), *[1] * (len(places) - 1)] if not places else [len(flat) * places[0] // n, *places[1:]]
    second = np.diagonal(flat).reshape(places)
    layout = (*q.layout[:-1], tuple(Axis(axis.size, Role.UNIT) for axis in v.layout[-1]))
    return Field(layout, mean.reshape(places), second, flat.reshape((*places, *places)), v.spread)


def _gradient_like(field: Field, kernel: Any) -> Field:
    """A gradient with the layout of a signal."""
    places = [n for n, axis in zip(field.second.shape, field.mapped, strict=True) if axis.role is Role.PLACE]
    flat = kernel.reshape(kernel.shape[0] * kernel.shape[1], -1)
    n = math.prod(places)
    if len(flat) > n:  # one batch element stood for all
        repeat = len(flat) // n
        flat = flat.reshape(repeat, n, repeat, n).sum(axis=(0, 2))
    elif len(flat) < n:
        places = [len(flat) * places[0] // n, *places[1:]]
    second = np.diagonal(flat).reshape(places)
    return Field(field.layout, np.zeros(places), second, flat.reshape((*places, *places)))


@rule(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math",
    "scaled_dot_product_attention",
    "_scaled_dot_product_attention_math_for_mps",
)
def _fused(operation: Operation) -> None:
    q, k, v = operation.args[:3]
    nodes = [operation.node(t, [Role.PLACE, Role.UNIT, Role.PLACE, Role.UNIT]) for t in (q, k, v)]
    flags = [a for a in operation.args[3:] if isinstance(a, bool)]
    name = operation.name
    mask = next((a for a in operation.args[3:] if isinstance(a, torch.Tensor)), operation.kwargs.get("attn_mask"))
    mask = operation.kwargs.get("attn_bias", mask)
    numbers = [a for a in operation.args[3:] if isinstance(a, float)]
    dropout = float(operation.kwargs.get("dropout_p", numbers[0] if numbers else 0.0))
    causal = bool(operation.kwargs.get("is_causal", False))
    if flags:
        causal = flags[-1] if "efficient" in name else flags[0]
    scale = operation.kwargs.get("scale")
    shape = (*q.shape[:-1], k.shape[-2])
    layout = (*nodes[0].field.layout[:-1], nodes[1].field.layout[-2])
    scores = Scores(
        nodes[0],
        nodes[1],
        layout,
        tuple(shape),
        float(scale or 1 / math.sqrt(q.shape[-1])),
        kept=1 / (1 - dropout),
        is_softmax=True,
    )
    if causal:
        rows, columns = shape[-2:]
        seen = np.tril(np.ones((rows, columns), dtype=bool))
        scores = replace(scores, bias=np.where(seen, 0.0, -np.inf))
    if mask is not None:
        known = operation.value(mask)
        if isinstance(known, Constant) and known.value.dtype == torch.bool:
            known = Constant(torch.where(known.value, 0.0, -torch.inf))
        scores = with_added(scores, known)
    attend(operation, nodes[0], nodes[1], nodes[2], scores, operation.first)


__all__ = ["Scores", "reshaped"]
