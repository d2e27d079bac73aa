"""Elementwise operations: functions of one signal, sums and products of several, and what numbers do to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from gradvitals.frameworks.torch.prediction import combinations, spelled_norms
from gradvitals.frameworks.torch.prediction.kinship import share_in_product, share_in_sum
from gradvitals.frameworks.torch.prediction.linear import plus, times
from gradvitals.frameworks.torch.prediction.operation import ELEMENTWISE, Operation, Pullback, Step, rule
from gradvitals.frameworks.torch.prediction.transformed import Function, applied, backwards
from gradvitals.frameworks.torch.prediction.values import Constant, Node, Noise, Weight
from gradvitals.maths.alignment import alike, common_layout, gathered_to, spread_to
from gradvitals.maths.field import Axis, Field, Role, constant_field


@rule(*(name + form for name in ELEMENTWISE for form in ("", "_")))
def _unary(operation: Operation) -> None:
    from gradvitals.frameworks.torch.prediction import scores

    more = tuple(_plain(operation, item) for item in operation.args[1:])
    keywords = {key: _plain(operation, item) for key, item in operation.kwargs.items()}
    function = operation.function

    def apply(z: torch.Tensor) -> torch.Tensor:
        result = function(z.clone() if operation.name.endswith("_") else z, *more, **keywords)
        return torch.as_tensor(result[0] if isinstance(result, tuple) else result, device="cpu")

    if not scores.takes_function(operation, apply):
        composed(operation, operation.node(operation.args[0]), apply)


def _plain(operation: Operation, item: Any) -> Any:
    """A number among the arguments; a tensor of one entry counts as one."""
    if not isinstance(item, torch.Tensor):
        return item
    value = operation.value(item)
    if isinstance(value, Constant) and value.held.numel() == 1:
        return value.value.double()
    raise NotImplementedError(f"{operation.name} with a tensor")


def composed(operation: Operation, x: Node, function: Function, *, at: Any = None) -> Node:
    """Put an elementwise function behind a signal: its whole history since the last mixing is one function."""
    before = x.root_function
    source = x.root
    together: Function = function if x.source is None else lambda z: function(before(z))
    made = Node(None, source, together, tags=x.lasting_tags)
    operation.emit(None, node=made, output=at)
    operation.trace.steps.append(Step(made, (source,), lambda g: [made.backwards(g)]))
    if x is not source:  # what lies between is shown its gradient, which went past it
        operation.trace.steps.append(Step(made, (x,), lambda g: [backwards(g, x.field, function)], shown=True))
    return made


def _same_source(a: Any, b: Any) -> bool:
    return isinstance(a, Node) and isinstance(b, Node) and a.root is b.root


def _joined(
    operation: Operation, a: Node, b: Node, function: Callable[[Any, Any], Any], seen: Sequence[tuple[Node, Pullback]]
) -> None:
    """Two functions of the same signal are one; ``seen`` are the gradients that each of them is shown."""
    source = a.root
    f, g = a.root_function, b.root_function

    def together(z: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(function(f(z), g(z)), device="cpu")

    made = Node(None, source, together)
    operation.emit(None, node=made)
    operation.trace.steps.append(Step(made, (source,), lambda gr: [made.backwards(gr)]))
    for between, pullback in seen:
        if between is not source:
            operation.trace.steps.append(Step(made, (between,), pullback, shown=True))


def _number(operation: Operation, item: Any) -> float | None:
    """A number, also as a tensor of one known entry that isn't learned."""
    if isinstance(item, (int, float)) and not isinstance(item, bool):
        return float(item)
    value = operation.value(item)
    if isinstance(value, Constant) and value.held.numel() == 1 and not value.held.is_complex():
        return float(value.value.detach())
    return None


@rule("add", "add_", "sub", "sub_", "rsub", "_foreach_add")
def _add(operation: Operation) -> None:
    a, b = operation.args[:2]
    name = operation.name.removeprefix("aten::").removesuffix("_")
    alpha = float(operation.kwargs.get("alpha", operation.args[2] if len(operation.args) > 2 else 1))
    sign_a, sign_b = (1.0, alpha if name == "add" else -alpha)
    if name == "rsub":
        sign_a, sign_b = -alpha, 1.0
    from gradvitals.frameworks.torch.prediction import choice, repeated, scores

    if scores.takes_sum(operation, a, b, sign_a, sign_b):
        return
    if name == "add" and alpha == 1 and choice.takes_mask(operation, a, b):
        return
    va, vb = operation.value(a), operation.value(b)
    for one, other, s_one, s_other in ((a, b, sign_a, sign_b), (b, a, sign_b, sign_a)):
        number = _number(operation, other)
        if number is not None and isinstance(operation.value(one), Node):
            shift = s_other * number
            composed(operation, operation.node(one), lambda z, s=s_one, t=shift: s * z + t)  # type: ignore[misc]
            return
    if _same_source(va, vb):
        signed = [(va, lambda g: [g.times(sign_a)]), (vb, lambda g: [g.times(sign_b)])]
        _joined(operation, va, vb, lambda x, y: sign_a * x + sign_b * y, signed)
        return
    for one, other, sign in ((va, vb, sign_a), (vb, va, sign_b)):
        if isinstance(one, Node) and isinstance(other, Constant) and not other.value.any():
            made = operation.emit(one.field.times(sign), [one], lambda g, s=sign: [g.times(s)])  # type: ignore[misc]
            made.tags["terms"] = (combinations.Term(one, sign),)
            return
    if isinstance(va, Node) and isinstance(vb, Node):
        terms = combinations.collected(va, vb, sign_a, sign_b)
        if terms is not None:
            combinations.emit_collected(operation, terms, ((va, sign_a), (vb, sign_b)))
            return
    if isinstance(va, Noise) or isinstance(vb, Noise):
        _with_noise(operation, (a, va, sign_a), (b, vb, sign_b))
        return
    if spelled_norms.takes_difference(operation, va, vb, sign_a, sign_b):
        return
    if combinations.stands_out(va, vb) and repeated.attempt(operation) is None:
        return
    if share_in_sum(va, vb):
        raise NotImplementedError("a sum of two signals that are made of the same one")
    _sum(operation, a, b, sign_a, sign_b)
    if isinstance(va, Node) and isinstance(vb, Node):
        combinations.remember_sum(operation.trace.value(operation.first), va, vb, sign_a, sign_b)


def _both(operation: Operation, a: Any, b: Any) -> tuple[Field, Field, list[tuple[int, Node]]]:
    """The fields of two operands under one layout, and which of them are signals."""
    va, vb = operation.value(a), operation.value(b)
    if not isinstance(va, Node) and not isinstance(vb, Node):  # an input meets a parameter
        enters = a if isinstance(va, Constant) and va.data else b
        operation.node(enters)
        va, vb = operation.value(a), operation.value(b)
    known = va if isinstance(va, Node) else vb
    first = va.field if isinstance(va, Node) else operation.beside(a, known.field)
    second = vb.field if isinstance(vb, Node) else operation.beside(b, known.field)
    layout = common_layout([first.layout, second.layout])
    signals = [(at, v) for at, v in enumerate((va, vb)) if isinstance(v, Node)]
    one, two = alike(spread_to(first, layout), spread_to(second, layout))
    return one, two, signals


def _with_noise(operation: Operation, first: tuple[Any, Any, float], second: tuple[Any, Any, float]) -> None:
    """A signal and independent entries added."""
    (given, _, sign), (_, noise, by) = (first, second) if isinstance(second[1], Noise) else (second, first)
    x = operation.node(given)
    layout = x.field.layout
    held = x.field.second.shape
    added = constant_field(layout, noise.second * by * by, noise.mean * by, between=(noise.mean * by) ** 2, held=held)
    made = plus(*alike(x.field.times(sign), added))
    operation.emit(made, [x], lambda g: [gathered_to(g.times(sign), layout)])


def _sum(operation: Operation, a: Any, b: Any, sign_a: float, sign_b: float) -> None:
    first, second, signals = _both(operation, a, b)
    made = plus(first.times(sign_a), second.times(sign_b))
    signs = (sign_a, sign_b)

    def pullback(gradient: Field) -> Sequence[Field]:
        return [gathered_to(gradient.times(signs[at]), node.field.layout) for at, node in signals]

    operation.emit(made, [node for _, node in signals], pullback)
    for item in (a, b):
        if (
            isinstance(item, torch.Tensor)
            and item.dim() == 1
            and all(axis.role is Role.UNIT for axis in made.layout[-1])
        ):
            operation.learns(item, None, times=made.units / max(item.numel(), 1))  # a bias


@rule("mul", "mul_", "div", "div_", "true_divide")
def _mul(operation: Operation) -> None:
    a, b = operation.args[:2]
    divides = "div" in operation.name
    from gradvitals.frameworks.torch.prediction import scores

    if scores.takes_factor(operation, a, b, divides=divides):
        return
    va, vb = operation.value(a), operation.value(b)
    for one, other, inverted in ((a, b, False), (b, a, True)):
        number = _number(operation, other)
        if number is not None and isinstance(operation.value(one), Node):
            if divides and inverted:
                composed(operation, operation.node(one), lambda z, n=number: n / z)  # type: ignore[misc]
            else:
                factor = 1 / number if divides and number else number
                composed(operation, operation.node(one), lambda z, n=factor: n * z)  # type: ignore[misc]
            return
    if isinstance(va, Noise) or isinstance(vb, Noise):
        signal, noise = (a, vb) if isinstance(vb, Noise) else (b, va)
        if divides or not isinstance(noise, Noise) or isinstance(operation.value(signal), Noise):
            raise NotImplementedError("a random mask on something that is no signal")
        masked(operation, operation.node(signal), noise, (b if noise is vb else a).shape)
        return
    if _same_source(va, vb):
        if divides:
            _joined(operation, va, vb, lambda x, y: x / y, [])
        else:
            seen = [(va, lambda g: [times(g, vb.field)]), (vb, lambda g: [times(g, va.field)])]
            _joined(operation, va, vb, lambda x, y: x * y, seen)
            if va is vb:
                operation.trace.value(operation.first).tags["square-of"] = spelled_norms.identity_of(va)
        return
    _product(operation, a, _inverse(operation, b) if divides else b, divisor=vb if divides else None)


def _inverse(operation: Operation, b: Any) -> Any:
    """What multiplies in place of what divides, under a tensor of its own."""
    value = operation.value(b)
    stand_in = torch.empty(0, device="cpu")
    if isinstance(value, Node):
        composed(operation, value, lambda z: 1 / z, at=stand_in)
        return stand_in
    if isinstance(value, Constant):
        operation.trace.bind(stand_in, value.changed_to(1 / value.value.detach().double()))
        return stand_in
    raise NotImplementedError("a division by this")


def masked(operation: Operation, signal: Node, noise: Noise, shape: Sequence[int] | None = None) -> None:
    """A signal times independent entries: dropout; a mask of size 1 along a dimension is the same all along it."""
    before = signal.field
    rank = len(before.layout)
    sizes = [*(1 for _ in range(rank - len(shape))), *shape] if shape is not None else [0] * rank
    layout = tuple(() if n == 1 else dim for n, dim in zip(sizes, before.layout, strict=True))
    kept = [n != 1 for n, dim in zip(sizes, before.layout, strict=True) for axis in dim if axis.is_mapped]
    held = [n for n, keeps in zip(before.second.shape, kept, strict=True) if keeps]
    field = constant_field(layout, noise.second, noise.mean, between=noise.mean**2, held=held)
    if any(axis.role is Role.COPY for dim in layout for axis in dim):  # different ones get different entries
        layout = tuple(tuple(Axis(a.size, Role.UNIT if a.role is Role.COPY else a.role) for a in dim) for dim in layout)
        field = constant_field(layout, noise.second, noise.mean, between=noise.mean**2, held=held)
        before = spread_to(before, layout)

    def apply(given: Field) -> Field:
        one, mask = alike(given, spread_to(field, given.layout))
        made = times(one, mask)
        return replace(made, inherited=given.inherited, kurtosis=given.kurtosis)

    operation.emit(
        apply(before), [signal], lambda g: [gathered_to(apply(spread_to(g, before.layout)), signal.field.layout)]
    )


def _product(operation: Operation, a: Any, b: Any, divisor: Any = None) -> None:
    va, vb = operation.value(a), operation.value(b)
    normalised = spelled_norms.divided_by_its_own(va, vb)
    if normalised is not None:
        from gradvitals.frameworks.torch.prediction.normalisation import by_hand

        by_hand(operation, *normalised)
        return
    if share_in_product(va, divisor if isinstance(divisor, Node) else vb):
        raise NotImplementedError("a product of two signals that are made of the same one")
    first, second, signals = _both(operation, a, b)
    made = times(first, second)

    def pullback(gradient: Field) -> Sequence[Field]:
        found = []
        for at, node in signals:
            g, other = alike(spread_to(gradient, first.layout), (second, first)[at])
            found.append(gathered_to(replace(times(g, other), inherited=gradient.inherited), node.field.layout))
        return found

    node_ = operation.emit(made, [node for _, node in signals], pullback)
    if isinstance(va, Node) and isinstance(vb, Node):
        combinations.remember_product(node_, va, vb)


@rule("square", "square_")
def _square(operation: Operation) -> None:
    x = operation.node(operation.args[0])
    composed(operation, x, torch.square).tags["square-of"] = spelled_norms.identity_of(x)


@rule("pow", "pow_")
def _pow(operation: Operation) -> None:
    base, exponent = operation.args[:2]
    number = _number(operation, exponent)
    if number is not None and isinstance(operation.value(base), Node):
        x = operation.node(base)
        made = composed(operation, x, lambda z: z**number)
        if number == 2:
            made.tags["square-of"] = spelled_norms.identity_of(x)
        return
    start = _number(operation, base)
    if start is not None:
        composed(operation, operation.node(exponent), lambda z: start**z)
        return
    raise NotImplementedError("a power with two tensors")


@rule("_prelu_kernel", "prelu")
def _prelu(operation: Operation) -> None:
    weight = operation.value(operation.args[1])
    slope = weight.mean if isinstance(weight, Weight) else float(weight.value.detach().double().mean())
    composed(operation, operation.node(operation.args[0]), lambda z: torch.where(z > 0, z, slope * z))


@rule("rrelu_with_noise", "rrelu_with_noise_")
def _rrelu(operation: Operation) -> None:
    """A random slope below zero: of its mean square."""
    low, high = float(operation.argument(2, "lower", 1 / 8)), float(operation.argument(3, "upper", 1 / 3))
    slope = ((low * low + low * high + high * high) / 3) ** 0.5
    composed(operation, operation.node(operation.args[0]), lambda z: torch.where(z > 0, z, slope * z))


@rule("glu")
def _glu(operation: Operation) -> None:
    from gradvitals.frameworks.torch.prediction.pieces import halves

    x = operation.node(operation.args[0])
    dim = operation.argument(1, "dim", -1) % len(x.field.layout)
    half = halves(x.field, dim, 0, 2)
    gate = applied(half, torch.sigmoid)
    made = times(half, gate)

    def pullback(gradient: Field) -> Sequence[Field]:
        one = times(gradient, gate)
        two = backwards(times(gradient, half), half, torch.sigmoid)
        both = replace(
            one, second=(one.second + two.second) / 2, kernel=(one.kernel + two.kernel) / 2, mean=one.mean * 0
        )
        return [gathered_to(both.with_layout(x.field.layout), x.field.layout)]

    operation.emit(made, [x], pullback)


@rule("lerp", "lerp_")
def _lerp(operation: Operation) -> None:
    """A + w·(b − a)."""
    a, b, w = (operation.value(item) for item in operation.args[:3])
    number = _number(operation, operation.args[2])
    if not isinstance(a, Node) or not isinstance(b, Node):
        raise NotImplementedError("a mixture with something that is no signal")
    if number is not None:
        terms = [combinations.Term(a, 1 - number), combinations.Term(b, number)]
    elif isinstance(w, Node):
        f = w.root_function
        terms = [
            combinations.Term(a, 1.0, w.root, lambda z: 1 - f(z)),
            combinations.Term(b, 1.0, w.root, f),
        ]
    else:
        raise NotImplementedError("a mixture by known numbers")
    combinations.emit_collected(operation, terms, ())


@rule("where", "addcmul", "addcdiv")
def _several(operation: Operation) -> None:
    from gradvitals.frameworks.torch.prediction import choice, scores

    if scores.takes_mask(operation):
        return
    choice.chosen(operation)


@rule("masked_fill", "masked_fill_")
def _masked_fill(operation: Operation) -> None:
    from gradvitals.frameworks.torch.prediction import choice, scores

    if scores.takes_mask(operation):
        return
    choice.filled(operation)


@rule("native_dropout", "dropout", "dropout_", "alpha_dropout", "feature_dropout")
def _dropout(operation: Operation) -> None:
    x = operation.node(operation.args[0])
    p, train = float(operation.args[1]), operation.argument(2, "train", True)  # noqa: FBT003
    keep = 1 - p if train else 1.0
    masked(operation, x, Noise.of_two(0.0, 1 / keep if keep else 0.0, keep))
