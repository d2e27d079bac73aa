"""Operations that only move entries: shapes, orders, pieces, and pieces put together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gradvitals.frameworks.torch.prediction.operation import Operation, rule
from gradvitals.frameworks.torch.prediction.values import Node
from gradvitals.maths.alignment import gathered_to
from gradvitals.maths.field import Axis, Field, Role, shape_of
from gradvitals.maths.roles import permuted, reshaped


def moved(operation: Operation, x: Node, made: Field, pullback: Any) -> Node:
    """Emit a signal with moved entries; a function of one signal stays a function of that, moved alike."""
    node = Node(made, tags=x.lasting_tags)
    return operation.emit(made, [x], pullback, node=node)


@rule(
    "clone",
    "contiguous",
    "alias",
    "lift_fresh",
    "lift",
    "_to_copy",
    "to",
    "view_as",
    "fill",
    "positive",
    "_conj",
    "resolve_conj",
    "resolve_neg",
    "dropout_eval",
)
def _same(operation: Operation) -> None:
    operation.trace.bind(operation.first, operation.value(operation.args[0]))


@rule("detach", "detach_")
def _stopped(operation: Operation) -> None:
    """The same entries, from which no gradient goes back."""
    given = operation.value(operation.args[0])
    if isinstance(given, Node):
        operation.emit(None, node=Node(given.field, tags=given.lasting_tags))
    else:
        operation.trace.bind(operation.first, given)


@rule("as_strided", "as_strided_")
def _restrided(operation: Operation) -> None:
    """Other strides of the same shape are another order in memory; anything else would be windows that overlap."""
    if tuple(operation.args[1]) != tuple(shape_of(operation.node(operation.args[0]).field.layout)):
        raise NotImplementedError("strides that make another shape")
    operation.trace.bind(operation.first, operation.value(operation.args[0]))


@rule("view", "reshape", "_unsafe_view", "_reshape_alias", "unsqueeze", "squeeze", "flatten", "unflatten")
def _view(operation: Operation) -> None:
    given = operation.value(operation.args[0])
    shape = tuple(operation.first.shape)
    if hasattr(given, "reshaped_to"):
        operation.trace.bind(operation.first, given.reshaped_to(shape))
        return
    x = operation.node(operation.args[0])
    before = x.field
    if tuple(shape_of(before.layout)) == shape and len(before.layout) == len(shape):
        operation.trace.bind(operation.first, x)
        return
    made = reshaped(before, shape)
    old = shape_of(before.layout)
    moved(operation, x, made, lambda g: [gathered_to(reshaped(g, old), before.layout)])


@rule("permute", "transpose", "t", "transpose_", "movedim", "swapaxes", "adjoint", "numpy_T", "mT")
def _permute(operation: Operation) -> None:
    given = operation.value(operation.args[0])
    rank = operation.first.dim()
    dims = _order(operation, rank)
    if hasattr(given, "permuted_to"):
        operation.trace.bind(operation.first, given.permuted_to(dims))
        return
    x = operation.node(operation.args[0])
    back = [dims.index(d) for d in range(rank)]
    moved(operation, x, permuted(x.field, dims), lambda g: [permuted(g, back)])


def _order(operation: Operation, rank: int) -> list[int]:
    name = operation.name.removeprefix("aten::").removesuffix("_")
    dims = list(range(rank))
    if name == "permute":
        return [d % rank for d in operation.args[1]]
    if name in {"t", "adjoint", "mT", "numpy_T"}:
        return dims[::-1] if name in {"t", "numpy_T"} else [*dims[:-2], dims[-1], dims[-2]]
    first, second = (d % rank for d in operation.args[1:3])
    dims[first], dims[second] = dims[second], dims[first]
    return dims


@rule("expand", "broadcast_to", "expand_as")
def _expand(operation: Operation) -> None:
    given = operation.value(operation.args[0])
    if hasattr(given, "expanded_to"):
        operation.trace.bind(operation.first, given.expanded_to(tuple(operation.first.shape)))
        return
    x = operation.node(operation.args[0])
    before = x.field
    shape = tuple(operation.first.shape)
    layout = ((),) * (len(shape) - len(before.layout)) + before.layout
    wide = tuple(dim if dim or n == 1 else (Axis(n, Role.COPY),) for dim, n in zip(layout, shape, strict=True))
    if wide == before.layout:
        operation.trace.bind(operation.first, x)
        return
    moved(operation, x, before.with_layout(wide), lambda g: [gathered_to(g, before.layout)])


@rule("repeat", "tile", "repeat_interleave")
def _repeat(operation: Operation) -> None:
    x = operation.node(operation.args[0])
    before = x.field
    shape = tuple(operation.first.shape)
    layout = ((),) * (len(shape) - len(before.layout)) + before.layout
    inner = operation.name == "aten::repeat_interleave"
    wide = []
    for dim, n in zip(layout, shape, strict=True):
        times_ = n // math.prod(axis.size for axis in dim)
        copies = (Axis(times_, Role.COPY),) if times_ > 1 else ()
        wide.append((*dim, *copies) if inner else (*copies, *dim))
    made = before.with_layout(tuple(wide))

    def pullback(gradient: Field) -> Sequence[Field]:
        g = gradient
        for d, dim in enumerate(wide):
            old = layout[d]
            if len(dim) == len(old):
                continue
            g = gathered_to(g, (*g.layout[:d], dim, *g.layout[d + 1 :]))
            at = len(dim) - 1 if inner else 0
            n = dim[at].size
            g = g.scaled(n).with_layout((*g.layout[:d], old, *g.layout[d + 1 :]))
        return [gathered_to(g, before.layout)]

    moved(operation, x, made, pullback)


@rule("pixel_shuffle", "pixel_unshuffle")
def _shuffled(operation: Operation) -> None:
    """Channels become pixels, or pixels channels."""
    x = operation.node(operation.args[0])
    before = x.field
    r = int(operation.args[1])
    given, out = shape_of(before.layout), tuple(operation.first.shape)
    n, h, w = given[0], given[-2], given[-1]
    if operation.name == "aten::pixel_shuffle":
        split, order = (n, out[1], r, r, h, w), (0, 1, 4, 2, 5, 3)
    else:
        split, order = (n, given[1], h // r, r, w // r, r), (0, 1, 3, 5, 2, 4)
    made = reshaped(permuted(reshaped(before, split), order), out)
    between = tuple(split[d] for d in order)
    back = [order.index(d) for d in range(6)]
    moved(
        operation,
        x,
        made,
        lambda g: [gathered_to(reshaped(permuted(reshaped(g, between), back), given), before.layout)],
    )


@rule("channel_shuffle", "native_channel_shuffle")
def _channels_shuffled(operation: Operation) -> None:
    x = operation.node(operation.args[0])
    moved(operation, x, x.field, lambda g: [g])
