"""Judge entries that nothing has set: rule W305."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradvitals.frameworks.weights import Unset
from gradvitals.vocabulary.finding import Fact, Finding, Severity, Site
from gradvitals.vocabulary.rule import Rule

UNINITIALISED = Rule("W305", Severity.ERROR, {})


def judge_unset(found: Sequence[Unset]) -> tuple[Finding, ...]:
    """One finding for all tensors, at the one with the most such entries."""
    if not found:
        return ()
    worst = max(found, key=lambda unset: unset.entries)
    facts: dict[str, Fact] = {
        "entries": sum(unset.entries for unset in found),
        "total": sum(math.prod(unset.shape) for unset in found),
        "tensors": len(found),
        "paths": tuple(unset.path for unset in found),
    }
    if all(unset.derived == unset.entries for unset in found):
        facts["likely"] = "derived"
    return (Finding("W305", UNINITIALISED.severity, Site(worst.path, worst.first), facts),)
