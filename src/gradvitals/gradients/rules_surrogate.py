"""Judge declared surrogates (G108): what differs from the slope because it is meant to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradvitals.gradients.outcome import Measurement
from gradvitals.vocabulary.finding import Fact, Finding, Severity, Site
from gradvitals.vocabulary.rule import Rule

SURROGATE = Rule("G108", Severity.INFO, {})


def as_meant(findings: Sequence[Finding], measured: Measurement) -> tuple[tuple[Finding, ...], Measurement]:
    """Findings and outcomes of a function that is a surrogate as a whole: a wrong gradient is a meant one."""
    wrong = [finding for finding in findings if finding.code == "G101" and finding.evidence.get("likely") != "shape"]
    if not wrong:
        return tuple(findings), measured
    paths: list[str] = []
    for finding in wrong:
        tensors = finding.evidence.get("tensors", ())
        paths += [str(path) for path in tensors] if isinstance(tensors, tuple) else []
    facts: dict[str, Fact] = {
        "likely": "declared",
        "tensors": tuple(dict.fromkeys(paths)),
        "relative_error": wrong[0].evidence.get("relative_error"),
    }
    meant = Finding("G108", SURROGATE.severity, Site(wrong[0].site.path), facts)
    outcomes = tuple(
        replace(outcome, status="surrogate") if outcome.status == "wrong" else outcome for outcome in measured.outcomes
    )
    kept = tuple(finding for finding in findings if finding not in wrong)
    return tuple(sorted((*kept, meant), key=lambda f: -f.severity)), replace(measured, outcomes=outcomes)


def judge_inside(names: Sequence[str], unreplaced: Sequence[str], constants: Sequence[str] = ()) -> tuple[Finding, ...]:
    """Surrogates inside a model: those that were replaced by their own straight line, and those that couldn't be; and
    what its layers take for constants.
    """
    if constants:
        held: dict[str, Fact] = {"likely": "constant", "surrogates": tuple(constants)}
        return (*judge_inside(names, unreplaced), Finding("G108", SURROGATE.severity, Site("output"), held))
    if not names:
        return ()
    facts: dict[str, Fact] = {"likely": "inside", "surrogates": tuple(names)}
    if unreplaced:
        facts["unreplaced"] = tuple(unreplaced)
    return (Finding("G108", SURROGATE.severity, Site("output"), facts),)
