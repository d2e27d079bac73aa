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
        "inputs": Threshold(
            1e-2, "difference between samples over their size", "ten times that: inputs that were hardly alike"
        ),
        "roundings": Threshold(4.0, "spacings of the dtype", "differences of so few roundings are noise"),
    },
)
PARAMETERS_CLONED = Rule("S208", Severity.WARNING, {})


def collapsed(signal: Signal) -> list[Finding]:
    """S207: from one layer on, all the way to the end of the main path, samples differ by next to nothing."""
    capture = signal.capture
    levels = [(nodes, _spread(signal, nodes)) for nodes in signal.trunk.levels]
    seen = [(nodes, spread, precision) for nodes, (spread, precision) in levels if spread is not None]
    before = capture.input_spread
    if not seen or before is None or before < INPUTS_COLLAPSED["inputs"]:
        return []
    first = len(seen)
    while first and seen[first - 1][1] < max(INPUTS_COLLAPSED["spread"], seen[first - 1][2]):
        first -= 1
    if first == len(seen):
        return []
    nodes, _, _ = seen[first]
    _, spread, precision = seen[-1]
    severity = INPUTS_COLLAPSED.severity
    if spread < INPUTS_COLLAPSED["roundings"] * precision:
        severity = Severity.ERROR
    facts: dict[str, Fact] = {
        "spread_before": seen[first - 1][1] if first else before,
        "spread_left": spread,
        "last": label(node(capture, seen[-1][0][-1])),
    }
    return [Finding("S207", severity, Site(label(node(capture, nodes[-1]))), facts)]


def _spread(signal: Signal, nodes: Sequence[int]) -> tuple[float | None, float]:
    """The widest spread of what lies side by side, and its dtype's spacing at 1."""
    capture = signal.capture
    known = [spread for at in nodes if (spread := node(capture, at).sample_spread) is not None]
    precision = max((capture.calls[at].precision for at in nodes if at >= 0), default=2.0**-23)
    return max(known, default=None), precision


def cloned(records: Sequence[ParameterRecord]) -> list[Finding]:
    """S208: parameters that hold the same values; it matters where they have the same gradient as well."""
    copies = [record for record in records if record.same_as is not None]
    if not copies:
        return []
    alike = [record for record in copies if record.same_gradient]
    worst = (alike or copies)[0]
    paths: tuple[Fact, ...] = tuple(record.path for record in alike or copies)
    facts: dict[str, Fact] = {
        "other": worst.same_as,
        "affected": len(paths),
        "paths": paths,
        "likely": "alike-for-ever" if alike else "will-part",
    }
    return [Finding("S208", PARAMETERS_CLONED.severity if alike else Severity.INFO, Site(worst.path), facts)]
