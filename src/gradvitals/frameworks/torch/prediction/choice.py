"""Entries chosen between two tensors by a known mask, or by a comparison of the same signal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from gradvitals.frameworks.torch.prediction.elementwise import composed
from gradvitals.frameworks.torch.prediction.linear import times
from gradvitals.frameworks.torch.prediction.measured import measured_beside
from gradvitals.frameworks.torch.prediction.operation import Operation, Step, rule
from gradvitals.frameworks.torch.prediction.scores import Scores
from gradvitals.frameworks.torch.prediction.transformed import Function, backwards
from gradvitals.frameworks.torch.prediction.values import Constant, Node
from gradvitals.maths.alignment import alike, gathered_to, spread_to
from gradvitals.maths.field import Field, constant_field

#: Numbers at or below this hide what a softmax would see.
HIDING = -100.0


@rule("gt", "lt", "ge", "le", "eq", "ne", "isnan", "isinf", "isfinite", "logical_not")
def _compared(operation: Operation) -> None:
    """A signal compared with a number, or with another function of the same signal: ones and zeros."""
    function = operation.function
    _of_one_signal(operation, operation.args, lambda *z: function(*z).double())


@rule("maximum", "minimum", "atan2", "fmax", "fmin", "hypot", "logical_and", "logical_or")
def _of_two(operation: Operation) -> None:
    function = operation.function
    first, other = operation.value(operation.args[0]), operation.value(operation.args[1])
    if isinstance(first, Scores) and isinstance(other, Constant) and float(other.value.max()) <= HIDING:
        operation.trace.bind(operation.first, first)  # what is hidden already
        return
    _of_one_signal(operation, operation.args, lambda *z: function(*z).double())


def _of_one_signal(operation: Operation, items: Sequence[Any], function: Callable[..., torch.Tensor]) -> None:
    """An elementwise function of several functions of one signal, and of numbers."""
    functions: list[Function] = []
    nodes = [value for value in map(operation.value, items) if isinstance(value, Node)]
    if not nodes or any(node.root is not nodes[0].root for node in nodes):
        raise NotImplementedError("a choice between two signals")
    for item in items:
        value = operation.value(item)
        if isinstance(value, Node):
            functions.append(value.root_function)
        elif isinstance(value, Constant) and value.held.numel() == 1:
            functions.append(lambda z, n=float(value.value): torch.full_like(z, n))  # type: ignore[misc]
        elif isinstance(item, (int, float)):
            functions.append(lambda z, n=float(item): torch.full_like(z, n))  # type: ignore[misc]
        else:
            raise NotImplementedError("a choice between a signal and numbers that differ")
    source = nodes[0].root

    def together(z: torch.Tensor) -> torch.Tensor:
        return function(*(f(z) for f in functions))

    made = Node(None, source, together)
    operation.emit(None, node=made)
    operation.trace.steps.append(Step(made, (source,), lambda g: [backwards(g, source.field, together)]))


def chosen(operation: Operation) -> None:
    """One of two tensors, entry by entry."""
    if operation.name.removeprefix("aten::") != "where":
        raise NotImplementedError("a function of several tensors")
    condition, yes, no = operation.args[:3]
    known = operation.value(condition)
    if isinstance(known, Node):
        _of_one_signal(operation, (condition, yes, no), lambda c, a, b: torch.where(c != 0, a, b))
        return
    if not isinstance(known, Constant):
        raise NotImplementedError("a choice by something unknown")
    taken = known.value.bool()
    if isinstance(operation.value(yes), Node):
        _filled(operation, yes, ~taken, no)
    else:
        _filled(operation, no, taken, yes)


def filled(operation: Operation) -> None:
    """A number in some places."""
    signal, mask, number = operation.args[:3]
    known = operation.value(mask)
    if not isinstance(known, Constant):
        value = operation.node(signal)
        if isinstance(known, Node) and known.root is value.root:
            _of_one_signal(operation, (mask, number, signal), lambda c, a, b: torch.where(c != 0, a, b))
            return
        raise NotImplementedError("a choice by something unknown")
    _filled(operation, signal, known.value.bool(), number)


def hide(operation: Operation, x: Node, hidden: torch.Tensor) -> None:
    """A signal that will be added to scores, of which a softmax won't see some."""
    made = Node(x.field, tags={**x.lasting_tags, "hidden": hidden.numpy()})
    layout = x.field.layout
    operation.emit(x.field, [x], lambda g: [gathered_to(g, layout)], node=made)


def takes_mask(operation: Operation, a: Any, b: Any) -> bool:
    """Whether zeros and very negative numbers are added to a signal: a mask beside a learned bias."""
    for signal, mask in ((a, b), (b, a)):
        x, known = operation.value(signal), operation.value(mask)
        if isinstance(x, Node) and isinstance(known, Constant) and known.held.numel() > 1 and not known.learned:
            hidden = known.value <= HIDING
            if bool(hidden.any()) and bool((hidden | (known.value == 0)).all()):
                hide(operation, x, hidden)
                return True
    return False


def _filled(operation: Operation, signal: Any, hidden: torch.Tensor, fill: Any) -> None:
    """A signal with something else where it is hidden."""
    x = operation.node(signal)
    number = _number(operation, fill)
    if number is not None and number <= HIDING:
        hide(operation, x, hidden)
        return
    if not hidden.any() and tuple(operation.first.shape) == tuple(signal.shape):
        composed(operation, x, lambda z: z)
        return
    before = x.field
    kept = measured_beside((~hidden).double(), before)
    layout = spread_to(before, _common(before, kept)).layout
    first, mask = alike(spread_to(before, layout), spread_to(kept, layout))
    result = replace(times(first, mask), inherited=before.inherited, kurtosis=before.kurtosis)
    inputs: list[Node] = [x]
    other: Field | None = None
    gone = spread_to(measured_beside(hidden.double(), before), layout)
    if number is not None:
        other = constant_field(((),) * len(layout), number**2, number) if number else None
    else:
        node = operation.node(fill)
        inputs.append(node)
        other = node.field
    if other is not None:
        second, away = alike(spread_to(other, layout), gone)
        added = times(second, away)
        result, added = alike(result, added)
        result = replace(
            result,
            mean=result.mean + added.mean,
            second=result.second + added.second,
            kernel=result.kernel + added.kernel,
        ).consistent()

    def pullback(gradient: Field) -> Sequence[Field]:
        found = []
        for node, m in zip(inputs, (mask, gone), strict=False):
            g, by = alike(spread_to(gradient, layout), m)
            found.append(gathered_to(replace(times(g, by), inherited=gradient.inherited), node.field.layout))
        return found

    operation.emit(result, inputs, pullback)


def _common(first: Field, second: Field) -> Any:
    from gradvitals.maths.alignment import common_layout

    return common_layout([first.layout, second.layout])


def _number(operation: Operation, item: Any) -> float | None:
    if isinstance(item, (int, float)):
        return float(item)
    value = operation.value(item)
    if isinstance(value, Constant) and value.held.numel() == 1:
        return float(value.value)
    return None
