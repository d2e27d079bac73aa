"""Wrong backward passes as people write them, each with what a report should say of it.

The cases are in :mod:`oracles.wrong_layers` and :mod:`oracles.wrong_sequences` (NumPy layers),
:mod:`oracles.wrong_costs` (scalar NumPy costs and stateful objects), :mod:`oracles.wrong_modules` (torch Functions,
modules and whole models) and :mod:`oracles.wrong_parts` (one part of a tensor). All but the last were written before
the recogniser; a third of them, chosen by the sha256 of the name, is only reported and never tuned on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import gradvitals as gv


@dataclass(frozen=True)
class Wrong:
    """One wrong backward pass.

    ``kinds`` are the names that are right for it, ``tensors`` all those whose gradient is really wrong, ``facts`` what
    the finding's evidence should hold (a string: contained in it; a number: within 1 %), ``where`` the index (with
    slices) of the part of the first tensor that is wrong, where it is only a part.
    """

    name: str
    kinds: frozenset[str]
    tensors: frozenset[str]
    make: Callable[[np.random.Generator], tuple[tuple[Any, ...], dict[str, Any]]]
    facts: dict[str, Any] = field(default_factory=dict)
    where: Any = None

    @property
    def is_held_out(self) -> bool:
        """Whether the case was never looked at while the recogniser was made."""
        return int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % 3 == 0

    def arguments(self, seed: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of ``gradvitals.check``, drawn from a seed."""
        return self.make(np.random.default_rng((seed, len(self.name))))

    def check(self, seed: int = 0) -> gv.Report:
        arguments, keywords = self.arguments(seed)
        return gv.check(*arguments, **keywords)


REGISTRY: dict[str, Wrong] = {}


def wrong(name, kinds, tensors, /, *, where=None, **facts):
    """Register a case: a function that draws the arguments of ``gradvitals.check``."""

    def register(make):
        known = REGISTRY.get(name)
        if known is not None and known.make.__qualname__ != make.__qualname__:  # the same file may be imported twice
            raise ValueError(f"two cases are called {name}")
        REGISTRY[name] = Wrong(name, frozenset(kinds.split()), frozenset(tensors.split()), make, facts, where)
        return make

    return register


def cases():
    """All cases, in the order in which they are written."""
    from oracles import (  # noqa: F401 - importing them registers the cases
        wrong_costs,
        wrong_layers,
        wrong_modules,
        wrong_parts,
        wrong_sequences,
    )

    return tuple(REGISTRY.values())


@dataclass(frozen=True)
class Judged:
    """What a report makes of a case."""

    failed: bool
    kind: bool
    tensors: bool
    entry: bool | None
    facts: bool
    findings: int
    said: str


def judged(case: Wrong, report: gv.Report) -> Judged:
    """Compare a report with what is true of a case.

    The first finding of a wrong gradient counts, for it is what a reader reads; the entry is right when the finding
    points inside the part that is wrong, and names nothing beyond it.
    """
    found = [
        finding for finding in report.findings if finding.code in {"G101", "G102", "G107"} and finding.severity >= 1
    ]
    named = {path for finding in found for path in finding.evidence["tensors"]}
    table = {row["path"] for row in report.table("tensors").records() if row["status"] == "wrong"}
    if not found:
        missed = None if case.where is None else False
        return Judged(
            failed=False, kind=False, tensors=False, entry=missed, facts=False, findings=0, said=report.verdict.value
        )
    first = found[0]
    likely = first.evidence.get("likely")
    facts = all(_fits(first.evidence.get(key), value) for key, value in case.facts.items())
    entry = None if case.where is None else _inside(first, case, report)
    return Judged(
        report.verdict is gv.Verdict.FAIL,
        likely in case.kinds,
        named | table == set(case.tensors),
        entry,
        facts,
        len(found),
        str(likely),
    )


def _fits(said, wanted):
    if isinstance(wanted, str):
        return wanted in str(said)
    value = getattr(said, "value", said)
    return isinstance(value, (int, float)) and abs(value - wanted) <= 0.01 * abs(wanted)


def _inside(finding, case, report):
    shapes = {row["path"]: row["shape"] for row in report.table("tensors").records()}
    path, index = finding.site.path, finding.site.index
    if path not in shapes:  # a layer is named: then the worst entry of its first tensor counts
        path = finding.evidence["tensors"][0]
        index = next(row["index"] for row in report.table("entries").records() if row["path"] == path)
    shape = shapes[path]
    wrong_part = np.zeros(shape, dtype=bool)
    wrong_part[case.where] = True
    return index is not None and bool(wrong_part[index])
