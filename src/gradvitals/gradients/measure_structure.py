"""What holds of every backward pass, whatever the function.

It gives zero for a zero cotangent and is linear in it; the same numbers give the same gradient however they lie in
memory; it leaves the cotangent as it came, and asked again it says the same. One forward pass serves for all of these
questions, as long as its backward pass can be repeated; a suspicion must repeat itself on forward passes of its own.
How the function is called is another matter, see ``measure_calls``.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradvitals.frameworks.problem import Array, Gradient, Problem
from gradvitals.frameworks.pullback import ALONE, Pull, Pullback
from gradvitals.gradients.asking import ALIKE, Asking, Fault, Gradients, Rounding, joined, rounding_of
from gradvitals.gradients.measure_calls import Calls
from gradvitals.gradients.outcome import Measurement

#: The cotangent is multiplied by this: neither its sign nor its size may matter, and a power of two rounds nothing.
_MULTIPLE = -2.0
#: What comes for a zero cotangent may be this many unit roundoffs of the gradient: a sum of zeros is zero, and no
#: operation of ``benchmarks/gradients_operators.py`` gives anything else.
_ZERO_UNITS = 1 / 16
#: Forward passes of an examination that finds nothing, at most.
_USUAL_FORWARDS = 5
#: Of many outputs, so many are sent alone.
_MOST_OUTPUTS = 8
_STRIDED = ("transposed", "sliced", "channels-last")


@dataclass(frozen=True, slots=True)
class Structure:
    """The faults that were found, how much the gradient differs when asked again (relative), and what it took.

    ``shares_cotangents`` says whether a backward pass that writes into the cotangent spoils somebody else's gradient.
    """

    faults: tuple[Fault, ...] = ()
    spread: float = 0.0
    forwards: int = 0
    backwards: int = 0
    shares_cotangents: bool = True


def examine_structure(
    problem: Problem,
    cotangent: Array,
    gradients: Sequence[Gradient],
    rng: np.random.Generator,
    *,
    value: Array | None = None,
) -> Structure:
    """Ask a backward pass what every backward pass must answer alike.

    Parameters
    ----------
    problem : Problem
        Of one that isn't :class:`~gradvitals.frameworks.pullback.Pullable`, cotangents have no memory layouts.
    cotangent : array of shape (M,)
        The cotangent with which gradients were checked; 1 for a loss.
    gradients : sequence of Gradient
        What the backward pass gave for it.
    rng : numpy.random.Generator
    value : array of shape (M,), optional
        The function's value.

    Returns
    -------
    Structure

    """
    if getattr(problem, "pullback", problem) is None:  # a gradient that takes no cotangent
        return Structure()
    asking = Asking(problem)
    claimed = asking.flat(gradients)
    if claimed is None or not any(np.isfinite(g).all() for g in claimed) or not np.any(cotangent):
        return Structure()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some operators warn of strided inputs, which the user never gave
        calls = Calls(asking, cotangent, claimed, value, rng)
        pullback = calls.start()
        if pullback is None:
            return Structure(forwards=asking.forwards)
        cotangents = _Cotangents(asking, pullback, cotangent, claimed, rng)
        if cotangents.first is None:  # strided inputs, at which only the backward pass takes offence
            pullback = calls.start_plainly()
            if pullback is None:
                return Structure(forwards=asking.forwards)
            cotangents = _Cotangents(asking, pullback, cotangent, claimed, rng)
        faults = cotangents.faults()
        faults += calls.faults(cotangents.first, lambda: cotangents.rounding, spread=cotangents.spread)
    shares = getattr(problem, "shares_cotangents", False)
    return Structure(tuple(faults), cotangents.spread, asking.forwards, asking.backwards, shares)


def structure_of(problem: Problem, measured: Measurement, *, seed: int, left: int | None = None) -> Structure:
    """The structure of a backward pass that was measured, where there are evaluations left for it.

    Parameters
    ----------
    problem : Problem
    measured : Measurement
    seed : int
    left : int, optional
        How many evaluations there are left.

    """
    if measured.base is None or (left is not None and left < _USUAL_FORWARDS):
        return Structure()
    base = measured.base
    rng = np.random.default_rng(seed)
    return examine_structure(problem, base.cotangent, [Gradient(g) for g in base.gradients], rng, value=base.value)


class _Cotangents:
    """Several cotangents through one forward pass."""

    def __init__(
        self, asking: Asking, pullback: Pullback, cotangent: Array, claimed: Gradients, rng: np.random.Generator
    ) -> None:
        self._asking = asking
        self._pullback = pullback
        self._weights = cotangent
        self._rng = rng
        self._repeatable = True
        self._known: dict[bytes, Gradients | None] = {}
        self._modified: list[str] = []
        self._claimed = claimed
        self.spread = 0.0
        self._follows = self._gives_a_multiple(claimed)
        #: What the forward pass gives for the cotangent itself, None where it raises.
        self.first = claimed if self._follows else self._plain(cotangent)

    def faults(self) -> list[Fault]:
        """All faults that show in how cotangents are treated."""
        if self.first is None:
            return []
        found = [] if self._follows else self._repeated()
        if self._weights.size > 1:
            self._see_rounding()
        found += self._linear()
        if self._weights.size > 1:
            found += self._layouts()
        if len(self._asking.problem.output_sizes) > 1:
            found += self._outputs_alone()
        if self._modified:
            everything = tuple(range(len(self._asking.problem.tensors)))
            found.append(Fault("modifies-cotangent", everything, layouts=tuple(dict.fromkeys(self._modified))))
            # What can't be written into several times over raises: that is the same fault.
            found = [fault for fault in found if not (fault.raised and fault.kind == "cotangent-expanded")]
        return found

    def _ask(self, cotangent: Array, layout: str = "plain") -> Pull:
        pullback = self._pullback if self._repeatable else self._asking.forward()
        pull = self._asking.send(pullback or self._pullback, cotangent, layout)
        if pull.modified:
            self._modified.append(layout)
        return pull

    def _fresh(self, cotangent: Array, layout: str = "plain") -> Pull:
        """Through a forward pass of its own."""
        return self._asking.send(self._asking.forward() or self._pullback, cotangent, layout)

    def _plain(self, cotangent: Array) -> Gradients | None:
        key = cotangent.tobytes()
        if key not in self._known:
            self._known[key] = self._asking.read(self._ask(cotangent))
        return self._known[key]

    def _gives_a_multiple(self, claimed: Gradients) -> bool:
        """Whether a multiple of the cotangent by a power of two gives that multiple of the gradient to the last bit.

        Where no backward pass is the user's own, it needn't be sent itself then, and not twice: another forward pass
        has given the same, and the framework's own backward passes remember nothing.
        """
        if self._asking.problem.hand_written() != ():
            return False
        multiple = self._plain(_MULTIPLE * self._weights)
        if multiple is not None and not self._differs(multiple, tuple(_MULTIPLE * g for g in claimed)):
            return True
        self._known.clear()
        return False

    def _repeated(self) -> list[Fault]:
        """Ask the same again: through the same forward pass, and where that differs, through others."""
        first = self.first or ()
        again = self._asking.read(self._ask(self._weights))
        if again is None:  # the framework, or the function, allows one backward pass only
            self._repeatable = False
            return []
        if not self._differs(again, first):
            return []
        others = [self._asking.read(self._fresh(self._weights)) for _ in range(2)]
        if all(other is not None and not self._differs(other, first) for other in others):
            self._repeatable = False
            apart = self.rounding.apart(again, first)
            return [Fault("second-pass", tuple(apart), max(apart.values()))] if apart else []
        for other in (again, *others):
            if other is not None:
                self.rounding = self.rounding.wider(other, first)
                self.spread = max(self.spread, _relative(other, first))
        return []

    @staticmethod
    def _differs(one: Gradients, other: Gradients) -> bool:
        return not all(
            np.array_equal(a, b) or np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True)
        )

    @functools.cached_property
    def rounding(self) -> Rounding:
        """What may be rounding, by what was seen so far; only where something differs it is asked for."""
        return rounding_of(self._asking.problem, self._claimed)

    @property
    def _unmasked(self) -> Array:
        """The cotangent without zeros: an expanded one stands for all by its first, which may be left out (a kink)."""
        return np.where(self._weights == 0, self._weights[np.argmax(np.abs(self._weights))], self._weights)

    def _see_rounding(self) -> None:
        """Move the cotangent by a unit in the last place: what the gradient differs by then may be rounding."""
        roundoff = max(tensor.roundoff for tensor in self._asking.problem.tensors)
        beside = self._weights * (1 + 2 * roundoff * self._rng.choice((-1.0, 1.0), self._weights.size))
        there = self._plain(self._asking.problem.representable(beside))
        if there is not None and self.first is not None:
            self.rounding = self.rounding.wider(there, self.first)

    def _linear(self) -> list[Fault]:
        """Zero for zero, −2 times for −2 times, and for a sum the sum."""
        weights, first = self._weights, self.first or ()
        none, multiple = np.zeros_like(weights), _MULTIPLE * weights
        at_zero, at_multiple = self._plain(none), self._plain(multiple)
        if (at_zero is None or at_multiple is None) and self._repeatable and self._follows:
            self._repeatable = False  # the framework may allow one backward pass only
            self._known.clear()
            return self._linear()
        if at_zero is None or at_multiple is None:
            return self._raising([(none, "nonzero-at-zero"), (multiple, "not-linear")])
        nonzero = self._nonzero(at_zero, first)
        scaled: dict[int, float] = {}
        if not (self._follows and self._repeatable):
            scaled = self.rounding.apart(at_multiple, tuple(_MULTIPLE * g for g in first), abs(_MULTIPLE))
        summed: dict[int, float] = {}
        if weights.size > 1:
            part = np.where(self._rng.permutation(weights.size) < weights.size // 2, weights, 0.0)
            one, other = self._plain(part), self._plain(weights - part)
            if one is not None and other is not None:
                both = tuple(a + b - c for a, b, c in zip(one, other, at_zero, strict=True))
                summed = self.rounding.apart(first, both, 2.0)
        if not (nonzero or scaled or summed):
            return []
        if self._repeatable:  # seen through one forward pass: is it so through others?
            self._repeatable = False
            self._known.clear()
            again = self._linear()
            self._repeatable = bool(again)
            return [] if again and self._is_linear_in_float64() else again
        found = []
        unmoved = set(scaled) - set(self.rounding.apart(at_multiple, first, abs(_MULTIPLE)))
        if unmoved:
            found.append(Fault("ignores-cotangent", tuple(sorted(unmoved)), max(scaled[at] for at in unmoved)))
        # A constant that is added makes nothing else wrong.
        affine = tuple(_MULTIPLE * (g - z) + z for g, z in zip(first, at_zero, strict=True))
        bent = (set(self.rounding.apart(at_multiple, affine, abs(_MULTIPLE))) | set(summed)) - unmoved
        bent |= {at for at in scaled if not np.isfinite(at_zero[at]).all()} - unmoved
        if bent:
            worst = max({**nonzero, **summed, **scaled}.get(at, 0.0) for at in bent)
            found.append(Fault("not-linear", tuple(sorted(bent)), worst))
        added = set(nonzero) - unmoved - bent
        if added:
            found.append(Fault("nonzero-at-zero", tuple(sorted(added)), max(nonzero[at] for at in added)))
        return found

    def _is_linear_in_float64(self) -> bool:
        """Whether the same backward pass is linear when it is computed in float64: then it is only imprecise."""
        shadow = self._asking.problem.shadow()
        if shadow is None:
            return False
        part = np.where(np.arange(self._weights.size) % 2, self._weights, 0.0)
        sent = (self._weights, 0 * self._weights, _MULTIPLE * self._weights, part, self._weights - part)
        pulled = [shadow.wide_gradient(cotangent) for cotangent in sent]
        found = [None if gradients is None else self._asking.flat(gradients) for gradients in pulled]
        if any(gradients is None for gradients in found):
            return False
        first, zero, multiple, one, other = (gradients or () for gradients in found)
        rounding = Rounding(ALIKE[0][1], tuple(0.0 for _ in first))
        return not (
            self._nonzero(zero, first)
            or rounding.apart(multiple, tuple(_MULTIPLE * g for g in first))
            or rounding.apart(tuple(a + b for a, b in zip(one, other, strict=True)), first)
        )

    def _nonzero(self, at_zero: Gradients, first: Gradients) -> dict[int, float]:
        """What comes for a zero cotangent, relative to the gradient: no rounding makes something of nothing."""
        found = {}
        for at, (tensor, zero, gradient) in enumerate(zip(self._asking.problem.tensors, at_zero, first, strict=True)):
            if not zero.any():
                continue
            if np.isfinite(gradient).all() and not _norm(zero) <= _ZERO_UNITS * tensor.roundoff * _norm(gradient):
                relative = _norm(zero) / (_norm(gradient) or 1.0)
                found[at] = relative if np.isfinite(relative) else np.inf
        return found

    def _raising(self, cotangents: Sequence[tuple[Array, str]]) -> list[Fault]:
        """Faults for the cotangents on which the backward pass raises, on a forward pass of its own as well."""
        everything = tuple(range(len(self._asking.problem.tensors)))
        found = []
        for cotangent, kind in cotangents:
            raised = self._fresh(cotangent).raised
            if raised:
                found.append(Fault(kind, everything, np.inf, raised=raised))
        if not found:
            self._repeatable = False
        return found

    def _layouts(self) -> list[Fault]:
        seen: list[Fault] = []
        for layout in self._asking.layouts:
            fault = self._in_layout(layout, fresh=False)
            if fault is not None and self._repeatable:
                fault = self._in_layout(layout, fresh=True)
            if fault is not None:
                seen.append(fault)
        found = []
        for raising in (False, True):
            group = [fault for fault in seen if bool(fault.raised) is raising]
            # Code that takes the entries for contiguous fails in all layouts: that is one cause.
            strided = [fault for fault in group if fault.layouts[0] in _STRIDED]
            kind = "cotangent-strides" if strided else "cotangent-expanded"
            if group:
                found.append(replace(joined(group), kind=kind))
        return found

    def _outputs_alone(self) -> list[Fault]:
        """Where one of several outputs alone is used, nothing comes for the others: that is no cotangent of zeros."""
        if not getattr(self._asking.problem, "sends_alone", False):
            return []
        found, start = list[Fault](), 0
        for size in self._asking.problem.output_sizes[:_MOST_OUTPUTS]:
            alone = np.zeros_like(self._weights)
            alone[start : start + size] = self._weights[start : start + size]
            start += size
            if not alone.any():
                continue
            fault = self._with_one(alone, fresh=False)
            if fault is not None and self._repeatable:
                fault = self._with_one(alone, fresh=True)
            if fault is not None:
                found.append(fault)
        groups = ([fault for fault in found if bool(fault.raised) is raising] for raising in (False, True))
        return [joined(group) for group in groups if group]

    def _with_one(self, alone: Array, *, fresh: bool) -> Fault | None:
        pull = self._fresh(alone, ALONE) if fresh else self._ask(alone, ALONE)
        if pull.raised:
            everything = tuple(range(len(self._asking.problem.tensors)))
            return Fault("output-alone", everything, np.inf, raised=pull.raised)
        found, expected = self._asking.read(pull), self._plain(alone)
        if found is None or expected is None:
            return None
        apart = self.rounding.apart(found, expected)
        return Fault("output-alone", tuple(apart), max(apart.values())) if apart else None

    def _in_layout(self, layout: str, *, fresh: bool) -> Fault | None:
        sent = self._weights if layout in _STRIDED else self._unmasked
        pull = self._fresh(sent, layout) if fresh else self._ask(sent, layout)
        everything = tuple(range(len(self._asking.problem.tensors)))
        if pull.raised:
            return Fault("cotangent-strides", everything, np.inf, (layout,), pull.raised)
        found, expected = self._asking.read(pull), self._plain(pull.sent)
        if found is None or expected is None:
            return None
        apart = self.rounding.apart(found, expected)
        return Fault("cotangent-strides", tuple(apart), max(apart.values()), (layout,)) if apart else None


def _norm(gradient: Array) -> float:
    return float(np.linalg.norm(gradient))


def _relative(found: Gradients, expected: Gradients) -> float:
    """The largest relative difference (2-norm) among gradients that are more than nothing."""
    sizes = [(_norm(b), _norm(a - b)) for a, b in zip(found, expected, strict=True) if np.isfinite(b).all()]
    largest = max((size for size, _ in sizes), default=0.0)
    return max((difference / size for size, difference in sizes if size > 1e-6 * largest), default=0.0)
