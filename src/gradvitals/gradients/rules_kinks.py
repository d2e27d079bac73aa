"""Judge what lies at the edge of a slope: kinks at the point (G106), gradients beyond their sub-gradients (G101), and
gradients that are right in formula but imprecise (G107).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gradvitals.frameworks.problem import Tensor
from gradvitals.gradients.measure_kinks import OUTSIDE
from gradvitals.gradients.mistakes import Mistake
from gradvitals.gradients.outcome import Measurement
from gradvitals.vocabulary.finding import Fact, Finding, Severity, Site
from gradvitals.vocabulary.rule import Rule, Threshold

KINK_NEARBY = Rule("G106", Severity.INFO, {})
GRADIENT_WRONG = Rule(
    "G101",
    Severity.ERROR,
    {
        "outside": Threshold(
            OUTSIDE, "relative", "the slopes on both sides of a kink are measured to about 1 % in float32 and bfloat16"
        )
    },
)
#: Both sides of the kinks were measured.
_CONFIDENCE = 0.9
#: An imprecision below this share of the sensitivity is worth a note only.
_NOTE = 0.1


def judge_kinks(tensors: Sequence[Tensor], measured: Measurement, sensitivity: float) -> Iterator[Finding]:
    """G106 where outputs were left out or tensors checked beside the point; G101 where no sub-gradient is claimed."""
    kinks = measured.kinks
    if kinks is None:
        return
    # What slopes elsewhere contradict already needs no second finding.
    paths = tuple(tensors[at].path for at in kinks.doubtful if measured.outcomes[at].status != "wrong")
    if paths:
        outside: dict[str, Fact] = {
            "tensors": paths,
            "likely": "not-a-subgradient",
            "relative_error": kinks.outside,
        }
        yield Finding("G101", GRADIENT_WRONG.severity, Site(paths[0]), outside, _CONFIDENCE)
    facts: dict[str, Fact] = {}
    if kinks.masked.any():
        facts |= {"masked": int(kinks.masked.sum()), "total": int(kinks.masked.size), "share": kinks.share}
    if kinks.beside:
        facts["beside"] = tuple(tensors[at].path for at in kinks.beside)
    if facts:
        yield Finding("G106", KINK_NEARBY.severity, Site("output"), facts)
    yield from _imprecise(tensors, measured, sensitivity)


def _imprecise(tensors: Sequence[Tensor], measured: Measurement, sensitivity: float) -> Iterator[Finding]:
    found = [
        (outcome.imprecision, tensor)
        for outcome, tensor in zip(measured.outcomes, tensors, strict=True)
        if outcome.status == "right" and outcome.imprecision > 0
    ]
    if found:
        worst, tensor = max(found, key=lambda pair: pair[0])
        facts: dict[str, Fact] = {
            "likely": "gradient",
            "tensors": tuple(tensor.path for _, tensor in found),
            "imprecision": worst,
            "dtype": tensor.dtype,
        }
        severity = Severity.WARNING if worst > _NOTE * sensitivity else Severity.INFO
        yield Finding("G107", severity, Site(tensor.path), facts)


def with_kinks(measured: Measurement) -> Measurement:
    """The measurement with those tensors wrong that are outside their sub-gradients."""
    if measured.kinks is None or not measured.kinks.doubtful:
        return measured
    outcomes = list(measured.outcomes)
    for at in measured.kinks.doubtful:
        if outcomes[at].status != "wrong":
            outcomes[at] = replace(outcomes[at], status="wrong", mistake=Mistake("not-a-subgradient", _CONFIDENCE))
    return replace(measured, outcomes=tuple(outcomes))
