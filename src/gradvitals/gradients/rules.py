"""Judge what was measured of the gradients: rules G101–G105."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gradvitals.frameworks.problem import Array, Tensor
from gradvitals.gradients.grades import grade
from gradvitals.gradients.measure_entries import Entry
from gradvitals.gradients.mistakes import same_cause
from gradvitals.gradients.outcome import Measurement, Outcome
from gradvitals.vocabulary.finding import Estimate, Fact, Finding, Severity, Site
from gradvitals.vocabulary.rule import Rule

GRADIENT_WRONG = Rule("G101", Severity.ERROR, {})
GRADIENT_MISSING = Rule("G102", Severity.ERROR, {})
GRADIENT_NOT_FINITE = Rule("G103", Severity.ERROR, {})
GRADIENT_UNRESOLVED = Rule("G104", Severity.UNRESOLVED, {})
NOT_DETERMINISTIC = Rule("G105", Severity.INFO, {})
RULES = (GRADIENT_WRONG, GRADIENT_MISSING, GRADIENT_NOT_FINITE, GRADIENT_UNRESOLVED, NOT_DETERMINISTIC)


@dataclass(frozen=True, slots=True)
class _Patient:
    """A tensor with what was found of it, and whether its gradient came at all, in shape, and finite."""

    tensor: Tensor
    outcome: Outcome
    came: bool
    stopped: bool
    got_shape: tuple[int, ...] | None
    not_finite: np.ndarray | None


def judge(tensors: Sequence[Tensor], measured: Measurement, sensitivity: float) -> tuple[Finding, ...]:
    """Findings of a check, the worst first."""
    patients = [
        _Patient(
            tensor,
            outcome,
            gradient.value is not None,
            gradient.stopped,
            gradient.got_shape,
            _not_finite_in(gradient.value) if outcome.status != "right" else None,
        )
        for tensor, outcome, gradient in zip(tensors, measured.outcomes, measured.gradients, strict=True)
    ]
    found = [
        *_misshapen(patients),
        *_not_finite(patients),
        *_missing(patients),
        *_wrong(patients),
    ]
    if measured.spread > 0:  # the cause, before what it makes unresolved
        severity = Severity.UNRESOLVED if measured.spread > sensitivity else NOT_DETERMINISTIC.severity
        found.append(Finding("G105", severity, Site("output"), {"spread": measured.spread}))
    found += _unresolved(patients, sensitivity, value_finite=measured.value_finite)
    return tuple(sorted(found, key=lambda finding: -finding.severity))


def _not_finite_in(gradient: Array | None) -> np.ndarray | None:
    """Where a gradient is not finite; None where all of it is."""
    return None if gradient is None or np.isfinite(gradient).all() else ~np.isfinite(gradient)


def _misshapen(patients: Sequence[_Patient]) -> Iterator[Finding]:
    for p in patients:
        if p.got_shape is not None:
            facts: dict[str, Fact] = {
                "tensors": (p.tensor.path,),
                "likely": "shape",
                "got": str(p.got_shape),
                "expected": str(p.tensor.shape),
            }
            yield Finding("G101", GRADIENT_WRONG.severity, Site(p.tensor.path), facts)


def _not_finite(patients: Sequence[_Patient]) -> Iterator[Finding]:
    """All gradients that aren't finite in one finding: one division by zero spoils all of them."""
    spoilt = [(p.tensor, p.not_finite) for p in patients if p.not_finite is not None]
    if spoilt:
        tensor, where = spoilt[0]
        first = tuple(int(i) for i in np.unravel_index(int(np.argmax(where)), tensor.shape))
        facts: dict[str, Fact] = {
            "tensors": tuple(tensor.path for tensor, _ in spoilt),
            "count": int(sum(where.sum() for _, where in spoilt)),
            "total": sum(tensor.size for tensor, _ in spoilt),
        }
        yield Finding("G103", GRADIENT_NOT_FINITE.severity, Site(tensor.path, first), facts)


def _missing(patients: Sequence[_Patient]) -> Iterator[Finding]:
    """No gradient came: an error where the function does depend on the tensor, a warning where it doesn't.

    Whatever lies behind one cut has no gradient: that is one finding.
    """
    missing = [p for p in patients if not p.came and p.got_shape is None and not p.stopped]
    causes = {"wrong": "detached", "right": "unused"}
    for status, role in dict.fromkeys((p.outcome.status, p.tensor.role) for p in missing):
        group = [p for p in missing if (p.outcome.status, p.tensor.role) == (status, role)]
        likely = causes.get(status, "unknown")
        entries = [entry for p in group for entry in p.outcome.entries]
        worst = max(entries, key=lambda entry: abs(entry.numeric), default=None)
        facts: dict[str, Fact] = {"tensors": tuple(p.tensor.path for p in group), "likely": likely}
        if worst is not None:
            facts["numeric"] = Estimate(worst.numeric, worst.error)
        severity = GRADIENT_MISSING.severity if likely == "detached" else Severity.WARNING
        # An input that the function ignores is the caller's business (a flag, a mask); a parameter should learn.
        if likely == "unused" and role == "input":
            severity = Severity.INFO
        yield Finding("G102", severity, Site(group[0].tensor.path), facts)


def _wrong(patients: Sequence[_Patient]) -> Iterator[Finding]:
    """One finding for each cause: tensors that carry the same wrong factor share one."""
    wrong = [p for p in patients if p.came and p.not_finite is None and p.outcome.status == "wrong"]
    groups: list[list[_Patient]] = []
    for p in wrong:
        home = next((group for group in groups if same_cause(group[0].outcome.mistake, p.outcome.mistake)), None)
        if home is None:
            groups.append([p])
        else:
            home.append(p)
    for group in groups:
        yield _wrong_finding(group)


def _wrong_finding(group: Sequence[_Patient]) -> Finding:
    first = group[0]
    outcome, tensor = first.outcome, first.tensor
    mistake = outcome.mistake
    facts: dict[str, Fact] = {
        "tensors": tuple(p.tensor.path for p in group),
        "likely": mistake.likely if mistake else "formula",
        "relative_error": outcome.relative_error,
        "checked_count": len(outcome.entries) if outcome.checked_count is None else outcome.checked_count,
        "wrong_count": sum(e.wrong for e in outcome.entries) if outcome.wrong_count is None else outcome.wrong_count,
    }
    if mistake:
        facts |= {key: fact for key, fact in mistake.facts.items() if fact is not None}
    if mistake and mistake.factor is not None:
        facts |= {"factor": mistake.factor, "name": mistake.name}
    if len(group) > 1:
        facts["shared"] = _in_common([p.tensor.path for p in group])
    shown = grade(outcome.relative_error, outcome.numeric_error)
    if shown in {"exact", "acceptable"}:
        facts["harmless_grade"] = shown
    index = None
    if outcome.entries:  # none where the budget was spent before
        entry = _telling_entry(outcome.entries)
        facts |= {"numeric": Estimate(entry.numeric, entry.error), "analytic": entry.analytic}
        index = tuple(int(i) for i in np.unravel_index(entry.index, tensor.shape)) if tensor.shape else None
    return Finding(
        "G101", GRADIENT_WRONG.severity, Site(tensor.path, index), facts, mistake.confidence if mistake else 1.0
    )


def _telling_entry(entries: Sequence[Entry]) -> Entry:
    """The wrong entry that shows the mistake most clearly: the one with most missing."""
    wrong = [entry for entry in entries if entry.wrong] or list(entries)
    return max(wrong, key=lambda entry: abs(entry.numeric - entry.analytic))


def _in_common(paths: Sequence[str]) -> str:
    """What tensors with one wrong factor have in common: W1 and b1 share dZ1, conv.weight and conv.bias the layer
    conv.
    """
    owners = {path.rpartition(".")[0] for path in paths}
    if len(owners) == 1 and owners != {""}:
        return owners.pop()
    digits = {"".join(c for c in path.rpartition(".")[2] if c.isdigit()) for path in paths}
    if len(digits) == 1 and digits != {""}:
        return f"dZ{digits.pop()}"
    return ""


def _unresolved(patients: Sequence[_Patient], sensitivity: float, *, value_finite: bool) -> Iterator[Finding]:
    """All tensors that could not be resolved, in one finding."""
    vague = [p for p in patients if p.outcome.status == "unresolved" and p.came and p.not_finite is None]
    if not value_finite:
        facts: dict[str, Fact] = {"tensors": tuple(p.tensor.path for p in patients), "likely": "value-not-finite"}
        yield Finding("G104", GRADIENT_UNRESOLVED.severity, Site("output"), facts)
    elif vague:
        worst = max(vague, key=lambda p: p.outcome.resolution)
        facts = {"tensors": tuple(p.tensor.path for p in vague), "sensitivity": sensitivity}
        measured_to = worst.outcome.resolution
        facts |= {"resolution": measured_to} if np.isfinite(measured_to) else {"likely": "not-measured"}
        yield Finding("G104", GRADIENT_UNRESOLVED.severity, Site(worst.tensor.path), facts)
