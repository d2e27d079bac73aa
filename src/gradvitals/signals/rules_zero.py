"""Judge what is next to nothing, which no ratio of sizes shows: rules S201 and S203 where nothing at all is left."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

from gradvitals.frameworks.capture import Call, ParameterRecord
from gradvitals.signals.measure import Signal, label
from gradvitals.signals.rules_depth import GRADIENT_VANISHING, SIGNAL_VANISHING
from gradvitals.signals.rules_samples import INPUTS_COLLAPSED, made_small
from gradvitals.signals.trunk import is_behind, is_normalisation
from gradvitals.vocabulary.finding import Fact, Finding, Site


def all_zero(signal: Signal, *, units: Collection[Finding]) -> list[Finding]:
    """S201: behind one layer nothing is left of the signal, and no other way leads past it.

    ``units`` are the findings of dead and saturated units: with one of them before it there is a cause.
    """
    at = _on_the_main_path(signal)
    at = _that_stays(signal) if at is None else _first_of(signal.capture.calls, at)
    ill = {path for finding in units for path in cast("tuple[str, ...]", finding.evidence["paths"])}
    if at is None or any(label(call) in ill for call in signal.capture.calls[: at + 1]):
        return []
    sources = signal.capture.calls[at].sources
    first = label(signal.capture.calls[sources[-1]]) if sources else "input"
    here = label(signal.capture.calls[at])
    facts: dict[str, Fact] = {"gain": 0.0, "left": 0.0, "layers": 1, "first": first, "last": here, "likely": "all-zero"}
    return [Finding("S201", SIGNAL_VANISHING.severity, Site(here), facts)]


def never_moving(signal: Signal) -> list[Finding]:
    """S203: two layers of zeros one behind the other, of which neither gets a gradient for the other's sake."""
    calls, records = signal.capture.calls, {record.path: record for record in signal.capture.parameters}
    pairs = []
    for at, call in enumerate(calls):
        before = [source for source in call.sources if calls[source].has_weights and calls[source].forward.rms == 0]
        if before and _is_still(call, records) and all(_is_still(calls[source], records) for source in before):
            pairs.append((before[-1], at))
    if not pairs:
        return []
    first, last = (label(calls[at]) for at in pairs[0])
    facts: dict[str, Fact] = {
        "gain": 0.0,
        "left": 0.0,
        "layers": 1,
        "first": first,
        "last": last,
        "lost_at": last,
        "likely": "both-zero",
    }
    if len(pairs) > 1:
        facts |= {"affected": len(pairs), "paths": tuple(label(calls[at]) for _, at in pairs)}
    return [Finding("S203", GRADIENT_VANISHING.severity, Site(first), facts)]


def below_epsilon(signal: Signal) -> list[Finding]:
    """S201: a normalisation that gives next to nothing, for what tells its inputs apart is below its constant.

    That is so where what comes in is far too small, and where it is taken over a single value: each less itself.
    """
    calls, records = signal.capture.calls, {record.path: record for record in signal.capture.parameters}
    spread = signal.capture.input_spread
    if spread is not None and spread < INPUTS_COLLAPSED["inputs"]:
        return []  # a batch norm leaves nothing of a batch that is all alike
    for at, call in enumerate(calls):
        if not is_normalisation(call) or not call.forward.rms or not call.sources:
            continue
        before = [calls[source].forward.rms for source in call.sources]
        scale = max((records[path].values.rms for path in call.parameters if path in records), default=1.0)
        if not all(before) or call.forward.rms >= SIGNAL_VANISHING["left"] * scale:
            continue
        source = call.sources[-1]
        apart = calls[source].sample_spread
        drowned = calls[source].has_weights and apart is not None and apart < INPUTS_COLLAPSED["inputs"]
        site = label(calls[made_small(calls, source if drowned else at)])  # its biases may hide how small it is
        facts: dict[str, Fact] = {
            "gain": call.forward.rms / scale,
            "left": call.forward.rms / scale,
            "layers": 1,
            "first": label(calls[call.sources[-1]]),
            "last": label(call),
            "likely": "below-epsilon",
        }
        return [Finding("S201", SIGNAL_VANISHING.severity, Site(site), facts)]
    return []


def nothing_passes(signal: Signal, *, explained: Collection[Finding]) -> list[Finding]:
    """S203: one call is sent a gradient and passes on nothing, so that no parameter before it ever learns.

    A softmax over one value does that, or rounding. A layer or a gate whose own weights are zero will learn, and pass
    on something then.
    """
    calls, records = signal.capture.calls, {record.path: record for record in signal.capture.parameters}
    ill = {path for finding in explained for path in cast("tuple[str, ...]", finding.evidence.get("paths", ()))}
    inside = {path for call in calls for path in call.parameters}
    if any(_is_shut(record) for path, record in records.items() if path not in inside):
        return []
    for at in reversed(range(len(calls))):
        call = calls[at]
        before = [calls[source] for source in call.sources]
        if call.gradient is None or not call.gradient.rms or not before or label(call) in ill:
            continue
        if any(source.gradient is None or source.gradient.rms or source.gradient.nonfinite for source in before):
            continue
        if any(path in records and not records[path].values.rms for path in call.parameters):
            continue
        behind = {path for each in range(at) if is_behind(signal.capture, each, at) for path in calls[each].parameters}
        waiting = [records[path].gradient for path in behind if path in records and records[path].trainable]
        if _is_of_one(call, before):  # others before it may learn by another way, those of the scores never will
            waiting = [records[path].gradient for path in before[0].parameters if path in records]
        if not any(waiting) or any(gradient is not None and gradient.rms for gradient in waiting):
            continue
        site = label(before[-1] if call.has_weights else call)
        facts: dict[str, Fact] = {
            "gain": 0.0,
            "left": 0.0,
            "layers": 1,
            "first": label(before[-1]),
            "last": label(call),
            "lost_at": site,
            "likely": "none-passes",
        }
        return [Finding("S203", GRADIENT_VANISHING.severity, Site(site), facts)]
    return []


def _is_of_one(call: Call, before: Sequence[Call]) -> bool:
    """Whether a softmax is taken over an axis of length one, of scores that a layer gives."""
    is_one = call.activation == "softmax" and call.forward.low == call.forward.high == 1
    return is_one and len(before) == 1 and before[0].has_weights and before[0].units == 1


def _is_shut(record: ParameterRecord) -> bool:
    """Whether a parameter is zero and about to change."""
    return not record.values.rms and record.trainable and record.gradient is not None and record.gradient.rms > 0


def _on_the_main_path(signal: Signal) -> int | None:
    """The first layer of the main path that gives zeros only, unless samples differ behind it all the same."""
    way = next((way for way in signal.ways if way.direction == "forward" and not way.through_time), None)
    sizes = [place.size for place in way.places] if way is not None else []
    if way is None or 0 not in sizes or not (any(sizes) or signal.capture.input_rms):
        return None
    at = way.places[sizes.index(0)].nodes[-1]
    capture = signal.capture
    after = [call for call in range(at + 1, len(capture.calls)) if _tells_apart(capture.calls[call])]
    return None if at < 0 or any(is_behind(capture, at, call) for call in after) else at


def _first_of(calls: Sequence[Call], at: int) -> int:
    """Where what is zero at a call became so."""
    while calls[at].sources and all(calls[source].forward.rms == 0 for source in calls[at].sources):
        at = calls[at].sources[-1]
    return at


def _tells_apart(call: Call) -> bool:
    return call.sample_spread is not None and call.sample_spread > INPUTS_COLLAPSED["roundings"] * call.precision


def _that_stays(signal: Signal) -> int | None:
    """The first call that gives zeros only, lets no gradient pass, and gets none for weights of its own.

    A branch that starts at zero gets one; what lies before it gets one by another way.
    """
    calls, records = signal.capture.calls, {record.path: record for record in signal.capture.parameters}
    for at, call in enumerate(calls):
        if call.forward.rms or call.forward.nonfinite or call.activation is not None or not call.sources:
            continue
        before = [calls[source] for source in call.sources]
        if not any(source.forward.rms for source in before) or not _is_nothing(call.parameters, records):
            continue
        if call.gradient is None or any(source.gradient is None or source.gradient.rms for source in before):
            continue
        if call.gradient.rms or (not call.parameters and _is_nothing(_before(calls, at), records)):
            return at  # weights that no gradient reaches yet may wait for a head that starts at zero
    return None


def _before(calls: Sequence[Call], at: int) -> set[str]:
    return {path for call in calls[:at] for path in call.parameters}


def _is_nothing(paths: Collection[str], records: dict[str, ParameterRecord]) -> bool:
    """Whether none of these parameters gets a gradient."""
    gradients = (records[path].gradient for path in paths if path in records)
    return all(gradient is None or gradient.rms == 0 for gradient in gradients)


def _is_still(call: Call, records: dict[str, ParameterRecord]) -> bool:
    """Whether a layer's weights are zero, would learn, and get a gradient of zero."""
    weights = [records[path] for path in call.parameters if path in records and len(records[path].shape) > 1]
    return bool(weights) and all(
        weight.trainable and weight.values.rms == 0 and weight.gradient is not None and weight.gradient.rms == 0
        for weight in weights
    )
