"""Judge how updates grow with width and depth: rule S213."""

from __future__ import annotations

from collections.abc import Sequence

from gradvitals.signals.measure_scaling import Growth
from gradvitals.vocabulary.finding import Estimate, Finding, Severity, Site
from gradvitals.vocabulary.rule import Rule, Threshold

UPDATE_GROWS = Rule(
    "S213",
    Severity.WARNING,
    {
        "exponent": Threshold(
            0.25,
            "exponent of the RMS of an update",
            "Yang et al. (2022), table 3: exponents are multiples of 1/2 and 0 is wanted; half of the least other one",
        ),
    },
)


def judge_scaling(found: Sequence[Growth]) -> tuple[Finding, ...]:
    """S213 once per axis, at the layer and the step at which an update grows most."""
    findings = []
    for axis in dict.fromkeys(growth.axis for growth in found):
        updates = [g for g in found if g.axis == axis and g.quantity == "update_rms" and g.law is not None]
        growing = [g for g in updates if g.law is not None and g.law.low > UPDATE_GROWS["exponent"]]
        if not growing:
            continue
        worst = max(growing, key=lambda growth: growth.law.exponent if growth.law else 0.0)
        if worst.law is not None:
            facts = {
                "likely": f"grows-with-{axis}",
                "exponent": Estimate(worst.law.exponent, worst.law.error),
                "doubling": 2.0**worst.law.exponent,
                "step": worst.step,
                "smallest": worst.typical(min(worst.sizes)),
                "largest": worst.typical(max(worst.sizes)),
                "affected": len({growth.path for growth in growing}),
                "role": worst.role or None,
            }
            findings.append(Finding("S213", UPDATE_GROWS.severity, Site(worst.path), facts))
    return tuple(findings)
