"""Which layer is at fault: after a failure, calls of layers are re-checked alone.

A wrong backward pass spoils the gradient of everything before it. So only layers are looked at behind which, on the
way back, all is wrong: where a right gradient comes back through a layer's input, that layer and all behind it passed
it on rightly. Of these, containers come before their parts, so that one right container clears all in it; and where
parts are at fault, the container's own code is looked at with its parts replaced by what they gave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.layer_calls import CannotReplay, LayerCall, View, layer_calls
from gradvitals.frameworks.problem import Array, Gradient, Tensor
from gradvitals.gradients.counted import BudgetSpent
from gradvitals.gradients.measure import measure
from gradvitals.gradients.outcome import Measurement
from gradvitals.vocabulary.errors import GradvitalsError

#: Calls that are re-checked at most: a recurrent net makes thousands, of few layers.
MOST_CALLS = 300
#: Evaluations for a call at most. A right one takes 40 to 90. Of one with parts only whether it is right matters (else
#: they are looked at), of the others also what kind of mistake it is.
_WITH_PARTS, _WITHOUT = 400, 2000
#: With fewer than these there is no use in beginning.
_LEAST = 40
#: A call that took this share of them isn't cleared.
_NEARLY = 0.8
#: A backward pass is linear: what it makes of a sum may differ from the sum of what it makes, in 2-norm, by this many
#: unit roundoffs. It only chooses what is examined once more (measured: at most 3.2 over all calls of the networks of
#: ``tests/oracles/planted.py`` in float64, float32 and bfloat16).
_LINEAR_WITHIN = 100.0
#: A gradient that is right shows that all behind it is; but one so many unit roundoffs of the largest gradient may be
#: nothing but rounding, which shows nothing (measured: at most 1.6 for a bias in front of batch norm, same networks).
_ROUNDING = 1000.0


@dataclass(frozen=True, slots=True)
class Examined:
    """One call of a layer: right, wrong, inherits (a part of it is at fault), unresolved or not-examined, and why."""

    path: str
    call: int
    kind: str
    status: str
    resolution: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """A layer whose own backward pass is wrong.

    ``tensors`` and ``measured`` are those of the layer alone; ``explains`` the case's tensors whose gradient is wrong
    because of it, ``own`` those among them that are parameters of its own, wrong by themselves; ``functions`` the
    backward passes written by hand in its code.
    """

    path: str
    kind: str
    tensors: tuple[Tensor, ...]
    measured: Measurement
    explains: tuple[str, ...]
    own: tuple[str, ...]
    functions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LayersMeasured:
    """What the re-check of layers showed, and what it took."""

    rows: tuple[Examined, ...] = ()
    faults: tuple[Fault, ...] = ()
    evaluations: int = 0
    backwards: int = 0


@dataclass(slots=True)
class _Alone:
    """What was seen of one call."""

    status: str
    tensors: tuple[Tensor, ...] = ()
    measured: Measurement | None = None
    resolution: float | None = None
    reason: str = ""
    upstream: Mapping[str, frozenset[str]] = field(default_factory=dict)


def layers_at_fault(
    case: Case,
    wrt: Any,
    tensors: Sequence[Tensor],
    measured: Measurement,
    *,
    sensitivity: float,
    seed: int,
    precision: str = "auto",
    budget: int | None = None,
) -> LayersMeasured:
    """Find the layers at fault where a check of a case has failed; where it hasn't, nothing is run."""
    if not measured.value_finite or all(outcome.status != "wrong" for outcome in measured.outcomes):
        return LayersMeasured()
    try:
        with layer_calls(case, wrt) as calls:
            return measure_layers(
                calls, tensors, measured, sensitivity=sensitivity, seed=seed, precision=precision, budget=budget
            )
    except GradvitalsError:  # the model doesn't run once more, watched
        return LayersMeasured((Examined(case.subject, 0, "", "not-examined", reason="raises"),))


def measure_layers(
    calls: Sequence[LayerCall],
    tensors: Sequence[Tensor],
    measured: Measurement,
    *,
    sensitivity: float,
    seed: int,
    precision: str = "auto",
    budget: int | None = None,
) -> LayersMeasured:
    """Find the layers at fault for what was found wrong.

    Parameters
    ----------
    calls : sequence of LayerCall
    tensors : sequence of Tensor
        The case's, with what was measured of them.
    measured : Measurement
    sensitivity, seed, precision
        As for ``measure``.
    budget : int, optional
        The most evaluations of layers, all together.

    """
    if len(calls) < 2:
        return LayersMeasured()  # one layer alone: the tensors say all
    wrong = {t.path for t, o in zip(tensors, measured.outcomes, strict=True) if o.status == "wrong"}
    strengths = [0.0 if g.value is None else float(np.linalg.norm(g.value)) for g in measured.gradients]
    least = min(0.1, _ROUNDING * max(tensor.roundoff for tensor in tensors)) * max(strengths, default=0.0)
    right = {
        tensor.path
        for tensor, outcome, strength in zip(tensors, measured.outcomes, strengths, strict=True)
        if outcome.status == "right" and strength > least
    }
    search = _Search(calls, wrong, right, (sensitivity, seed, precision), budget)
    search.examine()
    return search.found()


class _Search:
    """Goes down from the outermost calls, the last one first; remembers what each showed."""

    def __init__(
        self,
        calls: Sequence[LayerCall],
        wrong: set[str],
        right: set[str],
        settings: tuple[float, int, str],
        budget: int | None,
    ) -> None:
        self._calls = calls
        self._wrong, self._right = wrong, right
        self._sensitivity, self._seed, self._precision = settings
        self._budget = budget
        self._children: dict[int | None, list[int]] = {}
        for at, call in enumerate(calls):
            self._children.setdefault(call.parent, []).append(at)
        self._seen: dict[int, _Alone] = {}
        self._at_fault: dict[int, _Alone] = {}
        self._evaluations = self._backwards = self._count = 0

    def examine(self) -> None:
        """Look at the suspects; where none of them is at fault, at everything that is connected with what is wrong."""
        roots = list(reversed(self._children.get(None, [])))
        for strictly in (True, False):
            suspects = self._suspects(self._wrong - self._explained(), strictly=strictly)
            for root in roots:
                self._below(root, suspects)
        if self._at_fault:
            return
        for root in roots:
            alone = self._examined(root)
            own = None if alone.status == "right" else self._own_code(root)
            if own is not None or alone.status == "wrong":
                self._at_fault[root] = own or alone

    def found(self) -> LayersMeasured:
        rows = [
            Examined(call.path, call.call, call.kind, alone.status, alone.resolution, alone.reason)
            for at, call in enumerate(self._calls)
            if (alone := self._seen.get(at)) is not None
        ]
        faults = tuple(self._fault(at, alone) for at, alone in sorted(self._at_fault.items()))
        return LayersMeasured(tuple(rows), faults, self._evaluations, self._backwards)

    def _suspects(self, wrong: set[str], *, strictly: bool) -> set[int]:
        """Calls with a tensor through which a wrong gradient went back; strictly, no right one beside it."""
        suspects = set()
        for at, call in enumerate(self._calls):
            behind = [tensors for tensors in call.upstream.values() if tensors & wrong]
            if any(not (strictly and tensors & self._right) for tensors in behind):
                suspects.add(at)
        for at in sorted(suspects, reverse=True):  # a part is reached through what holds it
            parent = self._calls[at].parent
            if parent is not None:
                suspects.add(parent)
        return suspects

    def _explained(self) -> set[str]:
        """What is wrong because of the faults that are known."""
        return {path for at, alone in self._at_fault.items() for path in self._fault(at, alone).explains}

    def _below(self, at: int, suspects: Iterable[int]) -> bool:
        """Whether a fault was found in the parts of a call, or in its own code beside them."""
        children = [child for child in reversed(self._children.get(at, [])) if child in suspects]
        found = [self._visit(child, suspects) for child in children]
        if not any(found):
            return False
        own = self._own_code(at)
        if own is not None:
            self._at_fault[at] = own
        return True

    def _visit(self, at: int, suspects: Iterable[int]) -> bool:
        """Whether there is a fault in a call."""
        if at in self._seen:
            return self._seen[at].status in {"wrong", "inherits"}
        if any(self._calls[known].path == self._calls[at].path for known in self._at_fault):
            self._seen[at] = _Alone("not-examined", reason="known-at-fault")
            return True
        alone = self._examined(at)
        if alone.status == "right":
            return False
        if self._below(at, suspects):
            alone.status = "wrong" if at in self._at_fault else "inherits"
            return True
        own = self._own_code(at)
        if own is None and self._cut_outputs(at):
            alone.status = "inherits"
            return True
        if own is None and alone.status != "wrong":
            return False
        self._at_fault[at] = own or alone
        return True

    def _cut_outputs(self, at: int) -> bool:
        """Whether a part gives on what no gradient can come back from, though it depends on its inputs."""
        found = False
        for child in reversed(self._children.get(at, [])):
            alone = self._measured(child, "all-outputs")
            if alone.status == "wrong":
                self._seen[child] = self._at_fault[child] = alone
                found = True
        return found

    def _own_code(self, at: int) -> _Alone | None:
        """What is wrong in a call's own code, if anything is."""
        if not self._children.get(at):
            return None
        alone = self._measured(at, "own-code")
        return alone if alone.status == "wrong" else None

    def _examined(self, at: int) -> _Alone:
        if at not in self._seen:
            alone = self._measured(at, "alone")
            if alone.status == "right" and not self._is_linear(at, alone):
                as_it_came = self._measured(at, "arrived")
                alone = as_it_came if as_it_came.status == "wrong" else alone
            self._seen[at] = alone
        return self._seen[at]

    def _measured(self, at: int, view: View) -> _Alone:
        if self._count >= MOST_CALLS:
            return _Alone("not-examined", reason="too-many-calls")
        if self._budget is not None and self._evaluations + _LEAST > self._budget:
            return _Alone("not-examined", reason="budget-spent")
        self._count += 1
        call = self._calls[at]
        budget = _WITH_PARTS if view == "alone" and self._children.get(at) else _WITHOUT
        budget = budget if self._budget is None else min(budget, self._budget - self._evaluations)
        try:
            with call.opened(view) as problem:
                tensors = problem.tensors
                measured = measure(
                    problem,
                    sensitivity=self._sensitivity,
                    seed=self._seed,
                    precision=self._precision,
                    budget=budget,
                )
        except CannotReplay as obstacle:
            return _Alone("not-examined", reason=obstacle.reason)
        except BudgetSpent:  # before anything was settled
            return _Alone("unresolved")
        except GradvitalsError:
            return _Alone("not-examined", reason="raises")
        self._evaluations += measured.evaluations
        self._backwards += measured.backwards
        if not measured.value_finite:
            return _Alone("not-examined", reason="not-finite")
        found = {outcome.status for outcome in measured.outcomes}
        status = next((status for status in ("wrong", "unresolved") if status in found), "right")
        if status == "right" and measured.evaluations > _NEARLY * budget:
            status = "unresolved"  # what took so much was a suspicion that couldn't be settled
        known = [outcome.resolution for outcome in measured.outcomes if np.isfinite(outcome.resolution)]
        return _Alone(status, tensors, measured, max(known, default=None), upstream=dict(call.upstream))

    def _is_linear(self, at: int, alone: _Alone) -> bool:
        """Whether the very gradient that came back, as it was laid out, is treated like any other."""
        call = self._calls[at]
        arrived = call.arrived
        if arrived is None or alone.measured is None:
            return True
        drawn = np.random.default_rng(0).choice((-1.0, 1.0), arrived.size)
        try:
            with call.opened("arrived") as problem:
                as_it_came = _row(problem.gradient(np.ones(1)))
            with call.opened("alone") as problem:
                one, both = (_row(problem.gradient(cotangent)) for cotangent in (drawn, drawn + arrived))
        except (CannotReplay, GradvitalsError):
            return True
        self._backwards += 3
        if not as_it_came.size == one.size == both.size:
            return False
        roundoff = max(tensor.roundoff for tensor in alone.tensors)
        size = float(np.linalg.norm(both) + np.linalg.norm(one))
        return bool(np.linalg.norm(both - one - as_it_came) <= _LINEAR_WITHIN * roundoff * size)

    def _fault(self, at: int, alone: _Alone) -> Fault:
        call = self._calls[at]
        outcomes = alone.measured.outcomes if alone.measured else ()
        pairs = zip(alone.tensors, outcomes, strict=True)
        wrong = [tensor for tensor, outcome in pairs if outcome.status == "wrong"]
        explained = set().union(*(alone.upstream.get(tensor.path, frozenset()) for tensor in wrong)) & self._wrong
        own = {tensor.path for tensor in wrong if tensor.role == "parameter"} & explained
        if alone.measured is None:
            raise TypeError(f"{call.path} was not measured")
        return Fault(
            call.path,
            call.kind,
            alone.tensors,
            alone.measured,
            tuple(sorted(explained, key=lambda path: path not in own)),
            tuple(sorted(own)),
            call.functions,
        )


def _row(gradients: Sequence[Gradient]) -> Array:
    """All gradients in one row, none as nothing."""
    found = [gradient.value for gradient in gradients if gradient.value is not None]
    return np.concatenate(found) if found else np.zeros(0)
