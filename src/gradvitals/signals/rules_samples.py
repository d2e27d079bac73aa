"""Judge what has become alike: samples that can't be told apart (S207), parameters that hold the same values (S208)."""

from __future__ import annotations

from collections.abc import Sequence

from gradvitals.frameworks.capture import ParameterRecord
from gradvitals.signals.measure import Signal, label
from gradvitals.signals.trunk import node
from gradvitals.vocabulary.finding import Fact, Finding, Severity, Site
from gradvitals.vocabulary.rule import Rule, Threshold

INPUTS_COLLAPSED = Rule(
    "S207",
    Severity.WARNING,
    {
        "spread": Threshold(
            1e-3,
            "difference between samples over their size",
            "what S201 asks of the signal as a whole, asked of the part that tells samples apart",
        ),
        "matters": Threshold(
            1e-4,
            "difference between samples over their size",
            "LeNet with sigmoids, which trains slowly but does, starts at 3e-4 (measured); a tenth of S201's share",
        ),
        "inputs": Threshold(
            1e-2, "difference between samples over their size", "ten times that: inputs that were hardly alike"
        ),
        "roundings": Threshold(4.0, "spacings of the dtype", "differences of so few roundings are noise"),
    },
)
PARAMETERS_CLONED = Rule("S208", Severity.WARNING, {})


def collapsed(signal: Signal) -> list[Finding]:
    """S207: from one layer on, to the end of the main path, samples differ by next to nothing; or a sample's positions.

    Positions are looked at where samples still differ: attention alone makes each sequence a repetition of its mean.
    """
    found = _collapsed(signal, "sample_spread", signal.capture.input_spread, {})
    return found or _collapsed(signal, "position_spread", None, {"likely": "positions"})


def _collapsed(signal: Signal, what: str, before: float | None, more: dict[str, Fact]) -> list[Finding]:
    capture = signal.capture
    levels = [(nodes, *_spread(signal, nodes, what)) for nodes in signal.trunk.levels]
    seen = [(nodes, spread, precision) for nodes, spread, precision in levels if spread is not None]
    if what == "position_spread" and seen:
        before = seen[0][1]  # token ids have no spread of their own
    if not seen or before is None or before < INPUTS_COLLAPSED["inputs"]:
        return []
    first = len(seen)
    while first and seen[first - 1][1] < max(INPUTS_COLLAPSED["spread"], seen[first - 1][2]):
        first -= 1
    past, _ = _spread(signal, sorted(signal.trunk.last), what)  # a skip or a gate may carry differences past the end
    if first == len(seen) or (past is not None and past >= INPUTS_COLLAPSED["spread"]):
        return []
    nodes, _, _ = seen[first]
    _, spread, precision = seen[-1]
    severity = INPUTS_COLLAPSED.severity if spread < INPUTS_COLLAPSED["matters"] else Severity.INFO
    if spread < INPUTS_COLLAPSED["roundings"] * precision:
        severity = Severity.ERROR
    facts: dict[str, Fact] = {
        "spread_before": seen[first - 1][1] if first else before,
        "spread_left": spread,
        "last": label(node(capture, seen[-1][0][-1])),
    }
    return [Finding("S207", severity, Site(label(node(capture, nodes[-1]))), {**facts, **more})]


def _spread(signal: Signal, nodes: Sequence[int], what: str) -> tuple[float | None, float]:
    """The widest spread of what lies side by side, and its dtype's spacing at 1."""
    capture = signal.capture
    known = [spread for at in nodes if (spread := getattr(node(capture, at), what)) is not None]
    precision = max((capture.calls[at].precision for at in nodes if at >= 0), default=2.0**-23)
    return max(known, default=None), precision


def cloned(signal: Signal) -> list[Finding]:
    """S208: parameters that hold the same values, or whose rows do; it matters where the gradients are the same too."""
    capture = signal.capture
    mixing = {path for call in capture.calls if call.has_weights for path in call.parameters}
    alike_rows = [record for record in capture.parameters if record.alike_rows and record.path in mixing]
    if alike_rows:
        return [_clones(alike_rows, PARAMETERS_CLONED.severity, "rows", alike_rows[0].path)]
    copies = [record for record in capture.parameters if record.same_as is not None]
    if not copies:
        return []
    alike = [record for record in copies if record.same_gradient]
    if alike:
        return [_clones(alike, PARAMETERS_CLONED.severity, "alike-for-ever", alike[0].same_as)]
    return [_clones(copies, Severity.INFO, "will-part", copies[0].same_as)]


def _clones(records: Sequence[ParameterRecord], severity: Severity, kind: str, other: str | None) -> Finding:
    paths: tuple[Fact, ...] = tuple(record.path for record in records)
    facts: dict[str, Fact] = {"other": other, "affected": len(paths), "paths": paths, "likely": kind}
    return Finding("S208", severity, Site(records[0].path), facts)
