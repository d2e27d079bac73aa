"""Judge the units of activations: dead (S205) and saturated (S206)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from gradvitals.frameworks.capture import Call
from gradvitals.signals.measure import consumers, label
from gradvitals.vocabulary.finding import Fact, Finding, Severity, Site
from gradvitals.vocabulary.rule import Rule, Threshold

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
        "passes": Threshold(
            0.05,
            "share of the gradient's square that passes the last activation",
            "of images with a plain background a fifth and more of the pixels is to be told: MNIST's digits",
        ),
        "held": Threshold(0.25, "share of values", "half of what is flat, where the other half is right by chance"),
        "slope": Threshold(0.025, "share of the largest slope", "Wardat et al. (2022): the sigmoid beyond ±5"),
    },
)

#: A layer of fewer units may be off as a whole by chance (2⁻¹⁶ = 1.5e-5), and on again for the next batch; of still
#: fewer it is no rare one (2⁻⁸ = 0.4 %: the narrow middle of a gate).
_MANY_UNITS, _SOME_UNITS = 16, 8
#: Bounded activations that give values, not probabilities.
_VALUES = frozenset({"tanh", "hardtanh"})


def dead(calls: Sequence[Call]) -> list[Finding]:
    """S205: more units than chance explains are off for every sample; an error where nothing passes at all."""

    def is_dead(call: Call) -> bool:
        chance = UNITS_DEAD["share"] + UNITS_DEAD["deviations"] * math.sqrt(0.25 / call.units)
        return call.dead_share is not None and (call.dead_share > chance or call.dead_share == 1)

    affected = [at for at, call in enumerate(calls) if is_dead(call)]
    if not affected:
        return []
    worst = max(affected, key=lambda at: (calls[at].units >= _SOME_UNITS, calls[at].dead_share or 0))
    call = calls[worst]
    severity = UNITS_DEAD.severity if call.units >= _SOME_UNITS else Severity.INFO
    if call.dead_share == 1 and call.units >= _MANY_UNITS:
        severity = Severity.ERROR
    return [_of_several("S205", severity, calls, worst, affected, {"share": call.dead_share, "units": call.units})]


def saturated(calls: Sequence[Call]) -> list[Finding]:
    """S206: of activations that another call follows, for a classifier's last sigmoid is flat where it is sure; of a
    last one that the gradient can't pass; of the gates of recurrent layers; and of attention whose rows look at one
    key alone.
    """
    return list(_saturated(calls))


def _saturated(calls: Sequence[Call]) -> Iterator[Finding]:
    users = consumers(calls)
    cut, most = UNITS_SATURATED["slope"], UNITS_SATURATED["share"]
    flat = {
        at: call.saturated_share
        for at, call in enumerate(calls)
        if call.saturated_share is not None and (users[at] or _is_stuck(calls, at))
    }
    affected = [at for at, share in flat.items() if share > most]
    if affected:
        worst = max(affected, key=lambda at: flat[at])
        facts: dict[str, Fact] = {"share": flat[worst], "cut": cut}
        yield _of_several("S206", UNITS_SATURATED.severity, calls, worst, affected, facts)
    sharp = {
        at: call.attention
        for at, call in enumerate(calls)
        if call.attention is not None and (users[at] or len(call.shape) > 2 or _is_held(call))
    }
    affected = [at for at, attention in sharp.items() if attention.sharp_share > most]
    if affected:
        worst = max(affected, key=lambda at: sharp[at].sharp_share)
        seen = sharp[worst]
        facts = {"share": seen.sharp_share, "cut": cut, "entropy": seen.entropy, "largest_score": seen.largest_score}
        finding = _of_several("S206", UNITS_SATURATED.severity, calls, worst, affected, facts)
        kind = "attention" if len(calls[worst].shape) > 2 else "sharp"
        yield Finding("S206", finding.severity, finding.site, {**finding.evidence, "likely": kind})


def _is_stuck(calls: Sequence[Call], at: int) -> bool:
    """Whether the last activation holds back the gradient; a sigmoid there belongs to its loss, which may undo it."""
    call, layer = calls[at], _feeding_at(calls, at)
    if call.has_weights or _is_held(call):
        return True
    if call.activation not in _VALUES or layer is None:
        return False
    arrived, left = call.gradient, calls[layer].gradient
    return arrived is not None and left is not None and left.rms**2 < UNITS_SATURATED["passes"] * arrived.rms**2


def _is_held(call: Call) -> bool:
    return call.held_back is not None and call.held_back > UNITS_SATURATED["held"]


def _of_several(
    code: str, severity: Severity, calls: Sequence[Call], worst: int, affected: Sequence[int], facts: dict[str, Fact]
) -> Finding:
    """One finding for one cause, at the worst place, with all places and the layer that feeds the worst."""
    paths: tuple[Fact, ...] = tuple(dict.fromkeys(label(calls[at]) for at in affected))
    layer = _feeding_at(calls, worst)
    if layer is not None:
        facts = {**facts, "layer": label(calls[layer])}
    if len(paths) > 1:
        facts = {**facts, "likely": "several", "affected": len(paths)}
    return Finding(code, severity, Site(label(calls[worst])), {**facts, "paths": paths})


def _feeding_at(calls: Sequence[Call], at: int) -> int | None:
    """The layer with weights whose output an activation was given, with nothing but one call each in between."""
    while len(calls[at].sources) == 1:
        at = calls[at].sources[0]
        if calls[at].has_weights:
            return at
    return None
