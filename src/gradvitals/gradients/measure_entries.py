"""Single entries of one tensor: which ones are looked at, and how a wrong one is found among many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.frameworks.problem import Array, Problem
from gradvitals.gradients.measure_base import Base
from gradvitals.gradients.measure_lines import (
    EXACT,
    SHORT_AGAIN,
    Line,
    confirmed,
    measure_line,
    measure_rays,
    measure_shortly,
)
from gradvitals.maths.differences import Ladder, ladder_for

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

#: A wrong tensor of at most this many entries is looked at whole, for the pattern tells the mistake; of a larger one
#: so many are looked at.
WHOLE, SAMPLED = 256, 32
#: Of a wrong one that isn't looked at closely, so many.
_GLANCED = 4
#: After so many suspicions in a tensor, all confirmed, further ones are believed.
_TRUSTED_AFTER = 8
#: So many numbers of displaced points are held at once.
_HELD = 4_000_000
#: Of a right one, at most so many.
_SHOWN = 4
#: Bisection stops at so few candidates, which are then looked at one by one.
_FEW = 16
#: Rungs of an entry's ladder, placed where the lines found the best step.
_RUNGS = 4
#: An entry's own scale lies between these multiples of the tensor's.
_LEAST, _MOST = 0.05, 4.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its position, the step's scale, the line along it, and whether it is wrong, or was suspected."""

    index: int
    scale: float
    line: Line
    wrong: bool
    suspected: bool = False

    @property
    def numeric(self) -> float:
        return self.line.numeric / self.scale

    @property
    def error(self) -> float:
        return self.line.error / self.scale

    @property
    def analytic(self) -> float:
        return self.line.analytic / self.scale


def measure_entries(
    problem: Problem,
    base: Base,
    at: int,
    rng: np.random.Generator,
    *,
    rung: int,
    wrong: bool,
    allowed: int = 0,
    closely: bool = True,
) -> tuple[tuple[Entry, ...], bool]:
    """Measure some entries of a tensor.

    Parameters
    ----------
    at : int
        The tensor.
    rung : int
        The rung of the ladder that served its lines.
    wrong : bool
        Whether the tensor is known to be wrong; then more entries are looked at, and a single wrong one is hunted down.
    closely : bool
        Of many wrong tensors only some are looked at closely.
    allowed : int
        Of a right tensor, how many entries there are points for.

    Returns
    -------
    entries : tuple of Entry
    complete : bool
        Whether these are all.

    """
    size = problem.tensors[at].size
    gradient = base.gradients[at]
    ladder = ladder_for(base.roundoff).part(rung - 2, _RUNGS)
    count = (SAMPLED if closely else _GLANCED) if wrong else max(0, min(allowed, _SHOWN))
    whole = WHOLE if wrong and closely else count
    if size <= whole:
        chosen = np.arange(size)
    else:
        ordered = np.argsort(-np.abs(gradient), kind="stable") if count else np.empty(0, dtype=np.int64)
        chosen = np.union1d(ordered[: (count + 1) // 2], rng.choice(size, count // 2, replace=False))
    entries = _measured(problem, base, at, chosen, ladder)
    if not closely:
        return tuple(entries), size <= whole
    if wrong and size > whole and not any(entry.wrong for entry in entries):
        entries += _measured(problem, base, at, np.setdiff1d(_hunted(problem, base, at, rng), chosen), ladder)
    if wrong and len(problem.tensors[at].shape) == 2 and size > whole:
        entries += _mirrored(problem, base, at, ladder, entries)
    return tuple(entries), size <= whole


def _measured(problem: Problem, base: Base, at: int, indices: NDArray[np.int64], ladder: Ladder) -> list[Entry]:
    """The entries at some positions, many in one call."""
    size = base.points[at].size
    own = np.clip(np.abs(base.points[at][indices]), _LEAST * base.scales[at], _MOST * base.scales[at])
    scales = 2.0 ** np.round(np.log2(own))
    entries: list[Entry] = []
    if not len(indices):
        return entries
    block = max(1, min(len(indices), _HELD // max(1, 2 * ladder.rungs * size)))
    for start in range(0, len(indices), block):
        units = []
        for index, scale in zip(indices[start : start + block], scales[start : start + block], strict=True):
            unit = np.zeros(size)
            unit[index] = scale
            units.append({at: unit})
        lines = _lines(problem, base, units, ladder)
        for index, line in zip(indices[start : start + block], lines, strict=True):
            entries.append(_judged(problem, base, at, int(index), line, entries))
    return entries


def _lines(problem: Problem, base: Base, units: Sequence[Mapping[int, Array]], ladder: Ladder) -> list[Line]:
    """Along each of some directions; in float64 by few steps, where these do."""
    if base.roundoff > EXACT:
        return [line for _, line in measure_rays(problem, base, units, ladder)]
    lines = measure_shortly(problem, base, units)
    unclear = [at for at, line in enumerate(lines) if not line.is_clear]
    again = measure_rays(problem, base, [units[at] for at in unclear], ladder) if unclear else []
    for at, (_, line) in zip(unclear, again, strict=True):
        lines[at] = line
    return lines


def _judged(problem: Problem, base: Base, at: int, index: int, line: Line, before: list[Entry]) -> Entry:
    """Whether an entry is wrong; after so many suspicions that were confirmed without exception, one is enough."""
    scale = float(line.direction[at][index])  # as far as the dtype lets it move
    # An entry that is small beside the tensor's others may be rounding only: compare with what is material for the
    # tensor.
    rms = float(np.linalg.norm(base.gradients[at])) / np.sqrt(base.points[at].size)
    material = base.material * scale * max(rms, abs(line.analytic) / scale)
    if not line.suspect(material):
        return Entry(index, scale, line, wrong=False)
    suspected = [entry for entry in before if entry.suspected]
    is_usual = len(suspected) >= _TRUSTED_AFTER and all(entry.wrong for entry in suspected)
    ladders = SHORT_AGAIN if base.roundoff <= EXACT and line.is_clear else None
    wrong = is_usual or confirmed(problem, base, line, material, ladders)
    return Entry(index, scale, line, wrong=wrong, suspected=True)


def _hunted(problem: Problem, base: Base, at: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Candidates that are left after halving again and again, keeping the half in which most is missing."""
    candidates = rng.permutation(base.points[at].size)
    while candidates.size > _FEW:
        halves = np.array_split(candidates, 2)
        missing = [_missing_within(problem, base, at, half, rng) for half in halves]
        candidates = halves[int(np.argmax(missing))]
    return np.sort(candidates)


def _missing_within(problem: Problem, base: Base, at: int, half: NDArray[np.int64], rng: np.random.Generator) -> float:
    """How much is missing along directions inside a part of the entries, in standard deviations."""
    found = 0.0
    for _ in range(2):
        direction: Array = np.zeros(base.points[at].size)
        direction[half] = base.scales[at] * rng.choice((-1.0, 1.0), half.size)
        line = measure_line(problem, base, {at: direction})
        found = max(found, abs(line.missing) / (line.bar or 1.0))
    return found


def _mirrored(problem: Problem, base: Base, at: int, ladder: Ladder, entries: list[Entry]) -> list[Entry]:
    """The entries on the other side of a square matrix's diagonal: only with them can a transposition be seen."""
    rows, columns = problem.tensors[at].shape
    if rows != columns:
        return []
    seen = {entry.index for entry in entries}
    wanted = {(index % columns) * columns + index // columns for index in list(seen)[:_FEW]} - seen
    return _measured(problem, base, at, np.array(sorted(wanted), dtype=np.int64), ladder)
