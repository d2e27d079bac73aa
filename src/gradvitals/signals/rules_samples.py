"""Judge what has become alike: samples that can't be told apart (S207), parameters that hold the same values (S208)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradvitals.frameworks.capture import Call, Capture, ParameterRecord
from gradvitals.signals.measure import Signal, consumers, label
from gradvitals.signals.trunk import is_behind, node
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
        "small": Threshold(1e-3, "RMS", "what S201 asks of the signal, of one whose sound size is about 1"),
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
    if not seen or before is None:
        return []
    if before < INPUTS_COLLAPSED["inputs"]:
        return _alike_from_the_start(signal, seen, before) if what == "sample_spread" else []
    first = len(seen)
    while first and seen[first - 1][1] < max(INPUTS_COLLAPSED["spread"], seen[first - 1][2]):
        first -= 1
    past, _ = _spread(signal, sorted(signal.trunk.last), what)  # a skip or a gate may carry differences past the end
    if first == len(seen) or (past is not None and past >= INPUTS_COLLAPSED["spread"]):
        return []
    start, before_it = _origin(capture, seen[first][0][-1], what, seen[first - 1][1] if first else before)
    _, spread, precision = seen[-1]
    severity = INPUTS_COLLAPSED.severity if spread < INPUTS_COLLAPSED["matters"] else Severity.INFO
    if spread < INPUTS_COLLAPSED["roundings"] * precision:
        severity = Severity.ERROR
    facts: dict[str, Fact] = {
        "cut": INPUTS_COLLAPSED["spread"],
        "spread_before": before_it,
        "spread_left": spread,
        "last": label(node(capture, seen[-1][0][-1])),
    }
    if start >= 0:
        start = made_small(capture.calls, start)
    return [Finding("S207", severity, Site(label(node(capture, start))), {**facts, **more})]


def made_small(calls: Sequence[Call], at: int) -> int:
    """Where what reaches a call became so small that biases, or a normalisation's constant, drown it; else the call."""
    found = at
    while calls[at].sources:
        source = max(calls[at].sources, key=lambda each: calls[each].forward.rms)
        if not 0 < calls[source].forward.rms < INPUTS_COLLAPSED["small"]:
            break
        found = at = source
    return found


def _alike_from_the_start(
    signal: Signal, seen: Sequence[tuple[Sequence[int], float, float]], before: float
) -> list[Finding]:
    """S207 of inputs that lie far from zero beside what tells them apart, where no layer sets that right.

    Inputs that are the same but for rounding are a stand-in for data, of which nothing can be said.
    """
    cut = INPUTS_COLLAPSED["inputs"]
    nodes, spread, precision = seen[-1]
    if before < INPUTS_COLLAPSED["roundings"] * precision or any(level[1] >= cut for level in seen):
        return []
    last = label(node(signal.capture, nodes[-1]))
    facts: dict[str, Fact] = {"cut": cut, "spread_before": before, "spread_left": spread, "last": last}
    return [Finding("S207", INPUTS_COLLAPSED.severity, Site("input"), {**facts, "likely": "inputs"})]


def _origin(capture: Capture, at: int, what: str, before: float) -> tuple[int, float]:
    """Where what has collapsed at a layer collapsed first, back to an embedding, and the spread before.

    A parent that has collapsed counts where it was made of all the others: not a branch that looks at none of them.
    """
    cut = INPUTS_COLLAPSED["spread"]
    while True:
        spreads = {parent: getattr(node(capture, parent), what) for parent in node(capture, at).parents}
        known = {parent: spread for parent, spread in spreads.items() if spread is not None}
        alive = [parent for parent, spread in known.items() if spread >= cut]
        gone = [p for p in known if p not in alive and all(is_behind(capture, other, p) for other in alive)]
        if not gone:
            return at, max(known.values(), default=before)
        at = max(gone, key=lambda parent: known[parent])


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
    units = [record for record in capture.parameters if record.copied_rows]
    if units:
        inner = [record for record in units if not _is_an_end(capture, record)]
        severity = PARAMETERS_CLONED.severity if inner else Severity.INFO  # outputs part once their labels do
        units = inner or units
        count = sum(record.copied_rows for record in units)
        finding = _clones(units, severity, "units", units[0].path)
        return [replace(finding, evidence={**finding.evidence, "rows": count})]
    copies = [record for record in capture.parameters if record.same_as is not None]
    if not copies:
        return []
    alike = [record for record in copies if record.same_gradient]
    if alike:
        return [_clones(alike, PARAMETERS_CLONED.severity, "alike-for-ever", alike[0].same_as)]
    chained = [record for record in copies if record.copied_by is None and _in_one_chain(capture, record)]
    if chained:
        return [_clones(chained, PARAMETERS_CLONED.severity, "in-one-chain", chained[0].same_as)]
    return [_clones(copies, Severity.INFO, "will-part", copies[0].same_as)]


def _is_an_end(capture: Capture, record: ParameterRecord) -> bool:
    """Whether nothing follows the calls of a parameter: its rows are outputs, of classes that a batch may lack."""
    users = consumers(capture.calls)
    own = [at for at, call in enumerate(capture.calls) if record.path in call.parameters]
    return bool(own) and not any(users[at] for at in own)


def _in_one_chain(capture: Capture, record: ParameterRecord) -> bool:
    """Whether a copy works on what the original gave: two towers may start alike, the layers of one should not."""
    first, second = (
        [at for at, call in enumerate(capture.calls) if path in call.parameters]
        for path in (record.same_as, record.path)
    )
    return any(is_behind(capture, a, b) or is_behind(capture, b, a) for a in first for b in second)


def _clones(records: Sequence[ParameterRecord], severity: Severity, kind: str, other: str | None) -> Finding:
    paths: tuple[Fact, ...] = tuple(record.path for record in records)
    facts: dict[str, Fact] = {"other": other, "affected": len(paths), "paths": paths, "likely": kind}
    return Finding("S208", severity, Site(records[0].path), facts)
