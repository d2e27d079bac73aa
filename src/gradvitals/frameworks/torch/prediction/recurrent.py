"""Recurrent nets as a whole, with what their steps have in common.

``torch.lstm``, ``torch.gru`` and ``torch.rnn_tanh`` are taken over where all is usual: the input's part is a product
like any other, and the recurrence is one operation with its own way back. Anything else (packed sequences, projections,
weights with a mean, cells in a loop) is followed step by step, as PyTorch spells it out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from gradvitals.frameworks.torch.prediction.knowledge import Trace
from gradvitals.frameworks.torch.prediction.linear import MEANT, moments_of
from gradvitals.frameworks.torch.prediction.operation import Pullback, Step
from gradvitals.frameworks.torch.prediction.parameter_gradients import Use
from gradvitals.frameworks.torch.prediction.values import Constant, Node, Weight
from gradvitals.maths.alignment import gathered_to
from gradvitals.maths.field import Axis, Field, Layout, Role
from gradvitals.maths.recurrence import CELLS, Bias, Course
from gradvitals.maths.scatter import Scatter, new_cause

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

#: Arguments of the functions that are taken over: input, states, weights, whether there are biases, layers, dropout,
#: whether it is training, whether it is bidirectional, whether the batch comes first.
_ARGUMENTS = 9
#: Means of what goes in, by its RMS, beyond which it isn't of zero mean: they make 0.25 % of its square.
_CENTRED = 0.05


@dataclass(frozen=True, slots=True)
class _Direction:
    """The weights of one layer in one direction."""

    inputs: torch.Tensor
    hidden: torch.Tensor
    biases: tuple[torch.Tensor, ...]


def followed(trace: Trace, name: str, args: Sequence[Any]) -> Any:
    """What a recurrent function returns, with all that is known of it; None where it has to be spelled out."""
    try:
        return _followed(trace, name, args)
    except (ValueError, IndexError, NotImplementedError):  # what is unusual in a way that wasn't asked for
        return None


def _followed(trace: Trace, name: str, args: Sequence[Any]) -> Any:
    if name not in CELLS or len(args) != _ARGUMENTS or not isinstance(args[2], (list, tuple)):
        return None
    x, states, weights, has_bias, layers, dropout, training, both_ways, batch_first = args
    if not isinstance(has_bias, bool) or not isinstance(x, torch.Tensor) or x.dim() != 3:
        return None
    directions = _directions(weights, has_bias, layers * (2 if both_ways else 1))
    if directions is None or not all(_is_usual(trace, one) for one in directions):
        return None
    h0, c0 = states if name == "lstm" else (states, None)
    each = 2 if both_ways else 1
    ends: list[list[torch.Tensor]] = []
    for layer in range(layers):
        outputs = []
        for way in range(each):
            at = layer * each + way
            net = _Net(trace, name, directions[at], batch_first=batch_first, backwards=way == 1)
            made = net.run(x, h0[at], None if c0 is None else c0[at])
            if made is None:
                return None
            outputs.append(made[0])
            ends.append(made[1:])
        x = torch.cat(outputs, -1) if both_ways else outputs[0]
        if dropout and training and layer < layers - 1:
            x = F.dropout(x, dropout, training=True)
    return (x, *(torch.stack(states) for states in zip(*ends, strict=True)))


def _directions(weights: Sequence[torch.Tensor], has_bias: bool, count: int) -> list[_Direction] | None:
    per = 4 if has_bias else 2
    if len(weights) != count * per:  # projections
        return None
    parts = [weights[at * per : (at + 1) * per] for at in range(count)]
    return [_Direction(part[0], part[1], tuple(part[2:])) for part in parts]


def _is_usual(trace: Trace, direction: _Direction) -> bool:
    """Whether the weights are known, without a mean, and of random biases."""
    known = [trace.value(weight) for weight in (direction.inputs, direction.hidden, *direction.biases)]
    if not all(isinstance(value, (Constant, Weight)) for value in known):
        return False
    return not moments_of(known[0]).mean and not moments_of(known[1]).mean and not trace.is_copy(known[1])


class _Net:
    """One layer in one direction."""

    def __init__(self, trace: Trace, name: str, direction: _Direction, *, batch_first: bool, backwards: bool) -> None:
        self._trace, self._name, self._direction = trace, name, direction
        self._cell, self._gates = CELLS[name]
        self.time = 1 if batch_first else 0
        self._backwards = backwards
        self._units = direction.hidden.shape[1]

    def run(self, x: torch.Tensor, h0: torch.Tensor, c0: torch.Tensor | None) -> list[torch.Tensor] | None:
        """The outputs of all steps, and the last states; None where a state or an input isn't usual."""
        given = F.linear(x, self._direction.inputs)
        node = self._trace.value(given)
        steps = int(given.shape[self.time])
        if not isinstance(node, Node) or not _has_steps(node.field, self.time, steps):
            return None
        kernel = self._by_steps(node.field)
        starts = [_Start.of(self._trace, tensor, kernel.shape[2]) for tensor in (h0, c0)]
        if any(start is None for start in starts):
            return None
        state, memory = (start for start in starts if start is not None)
        recurrent = moments_of(self._trace.value(self._direction.hidden)).second * self._units
        cell = self._cell(kernel, recurrent, self._biases())
        course = cell.forwards(state.kernel, memory.kernel)
        made = self._outputs(node.field, course)
        hidden = Node(node.field)
        self._learn(node, hidden, self._field(node.field, course.previous, self._units))
        inputs = [node, hidden, *(start.node for start in (state, memory) if start.node is not None)]
        last = np.zeros_like(state.kernel)

        def back(at_outputs: Array, at_memory: Array, like: Field) -> list[Field]:
            found = cell.backwards(at_outputs, at_memory)
            passed = like.scatter + Scatter.of(2 * like.agreement() / max(self._units, 1))
            width = self._gates * self._units
            parts = [self._field(node.field, k, width).drawn(passed) for k in (found.inputs, found.hidden)]
            ends = ((state, found.state), (memory, found.memory))
            return parts + [start.gradient(k, passed) for start, k in ends if start.node is not None]

        def from_outputs(gradient: Field) -> Sequence[Field]:
            g = gathered_to(gradient, made.layout)
            return back(self._by_steps(g), last, g)

        def from_state(gradient: Field) -> Sequence[Field]:
            at_outputs = np.zeros_like(kernel)
            at_outputs[-1, -1] = gathered_to(gradient, at_end(course.states[-1, -1]).layout).kernel.reshape(last.shape)
            return back(at_outputs, last, gradient)

        def from_memory(gradient: Field) -> Sequence[Field]:
            k = gathered_to(gradient, at_end(last).layout).kernel.reshape(last.shape)
            return back(np.zeros_like(kernel), k, gradient)

        def at_end(k: Array) -> Field:
            return _at_once(made, self.time, k)

        output = self._emit(given.narrow(-1, 0, self._units), made, inputs, from_outputs)
        shape = output.select(self.time, 0)
        found = [output, self._emit(shape, at_end(course.states[-1, -1]), inputs, from_state)]
        if course.memory is not None:
            found.append(self._emit(shape, at_end(course.memory), inputs, from_memory))
        return found

    def _outputs(self, field: Field, course: Course) -> Field:
        """The output's field, and how it departs: with what goes in, and with the recurrent weights."""
        by_input, by_weights = course.sensitivity.tolist()
        own = 2.0 * field.agreement() / max(self._gates * self._units, 1)
        scatter = field.scatter.times(by_input) + Scatter.of(by_weights**2 * own)
        made = self._field(field, course.states, self._units)
        return replace(made, inherited=scatter, kurtosis=course.kurtosis, cause=new_cause())

    def _emit(self, like: torch.Tensor, field: Field, inputs: list[Node], pullback: Pullback) -> torch.Tensor:
        """A tensor in the shape of another, of which this is known."""
        made, node = like.clone(), Node(field)
        self._trace.bind(made, node)
        self._trace.steps.append(Step(node, tuple(inputs), pullback, name=f"aten::{self._name}"))
        return made

    def _biases(self) -> list[Bias]:
        """By gate; a GRU's last is held back beside the state, so that the new state has another one of its own."""
        known = [self._trace.value(bias) for bias in self._direction.biases]
        if self._name != "gru":
            return _alike([_bias(known, at, self._units) for at in range(self._gates)], self._units)
        both = _alike([_bias(known, at, self._units) for at in range(2)], self._units)
        return [*both, _bias(known[1:], 2, self._units), _bias(known[:1], 2, self._units)]

    def _learn(self, sums: Node, hidden: Node, before: Field) -> None:
        """What the recurrent weights and the biases are used for: beside the input's part, and beside the state's."""
        own = zip(self._direction.biases, (sums, hidden), strict=False)
        for tensor, output, inputs in ((self._direction.hidden, hidden, before), *((b, node, None) for b, node in own)):
            value = self._trace.value(tensor)
            is_learned = isinstance(value, Weight) or value.learned
            if value.name is not None and is_learned:
                self._trace.uses.append(Use(value.name, output, inputs, math.prod(tensor.shape)))

    # ---- between fields and steps ----

    def _by_steps(self, field: Field) -> Array:
        """The kernel of shape (T, T, n, n), in the order in which the net takes the steps."""
        sizes = _sizes(field)
        kernel = field.kernel.reshape(*sizes, *sizes)
        steps = kernel.transpose((0, 2, 1, 3) if self.time == 0 else (1, 3, 0, 2))
        return np.ascontiguousarray(steps[::-1, ::-1] if self._backwards else steps)

    def _field(self, like: Field, steps: Array, units: int) -> Field:
        """A field of new units with this kernel, between the same samples and steps."""
        steps = steps[::-1, ::-1] if self._backwards else steps
        whole = steps.transpose((0, 2, 1, 3) if self.time == 0 else (2, 0, 3, 1)).reshape(like.kernel.shape)
        layout: Layout = (*like.layout[:2], (Axis(units, Role.UNIT),) if units > 1 else ())
        n = like.second.size
        second = whole.reshape(n, n).diagonal().reshape(like.second.shape).copy()
        return replace(like, layout=layout, mean=np.zeros(like.second.shape), second=second, kernel=whole, own=None)


@dataclass(frozen=True, slots=True)
class _Start:
    """A state before the first step: zero, or a signal."""

    kernel: Array
    node: Node | None = None

    @classmethod
    def of(cls, trace: Trace, tensor: torch.Tensor | None, samples: int) -> _Start | None:
        """What is known of it; None where that is neither."""
        nothing = np.zeros((samples, samples))
        if tensor is None:
            return cls(nothing)
        value = trace.value(tensor)
        if isinstance(value, Constant) and not value.value.any():
            return cls(nothing)
        if not isinstance(value, Node) or value.field.has_pixels or value.field.mean.any():
            return None
        kernel = value.field.kernel
        return cls(kernel.reshape(samples, samples), value) if kernel.size == samples**2 else None

    def gradient(self, kernel: Array | None, inherited: Scatter) -> Field:
        """The gradient's field from its kernel."""
        if self.node is None or kernel is None:
            raise ValueError("no gradient at a state that is no signal")
        like = self.node.field
        made = replace(
            like,
            mean=np.zeros_like(like.mean),
            second=kernel.diagonal().reshape(like.second.shape),
            kernel=kernel.reshape(like.kernel.shape),
            own=None,
        )
        return made.drawn(inherited)


def _sizes(field: Field) -> tuple[int, int]:
    """The samples and steps that the arrays hold, in the order of the dimensions."""
    held = iter(field.second.shape)
    first, second = (next(held) if dim else 1 for dim in field.layout[:2])
    return first, second


def _has_steps(field: Field, time: int, steps: int) -> bool:
    """Whether every step is a place of its own, and nothing has a mean."""
    single = all(len(dim) <= 1 and all(axis.role is Role.PLACE for axis in dim) for dim in field.layout[:2])
    if not single or field.has_pixels or any(axis.is_mapped for axis in field.layout[2]):
        return False
    rms = math.sqrt(max(field.mean_square, 0.0))
    return _sizes(field)[time] == steps and float(np.abs(field.mean).max(initial=0.0)) <= _CENTRED * rms


def _bias(known: Sequence[Any], gate: int, units: int) -> Bias:
    """Mean and variance over a gate's units of the sum of some biases; a mean that chance explains is none."""
    values = [value for value in known if isinstance(value, Constant)]
    total = torch.zeros(units, dtype=torch.float64, device="cpu")
    for one in values:
        total = total + one.value.detach()[gate * units : (gate + 1) * units]
    mean = float(total.mean()) if units else 0.0
    second = float(total.square().mean()) if units else 0.0
    for value in known:
        if isinstance(value, Weight):
            second += value.second
    spread = math.sqrt(max(second - mean * mean, 0.0) / max(units, 1))
    if abs(mean) <= MEANT * spread:
        return Bias(0.0, second)
    rounded = round(mean, 3)
    return Bias(rounded, max(second - rounded * rounded, 0.0))


def _alike(biases: list[Bias], units: int) -> list[Bias]:
    """The same for all gates whose biases differ by chance only: they are evaluated once."""
    variances = [bias.variance for bias in biases]
    if any(bias.mean for bias in biases) or max(variances) > (1 + MEANT * math.sqrt(2 / units)) * min(variances):
        return biases
    return [Bias(0.0, sum(variances) / len(variances))] * len(biases)


def _at_once(field: Field, time: int, kernel: Array) -> Field:
    """The field of one step."""
    layout = (*field.layout[:time], *field.layout[time + 1 :])
    shape = (len(kernel),) if layout[0] else ()
    return replace(
        field,
        layout=layout,
        mean=np.zeros(shape),
        second=kernel.diagonal().reshape(shape),
        kernel=kernel.reshape(shape * 2),
    )
