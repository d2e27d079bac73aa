"""Judge a plan: W310 where it fills nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gradvitals.vocabulary.finding import Fact, Finding, Severity, Site
from gradvitals.vocabulary.rule import Rule
from gradvitals.weights.recipe import Recipe

NOTHING_FILLED = Rule("W310", Severity.WARNING, {})


def judge_filled(recipes: Sequence[Recipe], *, asked_for: bool = False) -> tuple[Finding, ...]:
    """Say so where no weight is filled, and what keeps most of them; not where ``skip`` names all that could be."""
    kept = [recipe for recipe in recipes if recipe.reason != "buffer"]
    if any(recipe.draw for recipe in recipes) or not kept:
        return ()
    likely, count = Counter(recipe.reason for recipe in kept).most_common(1)[0]
    if likely == "left-out" and asked_for:
        return ()
    first = next(recipe.weight.path for recipe in kept if recipe.reason == likely)
    facts: dict[str, Fact] = {"total": len(kept), "count": count, "likely": likely}
    return (Finding("W310", NOTHING_FILLED.severity, Site(first), facts),)
