"""Operations that are run as they are on draws of their signals, in place of a formula for the moments.

What moves entries, or is a function of each, is remembered, so that draws of what follows know of one another; run is
it only where an operation without a formula comes behind it. Products with weights, norms and attention have formulas
and end what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from gradvitals.frameworks.torch.prediction import kinship
from gradvitals.frameworks.torch.prediction.drawn_layouts import REDUCING, layout_of_drawn
from gradvitals.frameworks.torch.prediction.draws import At, Call, Drawing, Later
from gradvitals.frameworks.torch.prediction.measured import MOST_PLACES
from gradvitals.frameworks.torch.prediction.operation import ELEMENTWISE, Operation, Step
from gradvitals.frameworks.torch.prediction.scores import Scores
from gradvitals.frameworks.torch.prediction.values import Constant, Node, Noise, Weight, nested_tensors
from gradvitals.maths.field import Axis, Field, Layout, Role, constant_field
from gradvitals.maths.roles import permuted, reshaped

if TYPE_CHECKING:
    from gradvitals.frameworks.torch.prediction.knowledge import Trace

#: Operations that move entries.
_MOVING = frozenset(
    {
        *("view", "reshape", "_unsafe_view", "_reshape_alias", "unsqueeze", "squeeze", "flatten", "unflatten"),
        *("permute", "transpose", "t", "movedim", "swapaxes", "expand", "repeat", "flip", "roll", "alias", "clone"),
        *("select", "slice", "narrow", "split", "split_with_sizes", "chunk", "unbind", "unsafe_split", "_to_copy"),
        *("cat", "stack", "index_select", "index", "gather", "constant_pad_nd", "detach", "diagonal", "as_strided"),
        *("cumsum", "tril", "triu", "index_add", "scatter_add"),
        *("avg_pool1d", "avg_pool2d", "avg_pool3d"),  # an average of what is around, beside what is in the middle
    }
)
#: Operations of two tensors, entry by entry.
_OF_TWO = frozenset({"mul", "div", "true_divide", "pow", "where", "masked_fill", "lerp", "addcmul", "prelu"})
#: Sums of a signal and known numbers. One of two signals is nearly Gaussian, so that its moments say it all, and a
#: residual stream would be followed to its start; but a difference may leave less than either.
_SUMS = frozenset({"add", "sub", "rsub"})
_PRODUCTS = frozenset({"mul", "div", "true_divide"})
#: Operations that leave a part of a dimension, or its entries in another order.
_PARTS = frozenset(
    {
        *("select", "slice", "narrow", "split", "split_with_sizes", "chunk", "unbind", "unsafe_split", "cat"),
        *("index_select", "index", "gather", "roll", "flip", "constant_pad_nd"),
    }
)
#: Operations that pick entries by their size, and say in a second output where they were.
_CHOOSING = frozenset({"topk", "sort", "kthvalue", "max", "min", "median", "mode", "cummax", "cummin"})
#: Operations that have a formula by the moments of a weight, of a whole batch or of scores, where draws end.
_FORMULAS = frozenset(
    {
        *("mm", "addmm", "linear", "convolution", "_convolution", "convolution_overrideable", "embedding"),
        *("native_layer_norm", "native_group_norm", "rms_norm", "_fused_rms_norm", "_embedding_bag", "_trilinear"),
        *("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"),
        *("_softmax", "_log_softmax", "native_dropout", "bernoulli", "copy_", "_grouped_mm"),
    }
)
#: How uncertain log E[x²] is of a sum of neighbours: twice as large where they are the same.
_NEIGHBOURS = 0.35


def operator(name: str) -> str:
    """An operation's name without its namespace and the sign that it writes in place."""
    return name.removeprefix("aten::").removesuffix("_")


def call_of(operation: Operation) -> tuple[Call, list[Node]]:
    """The operation as one that can be repeated, and its signals."""
    given: list[Any] = []
    nodes: list[Node] = []

    def spelled(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            value = _given(operation, item)
            given.append(value)
            if isinstance(value, Node):
                nodes.append(value)
            if item.is_complex():
                return At(len(given) - 1, torch.complex128)
            return At(len(given) - 1, None if item.is_floating_point() else item.dtype)
        if isinstance(item, (tuple, list)):
            return type(item)([spelled(one) for one in item])
        if isinstance(item, dict):
            return {name: spelled(one) for name, one in item.items()}
        if isinstance(item, torch.dtype):
            return torch.float64 if item.is_floating_point else torch.complex128 if item.is_complex else item
        return torch.device("cpu") if isinstance(item, torch.device) else item

    arguments = spelled(operation.args), spelled(dict(operation.kwargs))
    writes = operation.name.endswith("_") and not operation.name.endswith("__")
    views = operation.name in {"aten::view", "aten::_unsafe_view"}  # draws lie in memory in another order
    function = torch.ops.aten.reshape.default if views else operation.function
    name = operator(operation.name)
    joins = "sum" if name in _SUMS else "product" if name in _PRODUCTS else ""
    return Call(function, arguments, tuple(given), writes, joins, _moves(operation, name), name in _CHOOSING), nodes


def _moves(operation: Operation, name: str) -> frozenset[Role]:
    """The roles of the dimensions of which it leaves a part, or the entries in another order."""
    if name not in _PARTS:
        return frozenset()
    value = operation.value(nested_tensors(operation.args)[0])
    layout = value.layout if isinstance(value, Node) else ()
    if name == "index":
        dims = [d for d, item in enumerate(operation.args[1]) if item is not None]
    elif name == "constant_pad_nd":
        dims = [-1 - at // 2 for at, n in enumerate(operation.args[1]) if n]
    else:
        at = 2 if name in {"split", "split_with_sizes", "unsafe_split", "roll"} else 1
        given = operation.argument(at, "dims" if name in {"roll", "flip"} else "dim", 0)
        dims = list(given) if isinstance(given, (list, tuple)) else [given]
    return frozenset(axis.role for d in dims if -len(layout) <= d < len(layout) for axis in layout[d])


def _given(operation: Operation, tensor: torch.Tensor) -> Any:
    """What stands for an argument: a signal that is drawn, or known values."""
    value = operation.value(tensor)
    if isinstance(value, Node):
        return value
    if isinstance(value, Scores) and not value.is_softmax:
        return _scores(operation.trace, value)
    if isinstance(value, Constant):
        known = value.value.detach()
        if known.is_floating_point():
            return Later(known.double) if value.learned else known.double()  # data may be written into before then
        return known.to(torch.complex128) if known.is_complex() else known
    if isinstance(value, (Weight, Noise)):
        generator = operation.trace.drawing.generator
        shape = tuple(tensor.shape)
        return Later(lambda: _random(value, shape, generator))
    raise NotImplementedError(f"{operation.name} of {type(value).__name__.lower()}")


def _random(value: Weight | Noise, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Entries with the moments of a weight or noise."""
    if isinstance(value, Noise):
        at = torch.randint(len(value.quantiles), tuple(shape), generator=generator, device="cpu")
        return torch.from_numpy(value.quantiles)[at]
    deviation = math.sqrt(max(value.second - value.mean**2, 0.0))
    return value.mean + deviation * torch.randn(tuple(shape), generator=generator, dtype=torch.float64, device="cpu")


def _scores(trace: Trace, scores: Scores) -> Node:
    """Products of queries and keys as a signal of their own."""
    if scores.added or scores.extra:
        raise NotImplementedError("scores with something random added")
    bias = 0.0 if scores.bias is None else torch.as_tensor(scores.bias, device="cpu")
    order = scores.order or tuple(range(sum(n > 1 for n in scores.shape)))
    between = [0] * len(order)
    for at, size in zip(order, (n for n in scores.shape if n > 1), strict=True):
        between[at] = size

    def products(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        made = (query @ key.transpose(-1, -2)).reshape(between).permute(order)
        return scores.scale * made.reshape(scores.shape) + bias

    call = Call(products, ((At(0), At(1)), {}), (scores.query, scores.key))
    # Reshaping a layout of axes that no array has moves nothing.
    plain = tuple(tuple(Axis(a.size, _UNMAPPED[a.role]) for a in dim) for dim in scores.layout)
    moved = permuted(reshaped(constant_field(plain, 1.0), between), order)
    layout = reshaped(moved, scores.shape).layout
    layout = _kept(tuple(tuple(Axis(a.size, _MAPPED[a.role]) for a in dim) for dim in layout))
    return drawn_later(trace, call, layout)


_UNMAPPED = {Role.PLACE: Role.COPY, Role.PIXEL: Role.COPY, Role.UNIT: Role.UNIT, Role.COPY: Role.UNIT}
_MAPPED = {Role.COPY: Role.PLACE, Role.UNIT: Role.UNIT}


def _kept(layout: Layout) -> Layout:
    """A layout whose kernel can be held: of too many places, those behind the first become pixels."""
    places = [axis.size for dim in layout for axis in dim if axis.role is Role.PLACE]
    if math.prod(places[1:]) * min(places[0] if places else 1, 2) <= MOST_PLACES:
        return layout
    first = next(
        ((d, a) for d, dim in enumerate(layout) for a, axis in enumerate(dim) if axis.role is Role.PLACE), None
    )
    return tuple(
        tuple(
            Axis(axis.size, Role.PIXEL) if axis.role is Role.PLACE and (d, a) != first else axis
            for a, axis in enumerate(dim)
        )
        for d, dim in enumerate(layout)
    )


# ---- what a rule has answered ----


def remember(operation: Operation, steps: int) -> None:
    """Keep how a signal was made of others; where those were drawn, so is this one, in the layout that its rule says.

    ``steps`` is how many were recorded before the rule.
    """
    name = operator(operation.name)
    if name in _FORMULAS or not _is_followed(operation, name):
        return
    outputs = nested_tensors(operation.output)
    values = [operation.trace.value(output) for output in outputs]
    if any(not isinstance(value, Node) for value in values) or values[0].call is not None:
        return
    call, nodes = call_of(operation)
    if not nodes or any(value is node for value in values for node in nodes):
        return
    if not any(node.is_drawn for node in nodes):
        for at, value in enumerate(values):
            if value.call is None:
                value.call, value.at = call, at
        return
    layouts = [value.layout for value in values]
    del operation.trace.steps[steps:]
    _emit(operation, call, outputs, layouts)


def goes_on(operation: Operation) -> bool:
    """Whether an operation of each entry is done on draws without asking its rule: one of its signals is drawn."""
    name = operator(operation.name)
    if name == "native_layer_norm" and _is_spectral(operation):
        return attempt(operation) is None
    if name not in ELEMENTWISE and name not in _OF_TWO and name not in _SUMS:
        return False
    values = [operation.value(item) for item in nested_tensors(operation.args)]
    if not any(isinstance(value, Node) and value.is_drawn for value in values):
        return False
    return all(isinstance(value, (Node, Constant)) for value in values) and attempt(operation) is None


def _is_followed(operation: Operation, name: str) -> bool:
    if name in _MOVING or name in ELEMENTWISE or name in _OF_TWO:
        return True
    signals = [value for value in map(operation.value, nested_tensors(operation.args)) if isinstance(value, Node)]
    if name in REDUCING:  # a signal beside its own average
        return len(signals) == 1
    if name == "bmm" and len(signals) == 2:  # a sum over places that another product may follow: linear attention
        return True
    return any(signal.is_drawn for signal in signals) or (name in _SUMS and (len(signals) == 1 or name != "add"))


# ---- what no rule answers ----


def attempt(operation: Operation) -> str | None:
    """Run an operation on draws: None where that was done, else why it can't be."""
    name = operator(operation.name)
    if not operation.name.startswith("aten::"):  # of what others wrote nobody knows what it keeps or where it runs
        return "no rule"
    if name in _FORMULAS and not _is_drawn_anyway(operation, name):
        return "no formula"
    if any(
        value is None for value in map(operation.trace.value, nested_tensors((operation.args, dict(operation.kwargs))))
    ):
        return "of something unknown"
    try:
        for item in nested_tensors(operation.args):
            value = operation.value(item)
            if isinstance(value, Constant) and value.data and value.held.is_floating_point():
                operation.node(item)  # an input that meets parameters
        call, nodes = call_of(operation)
        if not nodes:
            return "of no signal"
        if kinship.are_neighbours(nodes):
            if name != "add":
                return "of neighbouring places, of which only the average is known"
            call = replace(call, loose=_NEIGHBOURS)
        outputs = nested_tensors(operation.output)
        layouts = [layout_of_drawn(operation, name, nodes, output) for output in outputs]
        _emit(operation, call, outputs, layouts)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is reported as S209
        return str(error) or type(error).__name__
    return None


def _is_spectral(operation: Operation) -> bool:
    """Whether units of what is normed know of one another, which its moments don't say."""
    value = operation.value(operation.args[0])
    return isinstance(value, Node) and value.is_drawn and value.key in operation.trace.spectral


def _is_drawn_anyway(operation: Operation, name: str) -> bool:
    """Whether what has a formula for known numbers is left to draws: a lookup by numbers that a signal made."""
    if name == "embedding":
        return isinstance(operation.value(operation.args[1]), Node)
    if name == "native_layer_norm":
        return _is_spectral(operation)
    return name in {"_softmax", "_log_softmax", "copy_"}


def _emit(operation: Operation, call: Call, outputs: Sequence[torch.Tensor], layouts: Sequence[Layout]) -> None:
    drawing = operation.trace.drawing
    if not any(node.is_drawn for node in call.nodes):
        drawing.room(max((tuple(output.shape) for output in outputs), key=lambda shape: torch.Size(shape).numel()))
    made = call.results(drawing)
    nodes = []
    for at, (output, layout) in enumerate(zip(outputs, layouts, strict=True)):
        if tuple(made[at].shape[1:]) != tuple(output.shape):
            raise NotImplementedError("draws in another shape")
        nodes.append(_node(drawing, call, at, layout))
    for output, node in zip(outputs, nodes, strict=True):
        operation.trace.bind(output, node)
        operation.trace.steps.append(Step(node, call.nodes, _nothing, name=operation.name))


def bind_drawn(operation: Operation, output: torch.Tensor, at: int, layout: Layout) -> None:
    """Leave an output that its rule has no formula for to draws, where it is used."""
    call, _ = call_of(operation)
    operation.trace.bind(output, _node(operation.trace.drawing, call, at, layout))


def drawn_node(trace: Trace, call: Call, layout: Layout) -> Node:
    """A signal of drawn ones that no operation of its own made."""
    call.results(trace.drawing)
    return drawn_later(trace, call, layout)


def drawn_later(trace: Trace, call: Call, layout: Layout) -> Node:
    """The same, drawn when it is first used: most of what is written into is never read again."""
    node = _node(trace.drawing, call, 0, layout)
    trace.steps.append(Step(node, call.nodes, _nothing))
    return node


def _node(drawing: Drawing, call: Call, at: int, layout: Layout) -> Node:
    return Node(None, call=call, at=at, is_drawn=True, drawing=drawing, drawn_layout=_kept(layout))


def _nothing(_: Field) -> list[None]:
    raise ValueError("a drawn signal's gradient is drawn")
