"""Judge a kernel beside its reference: G101–G103 for gradients, G109 for values, G111 where nothing can be said."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from gradvitals.frameworks.rivals import Mismatch
from gradvitals.gradients.explain_reference import Explanation, explain
from gradvitals.gradients.measure_cotangents import KernelFault
from gradvitals.gradients.measure_reference import ENTRY_ALLOWANCE, SURE, Compared, Comparison
from gradvitals.gradients.mistakes.factors import Sizes
from gradvitals.vocabulary.finding import Fact, Finding, Severity, Site
from gradvitals.vocabulary.rule import Rule, Threshold

VALUE_WRONG = Rule(
    "G109",
    Severity.ERROR,
    {
        "ratio": Threshold(
            2.0,
            "ratio of RMS errors",
            "the tests of FlashAttention allow twice the error of the eager version (Dao et al., 2022)",
        )
    },
)
#: A kernel may be meant to take its inputs' memory (a loss that leaves the gradient there); the gradient from above may
#: still be needed by other branches.
_WRITTEN = {
    "cotangent": ("modifies-cotangent", Severity.ERROR),
    "input": ("modifies-input", Severity.WARNING),
}
UNDECIDED = Rule("G111", Severity.UNRESOLVED, {})

#: Two factors are one cause when they differ by less than this, relatively.
_SAME_FACTOR = 0.01


def judge_comparison(
    compared: Compared,
    mismatches: Sequence[Mismatch],
    sizes: Sequence[int],
    ratio: float,
    faults: Sequence[KernelFault] = (),
) -> tuple[tuple[Finding, ...], dict[str, Explanation]]:
    """Findings, the worst first, and what explains each wrong tensor, by its path."""
    everything = (*compared.outputs, *compared.gradients)
    known = Sizes(tuple(sizes), tuple((c.tensor.path, c.tensor.shape) for c in everything))
    explained = {
        c.tensor.path: explain(c, known, ratio)
        for c in everything
        if c.status == "wrong" and not c.reason and c.got_shape is None and not c.missing and not c.broken_count
    }
    found = [
        *_misshapen(compared.gradients, mismatches),
        *_not_finite(compared.outputs, "G109"),
        *_wrong(compared.outputs, explained, ratio, "G109", value_wrong=False),
        *_not_finite(compared.gradients, "G103"),
        *_missing(compared.gradients),
        *_wrong(
            compared.gradients, explained, ratio, "G101", value_wrong=any(c.status == "wrong" for c in compared.outputs)
        ),
        *_breaking_rules(compared.gradients, faults),
        *_writing(compared),
        *_undecided(everything, ratio),
    ]
    return tuple(sorted(found, key=lambda finding: -finding.severity)), explained


def _misshapen(gradients: Sequence[Comparison], mismatches: Sequence[Mismatch]) -> Iterator[Finding]:
    for m in mismatches:
        severity = VALUE_WRONG.severity if m.kind == "shape" else Severity.WARNING
        facts: dict[str, Fact] = {
            "tensors": (m.path,),
            "likely": "shape" if m.kind == "shape" else "other-dtype",
            "got": m.got,
            "expected": m.expected,
        }
        yield Finding("G109", severity, Site(m.path), facts)
    for c in gradients:
        if c.got_shape is not None:
            facts = {
                "tensors": (c.tensor.path,),
                "likely": "shape",
                "got": str(c.got_shape),
                "expected": str(c.tensor.shown_shape),
            }
            yield Finding("G101", Severity.ERROR, Site(c.tensor.path), facts)


def _not_finite(compared: Sequence[Comparison], code: str) -> Iterator[Finding]:
    """NaN or infinity where the reference is finite, all of it in one finding."""
    spoilt = [c for c in compared if c.broken_count and not c.missing and c.got_shape is None]
    if spoilt:
        facts: dict[str, Fact] = {
            "tensors": tuple(c.tensor.path for c in spoilt),
            "likely": "kernel-not-finite",
            "count": sum(c.broken_count for c in spoilt),
            "total": sum(c.tensor.size for c in spoilt),
        }
        if code == "G103":
            del facts["likely"]
        yield Finding(code, Severity.ERROR, _site(spoilt[0]), facts)


def _missing(gradients: Sequence[Comparison]) -> Iterator[Finding]:
    """No gradient came: an error where the reference has one."""
    missing = [c for c in gradients if c.missing]
    for status, likely in (("wrong", "only-in-reference"), ("right", "unused")):
        group = [c for c in missing if c.status == status]
        if group:
            severity = Severity.ERROR if status == "wrong" else Severity.INFO
            facts: dict[str, Fact] = {"tensors": tuple(c.tensor.path for c in group), "likely": likely}
            yield Finding("G102", severity, Site(group[0].tensor.path), facts)


def _wrong(
    compared: Sequence[Comparison],
    explained: dict[str, Explanation],
    ratio: float,
    code: str,
    *,
    value_wrong: bool,
) -> Iterator[Finding]:
    """One finding for each cause."""
    groups: list[list[Comparison]] = []
    for c in compared:
        if c.tensor.path not in explained:
            continue
        mine = explained[c.tensor.path]
        home = next((g for g in groups if _same_cause(explained[g[0].tensor.path], mine)), None)
        if home is None:
            groups.append([c])
        else:
            home.append(c)
    for group in groups:
        worst = max(group, key=lambda c: max(c.tally.ratio.value, c.local))
        mine = explained[worst.tensor.path]
        kernel, eager, truth = (float(values[worst.entry]) for values in worst.tally.first[0])
        facts: dict[str, Fact] = {
            "tensors": tuple(c.tensor.path for c in group),
            "likely": mine.likely,
            **mine.facts,
            "kernel_error": worst.tally.kernel_error,
            "eager_error": worst.tally.eager_error,
            "beside_error": worst.tally.beside_error,
            "ratio": worst.tally.ratio.value,
            "ratio_limit": ratio,
            "truth": truth,
            "eager": eager,
            "kernel": kernel,
        }
        if worst.tally.ratio.value <= ratio:
            facts["local_ratio"] = worst.local
        if value_wrong:
            facts["value_wrong"] = True
        yield Finding(code, Severity.ERROR, _site(worst), facts, mine.confidence)


def _breaking_rules(gradients: Sequence[Comparison], faults: Sequence[KernelFault]) -> Iterator[Finding]:
    for kind in dict.fromkeys(fault.kind for fault in faults):
        group = [fault for fault in faults if fault.kind == kind]
        worst = max(group, key=lambda fault: fault.relative)
        facts: dict[str, Fact] = {
            "tensors": tuple(gradients[fault.tensor].tensor.path for fault in group),
            "likely": kind,
            "relative_error": worst.relative,
            "layouts": worst.layouts,
        }
        yield Finding("G101", Severity.ERROR, Site(gradients[worst.tensor].tensor.path), facts)


def _writing(compared: Compared) -> Iterator[Finding]:
    for what in compared.modified:
        kind, severity = _WRITTEN[what]
        facts: dict[str, Fact] = {"tensors": tuple(c.tensor.path for c in compared.gradients), "likely": kind}
        yield Finding("G110", severity, Site("output"), facts)


def _same_cause(one: Explanation, other: Explanation) -> bool:
    if one.likely != other.likely:
        return False
    if one.factor is not None and other.factor is not None:
        return abs(one.factor.value - other.factor.value) <= _SAME_FACTOR * abs(one.factor.value)
    return one.facts.get("kernel_region") == other.facts.get("kernel_region")


def _undecided(compared: Sequence[Comparison], ratio: float) -> Iterator[Finding]:
    open_ = [c for c in compared if c.status == "unresolved" and c.reason != "stopped"]
    for reason in dict.fromkeys(c.reason for c in open_):
        group = [c for c in open_ if c.reason == reason]
        worst = max(group, key=lambda c: c.tally.ratio.value)
        facts: dict[str, Fact] = {
            "tensors": tuple(c.tensor.path for c in group),
            "likely": reason,
            "ratio": worst.tally.ratio,
            "ratio_limit": ratio,
            "kernel_error": worst.tally.kernel_error,
            "eager_error": worst.tally.eager_error,
            "conditioning": worst.conditioning,
        }
        yield Finding("G111", UNDECIDED.severity, Site(worst.tensor.path), facts)


def _site(c: Comparison) -> Site:
    index = tuple(int(i) for i in np.unravel_index(c.entry, c.tensor.shape)) if c.tensor.shape else None
    return Site(c.tensor.path, index)


def resolution(c: Comparison, ratio: float) -> float:
    """The relative error of the tensor above which it is called wrong."""
    beside = c.tally.ratio
    sure = math.exp(SURE * beside.error / beside.value) if beside.value else 1.0
    return ratio * sure * c.tally.beside_error


def entry_resolution(c: Comparison, ratio: float) -> float:
    """The error of a single entry above which it is called wrong, relative to the tensor's RMS."""
    size = math.sqrt(float(np.mean(c.tally.truth)) / max(c.tensor.size, 1))
    return ratio * ENTRY_ALLOWANCE * c.tally.entry_beside() / size if size else math.inf
