"""What was found: facts only. The words for a finding live in :mod:`gradvitals.vocabulary.words`."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from gradvitals.vocabulary.rule import NAMES


class Severity(enum.IntEnum):
    """How much a finding matters; ordered, so that the worst of several is their ``max``."""

    INFO = 0
    WARNING = 1
    UNRESOLVED = 2
    ERROR = 3

    @property
    def label(self) -> str:
        """The lower-case name that JSON and the locales use."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Site:
    """Where: a tensor or layer by the framework's own qualified name, an entry of it, a training step.

    >>> str(Site("encoder.2.weight", (14, 3), 120))
    'encoder.2.weight[14, 3] at step 120'
    """

    path: str
    index: tuple[int, ...] | None = None
    step: int | None = None

    def __str__(self) -> str:
        entry = "" if self.index is None else f"[{', '.join(map(str, self.index))}]"
        step = "" if self.step is None else f" at step {self.step}"
        return f"{self.path}{entry}{step}"


#: More digits than these nobody compares by eye, however small the error.
_MOST_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number that travels with its error (one standard deviation, or the half-width that the context states).

    >>> str(Estimate(2.00004, 0.0012))
    '2.0000 ± 0.0012'
    >>> str(Estimate(0.9, 0.0))
    '0.9'
    """

    value: float
    error: float
    unit: str = ""

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if not math.isfinite(self.value) or not math.isfinite(self.error) or self.error <= 0:
            return f"{self.value:.4g}{unit}"
        decimals = 1 - math.floor(math.log10(self.error))
        size = max(abs(self.value), self.error)
        if decimals > 8 or size >= 1e6 or size < 1e-3:
            digits = min(max(math.floor(math.log10(size / self.error)) + 1, 2), _MOST_DIGITS)
            return f"{self.value:.{digits}g} ± {self.error:.1g}{unit}"
        return f"{self.value:.{max(decimals, 0)}f} ± {self.error:.{max(decimals, 0)}f}{unit}"


#: What evidence may hold: plain data, so that a report travels as JSON.
Fact: TypeAlias = "bool | int | float | str | Estimate | tuple[Fact, ...] | None"


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem (or remark) with the facts that show it.

    Parameters
    ----------
    code : str
        A code of :data:`gradvitals.vocabulary.rule.NAMES`, such as ``"S203"``.
    severity : Severity
    site : Site
    evidence : mapping of str to Fact
        The facts; the sentences of the locale take their placeholders from here.
    confidence : float
        Between 0 and 1: how sure the rule is that the explanation is the right one.

    Raises
    ------
    ValueError
        On a code that isn't in the catalogue.

    """

    code: str
    severity: Severity
    site: Site
    evidence: Mapping[str, Fact] = field(default_factory=dict)
    confidence: float = 1.0

    def __post_init__(self) -> None:
        if self.code not in NAMES:
            raise ValueError(f"unknown finding code {self.code!r}; known: {', '.join(NAMES)}")
        object.__setattr__(self, "evidence", MappingProxyType(dict(self.evidence)))

    @property
    def name(self) -> str:
        """The catalogue's name, such as ``"gradient-vanishing"``."""
        return NAMES[self.code]
