"""What a search found of one tensor: its lines and entries put together, and the mistake where it is wrong."""

from __future__ import annotations

import math

import numpy as np

from gradvitals.gradients.counted import BudgetSpent
from gradvitals.gradients.measure_entries import Entry, measure_entries
from gradvitals.gradients.measure_lines import relative_error_of
from gradvitals.gradients.mistakes import recognise
from gradvitals.gradients.outcome import Outcome
from gradvitals.gradients.search import FEW_TENSORS, USUAL_POINTS, Search


def outcome_of(search: Search, at: int, *, closely: bool = True) -> Outcome:
    """What is known of one tensor, with its entries and, where it is wrong, the kind of mistake.

    Not ``closely``, a wrong one takes few further evaluations.
    """
    base, tensor = search.base, search.problem.tensors[at]
    if at not in search.lines:  # the budget was spent before its turn
        return Outcome("unresolved", math.nan, math.nan, math.inf, math.inf)
    lines, status = search.lines[at], search.status(at)
    entries, complete = _entries(search, at, closely=closely)
    beyond = search.resolution[at] * base.size(at)  # less than that is no contradiction to a pass
    if status != "wrong" and any(e.wrong and abs(e.line.missing) > beyond * e.scale for e in entries):
        status = "wrong"
    own = [line for line in lines if set(line.direction) == {at}]
    measured = [entry.line for entry in entries] if complete or (entries and not own) else (own or lines)
    relative_error, numeric_error = relative_error_of(measured)
    rms = base.size(at) / math.sqrt(max(tensor.size, 1))
    if complete and rms > 0:
        bars = [max(e.line.bar, base.material * abs(e.line.analytic)) / e.scale for e in entries]
        entry_resolution = max(bars, default=math.inf) / rms
    else:
        entry_resolution = search.resolution[at] * math.sqrt(tensor.size)
    mistake = None
    if status == "wrong":
        mistake = recognise(
            tensor,
            base.gradients[at],
            [*own, *(e.line for e in entries)],
            entries,
            search.problem.sample_sizes,
            at,
            problem=search.problem if closely else None,
            base=base if closely else None,
        )
    return Outcome(status, relative_error, numeric_error, search.resolution[at], entry_resolution, entries, mistake)


def _entries(search: Search, at: int, *, closely: bool) -> tuple[tuple[Entry, ...], bool]:
    """Entries of one tensor: the pattern of what is wrong, or a few of a right one for the reader."""
    lines, wrong = search.lines[at], search.status(at) == "wrong"
    count = len(search.problem.tensors)
    left = USUAL_POINTS - search.problem.count.points if count <= FEW_TENSORS else 0
    allowed = left // (search.cost() * max(1, count - at)) if not wrong else 0
    if search.is_clear:
        allowed = FEW_TENSORS // count
    if not wrong and allowed <= 0:
        return (), False
    rung = int(np.median([line.rung for line in lines])) if lines else 0
    try:
        return measure_entries(
            search.problem,
            search.base,
            at,
            search.rng,
            rung=rung,
            wrong=wrong,
            allowed=allowed,
            closely=closely,
        )
    except BudgetSpent:
        return (), False
