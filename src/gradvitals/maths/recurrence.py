"""Second moments of a recurrent net over its steps, forwards and backwards, in kernels over samples and steps.

Gates are functions of jointly Gaussian sums, which the same weights make at every step, so that they are alike as far
as inputs, states and biases are. Products are of independent signals, and gradients are independent of the signals that
they meet (Yang, 2019, Tensor Programs I; Chen, Pennington and Schoenholz, 2018, section 3).

Shapes: T steps, n samples. A kernel of shape (T, T, n, n) holds E[x_sa x_tb] for steps s, t and samples a, b, averaged
over units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.maths import duals
from gradvitals.maths.duals import Growing, Rows
from gradvitals.maths.memory import Kept, by_steps, flat, put, started, turned

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bias:
    """Mean and variance over a gate's units of what is added to it."""

    mean: float = 0.0
    variance: float = 0.0


@dataclass(slots=True)
class Course:
    """A net's states over its steps.

    Parameters
    ----------
    states : array of shape (T, T, n, n)
        The output's kernel.
    previous : array of shape (T, T, n, n)
        Of the output one step before each.
    memory : array of shape (n, n), or None
        Of an LSTM's memory after the last step.
    sensitivity : array of shape (2,)
        d log E[h²] by what departs in all of the input's part of the sums, and in the recurrent weights; on average.
    kurtosis : float
        E[h⁴]/E[h²]², on average.

    """

    states: Array
    previous: Array
    memory: Array | None = None
    sensitivity: Array = field(default_factory=lambda: np.zeros(2))
    kurtosis: float = 3.0


@dataclass(slots=True)
class Returned:
    """Gradients that come back.

    Parameters
    ----------
    inputs, hidden : array of shape (T, T, n, n)
        At what the input, and at what the recurrent weights add to the gates' sums, averaged over the gates.
    state, memory : array of shape (n, n)
        At the states before the first step.

    """

    inputs: Array
    hidden: Array
    state: Array
    memory: Array


class Cell:
    """A recurrent net of one layer and direction.

    Parameters
    ----------
    given : array of shape (T, T, n, n)
        The kernel of what the input adds to a gate's sum.
    recurrent : float
        Units times the mean square of a recurrent weight.
    biases : sequence of Bias
        One for each gate, in PyTorch's order.

    """

    def __init__(self, given: Array, recurrent: float, biases: Sequence[Bias]) -> None:
        self.given, self.recurrent, self.biases = given, recurrent, tuple(biases)
        self.steps, self.samples = given.shape[0], given.shape[2]
        self.departures = _Departures()

    def forwards(self, state: Array, memory: Array) -> Course:
        """The states, from those before the first step, (n, n)."""
        raise NotImplementedError

    def backwards(self, gradients: Array, memory: Array) -> Returned:
        """From the gradients at the outputs (T, T, n, n) and at the last memory (n, n), those at all that went in."""
        raise NotImplementedError

    def growing(self, function: duals.Function, mean: float) -> Growing:
        """A function whose variables come step by step."""
        return Growing(function, mean, self.steps, self.samples)

    def slopes(self, function: duals.Function, bias: Bias, sums: Array) -> Array:
        """The kernel of a gate's slope over all steps, in reversed order."""
        whole = flat(sums + bias.variance)
        return turned(by_steps(duals.of(function, bias.mean).kernel(whole), self.steps))


class Tanh(Cell):
    """h = tanh(x + W h): Elman (1990)."""

    def forwards(self, state: Array, memory: Array) -> Course:
        del memory
        (bias,) = self.biases
        states = started(state, self.steps)
        self._sums = np.zeros_like(self.given)
        grows = self.growing(np.tanh, bias.mean)
        for t in range(self.steps):
            hidden = self.recurrent * states[: t + 1, t]
            put(self._sums, t, self.given[: t + 1, t] + hidden)
            block, rows = grows.step(self._sums[: t + 1, t] + bias.variance)
            z = self.departures.of_sum(self.given[t, t], hidden[-1], self._sums[t, t] + bias.variance)
            self.departures.keep(_average(rows.answer) * z, block[-1], rows.kurtosis)
            put(states[1:, 1:], t, block)
        return self.departures.course(states)

    def backwards(self, gradients: Array, memory: Array) -> Returned:
        (bias,) = self.biases
        slopes = self.slopes(duals.tanh_slope, bias, self._sums)
        carried = started(np.zeros_like(memory), self.steps)
        given = turned(gradients)
        for t in range(self.steps):
            found = (given[: t + 1, t] + self.recurrent * carried[: t + 1, t]) * slopes[: t + 1, t]
            put(carried[1:, 1:], t, found)
        total = turned(carried[1:, 1:])
        return Returned(total, total, self.recurrent * total[0, 0], np.zeros_like(memory))


class Lstm(Cell):
    """c = f c + i g, h = o tanh(c), gates i, f, g, o: Hochreiter and Schmidhuber (1997), Gers et al. (2000)."""

    def forwards(self, state: Array, memory: Array) -> Course:
        states = started(state, self.steps)
        kept = Kept(memory, self.steps)
        self._sums = np.zeros_like(self.given)
        self._gates = np.zeros((4, *self.given.shape))
        self._shown = np.zeros_like(self.given)
        grows: dict[tuple[Bias, bool], Growing] = {}
        shows = self.growing(np.tanh, 0.0)
        for t in range(self.steps):
            hidden = self.recurrent * states[: t + 1, t]
            put(self._sums, t, self.given[: t + 1, t] + hidden)
            gates = self._at_gates(t, grows)
            for gate, (block, _) in zip(self._gates, gates, strict=True):
                put(gate, t, block)
            (i, rows_i), (f, rows_f), (g, rows_g), (o, rows_o) = gates
            z = self.departures.of_sum(self.given[t, t], hidden[-1], self._sums[t, t] + self.biases[0].variance)
            old, new = f[-1] * kept.last, i[-1] * g[-1]
            self.departures.remember(old, new, (rows_i, rows_f, rows_g), z)
            memories = kept.step(i * g, f, rows_f.mean)
            shown, rows = shows.step(memories)
            put(self._shown, t, shown)
            put(states[1:, 1:], t, o * shown)
            answer = _average(rows_o.answer) * z + _average(rows.answer) * self.departures.memory
            self.departures.keep(answer, states[t + 1, t + 1], rows_o.kurtosis * rows.kurtosis)
        self._memories = kept.kernel
        return self.departures.course(states, kept.last)

    def _at_gates(self, t: int, grows: dict[tuple[Bias, bool], Growing]) -> list[tuple[Array, Rows]]:
        """The gates; those of one bias are alike."""
        known: dict[tuple[Bias, bool], tuple[Array, Rows]] = {}
        found = []
        for at, bias in enumerate(self.biases):
            key = bias, at == 2
            if key not in grows:
                grows[key] = self.growing(np.tanh if at == 2 else duals.sigmoid, bias.mean)
            if key not in known:
                known[key] = grows[key].step(self._sums[: t + 1, t] + bias.variance)
            found.append(known[key])
        return found

    def backwards(self, gradients: Array, memory: Array) -> Returned:
        i, f, g, o = (turned(gate) for gate in self._gates)
        to_i, to_f, to_g, to_o = self._all_slopes()
        shown, past = turned(self._shown), turned(self._memories[:-1, :-1])
        whole = flat(self._memories[1:, 1:])
        through = turned(by_steps(duals.of(duals.tanh_slope, 0.0).kernel(whole), self.steps)) * o
        at_gates = g * to_i + past * to_f + i * to_g
        means = self._mean_forget()[::-1]
        returned, carried = Kept(memory, self.steps), started(np.zeros_like(memory), self.steps)
        given, at_output = turned(gradients), shown * to_o
        for t in range(self.steps):
            at_state = given[: t + 1, t] + self.recurrent * carried[: t + 1, t]
            through_gate = _one_later(f, means, t)
            at_memory = returned.step(at_state * through[: t + 1, t], *through_gate)
            put(carried[1:, 1:], t, at_state * at_output[: t + 1, t] + at_memory * at_gates[: t + 1, t])
        total = turned(carried[1:, 1:])
        return Returned(total / 4, total / 4, self.recurrent * total[0, 0], returned.last * self._gates[1][0, 0])

    def _mean_forget(self) -> Array:
        bias = self.biases[1]
        variance = np.einsum("ttaa->ta", self._sums) + bias.variance
        return duals.of(duals.sigmoid, bias.mean).rows(variance.reshape(-1)).mean.reshape(variance.shape)

    def _all_slopes(self) -> list[Array]:
        known: dict[tuple[Bias, bool], Array] = {}
        for at, bias in enumerate(self.biases):
            key = bias, at == 2
            if key not in known:
                known[key] = self.slopes(duals.tanh_slope if at == 2 else duals.sigmoid_slope, bias, self._sums)
        return [known[bias, at == 2] for at, bias in enumerate(self.biases)]


class Gru(Cell):
    """h = u h + (1 − u) n, n = tanh(x + r (W h)), gates r, u, n: Cho et al. (2014), as PyTorch has it.

    The third bias is that of W h, which the gate r holds back as well; a fourth is that of n itself.
    """

    def forwards(self, state: Array, memory: Array) -> Course:
        del memory
        reset, update, inner_bias, bias = self.biases
        kept = Kept(state, self.steps)
        self._sums, self._at_new = np.zeros_like(self.given), np.zeros_like(self.given)
        self._reset, self._update, self._new = (np.zeros_like(self.given) for _ in range(3))
        self._means = np.zeros((self.steps, self.samples))
        resets, updates = self.growing(duals.sigmoid, reset.mean), self.growing(duals.sigmoid, update.mean)
        news = self.growing(np.tanh, bias.mean)
        for t in range(self.steps):
            x, hidden = self.given[: t + 1, t], self.recurrent * kept.kernel[: t + 1, t]
            put(self._sums, t, x + hidden)
            r, rows_r = resets.step(self._sums[: t + 1, t] + reset.variance)
            u, rows_u = updates.step(self._sums[: t + 1, t] + update.variance)
            inner = r * (hidden + inner_bias.variance + inner_bias.mean**2)
            put(self._at_new, t, x + inner + bias.variance)
            n, rows_n = news.step(self._at_new[: t + 1, t])
            self._means[t] = rows_u.mean
            for whole, block in ((self._reset, r), (self._update, u), (self._new, n)):
                put(whole, t, block)
            left = self._left(t)
            self._depart(t, hidden[-1], inner[-1], left[-1] * n[-1], u[-1] * kept.last, (rows_r, rows_u, rows_n))
            kept.step(left * n, u, rows_u.mean)
            self.departures.keep(self.departures.state, kept.last, (rows_n.kurtosis + 3.0) / 2)
        self._inner = self.recurrent * kept.kernel[:-1, :-1] + inner_bias.variance + inner_bias.mean**2
        self._states = kept.kernel[:-1, :-1]
        return self.departures.course(kept.kernel)

    def _left(self, t: int) -> Array:
        """E[(1 − u)(1 − u′)] of the steps so far with the last of them."""
        means = self._means
        return np.asarray(1 - means[: t + 1, :, None] - means[t][None, None, :] + self._update[: t + 1, t])

    def _depart(self, t: int, hidden: Array, inner: Array, new: Array, old: Array, gates: Sequence[Rows]) -> None:
        r, u, n = (_average(rows.answer) for rows in gates)
        own, x = self.departures, self.given[t, t]
        z = own.of_sum(x, hidden, self._sums[t, t] + self.biases[0].variance)
        size = max(_size(self._at_new[t, t]), 1e-300)
        at_new = _size(x) / size * own.by_input + _size(inner) / size * (own.state + own.by_weights + r * z)
        total = max(_size(new) + _size(old), 1e-300)
        own.state = (_size(new) * n * at_new + _size(old) * (own.state + u * z)) / total

    def backwards(self, gradients: Array, memory: Array) -> Returned:
        reset, update, _, bias = self.biases
        to_r = self.slopes(duals.sigmoid_slope, reset, self._sums) * turned(self._inner)
        to_u = self.slopes(duals.sigmoid_slope, update, self._sums) * turned(self._new + self._states)
        slope = duals.of(duals.tanh_slope, bias.mean).kernel(flat(self._at_new))
        left = 1 - self._means[:, None, :, None] - self._means[None, :, None, :] + self._update
        to_n = turned(by_steps(slope, self.steps) * left)
        r, u = turned(self._reset), turned(self._update)
        nothing = np.zeros_like(memory)
        returned, through = Kept(nothing, self.steps), started(nothing, self.steps)
        found, given, means = np.zeros_like(gradients), turned(gradients), self._means[::-1]
        for t in range(self.steps):
            arrived = given[: t + 1, t] + self.recurrent * through[: t + 1, t]
            at_state = returned.step(arrived, *_one_later(u, means, t))
            at_n = at_state * to_n[: t + 1, t]
            at_r, at_u = at_n * to_r[: t + 1, t], at_state * to_u[: t + 1, t]
            put(found, t, at_r + at_u + at_n)
            put(through[1:, 1:], t, at_r + at_u + at_n * r[: t + 1, t])
        inputs, hidden = turned(found), turned(through[1:, 1:])
        start = self.recurrent * hidden[0, 0] + returned.last * self._update[0, 0]
        return Returned(inputs / 3, hidden / 3, start, nothing)


def _one_later(gate: Array, means: Array, t: int) -> tuple[Array, Array]:
    """On the way back, what a gate lets through from the step after: all, behind the last. Its kernel, and its mean."""
    if t == 0:
        return np.ones((1, *gate.shape[2:])), np.ones(gate.shape[2])
    mean = means[t - 1]
    first = np.broadcast_to(mean, (1, len(mean), len(mean)))
    return np.concatenate([first, gate[:t, t - 1]]), mean


def _size(kernel: Array) -> float:
    """E[x²]."""
    return float(kernel.trace()) / len(kernel)


def _average(values: Array) -> float:
    return float(values.mean())


class _Departures:
    """How log E[h²] answers to departures, step by step: of the input's part, and of the recurrent weights."""

    by_input, by_weights = np.array([1.0, 0.0]), np.array([0.0, 1.0])

    def __init__(self) -> None:
        self.state, self.memory = np.zeros(2), np.zeros(2)
        self._kept: list[Array] = []
        self._sizes: list[float] = []
        self._kurtosis: list[float] = []

    def of_sum(self, x: Array, hidden: Array, total: Array) -> Array:
        """Of a gate's sum."""
        size = max(_size(total), 1e-300)
        return np.asarray(_size(x) / size * self.by_input + _size(hidden) / size * (self.state + self.by_weights))

    def remember(self, old: Array, new: Array, gates: Sequence[Rows], z: Array) -> None:
        """Of an LSTM's memory."""
        i, f, g = (_average(rows.answer) for rows in gates)
        total = max(_size(old) + _size(new), 1e-300)
        self.memory = (_size(old) * (f * z + self.memory) + _size(new) * (i + g) * z) / total

    def keep(self, answer: Array, state: Array, kurtosis: Array) -> None:
        """The output of a step is known."""
        self.state = answer
        self._kept.append(answer)
        self._sizes.append(_size(state))
        self._kurtosis.append(_average(kurtosis))

    def course(self, states: Array, memory: Array | None = None) -> Course:
        """All steps together."""
        sizes = np.array(self._sizes)
        shares = sizes / max(float(sizes.sum()), 1e-300)
        answer, kurtosis = shares @ np.array(self._kept), float(shares @ np.array(self._kurtosis))
        return Course(states[1:, 1:], states[:-1, :-1], memory, answer, kurtosis)


#: By the name of PyTorch's function: the cell, and how many gates it has.
CELLS: dict[str, tuple[type[Cell], int]] = {"lstm": (Lstm, 4), "gru": (Gru, 3), "rnn_tanh": (Tanh, 1)}
