"""Judge what isn't finite: rule S211 names the producer and counts those that pass it on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradvitals.frameworks.capture import Call, Capture, Moments, Producer
from gradvitals.signals.measure import consumers, label
from gradvitals.vocabulary.finding import Fact, Finding, Severity, Site
from gradvitals.vocabulary.rule import Rule

NOT_FINITE = Rule("S211", Severity.ERROR, {})

#: Functions that put −∞ where a softmax shall give zero.
_MASKING = frozenset({"masked_fill", "masked_scatter", "where", "add", "iadd", "sub", "setitem"})


def with_producer(finding: Finding, producer: Producer | None, calls: Sequence[Call]) -> Finding:
    """Say which operation it was, where that could be found.

    On the way back it is the site: the call whose gradient is broken first only lies before it. A layer that was
    called once is named as it is, else the function in the code of the module around it; ``before`` is that call.
    """
    if producer is None:
        return finding
    site, known = finding.site, dict(finding.evidence)
    if producer.backward and producer.path not in {"", "loss"}:
        is_layer = sum(call.path == producer.path for call in calls) == 1
        known["before"] = site.path
        site = Site(producer.path if is_layer else producer.call)
        if is_layer:
            known = {name: fact for name, fact in known.items() if name not in {"likely", "behind"}}
    facts: dict[str, Fact] = {
        "operation": producer.operation,
        "operation_path": producer.path,
        "cause": producer.cause,
        "advice": f"advice-{producer.cause}",
    }
    if producer.largest is not None:
        facts |= {"largest_input": producer.largest, "dtype": producer.dtype}
    return Finding(finding.code, finding.severity, site, {**known, **facts}, finding.confidence)


def not_finite_forward(capture: Capture) -> Finding | None:
    """Name the first call that gives NaN or infinity of what was finite."""
    calls = capture.calls
    broken = [index for index, call in enumerate(calls) if _is_broken(call.forward)]
    if not broken:
        return _not_finite_loss(capture)
    producer = next((index for index in broken if calls[index].inputs_finite), broken[0])
    producer = _minus_infinity_before(calls, producer)
    passed_on = sum(index != producer and not calls[index].inputs_finite for index in broken)
    facts = _counts(calls[producer].forward, "output", passed_on)
    spoilt = any(map(_is_broken, capture.output)) or _spoils_a_gradient(capture)
    if spoilt or not math.isfinite(capture.loss or 0):
        return Finding("S211", NOT_FINITE.severity, Site(label(calls[producer])), facts)
    return Finding("S211", Severity.WARNING, Site(label(calls[producer])), {**facts, "likely": "stopped"})


def _not_finite_loss(capture: Capture) -> Finding | None:
    """The loss alone isn't finite; the −∞ that it was made of may have come of an earlier call."""
    if capture.loss is None or math.isfinite(capture.loss):
        return None
    unmasked = (call for call in capture.calls if call.forward.masked and call.kind not in _MASKING)
    origin = next(unmasked, None)
    if origin is None:
        facts: dict[str, Fact] = {"count": 1, "total": 1, "what": "output", "passed_on": 0}
        return Finding("S211", NOT_FINITE.severity, Site("loss"), facts)
    return Finding("S211", NOT_FINITE.severity, Site(label(origin)), _counts(origin.forward, "output", 0))


def _minus_infinity_before(calls: Sequence[Call], index: int) -> int:
    """Follow a NaN back to the −∞ that it came of (a logarithm of zero), unless that was a mask's."""
    for source in calls[index].sources:
        if calls[source].forward.masked and calls[source].kind not in _MASKING:
            return _minus_infinity_before(calls, source)
    return index


def not_finite_backward(capture: Capture) -> Finding | None:
    """Going back from the loss, name the first call whose output's gradient isn't finite while those behind it are."""
    calls, users = capture.calls, consumers(capture.calls)
    gradients = {index: call.gradient for index, call in enumerate(calls) if call.gradient is not None}
    broken = {index for index, gradient in gradients.items() if gradient.nonfinite > 0}
    if broken:
        producer = max(index for index in broken if broken.isdisjoint(users[index]))
        severity = NOT_FINITE.severity if _spoils_a_gradient(capture) else Severity.WARNING
        behind: tuple[Fact, ...] = tuple(label(calls[user]) for user in users[producer] if user in gradients)
        facts = _counts(gradients[producer], "gradient", len(broken) - 1)
        if not behind and capture.objective == "loss":
            return Finding("S211", severity, Site("loss"), facts)
        facts |= {"likely": "between", "behind": behind or ("output",)}
        return Finding("S211", severity, Site(label(calls[producer])), facts)
    for record in capture.parameters:
        if record.gradient is not None and record.gradient.nonfinite > 0:
            return Finding("S211", NOT_FINITE.severity, Site(record.path), _counts(record.gradient, "gradient", 0))
    return None


def _spoils_a_gradient(capture: Capture) -> bool:
    return any(record.gradient is not None and record.gradient.nonfinite > 0 for record in capture.parameters)


def _counts(moments: Moments, what: str, passed_on: int) -> dict[str, Fact]:
    return {"count": moments.nonfinite, "total": moments.count, "what": what, "passed_on": passed_on}


def _is_broken(moments: Moments) -> bool:
    """NaN or +∞; −∞ alone is what masks use."""
    return moments.nonfinite > moments.masked
