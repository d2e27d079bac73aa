"""What the remedy of a finding would do, by theory: the model is predicted with the weights that it would have."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gradvitals.frameworks.prediction import Prediction
from gradvitals.signals.measure_predicted import predicted_gains
from gradvitals.signals.remedies import branch_weights, scheme_weights
from gradvitals.signals.rules_depth import SIGNAL_EXPLODING, SIGNAL_VANISHING
from gradvitals.signals.structure import Structure
from gradvitals.vocabulary.finding import Fact, Finding, Severity

#: The findings that other weights may help, with the direction that they are about.
_DIRECTIONS = {"S201": "forward", "S202": "forward", "S203": "backward", "S204": "backward"}
#: What no scheme for the layers of the main path would mend.
_NOT_OVER_DEPTH = frozenset({"through-time", "all-zero", "both-zero", "below-epsilon", "none-passes"})

#: Predicts the model with parameters of the given RMS.
Predictor = Callable[[Mapping[str, float]], Prediction]


def with_foresight(findings: Sequence[Finding], structure: Structure, predict: Predictor) -> tuple[Finding, ...]:
    """The findings, each with the gain that its remedy would give, where theory can tell.

    Parameters
    ----------
    findings : sequence of Finding
    structure : Structure
        Of the network that they were found in.
    predict : callable
        Maps the RMS of parameters, by name, to a prediction of the model; called once for each kind of remedy. Where it
        raises, or meets an operation that it has no rule for, findings stay as they are.

    """
    known: dict[str, Prediction | None] = {}
    return tuple(_foreseen(finding, structure, predict, known) for finding in findings)


def _foreseen(
    finding: Finding, structure: Structure, predict: Predictor, known: dict[str, Prediction | None]
) -> Finding:
    likely = finding.evidence.get("likely")
    if finding.code not in _DIRECTIONS or finding.severity < Severity.WARNING or likely in _NOT_OVER_DEPTH:
        return finding
    kind = "branches" if finding.evidence.get("advice") == "advice-scale-branches" else "schemes"
    if kind not in known:
        weights = scheme_weights(structure) if kind == "schemes" else branch_weights(structure)
        known[kind] = _predicted(predict, weights)
    facts = _facts(known[kind], _DIRECTIONS[finding.code])
    return (
        replace(finding, evidence={**finding.evidence, **facts, "remedy_kind": f"remedy-{kind}"}) if facts else finding
    )


def _predicted(predict: Predictor, weights: Mapping[str, float]) -> Prediction | None:
    """None where there is nothing to set, or the model can't be followed to its end."""
    if not weights:
        return None
    with contextlib.suppress(Exception):  # it is an aside: whatever the model or its loss does, the findings stand
        prediction = predict(weights)
        return None if any(operation.matters for operation in prediction.unmodelled) else prediction
    return None


def _facts(prediction: Prediction | None, direction: str) -> dict[str, Fact]:
    gains = () if prediction is None else predicted_gains(prediction)
    gain = next((gain for gain in gains if gain.direction == direction), None)
    if gain is None or not math.isfinite(gain.left):
        return {}
    short = gain.left < SIGNAL_VANISHING["left"] or gain.left > SIGNAL_EXPLODING["left"]
    return {
        "remedy_gain": gain.fit.gain,
        "remedy_left": gain.left,
        "remedy_layers": gain.layers,
        "remedy_short": short,
    }
