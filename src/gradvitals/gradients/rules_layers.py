"""Judge where a wrong gradient comes from: findings name the layer at fault and list what only inherits it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradvitals.frameworks.problem import Tensor
from gradvitals.gradients.measure_layers import Fault, LayersMeasured
from gradvitals.gradients.outcome import Measurement
from gradvitals.gradients.rules import judge
from gradvitals.vocabulary.finding import Fact, Finding, Severity, Site
from gradvitals.vocabulary.report import Table

#: The findings that a layer can be at fault for.
_CAUSED = ("G101", "G102", "G103")


def judge_layers(
    tensors: Sequence[Tensor], measured: Measurement, layers: LayersMeasured, sensitivity: float
) -> tuple[Finding, ...]:
    """Findings of a check, the worst first: one for each kind of layer at fault, and those of what none explains.

    A tensor of the faulty layer itself that nothing else inherits from keeps its own finding: it says more, and there
    ``at_fault`` names the layer.
    """
    spread = [fault for fault in layers.faults if set(fault.explains) - set(fault.own)]
    explained = {path for fault in spread for path in fault.explains}
    # Of a tensor that inherits from another layer too, its own finding can't tell the two mistakes apart.
    passed_on = [fault for fault in layers.faults if fault in spread or explained.issuperset(fault.own)]
    left = [at for at, tensor in enumerate(tensors) if tensor.path not in explained]
    rest = replace(
        measured,
        outcomes=tuple(measured.outcomes[at] for at in left),
        gradients=tuple(measured.gradients[at] for at in left),
    )
    found = [_located(group, sensitivity, tensors, measured) for group in _alike(passed_on, sensitivity)]
    for finding in judge([tensors[at] for at in left], rest, sensitivity) if left else ():
        homes = [fault for fault in layers.faults if set(fault.own) & set(_paths(finding))]
        if finding.code in _CAUSED and len(homes) == 1:
            facts: dict[str, Fact] = {"at_fault": (homes[0].path,), "kind": homes[0].kind}
            found.append(replace(finding, evidence={**finding.evidence, **facts, **_functions(homes)}))
        else:
            found.append(finding)
    return tuple(sorted(found, key=lambda finding: -finding.severity))


def layer_table(layers: LayersMeasured) -> Table:
    """A row per layer that was looked at alone."""
    columns = ("path", "call", "kind", "status", "resolution", "reason")
    rows = tuple((row.path, row.call, row.kind, row.status, row.resolution, row.reason or None) for row in layers.rows)
    return Table("modules", columns, ("",) * len(columns), rows)


def _paths(finding: Finding) -> tuple[str, ...]:
    listed = finding.evidence.get("tensors", ())
    return tuple(str(path) for path in listed) if isinstance(listed, tuple) else ()


def _alone(fault: Fault, sensitivity: float) -> Finding:
    """What the check of the layer alone found, the mistake that it was named for before others."""
    found = [finding for finding in judge(fault.tensors, fault.measured, sensitivity) if finding.code in _CAUSED]
    named = [finding for finding in found if finding.evidence.get("likely") not in {"formula", "unknown", "unused"}]
    return (named or found)[0]


def _alike(faults: Sequence[Fault], sensitivity: float) -> list[list[tuple[Fault, Finding]]]:
    """Faults of layers of one kind that make the same mistake are one."""
    groups: dict[tuple[object, ...], list[tuple[Fault, Finding]]] = {}
    for fault in faults:
        alone = _alone(fault, sensitivity)
        cause = (fault.kind, fault.functions, alone.code, alone.evidence.get("likely"), alone.evidence.get("name"))
        groups.setdefault(cause, []).append((fault, alone))
    return list(groups.values())


def _located(
    group: Sequence[tuple[Fault, Finding]], sensitivity: float, tensors: Sequence[Tensor], measured: Measurement
) -> Finding:
    """One finding for layers that make one mistake."""
    fault, alone = group[0]
    faults = [fault for fault, _ in group]
    own = {path for fault in faults for path in fault.own}
    affected = [tensor.path for tensor in tensors if any(tensor.path in fault.explains for fault in faults)]
    inherited = tuple(path for path in affected if path not in own)
    came = {
        tensor.path
        for tensor, gradient in zip(tensors, measured.gradients, strict=True)
        if gradient.value is not None and tensor.path in affected
    }
    # Where the path is cut but another one goes round it, gradients come and are wrong.
    code = "G101" if alone.code == "G102" and came == set(affected) else alone.code
    wrong = tuple(
        dict.fromkeys(
            path
            for fault in faults
            for finding in judge(fault.tensors, fault.measured, sensitivity)
            if finding.code in _CAUSED and finding.severity is Severity.ERROR
            for path in _paths(finding)
        )
    )
    dropped = {"numeric", "analytic"} if code != alone.code else set()
    facts: dict[str, Fact] = {
        **{key: fact for key, fact in alone.evidence.items() if key not in dropped},
        "tensors": (*sorted(own), *inherited),
        "at_fault": tuple(dict.fromkeys(fault.path for fault in faults)),
        "kind": fault.kind,
        "own": wrong,
        "inherited": inherited,
        "inherited_count": len(inherited),
        "place": str(alone.site),
        **_functions(faults),
    }
    return Finding(code, Severity.ERROR, Site(fault.path), facts, alone.confidence)


def _functions(faults: Sequence[Fault]) -> dict[str, Fact]:
    names = tuple(dict.fromkeys(name for fault in faults for name in fault.functions))
    return {"functions": names} if names else {}
