"""Judge what was seen of a backward pass's structure and of the function's precision: rules G101, G105, G107, G110."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from gradvitals.frameworks.problem import Tensor
from gradvitals.gradients.asking import Fault
from gradvitals.gradients.measure_inside import Inside
from gradvitals.gradients.measure_precision import measure_precision
from gradvitals.gradients.measure_structure import Structure
from gradvitals.gradients.mistakes import Mistake
from gradvitals.gradients.outcome import Measurement
from gradvitals.vocabulary.finding import Fact, Finding, Severity, Site
from gradvitals.vocabulary.rule import Rule, Threshold

_MEASURED = "843 float32 and 841 float64 cases of PyTorch's operators: 98 % below 15, the rest casts, rounding, jumps"
GRADIENT_WRONG = Rule("G101", Severity.ERROR, {})
NOT_DETERMINISTIC = Rule("G105", Severity.INFO, {})
PRECISION_LOW = Rule(
    "G107",
    Severity.WARNING,
    {
        "float64": Threshold(2.0**20, "ratio of unit roundoffs", f"{_MEASURED}; float32 inside makes 2**29"),
        "float32": Threshold(2.0**8, "ratio of unit roundoffs", f"{_MEASURED}; TF32 or float16 inside make 2**13"),
    },
)
BACKWARD_FRAGILE = Rule("G110", Severity.ERROR, {})
RULES = (PRECISION_LOW, BACKWARD_FRAGILE)

#: A fault was seen twice, on forward passes of its own.
_CONFIDENCE = 0.98
#: Of one mistake in how the cotangent is treated the slopes show the same tensors.
_OF_COTANGENT = frozenset({"ignores-cotangent", "not-linear", "nonzero-at-zero"})
#: What slopes say of a constant that is added, where they don't recognise it.
_SEEMING = frozenset(
    {"formula", "entries", "slice", "sign", "factor-missing", "factor-extra", "precision", "not-linear", "stale"}
)
#: No explanation that is linear in the cotangent explains what isn't; only these stand beside it.
_STANDING = frozenset({"ignores-cotangent", "not-linear", "accumulates", "shape"})
#: Facts that belong to an explanation by a factor.
_OF_FACTORS = frozenset({"factor", "name", "shared"})
#: Faults that leave the gradient right but are a danger; those that raise are as well.
_FRAGILE = {"modifies-cotangent": Severity.ERROR, "second-pass": Severity.WARNING, "value-strides": Severity.WARNING}
_RAISING = {
    "cotangent-strides": ("raises-on-strides", Severity.ERROR),
    "cotangent-expanded": ("raises-on-expanded", Severity.ERROR),
    "nonzero-at-zero": ("raises-at-zero", Severity.ERROR),
    "not-linear": ("raises-on-multiple", Severity.ERROR),
    "output-alone": ("raises-on-one-output", Severity.ERROR),
    "input-strides": ("raises-on-strided-inputs", Severity.WARNING),
}
#: The dtypes of which coarser computation is looked for, and their unit roundoff.
_DTYPES = {"float64": 2.0**-53, "float32": 2.0**-24}
#: Formats by their unit roundoff, coarsest first.
_FORMATS = ((2.0**-8, "bfloat16"), (2.0**-11, "float16 / TF32"), (2.0**-24, "float32"))


def with_structure(
    findings: Sequence[Finding],
    tensors: Sequence[Tensor],
    measured: Measurement,
    structure: Structure,
    sensitivity: float,
    lowered: Callable[[], Sequence[str]] = tuple,
) -> tuple[Finding, ...]:
    """The findings of the slopes with those of the structure, the worst first; what has one cause as one.

    Parameters
    ----------
    findings : sequence of Finding
        What the slopes gave.
    tensors : sequence of Tensor
    measured : Measurement
    structure : Structure
    sensitivity : float
        The relative error that must be resolved.
    lowered : callable
        Gives the settings in force that lower the precision.

    """
    found = [_with_settings(finding, lowered) for finding in findings]
    for fault in structure.faults:
        paths = tuple(tensors[at].path for at in fault.tensors)
        if fault.raised or fault.kind in _FRAGILE:
            found.append(_fragile(fault, paths, shares_cotangents=structure.shares_cotangents))
            continue
        if fault.kind in _OF_COTANGENT:
            found, paths = _explained(found, fault, paths)
        elif fault.kind == "forward-reverse-differ":  # where slopes contradict reverse mode, that is the finding
            paths = tuple(path for path in paths if path not in _wrong(found))
        if paths:
            found.append(_wrong_by(fault, paths))
    if structure.spread > 0 and not any(finding.code == "G105" for finding in found):
        severity = Severity.UNRESOLVED if structure.spread > sensitivity else NOT_DETERMINISTIC.severity
        found.append(Finding("G105", severity, Site("output"), {"spread": structure.spread, "likely": "gradient"}))
    found += judge_precision(tensors, measured, lowered)
    return tuple(sorted(found, key=lambda finding: -finding.severity))


def judge_structure_inside(inside: Sequence[Inside]) -> tuple[Finding, ...]:
    """Findings of layers that were asked by themselves; layers that hold the same functions make one."""
    found: dict[tuple[object, ...], Finding] = {}
    for layer in inside:
        for fault in layer.structure.faults:
            paths = tuple(layer.tensors[at].path for at in fault.tensors)
            if fault.raised or fault.kind in _FRAGILE:
                finding = _fragile(fault, paths, shares_cotangents=layer.structure.shares_cotangents)
                finding = replace(finding, site=Site(layer.path))
            else:
                finding = _wrong_by(fault, paths)
            key = (layer.functions, finding.code, finding.evidence["likely"])
            homes = (*(found[key].evidence["at_fault"] if key in found else ()), layer.path)  # type: ignore[misc]
            facts: dict[str, Fact] = {"at_fault": homes, "kind": layer.kind, "functions": layer.functions}
            finding = found.get(key, finding)
            found[key] = replace(finding, evidence={**finding.evidence, **facts})
    return tuple(found.values())


def with_statuses(measured: Measurement, structure: Structure) -> Measurement:
    """The measurement with those tensors wrong whose gradients are, however right their slopes."""
    outcomes = list(measured.outcomes)
    for fault in structure.faults:
        if fault.raised or fault.kind in _FRAGILE:
            continue
        mistake = Mistake(fault.kind, _CONFIDENCE)
        for at in fault.tensors:
            known = outcomes[at]
            if known.status != "wrong":
                outcomes[at] = replace(known, status="wrong", relative_error=fault.relative, mistake=mistake)
            elif fault.kind in _OF_COTANGENT and (
                known.mistake is None or _is_better(fault.kind, known.mistake.likely)
            ):
                outcomes[at] = replace(known, mistake=mistake)
    return replace(measured, outcomes=tuple(outcomes))


def judge_precision(
    tensors: Sequence[Tensor], measured: Measurement, lowered: Callable[[], Sequence[str]]
) -> Iterator[Finding]:
    """G107 where the function's noise is that of a coarser format.

    A note only, where a setting explains it, or where every gradient could be resolved all the same.

    Parameters
    ----------
    tensors : sequence of Tensor
    measured : Measurement
    lowered : callable
        Gives what in force lowers the precision.

    """
    if measured.base is None or measured.spread > 0:  # what differs when asked again isn't rounding
        return
    dtype = max((tensor.dtype for tensor in tensors), key=lambda name: _DTYPES.get(name, 1.0))
    if dtype not in _DTYPES:
        return
    base, expected = measured.base, _DTYPES[dtype]
    of_the_value = expected * float(np.linalg.norm(base.cotangent * base.value))
    if base.projected_noise <= of_the_value and base.inner_roundoff <= expected:
        return  # no more than rounding the value alone makes
    precision = measure_precision(base, expected)
    if precision.ratio <= PRECISION_LOW[dtype]:
        return
    settings = lowered()
    nearest = min(_FORMATS, key=lambda known: max(known[0] / precision.seen, precision.seen / known[0]))
    facts: dict[str, Fact] = {
        "ratio": precision.ratio,
        "dtype": dtype,
        "roundoff": precision.seen,
        "format": nearest[1],
        "settings": tuple(settings),
    }
    harmless = all(outcome.status == "right" for outcome in measured.outcomes)
    severity = Severity.INFO if settings or harmless else PRECISION_LOW.severity
    yield Finding("G107", severity, Site("output"), facts)


def _with_settings(finding: Finding, lowered: Callable[[], Sequence[str]]) -> Finding:
    """What may be why a gradient is imprecise."""
    settings = tuple(lowered()) if finding.code == "G107" else ()
    return replace(finding, evidence={**finding.evidence, "settings": settings}) if settings else finding


def _fragile(fault: Fault, paths: tuple[str, ...], *, shares_cotangents: bool) -> Finding:
    kind, severity = (
        _RAISING.get(fault.kind, (fault.kind, BACKWARD_FRAGILE.severity))
        if fault.raised
        else (fault.kind, _FRAGILE[fault.kind])
    )
    if kind == "modifies-cotangent" and not shares_cotangents:
        severity = Severity.INFO
    facts: dict[str, Fact] = {
        "tensors": paths,
        "likely": kind,
        "relative_error": fault.relative,
        "layouts": fault.layouts,
        "raised": fault.raised,
    }
    return Finding("G110", severity, Site("output"), facts)


def _wrong_by(fault: Fault, paths: tuple[str, ...]) -> Finding:
    facts: dict[str, Fact] = {
        "tensors": paths,
        "likely": fault.kind,
        "relative_error": fault.relative,
        "layouts": fault.layouts,
    }
    return Finding("G101", GRADIENT_WRONG.severity, Site(paths[0]), facts)


def _explained(
    findings: Sequence[Finding], fault: Fault, paths: tuple[str, ...]
) -> tuple[list[Finding], tuple[str, ...]]:
    """Findings of slopes that a fault explains, and the tensors that are left for a finding of its own."""
    explained: list[Finding] = []
    left = set(paths)
    for finding in findings:
        own = finding.evidence.get("tensors", ())
        shared = set(own) & set(paths) if finding.code == "G101" and isinstance(own, tuple) else set()
        left -= shared
        better = bool(shared) and _is_better(fault.kind, finding.evidence.get("likely"))
        told = _as_fault(finding, fault.kind) if better else finding
        twin = next((at for at, one in enumerate(explained) if _is_twin(one, told, fault.kind)), None)
        if twin is None:
            explained.append(told)
        else:
            explained[twin] = _with_tensors(explained[twin], own)
    return explained, tuple(path for path in paths if path in left)


def _as_fault(finding: Finding, kind: str) -> Finding:
    facts = {key: value for key, value in finding.evidence.items() if key not in _OF_FACTORS}
    return replace(finding, evidence={**facts, "likely": kind}, confidence=_CONFIDENCE)


def _is_better(kind: str, likely: Fact) -> bool:
    """Whether a fault in how the cotangent is treated explains more than what slopes made of it."""
    return likely in _SEEMING if kind == "nonzero-at-zero" else likely not in _STANDING


def _is_twin(one: Finding, other: Finding, kind: str) -> bool:
    return one.code == other.code == "G101" and one.evidence.get("likely") == other.evidence.get("likely") == kind


def _with_tensors(finding: Finding, more: Fact) -> Finding:
    own = finding.evidence["tensors"]
    both = (*own, *more) if isinstance(own, tuple) and isinstance(more, tuple) else own
    return replace(finding, evidence={**finding.evidence, "tensors": both})


def _wrong(findings: Sequence[Finding]) -> set[Fact]:
    """Paths of tensors whose gradients slopes contradict."""
    return {path for f in findings if f.code == "G101" for path in (f.evidence.get("tensors") or ())}  # type: ignore[union-attr]
