"""Sums in which a signal appears more than once: a gate that mixes two signals, z·h + (1 − z)·n, spelled in any way.

A sum remembers what it is a sum of, and a product of a sum with a gate what the gate multiplies; where a part appears
on both sides of a later sum, its factors are added before the moments are taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gradvitals.frameworks.torch.prediction.linear import plus, times
from gradvitals.frameworks.torch.prediction.operation import Operation, Pullback, Step
from gradvitals.frameworks.torch.prediction.transformed import Function, applied, backwards
from gradvitals.frameworks.torch.prediction.values import Constant, Node
from gradvitals.maths.alignment import alike, common_layout, gathered_to, spread_to
from gradvitals.maths.field import Field, Role, shape_of

#: A signal of more entries is too dear to be drawn because of a known vector that is added to it.
_MOST_ENTRIES = 2**17
#: A longer sum (a residual stream) counts as one part.
_MOST_TERMS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """A part of a sum and its factor: a number, or a function of another signal."""

    part: Node
    number: float = 1.0
    gate: Node | None = None
    function: Function | None = None

    def scaled(self, factor: float) -> Term:
        """The same part, multiplied by a number."""
        function = self.function
        if function is None:
            return Term(self.part, self.number * factor)
        return Term(self.part, 1.0, self.gate, lambda z: factor * function(z))

    def at(self, z: torch.Tensor) -> torch.Tensor:
        """The factor for a value of the gate's signal."""
        return torch.full_like(z, self.number) if self.function is None else self.function(z)


def terms_of(node: Node) -> tuple[Term, ...]:
    """What a signal is a sum of."""
    known = node.tags.get("terms")
    return known if isinstance(known, tuple) else (Term(node),)


def stands_out(a: object, b: object) -> bool:
    """Whether a known vector over the units is added that varies more than the signal does: no Gaussian any more."""
    for signal, known in ((a, b), (b, a)):
        if not isinstance(signal, Node) or not isinstance(known, Constant) or not known.learned:
            continue
        shape = known.held.shape
        long = [at - len(shape) for at, n in enumerate(shape) if n > 1]
        layout = signal.layout
        if len(long) != 1 or len(layout) < -long[0]:
            continue
        if not layout[long[0]] or any(axis.role is not Role.UNIT for axis in layout[long[0]]):
            continue
        if math.prod(shape_of(layout)) > _MOST_ENTRIES:
            continue
        mean, second = known.mean_and_square
        own = signal.field.mean_square - float((signal.field.mean**2).mean())
        if second - mean**2 > own:
            return True
    return False


def remember_sum(made: Node, a: Node, b: Node, sign_a: float, sign_b: float) -> None:
    """Note what a sum is made of."""
    terms = (*(t.scaled(sign_a) for t in terms_of(a)), *(t.scaled(sign_b) for t in terms_of(b)))
    if len(terms) <= _MOST_TERMS:
        made.tags["terms"] = terms


def remember_product(made: Node, a: Node, b: Node) -> None:
    """Note what a gate multiplies, where one of two factors is a sum."""
    for summed, gate in ((a, b), (b, a)):
        terms = terms_of(summed)
        if "terms" in summed.tags and all(t.function is None and t.part.root is not gate.root for t in terms):
            f = gate.root_function
            made.tags["terms"] = tuple(_gated(term, gate.root, f) for term in terms)
            return


def _gated(term: Term, gate: Node, function: Function) -> Term:
    return Term(term.part, 1.0, gate, lambda z: term.number * function(z))


def collected(a: Node, b: Node, sign_a: float, sign_b: float) -> list[Term] | None:
    """The parts of a sum of two sums with their factors added up; None where no part appears twice."""
    first = [t.scaled(sign_a) for t in terms_of(a)]
    second = [t.scaled(sign_b) for t in terms_of(b)]
    if not {t.part.key for t in first} & {t.part.key for t in second}:
        return None
    merged: dict[int, Term] = {}
    for term in (*first, *second):
        known = merged.get(term.part.key)
        if known is None:
            merged[term.part.key] = term
            continue
        gates = {t.gate for t in (known, term) if t.gate is not None}
        if len(gates) > 1:
            return None
        if not gates:
            merged[term.part.key] = Term(term.part, known.number + term.number)
        else:
            merged[term.part.key] = Term(term.part, 1.0, gates.pop(), _sum_of(known, term))
    return list(merged.values())


def _sum_of(one: Term, two: Term) -> Function:
    return lambda z: one.at(z) + two.at(z)


def emit_collected(operation: Operation, terms: Sequence[Term], operands: Sequence[tuple[Node, float]]) -> None:
    """Record a sum by its parts."""
    fields: list[Field] = []
    factors: list[Field | None] = []
    for term in terms:
        factor = applied(term.gate.field, term.function) if term.gate is not None and term.function else None
        factors.append(factor)
        fields.append(term.part.field.times(term.number) if factor is None else term.part.field)
    layout = common_layout([f.layout for f in (*fields, *(f for f in factors if f is not None))])
    spread = [spread_to(f, layout) for f in fields]
    gates = [None if f is None else spread_to(f, layout) for f in factors]
    total: Field | None = None
    for field, gate in zip(spread, gates, strict=True):
        part = field if gate is None else times(*alike(field, gate))
        total = part if total is None else plus(total, part)
    if total is None:
        return
    made = operation.emit(total)
    for term, field, gate in zip(terms, spread, gates, strict=True):
        operation.trace.steps.append(Step(made, (term.part,), _to_part(term, gate), name=operation.name))
        if term.gate is not None and term.function is not None:
            step = Step(made, (term.gate,), _to_gate(term, field), name=operation.name)
            operation.trace.steps.append(step)
    for node, sign in operands:
        if all(term.part is not node for term in terms):
            operation.trace.steps.append(Step(made, (node,), lambda g, s=sign: [g.times(s)], shown=True))  # type: ignore[misc]


def _to_part(term: Term, gate: Field | None) -> Pullback:
    def pullback(gradient: Field) -> list[Field]:
        g = gradient.times(term.number) if gate is None else times(*alike(gradient, gate))
        return [gathered_to(g, term.part.field.layout)]

    return pullback


def _to_gate(term: Term, field: Field) -> Pullback:
    def pullback(gradient: Field) -> list[Field]:
        g = times(*alike(gradient, field))
        if term.gate is None or term.function is None:
            return []
        return [backwards(gathered_to(g, term.gate.field.layout), term.gate.field, term.function)]

    return pullback
