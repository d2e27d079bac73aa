"""One number between the measured and the claimed gradient, and what it is probably called."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from gradvitals.gradients.measure_lines import SUSPECT_AT
from gradvitals.gradients.mistakes.mistake import Mistake
from gradvitals.gradients.mistakes.readings import LEEWAY, Readings
from gradvitals.vocabulary.finding import Estimate, Fact

#: A factor is called by a round name when it lies within so many standard deviations, or this close.
_NAMED_WITHIN, _NAMED_CLOSE = 6.0, 2e-4
#: Whole numbers below this are more often a 2 from a square or a 3 from a cube than the length of an axis.
_LEAST_LENGTH = 5
#: The number of samples may be as small as this: dividing by it is what is forgotten most often.
_LEAST_SAMPLES = 3
#: The dropout rates that people use; 1 / (1 − p) of other rates is given as a number.
_RATES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6)
#: So many axes of the right length, and other readings, are listed.
_SHOWN = 3
#: Whole numbers above this are given as plain numbers, for nobody means them.
_MOST_WHOLE = 10**6


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers that a factor may come from: sample counts, and the shape of every tensor and output by its name."""

    samples: tuple[int, ...] = ()
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def called(self, length: int) -> tuple[str, ...]:
        """The axes of this length, such as ``x.shape[0]``."""
        return tuple(
            f"{path}.shape[{axis}]" for path, shape in self.shapes for axis, n in enumerate(shape) if n == length
        )

    def lengths(self) -> list[int]:
        return sorted({n for _, shape in self.shapes for n in shape if n > 1})

    def widths(self) -> list[int]:
        """What heads of attention may be wide: the length of the last axis of several tensors of three axes or more."""
        last = [shape[-1] for _, shape in self.shapes if len(shape) > 2]
        return sorted({n for n in last if last.count(n) > 1})

    def letter(self, length: int) -> str:
        """N where it is the length of leading axes only, as a number of samples is; else n."""
        wide = [shape for _, shape in self.shapes if len(shape) > 1]
        leads = any(shape[0] == length for shape in wide)
        return "N" if length in self.samples or (leads and all(shape[-1] != length for shape in wide)) else "n"


def common_factor(observed: Readings) -> Estimate | None:
    """The one number c with numeric = c · analytic along every line, if there is one."""
    numeric, analytic, error, slack = observed.numeric, observed.analytic, observed.error, observed.slack
    if not numeric.size or not analytic.any():
        return None
    weight = 1 / np.maximum(error, 1e-12 * np.abs(numeric).max() + 1e-300) ** 2
    spread = float(np.sum(weight * analytic**2))
    if spread == 0:
        return None
    factor = float(np.sum(weight * numeric * analytic)) / spread
    deviation = 1 / math.sqrt(spread)
    left = np.abs(numeric - factor * analytic)
    leeway = LEEWAY * float(np.abs(observed.missing).max())
    if np.any(left > SUSPECT_AT * error + slack + leeway):
        return None
    # A factor that is 1 within its error explains nothing.
    return Estimate(factor, deviation) if abs(factor - 1) > SUSPECT_AT * deviation else None


def named(factor: Estimate, sizes: Sizes) -> Mistake | None:
    """Call a factor by what it probably is; None where there is no slope at all, whatever the backward pass says."""
    value = factor.value
    if abs(value) <= SUSPECT_AT * factor.error:
        return None
    within = max(_NAMED_WITHIN * factor.error / abs(value), _NAMED_CLOSE)

    def close(target: float) -> bool:
        return abs(value / target - 1) <= within

    if close(-1.0):
        return Mistake("sign", 0.98, factor)
    found = [reading for reading in _known(value, sizes) if close(reading.value)]
    if not found:
        kind = "factor-missing" if abs(value) > 1 else "factor-extra"
        return Mistake(kind, 0.8, factor, _spelt(value if abs(value) > 1 else 1 / value))
    best = found[0]
    facts: dict[str, Fact] = {"equals": best.equals[:_SHOWN]} if best.equals else {}
    others = tuple(dict.fromkeys(other.name for other in found[1:] if other.name != best.name))
    if others:
        facts["or_else"] = others[:_SHOWN]
    return Mistake(best.likely, best.confidence, factor, best.name, facts)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What numeric / analytic would be called if it were ``value``."""

    value: float
    likely: str
    name: str
    confidence: float
    equals: tuple[str, ...] = ()


def _known(value: float, sizes: Sizes) -> list[_Reading]:
    """Readings of a factor, the likeliest first."""
    found: list[_Reading] = []

    def forgotten(divisor: float, name: str, confidence: float, equals: tuple[str, ...] = ()) -> None:
        found.append(_Reading(1 / divisor, "factor-missing", name, confidence, equals))
        found.append(_Reading(divisor, "factor-extra", name, confidence, equals))

    lengths = sizes.lengths()
    samples = [n for n in sizes.samples if n >= _LEAST_SAMPLES]
    scales = [n for n in sizes.widths() if n > _LEAST_SAMPLES**2 and math.isqrt(n) ** 2 == n]
    for n in scales:  # √64 = 8 heads wide beats 8 heads, but not a batch of 8
        if math.isqrt(n) not in samples:
            forgotten(math.isqrt(n), f"1/√d (d = {n})", 0.75, sizes.called(n))
    for n in dict.fromkeys((*samples, *(n for n in lengths if n >= _LEAST_LENGTH))):
        letter = sizes.letter(n)
        forgotten(n, f"1/{letter} ({letter} = {n})", 0.9, sizes.called(n))
    for n in lengths:  # √9 = 3 may be a 3; √16 = 4 where no axis is 4 long is rather the scale of attention
        root = math.sqrt(n)
        if n in scales and math.isqrt(n) not in samples:
            continue
        if n >= _LEAST_LENGTH and (not root.is_integer() or (n > _LEAST_SAMPLES**2 and root not in lengths)):
            forgotten(root, f"1/√d (d = {n})", 0.75 if root.is_integer() else 0.9, sizes.called(n))
    for a, b in itertools.combinations_with_replacement(lengths, 2):
        first, last = sizes.called(a)[0], sizes.called(b)[-1]
        if min(a, b) >= _LEAST_SAMPLES and first != last:
            forgotten(a * b, f"1/{a * b} ({a} × {b})", 0.85, (first, last))
    found += _whole(value)
    for n in lengths:
        if n >= _LEAST_LENGTH:
            found.append(_Reading(n / (n - 1), "factor-missing", f"n/(n − 1) (n = {n})", 0.8, sizes.called(n)))
            found.append(_Reading((n - 1) / n, "factor-extra", f"n/(n − 1) (n = {n})", 0.8, sizes.called(n)))
    for p in _RATES:
        found.append(_Reading(1 / (1 - p), "factor-missing", f"1/(1 − p) (p = {p:g})", 0.6))
        found.append(_Reading(1 - p, "factor-extra", f"1/(1 − p) (p = {p:g})", 0.6))
    return found


def _whole(value: float) -> list[_Reading]:
    """A whole number or one over it, with its sign."""
    times = math.copysign(max(2, round(min(abs(value), _MOST_WHOLE))), value)
    parts = math.copysign(max(2, round(min(1 / abs(value), _MOST_WHOLE))), value)
    return [
        _Reading(times, "factor-missing", f"{times:.0f}".replace("-", "−"), 0.9),
        _Reading(1 / parts, "factor-extra", f"{parts:.0f}".replace("-", "−"), 0.9),
    ]


def _spelt(value: float) -> str:
    """Four digits, or as many as it takes to differ from 1."""
    digits = 4
    while digits < 12 and float(f"{value:.{digits}g}") == 1:
        digits += 1
    return f"{value:.{digits}g}"
