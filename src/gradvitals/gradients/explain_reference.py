"""What kind of mistake a kernel's error looks like, where the truth is known entry by entry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.frameworks.problem import Array
from gradvitals.gradients.measure_reference import ENTRY_ALLOWANCE, SLICE_ALLOWANCE, Comparison
from gradvitals.gradients.mistakes.factors import Sizes, named
from gradvitals.vocabulary.finding import Estimate, Fact

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

#: A candidate that leaves less than this share of the error explains it: the rest may be a mistake elsewhere.
_LEFT = 0.05
#: Rounding that the candidate can't explain, in multiples of the eager version's error.
_ROUNDING = 3.0
#: Errors that agree less than this between nearby points are rounding. Measured: an accumulator in bfloat16 gives −0.1
#: to 0.5 (a long sum in float16, which is biased, 0.7), wrong formulas 0.9 to 1.
_ROUNDING_AGREES = 0.8
#: The same of single entries that stand out. Measured: one entry that is wrong by half in bfloat16, or the tail of an
#: activation by a formula of its own, gives 0.77 to 1, an accumulator in bfloat16 −0.2 to 0.1.
_ROUNDING_AGREES_APART = 0.5
#: At most this share of the entries are "some".
_SOME = 0.5
#: Rounding is small: beyond this relative error a kernel isn't merely imprecise.
_IMPRECISE = 0.2
#: An error of no more than so many times the eager version's may be rounding or a small mistake.
_MILD = 10.0
#: Positions along an axis that make up a region: no more than this share of it, one range or so few.
_MOST_OF_AXIS, _MOST_APART = 0.75, 4


@dataclass(frozen=True, slots=True)
class Explanation:
    """``likely`` as in a finding, how sure, and the facts that its sentence takes."""

    likely: str
    confidence: float
    facts: Mapping[str, Fact] = field(default_factory=dict)

    @property
    def factor(self) -> Estimate | None:
        found = self.facts.get("factor")
        return found if isinstance(found, Estimate) else None


def explain(compared: Comparison, sizes: Sizes, ratio: float) -> Explanation:
    """Name the mistake of one output or gradient.

    Parameters
    ----------
    compared : Comparison
        One whose status is wrong.
    sizes : Sizes
        The numbers that a factor may come from: of all tensors, for one mistake has one name in all of them.
    ratio : float
        How many times the eager version's error is allowed.

    """
    tally = compared.tally
    kernel, eager, truth = tally.first[0]
    off = float(np.linalg.norm(kernel - truth))
    rounding = _ROUNDING * max(float(np.linalg.norm(eager - truth)), math.sqrt(tally.granted[0]))

    def explained(candidate: Array) -> bool:
        return float(np.linalg.norm(candidate - truth)) <= rounding + _LEFT * off < off

    if truth.any() and not kernel.any():
        return Explanation("zero", 0.95)
    weight = float(kernel @ kernel)
    if weight and truth.size > 1:
        factor = float(kernel @ truth) / weight
        error = rounding / math.sqrt(weight)
        if abs(factor - 1) > error and explained(factor * kernel):
            return _named(Estimate(factor, error / _ROUNDING / math.sqrt(truth.size)), sizes)
    if _is_rounding(compared):
        return Explanation("low-precision", 0.8, _bits(compared))
    for candidate in _transposed(kernel.reshape(compared.tensor.shape)):
        if explained(candidate):
            return Explanation("transposed", 0.95)
    region = _region(compared, ratio)
    if region:
        return Explanation("kernel-region", 0.9, {"kernel_region": region})
    apart = tally.standing_out(ENTRY_ALLOWANCE * ratio)
    if compared.agreement_apart >= _ROUNDING_AGREES_APART and len(apart) <= _SOME * truth.size:
        return Explanation("kernel-entries", 0.8, {"wrong_count": len(apart), "total": truth.size})
    return Explanation("less-accurate-than-reference" if tally.ratio.value <= _MILD else "differs-from-reference", 1.0)


def _is_rounding(compared: Comparison) -> bool:
    return (
        compared.agreement is not None
        and compared.agreement < _ROUNDING_AGREES
        and compared.agreement_apart < _ROUNDING_AGREES_APART
        and compared.tally.kernel_error < _IMPRECISE
    )


def _bits(compared: Comparison) -> dict[str, Fact]:
    """With how many significant bits the kernel seems to compute: its error is so much larger than the eager one."""
    own = -math.log2(compared.tensor.roundoff)
    effective = own - math.log2(max(compared.tally.kernel_error / max(compared.tally.beside_error, 1e-300), 1.0))
    return {"bits": round(effective), "dtype_bits": round(own)}


def _named(factor: Estimate, sizes: Sizes) -> Explanation:
    """Call a factor by what it probably is."""
    found = named(factor, sizes)
    if found is None:
        return Explanation("differs-from-reference", 1.0)
    return Explanation(found.likely, found.confidence, {"factor": factor, "name": found.name, **found.facts})


def _transposed(values: NDArray[np.float64]) -> list[Array]:
    """The last two axes exchanged: by a transposition, or by the reshape that was taken for one."""
    if values.ndim < 2 or 1 in values.shape[-2:]:
        return []
    turned = (*values.shape[:-2], values.shape[-1], values.shape[-2])
    mistaken = values.reshape(turned).swapaxes(-1, -2)
    also = values.swapaxes(-1, -2).reshape(values.shape)
    return [mistaken.reshape(-1), also.reshape(-1)]


def _region(compared: Comparison, ratio: float) -> str:
    """Where along each axis the kernel is off, such as ``[:, 16:32, :]``; empty where it is everywhere."""
    shape = compared.tensor.shape
    if not compared.slices:
        return ""
    axes = [axis for axis, n in enumerate(shape) if n > 1]
    if len(shape) == 1:
        return ""
    parts = [":" if n > 1 else "0" for n in shape]
    for axis, own in zip(axes, compared.slices, strict=False):
        flagged = np.flatnonzero(own > SLICE_ALLOWANCE * ratio)
        together = len(flagged) > 0 and len(flagged) == flagged[-1] - flagged[0] + 1
        if 0 < len(flagged) <= _MOST_OF_AXIS * shape[axis] and (together or len(flagged) <= _MOST_APART):
            parts[axis] = _positions(flagged)
    return f"[{', '.join(parts)}]" if any(parts[axis] != ":" for axis in axes) else ""


def _positions(found: NDArray[np.int64]) -> str:
    first, last = int(found[0]), int(found[-1])
    if len(found) == 1:
        return str(first)
    if len(found) == last - first + 1:
        return f"{first}:{last + 1}"
    return f"({', '.join(str(int(i)) for i in found)})"
