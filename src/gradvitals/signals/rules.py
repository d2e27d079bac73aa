"""Judge what was measured of the signal: rules S201–S206 and S211."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from gradvitals.frameworks.capture import Call, Capture, Moments
from gradvitals.signals.measure import Gain, consumers, label
from gradvitals.vocabulary.finding import Fact, Finding, Severity, Site
from gradvitals.vocabulary.rule import Rule, Threshold

_VANISHING = Threshold(
    1e-3, "ratio of RMS over all layers", "Zhang et al. (2021), AUTOTRAINER: ‖g₁‖/‖g_L‖; the signal is judged alike"
)
_EXPLODING = Threshold(
    70.0, "ratio of RMS over all layers", "Zhang et al. (2021), AUTOTRAINER: ‖g₁‖/‖g_L‖; the signal is judged alike"
)
SIGNAL_VANISHING = Rule("S201", Severity.ERROR, {"left": _VANISHING})
SIGNAL_EXPLODING = Rule("S202", Severity.ERROR, {"left": _EXPLODING})
GRADIENT_VANISHING = Rule("S203", Severity.ERROR, {"left": _VANISHING})
GRADIENT_EXPLODING = Rule("S204", Severity.ERROR, {"left": _EXPLODING})
UNITS_DEAD = Rule(
    "S205",
    Severity.WARNING,
    {
        "share": Threshold(0.5, "share of units", "Amazon SageMaker Debugger, DeadRelu: more than half of a layer"),
        "deviations": Threshold(
            4.0,
            "standard deviations above one half",
            "where deep inputs have collapsed onto one another, each unit of a sound layer is off for all with "
            "probability 1/2: 3e-5 of such layers lie above 1/2 + 4·√(1/4n)",
        ),
    },
)
UNITS_SATURATED = Rule(
    "S206",
    Severity.WARNING,
    {
        "share": Threshold(0.5, "share of values", "Amazon SageMaker Debugger and Wardat et al. (2022), DeepDiagnosis"),
        "slope": Threshold(0.025, "share of the largest slope", "Wardat et al. (2022): the sigmoid beyond ±5"),
    },
)
NOT_FINITE = Rule("S211", Severity.ERROR, {})
RULES = (
    *(SIGNAL_VANISHING, SIGNAL_EXPLODING, GRADIENT_VANISHING, GRADIENT_EXPLODING),
    *(UNITS_DEAD, UNITS_SATURATED, NOT_FINITE),
)

#: A layer of fewer units may be off as a whole by chance (2⁻¹⁶ = 1.5e-5), and on again for the next batch.
_MANY_UNITS = 16
#: Functions that put −∞ where a softmax shall give zero.
_MASKING = frozenset({"masked_fill", "masked_scatter", "where", "add", "iadd", "sub", "setitem"})


def judge(capture: Capture, gains: Sequence[Gain]) -> tuple[Finding, ...]:
    """Findings of a probe, the worst first.

    Where the signal isn't finite, nothing else is said of it: sizes behind a NaN mean nothing.
    """
    forward = _not_finite_forward(capture)
    if forward is not None:
        return (forward,)
    backward = _not_finite_backward(capture)
    found = [] if backward is None else [backward]
    for gain in gains:
        if gain.direction == "forward":
            found += _over_depth(gain, SIGNAL_VANISHING, SIGNAL_EXPLODING)
        elif backward is None:
            found += _over_depth(gain, GRADIENT_VANISHING, GRADIENT_EXPLODING)
    found += _dead(capture.calls)
    found += _saturated(capture.calls)
    return tuple(sorted(found, key=lambda finding: -finding.severity))


def _over_depth(gain: Gain, vanishing: Rule, exploding: Rule) -> Iterator[Finding]:
    """A finding where little or too much is left, and the layers agree on the direction."""
    if not gain.fit.differs_from_one:
        return
    if gain.left < vanishing["left"]:
        rule = vanishing
    elif gain.left > exploding["left"]:
        rule = exploding
    else:
        return
    facts: dict[str, Fact] = {
        "gain": gain.fit.estimate,
        "left": gain.left,
        "layers": gain.layers,
        "first": gain.first,
        "last": gain.last,
    }
    if rule is GRADIENT_VANISHING:
        facts["lost_at"] = gain.lost_at
    severity = rule.severity
    if gain.through_time:
        facts["likely"] = "through-time"
        # The one weight still learns from the last steps; only what lies far back is lost.
        severity = Severity.WARNING if rule in (SIGNAL_VANISHING, GRADIENT_VANISHING) else severity
    end = gain.last if gain.direction == "forward" else gain.first
    yield Finding(rule.code, severity, Site(end), facts)


def _dead(calls: Sequence[Call]) -> Iterator[Finding]:
    def is_dead(call: Call) -> bool:
        chance = UNITS_DEAD["share"] + UNITS_DEAD["deviations"] * math.sqrt(0.25 / call.units)
        return call.dead_share is not None and (call.dead_share > chance or call.dead_share == 1)

    affected = [call for call in calls if is_dead(call)]
    if affected:
        worst = max(affected, key=lambda call: call.dead_share or 0)
        nothing_passes = worst.dead_share == 1 and worst.units >= _MANY_UNITS
        severity = Severity.ERROR if nothing_passes else UNITS_DEAD.severity
        yield _of_several("S205", severity, worst, affected, {"share": worst.dead_share, "units": worst.units})


def _saturated(calls: Sequence[Call]) -> Iterator[Finding]:
    """Only of activations that another call follows: a classifier's last sigmoid is flat where it is sure."""
    users = consumers(calls)
    affected = [
        call
        for index, call in enumerate(calls)
        if call.saturated_share is not None and call.saturated_share > UNITS_SATURATED["share"] and users[index]
    ]
    if affected:
        worst = max(affected, key=lambda call: call.saturated_share or 0)
        facts: dict[str, Fact] = {"share": worst.saturated_share, "cut": UNITS_SATURATED["slope"]}
        yield _of_several("S206", UNITS_SATURATED.severity, worst, affected, facts)


def _of_several(
    code: str, severity: Severity, worst: Call, affected: Sequence[Call], facts: dict[str, Fact]
) -> Finding:
    """One finding for one cause, at the worst place, with all places."""
    paths: tuple[Fact, ...] = tuple(dict.fromkeys(label(call) for call in affected))
    if len(paths) > 1:
        facts = {**facts, "likely": "several", "affected": len(paths)}
    return Finding(code, severity, Site(label(worst)), {**facts, "paths": paths})


def _not_finite_forward(capture: Capture) -> Finding | None:
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


def _not_finite_backward(capture: Capture) -> Finding | None:
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
