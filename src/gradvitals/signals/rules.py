"""Judge what was measured of the signal: rules S201–S208, S211 and S212."""

from __future__ import annotations

from gradvitals.frameworks.capture import Producer
from gradvitals.signals.against import RUNS_DIFFER
from gradvitals.signals.measure import Signal
from gradvitals.signals.rules_depth import (
    GRADIENT_EXPLODING,
    GRADIENT_VANISHING,
    SIGNAL_EXPLODING,
    SIGNAL_VANISHING,
    over_depth,
    over_time,
)
from gradvitals.signals.rules_finite import NOT_FINITE, not_finite_backward, not_finite_forward, with_producer
from gradvitals.signals.rules_samples import INPUTS_COLLAPSED, PARAMETERS_CLONED, cloned, collapsed
from gradvitals.signals.rules_units import UNITS_DEAD, UNITS_SATURATED, dead, saturated
from gradvitals.signals.rules_zero import all_zero, below_epsilon, never_moving, nothing_passes
from gradvitals.vocabulary.finding import Finding, Severity

RULES = (
    *(SIGNAL_VANISHING, SIGNAL_EXPLODING, GRADIENT_VANISHING, GRADIENT_EXPLODING),
    *(UNITS_DEAD, UNITS_SATURATED, INPUTS_COLLAPSED, PARAMETERS_CLONED, NOT_FINITE, RUNS_DIFFER),
)

_OF_SIZES = frozenset({"S201", "S202", "S203", "S204", "S207"})


def judge(signal: Signal, producer: Producer | None = None) -> tuple[Finding, ...]:
    """Findings of a probe, the worst first.

    Where the signal isn't finite, nothing else is said of it: sizes behind a NaN mean nothing. ``producer`` is the
    operation that was found to make it so.
    """
    capture = signal.capture
    forward = not_finite_forward(capture)
    if forward is not None:
        return (with_producer(forward, producer, capture.calls),)
    backward = not_finite_backward(capture)
    found = [] if backward is None else [with_producer(backward, producer, capture.calls)]
    units = [*dead(capture.calls), *saturated(capture.calls)]
    explained = {str(finding.evidence.get("layer")) for finding in units}
    found += over_depth(signal, backwards=backward is None, explained=explained)
    nothing = all_zero(signal, units=units)
    found += nothing
    found += [] if nothing else below_epsilon(signal)
    found += never_moving(signal) if backward is None else []
    found += nothing_passes(signal, explained=units) if backward is None and not nothing else []
    found += [finding for finding in units if not nothing or finding.code != "S205"]  # units that get nothing are off
    found += over_time(signal, backwards=backward is None)
    found += collapsed(signal)
    found += cloned(signal)
    if capture.untracked:
        found = [_provisional(finding, capture.untracked) for finding in found]
    return tuple(sorted(found, key=lambda finding: -finding.severity))


def direct(signal: Signal) -> list[Finding]:
    """What a measured pass shows by itself, whatever theory says: S207, S208, S211."""
    found = [not_finite_forward(signal.capture) or not_finite_backward(signal.capture)]
    return [*filter(None, found), *collapsed(signal), *cloned(signal)]


def _provisional(finding: Finding, untracked: int) -> Finding:
    """Of sizes behind normalisations that have never seen a batch only a note is made: trained, they are others."""
    if finding.code not in _OF_SIZES:
        return finding
    facts = {**finding.evidence, "untracked": untracked}
    return Finding(finding.code, Severity.INFO, finding.site, facts, finding.confidence)
