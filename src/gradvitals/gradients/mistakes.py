"""What kind of mistake explains a wrong gradient: candidates are tried against everything that was measured of the
tensor.

A candidate is a gradient that would be right if the mistake were the only one; it explains the tensor when it leaves
nothing missing along any line. No candidate costs an evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradvitals.frameworks.problem import Array, Tensor
from gradvitals.gradients.measure_entries import Entry
from gradvitals.gradients.measure_lines import SUSPECT_AT, Line
from gradvitals.vocabulary.finding import Estimate

#: A candidate may miss this share of the slope besides the error bar: error bars are estimates.
_LEEWAY = 1e-3
#: A factor is called by a round name when it lies within so many standard deviations, or this close.
_NAMED_WITHIN, _NAMED_CLOSE = 6.0, 2e-4


@dataclass(frozen=True, slots=True)
class Mistake:
    """The likely mistake.

    ``likely`` is one of sign, factor-missing, factor-extra, zero, transposed, entries, formula; ``factor`` is numeric
    / analytic where one number explains everything, ``name`` what the missing or extra factor is called.
    """

    likely: str
    confidence: float
    factor: Estimate | None = None
    name: str = ""


def recognise(
    tensor: Tensor,
    gradient: Array,
    lines: Sequence[Line],
    entries: Sequence[Entry],
    sample_sizes: Sequence[int],
    at: int,
) -> Mistake:
    """Name the mistake that explains all lines of one tensor.

    Parameters
    ----------
    tensor : Tensor
    gradient : array of shape (size,)
        The claimed gradient.
    lines : sequence of Line
        Lines that move this tensor alone.
    entries : sequence of Entry
        The entries among them.
    sample_sizes : sequence of int
        Numbers that may be the N of a mean.
    at : int
        The tensor's number in the lines' directions.

    """
    if not gradient.any():
        return Mistake("zero", 0.95)
    factor = _common_factor(lines)
    if factor is not None:
        return _named(factor, sample_sizes)
    if len(tensor.shape) == 2 and tensor.shape[0] == tensor.shape[1]:
        mirrored = gradient.reshape(tensor.shape).T.reshape(-1)
        if _explains(mirrored, lines, at):
            return Mistake("transposed", 0.95)
    if entries and 0 < sum(entry.wrong for entry in entries) <= len(entries) // 2:
        return Mistake("entries", 0.8)
    return Mistake("formula", 1.0)


def _common_factor(lines: Sequence[Line]) -> Estimate | None:
    """The one number c with numeric = c · analytic along every line, if there is one."""
    numeric, analytic, error = (
        np.array([getattr(line, name) for line in lines]) for name in ("numeric", "analytic", "error")
    )
    slack = np.array([line.slack for line in lines])
    usable = np.isfinite(numeric) & np.isfinite(error)
    if not usable.any() or not analytic[usable].any():
        return None
    numeric, analytic, error, slack = numeric[usable], analytic[usable], error[usable], slack[usable]
    weight = 1 / np.maximum(error, 1e-12 * np.abs(numeric).max() + 1e-300) ** 2
    spread = float(np.sum(weight * analytic**2))
    factor = float(np.sum(weight * numeric * analytic)) / spread
    deviation = 1 / math.sqrt(spread)
    left = np.abs(numeric - factor * analytic)
    if np.any(left > SUSPECT_AT * error + slack + _LEEWAY * np.abs(numeric).max()):
        return None
    # A factor that is 1 within its error explains nothing.
    return Estimate(factor, deviation) if abs(factor - 1) > SUSPECT_AT * deviation else None


def _explains(candidate: Array, lines: Sequence[Line], at: int) -> bool:
    largest = max(abs(line.numeric) for line in lines)
    return all(
        abs(line.numeric - float(candidate @ line.direction[at]))
        <= SUSPECT_AT * line.error + line.slack + _LEEWAY * largest
        for line in lines
        if math.isfinite(line.numeric)
    )


def _named(factor: Estimate, sample_sizes: Sequence[int]) -> Mistake:
    """Call a factor by what it probably is."""
    value = factor.value

    def close(target: float) -> bool:
        return value != 0 and abs(value / target - 1) <= max(_NAMED_WITHIN * factor.error / abs(value), _NAMED_CLOSE)

    if abs(value) <= SUSPECT_AT * factor.error:  # there is no slope at all, whatever the backward pass says
        return Mistake("formula", 1.0)
    if close(-1.0):
        return Mistake("sign", 0.98, factor)
    for n in sample_sizes:
        if n >= 3 and close(1 / n):
            return Mistake("factor-missing", 0.9, factor, f"1/N (N = {n})")
        if n >= 3 and close(float(n)):
            return Mistake("factor-extra", 0.9, factor, f"1/N (N = {n})")
    whole = max(2, round(abs(value)))
    if close(math.copysign(whole, value)):
        return Mistake("factor-missing", 0.9, factor, f"{math.copysign(whole, value):.0f}".replace("-", "−"))
    parts = max(2, round(1 / abs(value))) if value else 2
    if close(math.copysign(1 / parts, value)):
        return Mistake("factor-extra", 0.9, factor, f"{math.copysign(parts, value):.0f}".replace("-", "−"))
    if abs(value) > 1:
        return Mistake("factor-missing", 0.8, factor, _spelt(value))
    return Mistake("factor-extra", 0.8, factor, _spelt(1 / value) if value else "∞")


def _spelt(value: float) -> str:
    """Four digits, or as many as it takes to differ from 1."""
    digits = 4
    while digits < 12 and float(f"{value:.{digits}g}") == 1:
        digits += 1
    return f"{value:.{digits}g}"
