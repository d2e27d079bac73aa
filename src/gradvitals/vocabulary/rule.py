"""Rules: what a wing judges by, with the source of every threshold; and the catalogue of permanent codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Severity lives with Finding, which reads NAMES from here
    from gradvitals.vocabulary.finding import Severity

#: The permanent catalogue: code to name. A wing may add a code together with its words; none is ever renamed.
NAMES: Mapping[str, str] = MappingProxyType(
    {
        "G101": "gradient-wrong",
        "G102": "gradient-missing",
        "G103": "gradient-not-finite",
        "G104": "gradient-unresolved",
        "G105": "function-not-deterministic",
        "G106": "kink-nearby",
        "G107": "precision-below-dtype",
        "G108": "gradient-surrogate",
        "G109": "value-wrong",
        "G110": "backward-fragile",
        "G111": "comparison-undecided",
        "S201": "signal-vanishing",
        "S202": "signal-exploding",
        "S203": "gradient-vanishing",
        "S204": "gradient-exploding",
        "S205": "units-dead",
        "S206": "units-saturated",
        "S207": "inputs-collapsed",
        "S208": "parameters-cloned",
        "S209": "operation-unmodelled",
        "S210": "prediction-disagrees",
        "S211": "signal-not-finite",
        "S212": "runs-differ",
        "S213": "update-grows",
        "W301": "weight-variance-off",
        "W302": "weights-symmetric",
        "W303": "scheme-mismatched",
        "W304": "weights-not-finite",
        "W305": "weights-uninitialised",
        "W306": "learning-rate-sensitive",
        "W307": "start-ahead",
        "W308": "start-stuck",
        "W309": "start-diverged",
        "W310": "nothing-filled",
        "D901": "patient-misdiagnosed",
    }
)


@dataclass(frozen=True, slots=True)
class Threshold:
    """A number that a rule compares with, and where it comes from.

    Parameters
    ----------
    value : float
    unit : str
        What the number counts: ``"ratio of RMS"``, ``"share of units"``.
    source : str
        The paper, tool or measurement that it was taken from.

    """

    value: float
    unit: str
    source: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of a wing: its code, default severity and thresholds.

    Examples
    --------
    >>> from gradvitals.vocabulary import Rule, Severity, Threshold
    >>> dead = Rule("S205", Severity.WARNING, {"share": Threshold(0.5, "share of units", "Amazon SageMaker Debugger")})
    >>> dead.name, dead["share"]
    ('units-dead', 0.5)

    """

    code: str
    severity: Severity
    thresholds: Mapping[str, Threshold]

    def __post_init__(self) -> None:
        if self.code not in NAMES:
            raise ValueError(f"unknown rule code {self.code!r}; known: {', '.join(NAMES)}")
        object.__setattr__(self, "thresholds", MappingProxyType(dict(self.thresholds)))

    @property
    def name(self) -> str:
        """The catalogue's name of this rule."""
        return NAMES[self.code]

    def __getitem__(self, threshold: str) -> float:
        return self.thresholds[threshold].value
