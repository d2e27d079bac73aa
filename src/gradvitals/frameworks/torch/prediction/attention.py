"""Softmax attention: what it mixes; spelled out or in one fused operation.

For random queries and keys the scores are Gaussian, with covariances n·c·K_q[t, t′]·K_k[i, j]. Softmax weights are
taken as exponentials of them, each product normalised to sum to one over the keys that may be seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gradvitals.frameworks.torch.prediction import softmax
from gradvitals.frameworks.torch.prediction.coarse import coarse
from gradvitals.frameworks.torch.prediction.measured import MOST_PLACES
from gradvitals.frameworks.torch.prediction.operation import Operation, Step, rule
from gradvitals.frameworks.torch.prediction.scores import Scores, with_added
from gradvitals.frameworks.torch.prediction.values import Constant, Node
from gradvitals.maths.alignment import gathered_to
from gradvitals.maths.field import Axis, Field, Role, constant_field
from gradvitals.maths.roles import with_role
from gradvitals.maths.scatter import Scatter

# ---- from weights to the mixture ----


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


def attend(operation: Operation, query: Node, key: Node, value: Node, scores: Scores, output: Any) -> None:
    """Record the mixture of values by softmax weights, forwards and backwards."""
    q, k, v = (_as_places(node.field) for node in (query, key, value))
    units = math.prod(axis.size for axis in q.layout[-1])
    factor = scores.scale**2 * units
    if any(field.has_pixels or field.second.size > MOST_PLACES for field in (q, k, v)):
        coarse(operation, (query, key, value), (q, k, v), scores, factor, output)
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
        to_value = parts.back_to_value(g, scores.kept)
        to_query, to_key = parts.back_to_scores(g * deep, scores.kept)
        scale = scores.scale**2
        # Products of two random projections: the scatter of both is in the gradient of the third.
        shared = gradient.scatter
        back = [
            _gradient_like(q, to_query * scale, shared + k.scatter + v.scatter, gradient.shared_blur),
            _gradient_like(k, to_key * scale * groups, shared + q.scatter + v.scatter, gradient.shared_blur),
            _gradient_like(v, to_value * groups, shared, gradient.shared_blur),
        ]
        return [gathered_to(g, node.field.layout) for g, node in zip(back, (query, key, value), strict=True)]

    node = operation.emit(made, [query, key, value], pullback, output=output)
    if scores.undropped is not None:
        _show_weights(operation, scores, scores.undropped, node, parts, own, kv * deep)
    if scores.shown is not None:
        _show_weights(operation, scores, scores.shown, node, parts, own, kv * deep)
    for added, factor in scores.added:
        _send_to_bias(operation, node, added, factor, parts, deep)
    for capped, factor in scores.capped:
        _show_capped(operation, node, capped, factor, parts, deep)


def _show_weights(
    operation: Operation, scores: Scores, shown: Node, mixed: Node, parts: Any, own: Any, value: Any
) -> None:
    """Report the softmax's own output, and the gradient that arrives there: what goes past it is carried on.

    Behind a dropout the weights are larger; before it, their gradient.
    """
    units = tuple((Axis(n, Role.UNIT),) if n > 1 else () for n in scores.shape)
    dropped = scores.undropped is not None and shown is scores.shown
    before, after = (scores.kept, 1.0) if dropped else (1.0, scores.kept)
    squares = float((own + parts.sharper(own)).mean()) * before
    shown._field = constant_field(units, squares, float(parts.weights.mean()))  # noqa: SLF001 - made for this
    of_values = float(np.einsum("bibi->", value)) / (value.shape[0] * value.shape[1])

    def pullback(gradient: Field) -> Sequence[Field]:
        arrived = replace(constant_field(units, gradient.mean_square * of_values * after), kurtosis=1.0)
        return [replace(arrived, inherited=gradient.scatter)]

    operation.trace.steps.append(Step(mixed, (shown,), pullback, shown=True))


def _send_to_bias(operation: Operation, mixed: Node, added: Node, factor: float, parts: Any, deep: int) -> None:
    """The gradient of a signal that was added to the scores, summed over the batch where it is the same there."""
    shape = added.field.second.shape
    batched = len(shape) > 2

    def pullback(gradient: Field) -> Sequence[Field]:
        g, _, _ = _batched(gathered_to(gradient, mixed.field.layout))
        by_score = parts.back_to_bias(g * deep, summed=not batched) * factor**2
        second = by_score if by_score.shape == shape else np.full(shape, float(by_score.mean()))
        layout = added.field.layout
        flat = constant_field(layout, 0.0)
        flat = replace(flat, second=second, mean=np.zeros(shape), inherited=gradient.scatter)
        return [flat.consistent() if flat.kernel.shape == added.field.kernel.shape else _fitting(flat, added.field)]

    operation.trace.steps.append(Step(mixed, (added,), pullback, name=operation.name))


def _show_capped(operation: Operation, mixed: Node, capped: Node, factor: float, parts: Any, deep: int) -> None:
    """Report the gradient that arrives at capped scores; what goes past them is carried on."""

    def pullback(gradient: Field) -> Sequence[Field]:
        g, _, _ = _batched(gathered_to(gradient, mixed.field.layout))
        size = float(np.mean(parts.back_to_bias(g * deep, summed=False))) * factor**2
        return [replace(constant_field(capped.field.layout, size), inherited=gradient.scatter, kurtosis=1.0)]

    operation.trace.steps.append(Step(mixed, (capped,), pullback, shown=True))


def _fitting(gradient: Field, field: Field) -> Field:
    """A gradient of as many samples as the arrays of its signal hold."""
    return replace(gradient, kernel=np.zeros_like(field.kernel)).consistent()


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
    return Field(
        layout,
        mean.reshape(places),
        second,
        flat.reshape((*places, *places)),
        v.scatter,
        blur=v.blur,
        shared_blur=v.shared_blur,
    )


def _gradient_like(field: Field, kernel: Any, inherited: Scatter, blur: float) -> Field:
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
    made = Field(field.layout, np.zeros(places), second, flat.reshape((*places, *places)), blur=blur, shared_blur=blur)
    # Sums over positions show what these have in common by chance.
    return replace(made, inherited=inherited + Scatter.of(2 * made.agreement() * blur))


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
        if isinstance(known, Constant) and known.held.dtype == torch.bool:
            known = Constant(torch.where(known.value, 0.0, -torch.inf))
        scores = with_added(scores, known)
    attend(operation, nodes[0], nodes[1], nodes[2], scores, operation.first)
