"""However a function is called, its gradient is the same.

Inputs that lie in memory in strides, one input for two arguments, another call before the backward pass, only some
tensors that require a gradient: none of it may change what comes back. And forward mode must agree with reverse mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gradvitals.frameworks.problem import Array
from gradvitals.frameworks.pullback import Pullback
from gradvitals.gradients.asking import WELL_ABOVE, Asking, Fault, Gradients, Rounding, alike_within

#: Inputs are moved towards zero by this share: away from the point, and hardly ever out of a function's domain.
_SHARE_MOVED = 1 / 16

#: An input's numbers elsewhere, by tensor number.
_Moved = dict[int, Array]


class Calls:
    """Several ways of calling one function.

    Parameters
    ----------
    asking : Asking
    cotangent : array of shape (M,)
    claimed : tuple of arrays
        The gradients for it.
    value : array of shape (M,), optional
        The function's value.
    rng : numpy.random.Generator

    """

    def __init__(
        self, asking: Asking, cotangent: Array, claimed: Gradients, value: Array | None, rng: np.random.Generator
    ) -> None:
        self._asking = asking
        self._tensors = asking.problem.tensors
        self._weights = cotangent
        self._claimed = claimed
        self._value = value
        self._rng = rng
        self._inputs = [at for at, tensor in enumerate(self._tensors) if tensor.role == "input"]
        self._strided: Pullback | None = None
        self._refused = ""
        self._has_forward_mode = False
        self._elsewhere: _Moved = {}
        self._layout = "plain"
        self._pairs: tuple[tuple[int, int], ...] = ()
        self._halves: list[tuple[tuple[int, ...], Pullback]] = []

    def start(self) -> Pullback | None:
        """The forward pass with strided inputs, or with plain ones where the function refuses those; and where a
        backward pass of the user's own is behind it, other calls before anything is sent back.
        """
        pullback = self._asking.forward(layout="strided")
        if pullback is None or pullback.value.size != self._weights.size or self._is_dealt_anew(pullback):
            pullback = self._asking.forward()
        else:
            self._strided = pullback if self._inputs else None
        if pullback is not None and pullback.own_backward:
            self._has_forward_mode = pullback.own_forward_mode
            self._call_elsewhere()
        return pullback

    def _is_dealt_anew(self, strided: Pullback) -> bool:
        """Whether random numbers were dealt out in the order of memory: then it is another function that was called."""
        self._strided = strided if strided.draws else None
        differs = self._strided is not None and self._value_differs()
        self._strided = None
        return differs

    def start_plainly(self) -> Pullback | None:
        """The forward pass with plain inputs, where the backward pass raises with strided ones."""
        if self._strided is not None:
            self._refused = self._asking.send(self._strided, self._weights).raised
        self._strided = None
        return self._asking.forward()

    def faults(self, first: Gradients | None, rounding: Callable[[], Rounding], *, spread: float) -> list[Fault]:
        """All faults that show in how the function is called.

        Parameters
        ----------
        first : tuple of arrays or None
            What the first forward pass gave for the cotangent.
        rounding : callable
            Gives what may be rounding; asked only where something is to be compared.
        spread : float
            How much gradients differ when asked again.

        """
        same = (first is None or first is self._claimed) and not self._value_differs()
        found = [] if same else self._at_the_point(first, rounding())
        if self._refused and first is not None:
            everything = tuple(range(len(self._tensors)))
            found.append(Fault("input-strides", everything, np.inf, ("strided",), self._refused))
        if self._halves:
            # Some read memory as it lies, by their nature: torch.as_strided.
            by_nature = any(fault.kind == "value-strides" for fault in found)
            found += [f for f in self._at_the_other(rounding()) if not (by_nature and f.kind == "input-strides")]
        if self._has_forward_mode:  # the framework's own drops, without a word, what has none
            found += self._forward_mode(spread)
        return found

    def _call_elsewhere(self) -> None:
        """Call the function at another point, half of its tensors requiring gradients at a time."""
        every = tuple(range(len(self._tensors)))
        halves = [half for half in (every[::2], every[1::2]) if half]
        for equal in (True, False):
            self._move(equal=equal)
            passes = [self._asking.forward(self._elsewhere, only=half if len(halves) > 1 else None) for half in halves]
            made = [(half, done) for half, done in zip(halves, passes, strict=True) if done is not None]
            if len(made) == len(halves) and all(np.isfinite(done.value).all() for _, done in made):
                self._halves = made
                return

    def _move(self, *, equal: bool) -> None:
        """Choose the other point, where rows are equal and of two inputs of one shape the second is like the first."""
        problem = self._asking.problem
        point = {at: problem.rounded(at, (1 - _SHARE_MOVED) * problem.point(at)) for at in self._inputs}
        self._layout, self._pairs = "plain", ()
        if equal:
            if any(self._has_rows(at) for at in self._inputs):
                self._layout = "expanded-rows"
                point = {at: self._with_equal_rows(at, x) for at, x in point.items()}
            kinds = [(self._tensors[at].shape, self._tensors[at].dtype) for at in self._inputs]
            again = next((at for at, kind in enumerate(kinds) if kind in kinds[:at]), None)
            if again is not None:
                one, other = self._inputs[kinds.index(kinds[again])], self._inputs[again]
                point[other] = point[one]
                self._pairs = ((one, other),)
        self._elsewhere = point

    def _has_rows(self, at: int) -> bool:
        shape = self._tensors[at].shape
        return len(shape) > int(self._tensors[at].is_complex) and shape[0] > 1

    def _with_equal_rows(self, at: int, x: Array) -> Array:
        if not self._has_rows(at):
            return x
        rows = x.reshape(self._tensors[at].shape[0], -1)
        return np.tile(rows[0], len(rows))

    def _at_the_point(self, first: Gradients | None, rounding: Rounding) -> list[Fault]:
        """The first call, with strided inputs and others in between, against what was claimed."""
        apart = rounding.apart(first, self._claimed) if first is not None else {}
        if not apart and not self._value_differs():
            return []
        everything = tuple(range(len(self._tensors)))
        rounding = self._rounding_around({}, rounding)
        plain = self._asking.gradients(self._asking.forward(), self._weights)
        strided = self._asking.gradients(self._asking.forward(layout="strided"), self._weights)
        if plain is None or rounding.apart(plain, self._claimed):
            return []  # it isn't the same when asked again, however it is called
        if self._value_differs():
            return [Fault("value-strides", everything, self._value_apart())]
        if self._strided is not None and strided is not None:
            apart = rounding.apart(strided, plain)
            if apart:
                return [Fault("input-strides", tuple(apart), max(apart.values()), ("strided",))]
        one = self._asking.forward()
        self._asking.forward(self._elsewhere)
        late = self._asking.gradients(one, self._weights)
        apart = rounding.apart(late, plain) if late is not None else {}
        return [Fault("call-between", tuple(apart), max(apart.values()))] if apart else []

    def _value_apart(self) -> float:
        """Relative difference between the value with strided inputs and the value."""
        if self._strided is None or self._value is None:
            return 0.0
        size = float(np.linalg.norm(self._value))
        difference = float(np.linalg.norm(self._strided.value - self._value))
        return difference / size if size and np.isfinite(difference) else 0.0

    def _value_differs(self) -> bool:
        return self._value_apart() > alike_within(self._asking.problem)

    def _rounding_around(self, moved: _Moved, rounding: Rounding) -> Rounding:
        """Widened by how much gradients differ a unit in the last place away."""
        problem = self._asking.problem
        here = self._asking.gradients(self._asking.forward(moved), self._weights)
        for _ in range(2):
            point = {at: moved.get(at, problem.point(at)) for at in self._inputs}
            beside = {
                at: x * (1 + 2 * self._tensors[at].roundoff * self._rng.choice((-1.0, 1.0), x.size))
                for at, x in point.items()
            }
            there = self._asking.gradients(self._asking.forward(beside), self._weights)
            if here is not None and there is not None:
                rounding = rounding.wider(there, here)
        return rounding

    def _at_the_other(self, rounding: Rounding) -> list[Fault]:
        """The other point in a way of its own (expanded inputs, one input twice) against the plain way there."""
        if any(done.value.size != self._weights.size for _, done in self._halves):
            return []
        expected = self._from_halves()
        if expected is None or not all(np.isfinite(g).all() for g in expected):
            return []
        found = self._together(self._layout, self._pairs)
        if found is None and self._pairs:  # a function may refuse expanded inputs: it writes into them, say
            self._layout = "plain"
            found = self._together("plain", self._pairs)
        if found is None:
            self._pairs = ()
            found = self._together("plain", ())
        if found is None or not self._apart_summed(found, expected, rounding, self._pairs):
            return []
        rounding = self._rounding_around(self._elsewhere, rounding)
        if not self._apart_summed(found, expected, rounding, self._pairs):
            return []
        return self._told_apart(expected, rounding)

    def _told_apart(self, halves: Gradients, rounding: Rounding) -> list[Fault]:
        """Which of the ways it was that made the difference."""
        plain = self._together("plain", ())
        if plain is None:
            return []
        found = []
        apart = rounding.apart(halves, plain)
        if apart:
            found.append(Fault("needs-input-grad", tuple(apart), max(apart.values())))
        for kind, layout, pairs in (("input-strides", self._layout, ()), ("double-use", "plain", self._pairs)):
            if layout == "plain" and not pairs:
                continue
            own = self._together(layout, pairs)
            apart = self._apart_summed(own, plain, rounding, pairs) if own is not None else {}
            if apart:
                found.append(Fault(kind, tuple(apart), max(apart.values()), () if pairs else (layout,)))
        return found

    def _together(self, layout: str, pairs: Sequence[tuple[int, int]]) -> Gradients | None:
        """All gradients at the other point; None where the function gives another value or none."""
        done = self._asking.forward(self._elsewhere, layout=layout, shared=pairs)
        reference = self._halves[0][1].value
        if done is None or done.value.size != reference.size:
            return None
        apart = float(np.linalg.norm(done.value - reference))
        share = alike_within(self._asking.problem)
        # Written in place, one input is the other one: that is another function.
        if not apart <= share * float(np.linalg.norm(reference)):
            return None
        return self._asking.gradients(done, self._weights)

    def _from_halves(self) -> Gradients | None:
        gradients: list[Array] = [np.zeros(tensor.size) for tensor in self._tensors]
        for half, done in self._halves:
            part = self._asking.gradients(done, self._weights)
            if part is None:
                return None
            for at in half:
                gradients[at] = part[at]
        return tuple(gradients)

    def _apart_summed(
        self, found: Gradients, expected: Gradients, rounding: Rounding, pairs: Sequence[tuple[int, int]]
    ) -> dict[int, float]:
        """Compare, summed over rows that may have been one, and over inputs that were one."""
        sums = [self._summed(g, pairs) for g in (found, expected)]
        return rounding.apart(sums[0], sums[1], 2.0)

    def _summed(self, gradients: Gradients, pairs: Sequence[tuple[int, int]]) -> Gradients:
        summed = [
            g.reshape(self._tensors[at].shape[0], -1).sum(axis=0)
            if self._layout == "expanded-rows" and at in self._inputs and self._has_rows(at)
            else g
            for at, g in enumerate(gradients)
        ]
        for one, other in pairs:
            summed[one] = summed[one] + summed[other]
            summed[other] = np.zeros_like(summed[other])
        return tuple(summed)

    def _forward_mode(self, spread: float) -> list[Fault]:
        """⟨w, J u⟩ by forward mode against ⟨Jᵀw, u⟩ by reverse mode, all tensors at once and then one by one."""
        everything = tuple(range(len(self._tensors)))
        if not all(np.isfinite(g).all() for g in self._claimed) or not self._forward_apart(everything, spread):
            return []
        apart = {at: self._forward_apart((at,), spread) for at in everything}
        differing = {at: relative for at, relative in apart.items() if relative}
        return [Fault("forward-reverse-differ", tuple(differing), max(differing.values()))] if differing else []

    def _forward_apart(self, moving: Sequence[int], spread: float) -> float:
        """By how much the two modes differ along a random direction, relatively; zero within rounding."""
        problem = self._asking.problem
        scales = {at: float(np.sqrt(np.mean(np.square(problem.point(at))))) or 1.0 for at in moving}
        direction = {at: scale * self._rng.standard_normal(self._tensors[at].size) for at, scale in scales.items()}
        direction = {at: problem.rounded(at, u) for at, u in direction.items()}
        self._asking.forwards += 1
        tangent = problem.tangent(direction)
        if tangent is None or tangent.size != self._weights.size or not np.isfinite(tangent).all():
            return 0.0
        forwards = self._weights * tangent
        backwards = np.concatenate([self._claimed[at] * u for at, u in direction.items()])
        size = float(np.hypot(np.linalg.norm(forwards), np.linalg.norm(backwards)))
        share = alike_within(problem) + WELL_ABOVE * spread
        difference = abs(float(forwards.sum() - backwards.sum()))
        return difference / size if difference > share * size else 0.0
