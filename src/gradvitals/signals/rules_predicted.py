"""Judge what theory says of the signal: rules S201–S204 by prediction, S209 and S210."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from gradvitals.frameworks.capture import ADAM_EPSILON
from gradvitals.frameworks.prediction import Prediction
from gradvitals.signals.measure import Signal, label
from gradvitals.signals.measure_predicted import Comparison, PredictedGain
from gradvitals.signals.remedies import remedy_facts
from gradvitals.signals.rules import direct
from gradvitals.signals.rules_depth import GRADIENT_VANISHING, by_updates, gain_facts, rule_of
from gradvitals.signals.structure import Structure
from gradvitals.vocabulary.finding import Fact, Finding, Severity, Site
from gradvitals.vocabulary.rule import Rule, Threshold

OPERATION_UNMODELLED = Rule("S209", Severity.UNRESOLVED, {})
PREDICTION_DISAGREES = Rule(
    "S210",
    Severity.WARNING,
    {
        "deviations": Threshold(
            4.0,
            "standard deviations",
            "of 1000 layers of sound models 0.06 lie beyond by chance; the theory's own error is in the deviation "
            "(benchmarks/signals_prediction.py)",
        ),
    },
)
RULES = (OPERATION_UNMODELLED, PREDICTION_DISAGREES)


def judge(
    prediction: Prediction,
    structure: Structure,
    gains: Sequence[PredictedGain],
    comparisons: Sequence[Comparison],
    seen: Signal | None,
) -> tuple[Finding, ...]:
    """Findings of a prediction, and of what was measured beside it where that was done; the worst first."""
    found = [*_unmodelled(prediction)]
    if seen is not None:
        found += [*_disagreement(comparisons, _copied(seen)), *direct(seen)]
    for gain in gains:
        found += _over_depth(prediction, structure, gain)
    return tuple(sorted(found, key=lambda finding: -finding.severity))


def _over_depth(prediction: Prediction, structure: Structure, gain: PredictedGain) -> Iterator[Finding]:
    """A finding where little or too much is left."""
    rule = rule_of(gain.direction, gain.left) if gain.fit.differs_from_one else None
    if rule is None:
        return
    site = Site(gain.last if gain.direction == "forward" else gain.first)
    severity, outcome = rule.severity, dict[str, Fact]()
    if rule is GRADIENT_VANISHING:
        severity, outcome = _outcome(prediction, gain) or (severity, outcome)
    advice = remedy_facts(structure, rule.name)
    yield Finding(rule.code, severity, site, {**gain_facts(gain, rule), **outcome, **advice})


def _outcome(prediction: Prediction, gain: PredictedGain) -> tuple[Severity, dict[str, Fact]] | None:
    """What becomes of the first weights by their predicted gradients, as a probe judges it by the measured ones."""
    batch = next((call.shape[0] for call in prediction.calls if call.shape), 1)
    scale = 1 / max(batch, 1) if prediction.objective == "random" else 1.0
    first, last = (_sizes(prediction, path) for path in (gain.first, gain.last))
    if not first or not last:
        return None
    gradient, _, weakest = min(first)
    pace = min(size / weight for size, weight, _ in first)
    late = statistics.median(size / weight for size, weight, _ in last)
    moved = gradient * scale
    return by_updates(moved / (moved + ADAM_EPSILON), weakest, pace / late)


def _sizes(prediction: Prediction, path: str) -> list[tuple[float, float, str]]:
    """Of the weights that a layer mixes by: the RMS of the gradient and of the entries, and the name."""
    names = {name for call in prediction.calls if label(call) == path for name in call.parameters}
    return [
        (known.gradient.rms, known.weight_rms, known.path)
        for known in prediction.parameters
        if known.path in names and len(known.shape) > 1 and known.gradient is not None
        if known.gradient.rms > 0 and known.weight_rms > 0
    ]


def _unmodelled(prediction: Prediction) -> Iterator[Finding]:
    """One finding per operation without a rule: what lies behind it isn't predicted."""
    behind = tuple(call.path for call in prediction.calls if call.forward is None)
    for operation in prediction.unmodelled:
        facts: dict[str, Fact] = {
            "operation": operation.name,
            "count": operation.count,
            "detail": operation.reason,
            "affected": len(behind),
        }
        site = next((path for path in operation.paths if path), operation.name)
        severity = OPERATION_UNMODELLED.severity if operation.matters else Severity.INFO
        yield Finding("S209", severity, Site(site), facts)


def _copied(seen: Signal) -> dict[tuple[str, int], str]:
    """The calls that mix by a copy of another parameter: by path and number, that of the parameter."""
    copies = {record.path for record in seen.capture.parameters if record.same_as is not None}
    return {
        (call.path, call.call): path
        for call in seen.capture.calls
        if call.has_weights
        for path in call.parameters
        if path in copies
    }


def _disagreement(comparisons: Sequence[Comparison], copied: Mapping[tuple[str, int], str]) -> Iterator[Finding]:
    """One finding per direction: at the first layer, in the signal's own order, where the two part."""
    for direction in ("forward", "backward"):
        side = [comparison for comparison in comparisons if comparison.direction == direction]
        side = side if direction == "forward" else side[::-1]
        outside = [item for item in side if item.deviations > PREDICTION_DISAGREES["deviations"]]
        if not outside:
            continue
        first = outside[0]
        paths: tuple[Fact, ...] = tuple(dict.fromkeys(item.path for item in outside))
        facts: dict[str, Fact] = {
            "direction": direction,
            "predicted": first.predicted,
            "measured": first.measured,
            "ratio": first.ratio,
            "affected": len(outside),
            "total": len(side),
            "paths": paths,
        }
        before = side[: side.index(first) + 1]  # in the signal's own order
        copies = tuple(dict.fromkeys(copied[at] for item in before if (at := (item.path, item.call)) in copied))
        if copies:
            facts |= {"likely": "cloned", "copies": len(copies), "nearest": copies[-1]}
        yield Finding("S210", PREDICTION_DISAGREES.severity, Site(first.path), facts)
