"""Operations that only move entries: shapes, orders, pieces, and pieces put together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gradvitals.frameworks.torch.prediction.operation import Operation, UnmodelledError, rule
from gradvitals.frameworks.torch.prediction.values import Constant, Node, Noise
from gradvitals.maths.field import Axis, Field, Role, constant_field, shape_of
from gradvitals.maths.roles import (
    common_layout,
    fused,
    gathered_to,
    permuted,
    reshaped,
    spread_to,
    summed,
    with_role,
)


def moved(operation: Operation, x: Node, made: Field, pullback: Any) -> Node:
    """Emit a signal with moved entries; a function of one signal stays a function of that, moved alike."""
    node = Node(made, tags=dict(x.tags))
    return operation.emit(made, [x], pullback, node=node)


@rule("clone", "contiguous", "detach", "alias", "lift_fresh", "lift", "_to_copy", "to", "view_as", "fill", "positive",
      "_conj", "resolve_conj", "resolve_neg", "dropout_eval", "detach_")
def _same(operation: Operation) -> None:
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
    if tuple(shape_of(before.layout)) == shape:
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


# ---- pieces ----


def halves(field: Field, dim: int, start: int, of: int) -> Field:
    """One of several equal pieces along a dimension."""
    n = math.prod(axis.size for axis in field.layout[dim]) // of
    return piece(field, dim, range(start * n, (start + 1) * n))


def piece(field: Field, dim: int, index: Sequence[int]) -> Field:
    """The entries at some positions along a dimension."""
    axes = field.layout[dim]
    n = len(index)
    if not axes or n == math.prod(axis.size for axis in axes):
        return field if n == 1 or axes else field
    if len(axes) > 1:
        roles = {axis.role for axis in axes}
        inner = math.prod(axis.size for axis in axes[1:])
        whole = n % inner == 0 and list(index) == list(range(index[0], index[0] + n)) and index[0] % inner == 0
        if whole and axes[0].role in (Role.UNIT, Role.COPY):
            kept = (Axis(n // inner, axes[0].role),) if n // inner > 1 else ()
            return field.with_layout((*field.layout[:dim], (*kept, *axes[1:]), *field.layout[dim + 1 :]))
        if roles <= {Role.UNIT, Role.COPY} or Role.PLACE in roles or len(roles) == 1:
            field = fused(field, dim, 0, len(axes))
        axes = field.layout[dim]
        if len(axes) > 1:
            raise UnmodelledError("a piece across several axes")
    axis = axes[0]
    new = (Axis(n, axis.role),) if n > 1 else ()
    layout = (*field.layout[:dim], new, *field.layout[dim + 1 :])
    if not axis.is_mapped:
        return field.with_layout(layout)
    m, p = field.array_axis(dim, 0)
    held = field.second.shape[m]
    chosen = np.asarray([i for i in index if i < held] or [0]) if held != axis.size else np.asarray(index)
    if n == 1 and held != axis.size:
        chosen = chosen[:1]
    mean, second, kernel = np.take(field.mean, chosen, m), np.take(field.second, chosen, m), field.kernel
    if axis.role is Role.PLACE:
        kernel = np.take(np.take(kernel, chosen, p), chosen, field.places + p)
    if n > 1:
        return replace(field, layout=layout, mean=mean, second=second, kernel=kernel)
    mean, second = mean.squeeze(m), second.squeeze(m)
    if axis.role is Role.PLACE:
        kernel = kernel.squeeze((p, field.places + p))
    return replace(field, layout=layout, mean=mean, second=second, kernel=kernel).consistent()


def put_back(gradient: Field, before: Field, dim: int, index: Sequence[int]) -> Field:
    """The gradient with respect to a whole of which some positions were taken: zero elsewhere."""
    axes = before.layout[dim]
    total = math.prod(axis.size for axis in axes)
    share = len(index) / max(total, 1)
    if not any(axis.is_mapped for axis in axes):
        layout = (*gradient.layout[:dim], axes, *gradient.layout[dim + 1 :])
        return gathered_to(gradient.scaled(share).with_layout(layout), before.layout)
    role = Role.PLACE if any(axis.role is Role.PLACE for axis in axes) else Role.PIXEL
    wanted = (Axis(len(index), role),) if len(index) > 1 else ()
    g = gathered_to(gradient, (*before.layout[:dim], wanted, *before.layout[dim + 1 :]))
    if not wanted:
        g = replace(
            g,
            mean=np.expand_dims(g.mean, before.array_axis(dim, 0)[0]),
            second=np.expand_dims(g.second, before.array_axis(dim, 0)[0]),
            kernel=_pair_axis(g, before.array_axis(dim, 0)[1]) if role is Role.PLACE else g.kernel,
            layout=(*before.layout[:dim], (Axis(1, role),), *before.layout[dim + 1 :]),
        )
    m, p = g.array_axis(dim, 0)
    held = total
    if len(axes) == 1:
        held = before.second.shape[before.array_axis(dim, 0)[0]]
    at = np.asarray([i for i in index if i < held][: g.second.shape[m]] or [0])
    g = _padded(g, dim, m, p, at, held, role)
    whole = g.with_layout((*before.layout[:dim], (Axis(total, role),), *before.layout[dim + 1 :]))
    return gathered_to(whole, before.layout)


def _pair_axis(field: Field, p: int) -> Any:
    return np.expand_dims(np.expand_dims(field.kernel, field.places + p), p)


def _padded(field: Field, dim: int, m: int, p: int, at: Any, total: int, role: Role) -> Field:
    """Zeros at all positions of an axis but some."""
    del dim
    shape = list(field.second.shape)
    given = np.take(field.second, range(len(at)), m)
    shape[m] = total
    second, mean = np.zeros(shape), np.zeros(shape)
    window = (slice(None),) * m + (at,)
    second[window] = given
    mean[window] = np.take(field.mean, range(len(at)), m)
    kernel = field.kernel
    if role is Role.PLACE:
        n = field.places
        order = np.moveaxis(kernel, (p, n + p), (0, 1))[: len(at), : len(at)]
        wide = np.zeros((total, total, *order.shape[2:]))
        wide[np.ix_(at, at)] = order
        kernel = np.moveaxis(wide, (0, 1), (p, n + p))
    else:
        share = len(at) * max(len(at) - 1, 0) / max(total * (total - 1), 1)
        kernel = kernel * share
    return replace(field, mean=mean, second=second, kernel=kernel)


def _taken(operation: Operation, argument: Any, dim: int, index: Sequence[int], output: Any, *, drop: bool) -> None:
    given = operation.value(argument)
    if isinstance(given, Noise) or not hasattr(given, "field"):
        if hasattr(given, "piece_of"):
            operation.trace.bind(output, given.piece_of(dim, index, drop=drop))
            return
        raise UnmodelledError(f"a piece of {type(given).__name__.lower()}")
    x = operation.node(argument)
    before = x.field
    if len(index) == 0:
        operation.trace.bind(output, Constant(torch.zeros(output.shape)))
        return
    made = piece(before, dim, index)
    kept = made.layout
    if drop:
        made = made.with_layout((*kept[:dim], *kept[dim + 1 :]))

    def pullback(gradient: Field) -> Sequence[Field]:
        g = gradient.with_layout((*gradient.layout[:dim], (), *gradient.layout[dim:])) if drop else gradient
        return [put_back(g, before, dim, index)]

    node = Node(made, tags=dict(x.tags))
    if not before.layout[dim] or not any(axis.is_mapped for axis in before.layout[dim]):
        # Some of the units are as good as all: a function of a signal stays one.
        node = Node(made, tags={**x.tags, "part-of": x.key})
    operation.emit(made, [x], pullback, output=output, node=node)


@rule("select", "slice", "narrow")
def _select(operation: Operation) -> None:
    x = operation.args[0]
    rank = x.dim()
    dim = operation.argument(1, "dim", 0) % rank
    size = int(x.shape[dim])
    name = operation.name.removeprefix("aten::")
    if name == "select":
        at = operation.args[2] % size
        index: Sequence[int] = range(at, at + 1)
    elif name == "narrow":
        start = operation.args[2] % size
        index = range(start, start + operation.args[3])
    else:
        start, stop, step = (operation.argument(i, key) for i, key in ((2, "start"), (3, "end"), (4, "step")))
        index = range(size)[slice(start, stop, step)]
    if name != "select" and len(index) == size:
        operation.trace.bind(operation.first, operation.value(x))
        return
    _taken(operation, x, dim, index, operation.first, drop=name == "select")


@rule("split", "split_with_sizes", "chunk", "unbind", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes",
      "tensor_split", "split_copy", "unbind_copy")
def _split(operation: Operation) -> None:
    x = operation.args[0]
    unbind = "unbind" in operation.name
    dim = operation.argument(1 if unbind else 2, "dim", 0) % x.dim()
    start = 0
    for output in operation.output:
        n = 1 if unbind else int(output.shape[dim])
        _taken(operation, x, dim, range(start, start + n), output, drop=unbind)
        start += n


@rule("index_select", "index", "gather", "take_along_dim", "_unsafe_index")
def _index(operation: Operation) -> None:
    x = operation.args[0]
    name = operation.name.removeprefix("aten::")
    if name == "index_select":
        dim, given = operation.args[1] % x.dim(), operation.value(operation.args[2])
        if isinstance(given, Constant):
            _taken(operation, x, dim, given.value.tolist(), operation.first, drop=False)
            return
    if name in {"index", "_unsafe_index"}:
        indices = operation.args[1]
        at = [d for d, item in enumerate(indices) if item is not None]
        known = [operation.value(indices[d]) for d in at]
        if len(at) == 1 and isinstance(known[0], Constant) and known[0].value.dim() == 1:
            value = known[0].value
            chosen = value.nonzero()[:, 0] if value.dtype == torch.bool else value % x.shape[at[0]]
            _taken(operation, x, at[0], chosen.tolist(), operation.first, drop=False)
            return
        if all(isinstance(k, Constant) for k in known) and at == list(range(len(at))):
            _rows_taken(operation, x, [k.value for k in known])
            return
        if len(at) > 1 and all(isinstance(k, Constant) for k in known) and _is_grid([k.value for k in known], at):
            node = operation.node(x)
            field = node.field
            lists = [k.value.flatten().tolist() for k in known]
            for d, positions in zip(at, lists, strict=True):
                field = piece(field, d, positions)

            def pullback(gradient: Field) -> Sequence[Field]:
                g = gradient
                befores = [node.field]
                for d, positions in zip(at, lists, strict=True):
                    befores.append(piece(befores[-1], d, positions))
                for number in range(len(at) - 1, -1, -1):
                    g = _added_back(g, befores[number], at[number], lists[number])
                return [g]

            moved(operation, node, field, pullback)
            return
    raise UnmodelledError("an index of this kind")


def _added_back(gradient: Field, before: Field, dim: int, index: Sequence[int]) -> Field:
    """Like put_back, where positions may be taken several times: on average, each as often as any."""
    if len(set(index)) == len(index):
        return put_back(gradient, before, dim, index)
    axes = before.layout[dim]
    ratio = len(index) / math.prod(axis.size for axis in axes)
    g = gradient
    layout = tuple(axis for axis in g.layout[dim])
    for at in range(len(layout)):
        g = with_role(g, dim, at, Role.UNIT, gradient=True)
    g = g.scaled(ratio).with_layout(
        (*g.layout[:dim], tuple(Axis(a.size, Role.UNIT) for a in axes), *g.layout[dim + 1 :])
    )
    return gathered_to(g, before.layout)


def _is_grid(values: Sequence[torch.Tensor], at: Sequence[int]) -> bool:
    """Whether index tensors are one-dimensional each along an axis of its own (``x[:, rows[:, None], columns]``)."""
    consecutive = list(at) == list(range(at[0], at[0] + len(at)))
    rank = len(values)
    shapes = [tuple(v.shape) for v in values]
    return consecutive and all(
        v.numel() == max(s[-(rank - i)] if len(s) >= rank - i else 1, 1) for i, (v, s) in enumerate(zip(values, shapes, strict=True))
    )


def _rows_taken(operation: Operation, x: Any, values: Sequence[torch.Tensor]) -> None:
    """Rows picked by known positions in the first dimensions, as a pooler picks the last token of each sample."""
    node = operation.node(x)
    before = node.field
    lead = len(values)
    if values[0].dtype == torch.bool:
        raise UnmodelledError("a mask as an index")
    sizes = [int(n) for n in x.shape[:lead]]
    fused_field = _joined_dims(before, lead)
    broadcast = torch.broadcast_tensors(*values)
    flat = torch.zeros_like(broadcast[0])
    for value, n in zip(broadcast, sizes, strict=True):
        flat = flat * n + value % n
    index = flat.flatten().tolist()
    made = piece(fused_field, 0, index)
    shape = (*broadcast[0].shape, *x.shape[lead:])
    made = reshaped(made, shape) if broadcast[0].dim() != 1 else made

    def pullback(gradient: Field) -> Sequence[Field]:
        g = reshaped(gradient, (len(index), *x.shape[lead:])) if broadcast[0].dim() != 1 else gradient
        g = _added_back(g, fused_field, 0, index)
        return [gathered_to(reshaped(g, tuple(x.shape)), before.layout)]

    moved(operation, node, made, pullback)


def _joined_dims(field: Field, lead: int) -> Field:
    axes = tuple(axis for dim in field.layout[:lead] for axis in dim)
    joined = field.with_layout((axes, *field.layout[lead:]))
    if any(axis.role is Role.PLACE for axis in axes) and joined.second.shape[0] != axes[0].size:
        raise UnmodelledError("rows of a batch that is too large to be kept")
    return fused(joined, 0, 0, len(axes)) if len(axes) > 1 else joined


@rule("roll", "flip")
def _roll(operation: Operation) -> None:
    x = operation.node(operation.args[0])
    field = x.field
    rank = len(field.layout)
    dims = operation.argument(2 if "roll" in operation.name else 1, "dims", ())
    orders: list[tuple[int, Any]] = []
    for at, d in enumerate(dims):
        n = shape_of(field.layout)[d % rank]
        if "roll" in operation.name:
            orders.append((d % rank, np.roll(np.arange(n), operation.args[1][at])))
        else:
            orders.append((d % rank, np.arange(n)[::-1]))
    made = field
    for d, order in orders:
        made = _reordered(made, d, order)

    def pullback(gradient: Field) -> Sequence[Field]:
        g = gathered_to(gradient, made.layout)
        for d, order in orders:
            g = _reordered(g, d, np.argsort(order))
        return [gathered_to(g, field.layout)]

    moved(operation, x, made, pullback)


def _reordered(field: Field, dim: int, order: Any) -> Field:
    axes = field.layout[dim]
    if len(axes) != 1 or not axes[0].is_mapped:
        return field
    m, p = field.array_axis(dim, 0)
    if field.second.shape[m] != axes[0].size:
        return field
    kernel = field.kernel
    if axes[0].role is Role.PLACE:
        kernel = np.take(np.take(kernel, order, p), order, field.places + p)
    return replace(field, mean=np.take(field.mean, order, m), second=np.take(field.second, order, m), kernel=kernel)


# ---- pieces put together ----


@rule("cat", "concat", "stack")
def _cat(operation: Operation) -> None:
    tensors = list(operation.args[0])
    dim = operation.argument(1, "dim", 0)
    stack = operation.name == "aten::stack"
    dim %= operation.first.dim()
    signals = [t for t in tensors if isinstance(operation.value(t), Node)]
    if not signals:
        signals = [t for t in tensors if isinstance(operation.value(t), Constant)]
    if not signals:
        raise UnmodelledError("pieces of which none is a signal")
    tensors = [t for t in tensors if t.numel() or len(tensors) == 1]
    first = operation.node(signals[0])
    reference = first.field
    fields = [operation.beside(t, reference) for t in tensors]
    if stack:
        fields = [f.with_layout((*f.layout[:dim], (), *f.layout[dim:])) for f in fields]
    sizes = [1 if stack else int(t.shape[dim]) for t in tensors]
    layout = list(common_layout([(*f.layout[:dim], (), *f.layout[dim + 1 :]) for f in fields]))
    roles = [axis.role for f in fields for axis in f.layout[dim]]
    last = dim == len(layout) - 1
    role = next((r for r in (Role.PLACE, Role.PIXEL, Role.UNIT) if r in roles), None)
    if role is None:
        has_units = any(axis.role is Role.UNIT for d in layout for axis in d)
        role = Role.PLACE if has_units and not last else Role.UNIT
    parts = []
    for f, n in zip(fields, sizes, strict=True):
        layout[dim] = (Axis(n, role),) if n > 1 else ()
        parts.append(spread_to(f, tuple(layout)))
    layout[dim] = (Axis(sum(sizes), role),) if sum(sizes) > 1 else ()
    made = _together(parts, sizes, dim, role, tuple(layout))
    starts = np.cumsum([0, *sizes])
    inputs, places = [], []
    for at, t in enumerate(tensors):
        value = operation.value(t)
        if isinstance(value, Node):
            inputs.append(value)
            places.append(at)

    def pullback(gradient: Field) -> Sequence[Field]:
        found = []
        g = gathered_to(gradient, made.layout)
        for at, node in zip(places, inputs, strict=True):
            part = piece(g, dim, range(int(starts[at]), int(starts[at + 1]))) if len(sizes) > 1 else g
            if stack:
                part = part.with_layout((*part.layout[:dim], *part.layout[dim + 1 :]))
            found.append(gathered_to(part, node.field.layout))
        return found

    node = Node(made)
    operation.emit(made, inputs, pullback, node=node)


def _together(parts: Sequence[Field], sizes: Sequence[int], dim: int, role: Role, layout: Any) -> Field:
    """Independent pieces side by side."""
    shares = np.asarray(sizes) / sum(sizes)
    inherited = float(sum(s * p.inherited for s, p in zip(shares, parts, strict=True)))
    kurtosis = float(sum(s * p.kurtosis for s, p in zip(shares, parts, strict=True)))
    if role not in (Role.PLACE, Role.PIXEL):
        from gradvitals.frameworks.torch.prediction.elementwise import cut

        shape = tuple(min(n) for n in zip(*(p.second.shape for p in parts), strict=True))
        parts = [cut(p, shape) for p in parts]
        return Field(
            layout,
            sum(s * p.mean for s, p in zip(shares, parts, strict=True)),  # type: ignore[arg-type]
            sum(s * p.second for s, p in zip(shares, parts, strict=True)),  # type: ignore[arg-type]
            sum(s * p.kernel for s, p in zip(shares, parts, strict=True)),  # type: ignore[arg-type]
            inherited,
            kurtosis,
        )
    whole = constant_field(layout, 0.0)
    m, p = whole.array_axis(dim, 0)
    grown = []
    for part, n in zip(parts, sizes, strict=True):
        if n > 1:
            grown.append(part)
            continue
        grown.append(
            replace(
                part,
                mean=np.expand_dims(part.mean, m),
                second=np.expand_dims(part.second, m),
                kernel=_pair_axis(part, p) if role is Role.PLACE else part.kernel,
                layout=(*part.layout[:dim], (Axis(1, role),), *part.layout[dim + 1 :]),
            )
        )
    mean = np.concatenate([g.mean for g in grown], axis=m)
    second = np.concatenate([g.second for g in grown], axis=m)
    if role is Role.PIXEL:
        kernel = sum(s * g.kernel for s, g in zip(shares, grown, strict=True))
        return Field(layout, mean, second, kernel, inherited, kurtosis)  # type: ignore[arg-type]
    n = grown[0].places
    rows = []
    for a in grown:
        blocks = []
        for b in grown:
            blocks.append(a.kernel if a is b else np.multiply.outer(_flat_mean(a), _flat_mean(b)))
        rows.append(np.concatenate(blocks, axis=n + p))
    return Field(layout, mean, second, np.concatenate(rows, axis=p), inherited, kurtosis)


def _flat_mean(field: Field) -> Any:
    pixels = tuple(at for at, axis in enumerate(field.mapped) if axis.role is Role.PIXEL)
    return field.mean.mean(axis=pixels) if pixels else field.mean


@rule("constant_pad_nd")
def _pad(operation: Operation) -> None:
    x = operation.node(operation.args[0])
    pads = list(operation.args[1])
    before = x.field
    rank = len(before.layout)
    made = before
    steps: list[tuple[Field, int, list[int], int]] = []
    for at in range(len(pads) // 2):
        d = rank - 1 - at
        low, high = pads[2 * at : 2 * at + 2]
        if low == high == 0:
            continue
        n = shape_of(made.layout)[d]
        if low < 0 or high < 0:
            made = piece(made, d, range(max(-low, 0), n - max(-high, 0)))
            continue
        steps.append((made, d, list(range(low, low + n)), n + low + high))
        made = _widened(made, d, low, n + low + high)

    def pullback(gradient: Field) -> Sequence[Field]:
        g = gathered_to(gradient, made.layout)
        for earlier, d, index, _ in reversed(steps):
            g = gathered_to(piece(g, d, index), earlier.layout)
        return [g]

    moved(operation, x, made, pullback)


def _widened(field: Field, dim: int, low: int, total: int) -> Field:
    axes = field.layout[dim]
    n = math.prod(axis.size for axis in axes)
    if not axes or not any(axis.is_mapped for axis in axes):
        role = Role.UNIT if axes else Role.PLACE
        if role is Role.UNIT:
            layout = (*field.layout[:dim], (Axis(total, Role.UNIT),), *field.layout[dim + 1 :])
            return field.scaled(n / total).with_layout(layout)
    before = constant_field((*field.layout[:dim], (Axis(total, Role.PLACE),), *field.layout[dim + 1 :]), 0.0)
    return put_back(field, before, dim, list(range(low, low + n)))


__all__ = ["fused", "halves", "moved", "piece", "put_back", "summed"]
