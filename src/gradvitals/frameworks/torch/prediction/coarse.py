"""Softmax attention over positions too many to be told apart: they share one variance and one covariance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gradvitals.frameworks.torch.prediction.operation import Step
from gradvitals.frameworks.torch.prediction.softmax import LARGEST
from gradvitals.frameworks.torch.prediction.values import Node
from gradvitals.maths.alignment import gathered_to
from gradvitals.maths.field import Axis, Field, Role, constant_field
from gradvitals.maths.roles import with_role
from gradvitals.maths.scatter import Scatter, new_cause

if TYPE_CHECKING:
    from gradvitals.frameworks.torch.prediction.operation import Operation

#: How uncertain log E[g²] is at queries and keys of positions that aren't told apart.
_ROUGHLY = 0.2


def coarse(
    operation: Operation, nodes: Sequence[Node], fields: Sequence[Field], scores: Any, factor: float, output: Any
) -> None:
    """Record the mixture of values, forwards and backwards."""
    q, k, v = (_as_pixels(field) for field in fields)
    rows = math.prod(axis.size for axis in q.layout[-2])
    columns = math.prod(axis.size for axis in k.layout[-2])
    seen = np.ones((1, rows, columns))
    if scores.bias is not None:  # each window of an image may have a mask of its own
        bias = np.asarray(scores.bias)
        bias = bias.reshape(-1, *bias.shape[-2:])
        seen = np.exp(np.broadcast_to(np.where(np.isfinite(bias), bias, -np.inf), (len(bias), rows, columns)))
    weights = seen / np.maximum(seen.sum(axis=2, keepdims=True), 1e-300)
    own_q, own_k = q.mean_square, k.mean_square
    apart = k.pair_means()[1] if not k.has_pixels else float(np.diagonal(_square(k)).mean())
    same = math.exp(min(factor * own_q * own_k, LARGEST) - min(factor * own_q * max(apart, 0.0), LARGEST))
    squares = (weights**2).sum(axis=2)
    share = float((same * squares / (same * squares + 1 - squares)).mean())
    common = weights.mean(axis=1)
    met = (rows * rows * (common**2).sum(axis=1) - squares.sum(axis=1)) / max(rows * (rows - 1), 1)
    overlap = float(met.mean())
    share_own = min(share * scores.kept, 1.0)
    off = _square(v)
    own_v = v.place_second().reshape(-1)
    kernel = np.array(off)
    np.fill_diagonal(kernel, overlap * own_v + (1 - overlap) * np.diagonal(off))
    by_place = share_own * own_v + (1 - share) * np.diagonal(off)
    shape = [n if axis.role is Role.PLACE else 1 for n, axis in zip(q.second.shape, q.mapped, strict=True)]
    second = np.broadcast_to(by_place.reshape(shape), q.second.shape)
    layout = (*q.layout[:-1], tuple(Axis(axis.size, Role.UNIT) for axis in v.layout[-1]))
    made = Field(
        layout,
        np.full(q.second.shape, float(v.mean.mean())),
        np.array(second),
        kernel.reshape(v.kernel.shape),
        v.scatter,
    )
    deep = math.prod(axis.size for axis in v.layout[-1])

    def pullback(gradient: Field) -> Sequence[Field]:
        g = gathered_to(gradient, made.layout)
        g_own, g_off = g.mean_square, float(np.diagonal(_square(g)).mean())
        to_value = share_own * g_own * rows / columns + g_off * max(rows - share * rows / columns, 0) / columns
        spread_v = max(float((own_v - np.diagonal(off)).mean()), 0.0)
        inner = deep * g_own * spread_v * scores.scale**2
        # Two tokens are alike by chance in their keys and values together.
        to_query = inner * own_k * (share_own + (1 - share_own) * min(k.shared_blur, v.shared_blur))
        to_key = inner * share_own * own_q * rows / columns
        roughly = gradient.scatter + Scatter.left_out(_ROUGHLY)
        scatters = roughly + k.scatter + v.scatter, roughly + q.scatter + v.scatter, gradient.scatter
        found = []
        for node, given, size, scatter in zip(nodes, (q, k, v), (to_query, to_key, to_value), scatters, strict=True):
            second = np.full(given.second.shape, size)
            kernel = np.zeros_like(given.kernel) + (g_off if given is v else 0.0)
            back = replace(
                given, mean=second * 0, second=second, kernel=kernel, inherited=scatter, kurtosis=3.0, own=None
            )
            found.append(gathered_to(replace(back, cause=new_cause()), node.field.layout))
        return found

    mixed = operation.emit(made, list(nodes), pullback, output=output)
    spread = max(float((own_v - np.diagonal(off)).mean()), 0.0) * share_own / columns
    for shown in (scores.undropped, scores.shown):
        if shown is not None:
            _show_weights(operation, scores, shown, mixed, share / columns, deep * v.mean_square)
    for added, by in scores.added:
        _send_to_bias(operation, mixed, added, deep * spread * by**2, math.prod(scores.shape[:-2]))


def _show_weights(operation: Operation, scores: Any, shown: Node, mixed: Node, square: float, values: float) -> None:
    """Report the softmax's own output, and the gradient that arrives there: what goes past it is carried on.

    Behind a dropout the weights are larger; before it, their gradient.
    """
    units = tuple((Axis(n, Role.UNIT),) if n > 1 else () for n in scores.shape)
    dropped = scores.undropped is not None and shown is scores.shown
    before, after = (scores.kept, 1.0) if dropped else (1.0, scores.kept)
    mean = 1 / scores.shape[-1]
    shown._field = constant_field(units, max(square, mean**2) * before, mean)  # noqa: SLF001 - made for this

    def pullback(gradient: Field) -> list[Field]:
        arrived = replace(constant_field(units, gradient.mean_square * values * after), kurtosis=1.0)
        return [replace(arrived, inherited=gradient.scatter)]

    operation.trace.steps.append(Step(mixed, (shown,), pullback, shown=True))


def _square(field: Field) -> Any:
    n = math.prod(field.kernel.shape[: field.places])
    return field.kernel.reshape(n, n)


def _as_pixels(field: Field) -> Field:
    d = len(field.layout) - 2
    for at, axis in enumerate(field.layout[d]):
        if axis.role is Role.PLACE:
            field = with_role(field, d, at, Role.PIXEL)
    return field


def _send_to_bias(operation: Operation, mixed: Node, added: Node, size: float, batch: int) -> None:
    """The gradient of a signal that was added to the scores, summed over windows where it is the same in all."""
    same = batch / math.prod(axis.size for dim in added.field.layout[:-2] for axis in dim)

    def pullback(gradient: Field) -> list[Field]:
        second = gathered_to(gradient, mixed.field.layout).mean_square * size * same
        back = constant_field(added.field.layout, second)
        return [replace(back, inherited=gradient.scatter + Scatter.left_out(_ROUGHLY))]

    operation.trace.steps.append(Step(mixed, (added,), pullback, name=operation.name))
