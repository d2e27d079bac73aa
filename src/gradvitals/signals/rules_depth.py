"""Judge sizes over depth and over time: rules S201–S204, with the severity that the outcome deserves."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from gradvitals.frameworks.capture import ParameterRecord
from gradvitals.maths.trend import LogGain
from gradvitals.signals.measure import Gain, Place, Signal, Way, forward_rms, gain_along, gradient_rms, label
from gradvitals.signals.measure_predicted import PredictedGain
from gradvitals.signals.remedies import remedy_facts
from gradvitals.signals.structure import measured
from gradvitals.signals.trunk import is_behind, node
from gradvitals.vocabulary.finding import Estimate, Fact, Finding, Severity, Site
from gradvitals.vocabulary.rule import Rule, Threshold

_VANISHING = Threshold(
    1e-3, "ratio of RMS over all layers", "Zhang et al. (2021), AUTOTRAINER: ‖g₁‖/‖g_L‖; the signal is judged alike"
)
_EXPLODING = Threshold(
    70.0, "ratio of RMS over all layers", "Zhang et al. (2021), AUTOTRAINER: ‖g₁‖/‖g_L‖; the signal is judged alike"
)
_FORGOTTEN = Threshold(
    0.2,
    "ratio of RMS per step of time",
    "torch's own LSTM, GRU and RNN start at 0.4 to 0.6 (measured): at 0.2, a hundredth is left after three steps",
)
_MOVED = Threshold(
    0.5, "share of a full step of Adam", "Kingma and Ba (2015), section 2.1: |step| ≤ α; at ε = |g| half of it is left"
)
_STILL = Threshold(
    1e-3, "gradient over weight, of the earliest layer over the latest", "what counts as vanishing: AUTOTRAINER's 1e-3"
)
_CONFIRMED = Threshold(
    70.0,
    "gradient over weight, of the layer against a typical one",
    "what counts as exploding: a layer that is so many times too small moves that much faster than all others",
)
_NORMALISED = Threshold(
    1e3,
    "ratio of RMS over all layers, each before a normalisation",
    "Yang et al. (2019), mean field theory of batch normalisation: √(π/(π − 1)) = 1.21 per layer, 1e3 after 36 layers",
)
_AT_ONE_LAYER = Threshold(
    0.75, "share of the logarithm of the whole change", "above 1/2 + 1/4: one layer outweighs all others three to one"
)
#: Steps that by chance go one way in a quarter of cases: too much or too little left is asked for besides.
_STEPS = 3
SIGNAL_VANISHING = Rule("S201", Severity.ERROR, {"left": _VANISHING, "at_one": _AT_ONE_LAYER, "confirmed": _CONFIRMED})
SIGNAL_EXPLODING = Rule("S202", Severity.ERROR, {"left": _EXPLODING, "at_one": _AT_ONE_LAYER})
GRADIENT_VANISHING = Rule(
    "S203",
    Severity.ERROR,
    {
        "left": _VANISHING,
        "at_one": _AT_ONE_LAYER,
        "confirmed": _CONFIRMED,
        "moved": _MOVED,
        "still": _STILL,
        "forgotten": _FORGOTTEN,
    },
)
GRADIENT_EXPLODING = Rule(
    "S204", Severity.ERROR, {"left": _EXPLODING, "normalised": _NORMALISED, "at_one": _AT_ONE_LAYER}
)

_BY_DIRECTION = {
    "forward": (SIGNAL_VANISHING, SIGNAL_EXPLODING),
    "backward": (GRADIENT_VANISHING, GRADIENT_EXPLODING),
}


def over_depth(signal: Signal, *, backwards: bool, explained: Collection[str]) -> list[Finding]:
    """S201–S204 along the main path: a constant factor per layer, or one layer that does it alone.

    ``explained`` are layers whose activations were found dead or flat already, ``backwards`` says whether gradients
    count.
    """
    fitted = {gain.direction: gain for gain in signal.gains if not gain.through_time}
    steady = {direction: gain for direction, gain in fitted.items() if gain.fit.differs_from_one}
    if not signal.ways:  # gains that come from elsewhere
        return [finding for gain in steady.values() for finding in _constant_factor(signal, gain)]
    found: list[Finding] = []
    for way in signal.ways:
        if way.through_time or (way.direction == "backward" and not backwards):
            continue
        gain = fitted.get(way.direction)
        over_all = list(_constant_factor(signal, gain)) if gain is not None and way.direction in steady else []
        over_all = over_all or list(_at_one_layer(signal, way, gain, explained=explained))
        if not over_all and gain is not None and _is_one_way(way):
            over_all = list(_constant_factor(signal, _mean(gain, way)))
        if not over_all and way.direction == "forward":
            over_all = list(_before_a_normalisation(signal, way))
        found += over_all
    return found


def over_time(signal: Signal, *, backwards: bool) -> list[Finding]:
    """S201–S204 along loops and inside recurrent layers; of several layers one finding, at the worst."""
    found: dict[str, list[Finding]] = {}
    for gain in signal.gains:
        if gain.through_time and (gain.direction == "forward" or backwards):
            for finding in _through_time(signal, gain):
                found.setdefault(finding.code, []).append(finding)
    return [_worst(findings) for findings in found.values()]


def _constant_factor(signal: Signal, gain: Gain) -> Iterator[Finding]:
    """A finding where little or too much is left, of layers that agree on the direction."""
    rule = rule_of(gain.direction, gain.left)
    if rule is None:
        return
    if rule is GRADIENT_EXPLODING and gain.left < rule["normalised"] and _is_normalised(signal, gain):
        return
    facts = gain_facts(gain, rule)
    end = gain.last if gain.direction == "forward" else gain.first
    severity = rule.severity
    if gain.way is not None and gain.direction == "forward" and gain.way.places[-1].normalised_later:
        severity = Severity.WARNING  # its scale is put right before it is used
    if rule is GRADIENT_VANISHING and gain.way is not None:
        severity, moved = _outcome(signal, gain.way)
        facts |= moved
    yield Finding(rule.code, severity, Site(end), {**facts, **remedy_facts(measured(signal), rule.name)})


def _before_a_normalisation(signal: Signal, way: Way) -> Iterator[Finding]:
    """The same for layers in a row that a normalisation ends: it sets their scale right, behind the overflow."""
    rows: list[list[Place]] = [[]]
    for place in way.places:
        rows[-1].append(place)
        if set(place.nodes) <= signal.trunk.normalised_next:
            rows.append([])
    for row in rows[:-1]:
        part = replace(way, places=tuple(row))
        gain = gain_along(part)
        if gain is not None and _is_one_way(part):
            yield from _constant_factor(signal, _mean(gain, part))


def _is_one_way(way: Way) -> bool:
    """Whether each step makes the size larger, or each smaller: of factors that differ much no interval says it."""
    steps = list(itertools.pairwise(place.size for place in way.places))
    return len(steps) >= _STEPS and (all(0 < a < b for a, b in steps) or all(a > b > 0 for a, b in steps))


def _mean(gain: Gain, way: Way) -> Gain:
    """The geometric mean of the factors along a way, which is no estimate of a constant one."""
    left = way.places[-1].size / way.places[0].size
    mean = left ** (1 / gain.layers)
    return replace(gain, fit=LogGain(mean, mean, mean, len(way.places)), left=left)


def _is_normalised(signal: Signal, gain: Gain) -> bool:
    """Whether every place of the way hands its output to a normalisation, which makes the scale of its weight free."""
    places = gain.way.places if gain.way is not None else ()
    return bool(places) and all(set(place.nodes) <= signal.trunk.normalised_next for place in places)


def _at_one_layer(signal: Signal, way: Way, gain: Gain | None, *, explained: Collection[str]) -> Iterator[Finding]:
    """A finding where one layer alone makes the size leave the range."""
    places = list(way.places)
    if way.direction == "forward" and signal.capture.input_rms and len(places) > 1:
        places.insert(0, Place(("input",), signal.capture.input_rms, places[0].depth - 1))
    if len(places) < 2 or not all(0 < place.size < math.inf for place in places):
        return
    changes = [math.log(b.size / a.size) for a, b in itertools.pairwise(places)]
    total = sum(changes)
    at = max(range(len(changes)), key=lambda step: math.copysign(1, total) * changes[step])
    alone = _beyond_all_before(signal, places) if way.direction == "forward" else None
    if alone is not None and rule_of(way.direction, math.exp(min(total, 700.0))) is None:
        at, total = alone, changes[alone]  # what it took others may give back: biases, say, but not the signal
    # Going back, what stands between two gradients is the layer nearer to the loss.
    culprit = places[at + 1] if way.direction == "forward" else places[at]
    rule = rule_of(way.direction, math.exp(min(total, 700.0))) or _confirmed(signal, way.direction, total, culprit)
    if rule is None or changes[at] / total < rule["at_one"]:
        return
    if culprit.label in explained:
        return
    drowned = _drowns(places[at], places[at + 1])
    if way.direction == "forward" and culprit.normalised_later and not drowned:
        return
    if rule is GRADIENT_EXPLODING and set(places[at + 1].nodes) & signal.trunk.normalised_next:
        return  # a normalisation gives back what it took: the smaller its input, the larger the gradient
    steps = len(changes)
    named = _between(signal, places[at], places[at + 1]) or culprit.label
    facts: dict[str, Fact] = {
        "gain": gain.fit.estimate if gain is not None else Estimate(math.exp(total / steps), 0.0),
        "left": math.exp(min(total, 700.0)),
        "layers": steps,
        "first": min(places, key=lambda place: place.depth).label,
        "last": max(places, key=lambda place: place.depth).label,
        "likely": "one-layer",
        "culprit": named,
        "jump": math.exp(min(changes[at], 700.0)),
    }
    severity = Severity.WARNING if drowned and culprit.normalised_later else rule.severity
    if rule is GRADIENT_VANISHING:
        severity, moved = _outcome(signal, way)
        facts |= {"lost_at": places[at + 1].label, **moved}
        if total > math.log(rule["left"]):  # it was confirmed by how much faster the layer itself moves
            severity = max(severity, Severity.WARNING)
    yield Finding(rule.code, severity, Site(named), {**facts, **remedy_facts(measured(signal), rule.name)})


def _beyond_all_before(signal: Signal, places: Sequence[Place]) -> int | None:
    """The first step that alone leaves the range; of inputs the size is a matter of units, and counts as 1 at least."""
    low, high = SIGNAL_VANISHING["left"], SIGNAL_EXPLODING["left"]
    for step, (start, end) in enumerate(itertools.pairwise(places)):
        before = [place.size for place in places[: step + 1]] + ([] if start.nodes else [1.0])
        grows = end.size > max(high * (start.size if start.nodes else max(before)), *before)
        if (end.size < low * min(before) or grows) and not set(start.nodes) & signal.trunk.normalised_next:
            return step
    return None


def _between(signal: Signal, start: Place, end: Place) -> str | None:
    """Of the calls in a row between two places the one that changes the size most: a normalisation, say, or a pool."""
    calls = signal.capture.calls
    forward = start.depth < end.depth
    early, late = (start, end) if forward else (end, start)
    at = late.nodes[-1]
    total = math.log(end.size / start.size)
    found: list[tuple[float, int]] = []
    while at >= 0 and len(calls[at].parents) == 1 and at not in early.nodes:
        (before,) = calls[at].parents
        sizes = [(forward_rms if forward else gradient_rms)(node(signal.capture, each)) for each in (before, at)]
        first, second = sizes if forward else sizes[::-1]
        if not first or not second:
            return None
        found.append((math.log(second / first) / total, at))
        at = before
    return label(calls[max(found)[1]]) if found and at in early.nodes else None


def _drowns(before: Place, after: Place) -> bool:
    """Whether a branch drowns a residual stream: a normalisation sets the scale right, not what is lost of the stream.

    What is added first may be larger than the embeddings or the stem by any factor: it is made of them.
    """
    added = before.nodes and after.nodes and all(number < 0 for number in (*before.nodes, *after.nodes))
    return bool(added) and after.size > SIGNAL_EXPLODING["left"] * before.size


def _confirmed(signal: Signal, direction: str, total: float, culprit: Place) -> Rule | None:
    """Between a seventieth and a thousandth, vanishing counts where the layer's own weights bear witness.

    A layer whose weights are k times too small passes on 1/k both ways, and its own gradient over its weights is k
    times that of the others, which pooling and a change of width don't bring about.
    """
    vanishing, _ = _BY_DIRECTION[direction]
    if total > -math.log(vanishing["confirmed"]):
        return None
    paces = _paces(signal)
    own = [
        pace
        for at in culprit.nodes
        if at >= 0
        for path in signal.capture.calls[at].parameters
        if (pace := paces.get(path))
    ]
    if not own or len(paces) < 3:
        return None
    return vanishing if max(own) > vanishing["confirmed"] * statistics.median(paces.values()) else None


def _paces(signal: Signal) -> dict[str, float]:
    """Gradient over weight, both as RMS, of every weight that learns: how far a step of SGD takes it, by its path."""
    return {
        record.path: record.gradient.rms / record.values.rms
        for record in signal.capture.parameters
        if record.trainable and len(record.shape) > 1 and record.gradient is not None
        if record.gradient.rms > 0 and record.values.rms > 0
    }


def _through_time(signal: Signal, gain: Gain) -> Iterator[Finding]:
    """What lies many steps back: an explosion is an error, forgetting is natural to a degree."""
    rule = rule_of(gain.direction, gain.left)
    if rule is None or not gain.fit.differs_from_one:
        return
    severity = rule.severity
    if rule in (SIGNAL_VANISHING, GRADIENT_VANISHING):
        # The one weight still learns from the last steps; only what lies far back is lost.
        forgotten = gain.fit.gain < GRADIENT_VANISHING["forgotten"]
        severity = Severity.WARNING if forgotten and rule is GRADIENT_VANISHING else Severity.INFO
    lost = _lost_before(signal, gain) if rule is GRADIENT_VANISHING else {}
    if lost:
        severity = Severity.ERROR
    facts = {
        **gain_facts(gain, rule),
        **lost,
        "likely": "through-time",
        **remedy_facts(measured(signal), f"{rule.name}-through-time"),
    }
    path = gain.way.path if gain.way is not None and gain.way.over_steps else ""
    yield Finding(rule.code, severity, Site(path or (gain.last if gain.direction == "forward" else gain.first)), facts)


def _lost_before(signal: Signal, gain: Gain) -> dict[str, Fact]:
    """Of the layers before a loop the one that even Adam leaves still: unlike a sequence, it is read but once."""
    capture = signal.capture
    chain = signal.trunk.loops.get(gain.way.path if gain.way is not None else "", ())
    before = [call for at, call in enumerate(capture.calls) if chain and is_behind(capture, at, chain[0])]
    paths = {path for call in before if call.has_weights for path in call.parameters}
    steps = [
        (record.adam_step, record.path)
        for record in capture.parameters
        if record.path in paths and record.trainable and record.adam_step is not None and len(record.shape) > 1
    ]
    moved, weakest = min(steps, default=(math.inf, ""))
    return {"still": moved, "weakest_still": weakest} if moved < GRADIENT_VANISHING["moved"] else {}


def _worst(findings: Sequence[Finding]) -> Finding:
    worst = max(findings, key=lambda finding: (finding.severity, abs(math.log(_left(finding) or 1e-300))))
    if len(findings) == 1:
        return worst
    paths: tuple[Fact, ...] = tuple(finding.site.path for finding in findings)
    return Finding(worst.code, worst.severity, worst.site, {**worst.evidence, "affected": len(paths), "paths": paths})


def _left(finding: Finding) -> float:
    left = finding.evidence["left"]
    return left if isinstance(left, float) else 1.0


def rule_of(direction: str, left: float) -> Rule | None:
    """Vanishing or exploding, where too little or too much is left."""
    vanishing, exploding = _BY_DIRECTION[direction]
    if left < vanishing["left"]:
        return vanishing
    return exploding if left > exploding["left"] else None


def gain_facts(gain: Gain | PredictedGain, rule: Rule) -> dict[str, Fact]:
    """What a finding over depth says, measured or predicted."""
    facts: dict[str, Fact] = {
        "gain": gain.fit.estimate,
        "left": gain.left,
        "layers": gain.layers,
        "first": gain.first,
        "last": gain.last,
    }
    if rule is GRADIENT_VANISHING:
        facts["lost_at"] = gain.lost_at
    if isinstance(gain, Gain) and gain.through_time:
        facts["likely"] = "through-time"
    return facts


def _outcome(signal: Signal, way: Way) -> tuple[Severity, dict[str, Fact]]:
    """An error where even Adam leaves the early layers still, a warning where SGD does; else it is only small."""
    records = _learning_at(signal, way.places[-1])
    steps = [(record.adam_step, record.path) for record in records if record.adam_step is not None]
    if not steps:
        return GRADIENT_VANISHING.severity, {}
    paces = _paces(signal)
    own = [paces[record.path] for record in records if record.path in paces]
    late = [paces[record.path] for record in _learning_at(signal, way.places[0]) if record.path in paces]
    return by_updates(*min(steps), min(own) / statistics.median(late or paces.values()) if own else 0.0)


def by_updates(moved: float, weakest: str, beside: float) -> tuple[Severity, dict[str, Fact]]:
    """By the RMS of Adam's first step at the weight that moves least, and by its SGD step beside those of late ones."""
    if moved < GRADIENT_VANISHING["moved"]:
        return Severity.ERROR, {"still": moved, "weakest_still": weakest}
    if beside < GRADIENT_VANISHING["still"]:
        return Severity.WARNING, {"kept_by_adam": moved, "weakest": weakest}
    return Severity.INFO, {"keeps_pace": beside, "weakest": weakest}


def _learning_at(signal: Signal, end: Place) -> list[ParameterRecord]:
    """Weights that learn at the far end of the way back: those of its layers, or of the branches before its additions.

    A branch that starts at zero hands no gradient to what lies in it, and means to: that is left out.
    """
    capture = signal.capture
    known = {record.path: record for record in capture.parameters}
    nearest = [at for at in end.nodes if at >= 0]
    after = max((node(capture, at).after for at in end.nodes if at < 0), default=0)  # type: ignore[union-attr]
    behind = [at for at in range(after) if capture.calls[at].has_weights]
    paths = [path for at in nearest or behind for path in capture.calls[at].parameters]
    records = [known[path] for path in dict.fromkeys(paths) if path in known]
    learning = [
        record for record in records if record.trainable and record.gradient is not None and len(record.shape) > 1
    ]
    return learning if nearest else [record for record in learning if record.gradient and record.gradient.rms > 0]
