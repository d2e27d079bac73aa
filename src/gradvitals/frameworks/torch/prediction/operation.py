"""One operation of a trace, as its rule sees it; and the rules by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from gradvitals.frameworks.torch.prediction.measured import default_roles, measured, measured_beside
from gradvitals.frameworks.torch.prediction.values import Constant, Node, Noise, Weight
from gradvitals.maths.alignment import spread_to
from gradvitals.maths.field import Axis, Field, Role, constant_field

if TYPE_CHECKING:
    from gradvitals.frameworks.torch.prediction.knowledge import Trace

#: Functions of one tensor and numbers, each of which has an in-place form.
ELEMENTWISE = (
    *("relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "tanh", "sigmoid", "softplus"),
    *("hardtanh", "hardswish", "hardsigmoid", "log_sigmoid_forward", "threshold", "softshrink", "hardshrink"),
    *("exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sqrt", "rsqrt", "square", "reciprocal", "abs", "neg"),
    *("sin", "cos", "tan", "sinh", "cosh", "asinh", "acosh", "atanh", "asin", "acos", "atan", "erf", "erfc"),
    *("sgn", "sign", "floor", "ceil", "round", "trunc", "frac", "clamp", "clamp_min", "clamp_max", "clip", "sinc"),
    *("logit", "nan_to_num", "special_ndtr", "special_log_ndtr", "i0", "lgamma", "digamma", "erfinv"),
)
#: From the gradient with respect to the output(s), the gradients with respect to the inputs that were named.
Pullback: TypeAlias = Callable[[Field], Sequence[Field | None]]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One operation that was recorded for the way back.

    ``shown`` gradients are reported for their inputs but not carried on: another step carries them past.
    """

    output: Node
    inputs: tuple[Node, ...]
    pullback: Pullback
    shown: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """An operation with its arguments and its output (whose values may be fake)."""

    trace: Trace
    name: str
    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any

    def argument(self, at: int, name: str, default: Any = None) -> Any:
        """An argument by its place or name."""
        return self.args[at] if len(self.args) > at else self.kwargs.get(name, default)

    def value(self, argument: Any) -> Any:
        """What is known of a tensor among the arguments; None where it is none."""
        return self.trace.value(argument) if isinstance(argument, torch.Tensor) else None

    def node(self, argument: Any, roles: Sequence[Role] | None = None) -> Node:
        """A tensor among the arguments as a signal; an input becomes one, in these roles or its shape's usual ones.

        Raises
        ------
        NotImplementedError
            Where the moments of this tensor aren't known.

        """
        value = self.value(argument)
        if isinstance(value, Node):
            return value
        if isinstance(value, Constant) and value.held.is_floating_point():
            return self.trace.entered(
                argument, value, measured(value.value, list(roles or default_roles(argument.shape)))
            )
        if isinstance(value, Weight):
            layout = tuple(() if n == 1 else (Axis(n, Role.UNIT),) for n in value.shape)
            return Node(constant_field(layout, value.second, value.mean))
        raise NotImplementedError(f"{self.name} of {type(value).__name__.lower()}")

    def beside(self, argument: Any, other: Field) -> Field:
        """The field of an argument that is broadcast against a signal: a tensor, or a number."""
        value = self.value(argument)
        if isinstance(value, Node):
            return value.field
        if isinstance(value, Constant):
            return measured_beside(value.value, other)
        if isinstance(value, Weight):
            layout: list[tuple[Axis, ...]] = [(Axis(n, Role.UNIT),) if n > 1 else () for n in value.shape]
            rank = len(other.layout)
            for at, n in enumerate(value.shape):
                dim = other.layout[rank - len(value.shape) + at] if rank - len(value.shape) + at >= 0 else ()
                if n > 1 and dim:  # other positions have other weights
                    layout[at] = tuple(Axis(a.size, Role.PLACE if a.role is Role.COPY else a.role) for a in dim)
            return _drawn(tuple(layout), value, other)
        if isinstance(argument, (int, float)):
            return constant_field((), float(argument) ** 2, float(argument))
        raise NotImplementedError(f"{self.name} with {type(value or argument).__name__.lower()}")

    def emit(
        self,
        field: Field | None,
        inputs: Sequence[Node] = (),
        pullback: Pullback | None = None,
        *,
        output: Any = None,
        node: Node | None = None,
    ) -> Node:
        """Say what an output (by default the first tensor) is made of, and how its gradient goes back."""
        made = node if node is not None else Node(field)
        target = self.first if output is None else output
        self.trace.bind(target, made)
        if pullback is not None and inputs:
            self.trace.steps.append(Step(made, tuple(inputs), pullback, name=self.name))
        return made

    def learns(self, parameter: Any, inputs: Field | None, *, times: float = 1.0) -> None:
        """Note that the output was made with a parameter: of ``inputs``, or added to it."""
        value = self.value(parameter) if isinstance(parameter, torch.Tensor) else parameter
        name = getattr(value, "name", None)
        is_learned = isinstance(value, Weight) or (isinstance(value, Constant) and value.learned)
        if name is not None and is_learned:
            shape = value.shape if isinstance(value, Weight) else value.held.shape
            self.trace.pending.append((name, inputs, math.prod(shape), times))

    @property
    def first(self) -> torch.Tensor:
        """The first tensor among the outputs."""
        outputs = self.output if isinstance(self.output, (tuple, list)) else (self.output,)
        return next(item for item in outputs if isinstance(item, torch.Tensor))


def _drawn(layout: Any, value: Weight, other: Field) -> Field:
    """A random parameter with an axis over places: different at each, the same for all samples."""
    del other
    field = constant_field(layout, value.second, value.mean, between=value.mean**2)
    return spread_to(field, layout)


Rule: TypeAlias = Callable[[Operation], None]

_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ATen operations by their names without the overload (``"aten::mm"``)."""

    def register(function: Rule) -> Rule:
        for name in names:
            _RULES[name if "::" in name else f"aten::{name}"] = function
        return function

    return register


def rule_for(name: str) -> Rule | None:
    """The rule of an operation, if there is one."""
    return _RULES.get(name)


__all__ = ["Noise", "Operation", "Rule", "Step", "rule", "rule_for"]
