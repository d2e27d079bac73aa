"""Whether two tensors carry the same mistake: then they have one cause, and make one finding."""

from __future__ import annotations

import math

from gradvitals.gradients.mistakes.mistake import Mistake

#: Two factors are one cause when they differ by less than this, relatively.
_SAME_FACTOR = 0.01
#: Of these kinds a function has one cause, whatever the tensors.
_ONE_CAUSE = {"ignores-cotangent", "not-linear", "accumulates", "precision", "formula"}
#: Facts that must agree as well.
_TELLING = ("part", "unfollowed")


def same_cause(one: Mistake | None, other: Mistake | None) -> bool:
    """Whether one mistake further up would explain both."""
    if one is None or other is None or one.likely != other.likely:
        return False
    if one.likely in _ONE_CAUSE:
        return True
    if one.likely in {"sum-missing", "output-ignored", "stale"}:
        return all(one.facts.get(key) == other.facts.get(key) for key in _TELLING)
    if one.likely in {"exchanged", "detached"}:
        return True
    if one.factor is None or other.factor is None or one.facts.get("region") or other.facts.get("region"):
        return False
    error = 3 * math.hypot(one.factor.error, other.factor.error)
    return abs(one.factor.value - other.factor.value) <= max(error, _SAME_FACTOR * abs(one.factor.value))
