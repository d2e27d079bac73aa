"""Measure whether the claimed gradient of every tensor is right, wrong or not to be resolved: natively, and what that
leaves open in float64 or a step beside a kink.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradvitals.frameworks.problem import Array, Gradient, Problem
from gradvitals.gradients.cotangent import claimed, cotangent_of
from gradvitals.gradients.counted import BudgetSpent, Count, Counted
from gradvitals.gradients.measure_base import (
    Base,
    Surroundings,
    assumed_surroundings,
    measure_base,
    surroundings,
)
from gradvitals.gradients.measure_beside import look_alone, look_beside
from gradvitals.gradients.measure_lines import COARSE, EXACT, SUSPECT_AT, excused, relative_error_of
from gradvitals.gradients.measure_outcome import outcome_of
from gradvitals.gradients.measure_precision import measure_precision
from gradvitals.gradients.measure_stairs import far_stairs
from gradvitals.gradients.mistakes import remembered
from gradvitals.gradients.outcome import Measurement, Outcome
from gradvitals.gradients.search import USUAL_POINTS, Search
from gradvitals.maths.differences import rounding
from gradvitals.vocabulary.errors import InputError

#: The rounding of a gradient in float64 is that in the model's own dtype, scaled down; raised by this, for it isn't
#: measured.
_DISTRUST_WIDE = 10.0
#: A function that is seen to compute with fewer digits inside (TF32, autocast) may be as imprecise as one in a 16-bit
#: format may: their sensitivity. Beyond this unit roundoff that is what it is seen to do (G107's threshold in float32).
_MOST_IF_COARSE, _COARSE = 0.1, 2.0**-16
#: How many standard deviations of its noise a value may be off by natively.
_WITHIN = 4.0
#: Of several wrong tensors, so many at either end are looked at closely, of many only one: the others mostly inherit.
_LOOKED_AT = 3


def measure(
    problem: Problem,
    *,
    sensitivity: float,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    budget: int | None = None,
    precision: str = "auto",
    surrogate: bool = False,
) -> Measurement:
    """Measure every tensor of a problem.

    Parameters
    ----------
    problem : Problem
    sensitivity : float
        The relative error that must be resolved.
    seed : int
        Of the directions, the cotangent and the choice of entries.
    progress : callable, optional
        Called with (evaluations done, evaluations expected).
    budget : int, optional
        The most evaluations; what isn't settled then is unresolved.
    precision : str
        ``"native"``: F is evaluated in its own dtype; ``"float64"``: in its float64 shadow, where it has one;
        ``"auto"``: natively, and what that leaves unresolved in the shadow.
    surrogate : bool
        The gradient is meant to differ: stairs are what the function is, and no rounding.

    """
    shadow = problem.shadow() if precision == "float64" else None
    count = Count(USUAL_POINTS, progress, budget)
    counted = Counted(shadow or problem, count)
    value = counted.start()
    if value.size == 0:
        raise InputError("the function's value is empty", "it has no entries", "pass at least one sample")
    finite = bool(np.isfinite(value).all())
    if finite and counted.roundoff <= EXACT:
        with contextlib.suppress(BudgetSpent):
            found = _at_a_glance(counted, value, sensitivity, np.random.default_rng((seed, 1)))
            if found is not None:
                return found
    around, rng = None, np.random.default_rng(seed)
    with contextlib.suppress(BudgetSpent):
        around = surroundings(counted, value, rng) if finite else None
    if around is None:
        gradients = counted.gradient(cotangent_of(counted, np.zeros(value.size), rng))
        nothing = Outcome("unresolved", math.nan, math.nan, math.inf, math.inf)
        outcomes: tuple[Outcome, ...] = (nothing,) * len(problem.tensors)
        return Measurement(outcomes, gradients, count.evaluations, count.backwards, value_finite=finite)
    cotangent, gradients = claimed(counted, around.change, rng)
    again = value
    with contextlib.suppress(BudgetSpent):
        again = counted.again(value)
    around, size = around.repeated(again - value), float(np.linalg.norm(value))
    spread = float(np.linalg.norm(again - value)) / size if size else 0.0
    base = measure_base(counted, value, around, cotangent, gradients, rng)
    in_a_hurry = precision == "auto" and base.roundoff > EXACT
    search = Search(counted, base, sensitivity, rng, patient=not in_a_hurry)
    judged = [at for at, gradient in enumerate(gradients) if _can_be_judged(gradient)]
    search.bisects = not in_a_hurry
    search.examine(judged)
    search.look_closer(judged)
    if precision != "auto":  # whatever seems wrong natively is asked for in float64 below
        search.examine_alone(judged)
    searches = dict.fromkeys(judged, search)
    is_settled = all(search.status(at) == "right" for at in judged)
    shadow = problem.shadow() if precision != "float64" and not is_settled else None
    if shadow is None and not is_settled and not surrogate:
        with contextlib.suppress(BudgetSpent):
            shadow, search = _beyond_stairs(problem, search, around, gradients, judged, rng)
            searches = dict.fromkeys(judged, search)
    if shadow is not None:
        with contextlib.suppress(BudgetSpent):
            searches |= _in_shadow(Counted(shadow, count), search, searches, auto=precision == "auto", rng=rng)
    if shadow is not None and not search.bisects:  # what float64 leaves open, though natively something is missing
        left = [at for at in _open(searches) if at in search.missing and search.problem.roundoff < COARSE]
        search.bisects = True
        search.examine(left)
        searches |= dict.fromkeys(left, search)
    if precision == "auto" and shadow is None:
        search.patient = search.bisects = True
        if in_a_hurry:
            search.examine(_open(searches))
        search.examine_alone(judged)
    searches |= look_alone(searches, search, rng)
    beside, kinks = look_beside(searches, search, rng)
    searches |= beside
    wrong, unknown = (Outcome(status, math.nan, math.nan, math.nan, math.nan) for status in ("wrong", "unresolved"))
    wrong_ones = [at for at in judged if searches[at].status(at) == "wrong"]
    ends = _LOOKED_AT if len(wrong_ones) <= 2 * _LOOKED_AT else 1
    close = {*wrong_ones[:ends], *wrong_ones[-ends:]}  # first and last: the mistake lies at an end
    outcomes = tuple(
        _outcome(searches[at], search.base, at, closely=at in close)
        if at in judged
        else (unknown if gradient.stopped else wrong)
        for at, gradient in enumerate(gradients)
    )
    outcomes = _with_history(counted, search.base, outcomes, rng)
    return Measurement(
        outcomes,
        gradients,
        count.evaluations,
        count.backwards,
        spread,
        kinks=kinks,
        base=search.base,
        evaluation=problem.evaluation,
    )


def _at_a_glance(counted: Counted, value: Array, sensitivity: float, rng: np.random.Generator) -> Measurement | None:
    """In float64 a sound gradient of a smooth function shows itself so at a few points: nothing but roundoff is
    assumed, of values and gradients, and what fits that to the last digit is right. None where anything is left open.
    """
    around = assumed_surroundings(counted, value, rng)
    cotangent = cotangent_of(counted, around.change, rng)
    gradients = counted.gradient(cotangent)
    if not (all(map(_can_be_judged, gradients)) and np.array_equal(counted.again(value), value)):
        return None
    base = measure_base(counted, value, around, cotangent, gradients, rng, pairs=0)
    search = Search(counted, base, sensitivity, rng)
    every = range(len(gradients))
    if not search.glance(every):
        return None
    outcomes = tuple(outcome_of(search, at) for at in every)
    if any(outcome.status != "right" for outcome in outcomes):
        return None
    outcomes = _with_history(counted, base, outcomes, rng)
    return Measurement(
        outcomes,
        gradients,
        counted.count.evaluations,
        counted.count.backwards,
        kinks=search.kinks,
        base=base,
        evaluation=counted.evaluation,
    )


def _with_history(
    counted: Counted, base: Base, outcomes: tuple[Outcome, ...], rng: np.random.Generator
) -> tuple[Outcome, ...]:
    """Tensors whose gradient depends on the calls before are wrong, whatever their slopes said."""
    if counted.hand_written() == ():  # the framework's own backward passes remember nothing
        return outcomes
    found = remembered(counted, base, rng)
    return tuple(
        replace(outcome, status="wrong", relative_error=found[at].relative_error, mistake=found[at].mistake)
        if at in found
        else outcome
        for at, outcome in enumerate(outcomes)
    )


def _beyond_stairs(
    problem: Problem,
    search: Search,
    around: Surroundings,
    gradients: tuple[Gradient, ...],
    judged: Sequence[int],
    rng: np.random.Generator,
) -> tuple[Problem | None, Search]:
    """The float64 shadow of a function that is off by more than its dtype allows, because it is rounded inside to far
    less; and the search again, where such stairs were found that had seemed to have no slope.
    """
    base, given = search.base, search.given
    directions = [line.direction for at in judged for line in search.suspects(at)]
    stairs = far_stairs(search.problem, base, directions[0]) if directions else np.zeros(base.value.size)
    noise = np.hypot(base.noise, stairs)
    shadow = problem.shadow(_WITHIN * noise) if noise.any() else None
    # What somebody else than the framework wrote may be meant to go up in stairs, with a gradient that doesn't.
    meant = problem.hand_written() != () or bool(problem.cuts())
    if not stairs.any() or (shadow is None and meant):
        return shadow, search
    around = replace(around, noise=noise, stairs=np.fmax(around.stairs, math.sqrt(12) * stairs))
    base = measure_base(search.problem, base.value, around, given.cotangent, gradients, rng)
    again = Search(search.problem, base, search.sensitivity, rng, patient=search.patient)
    again.bisects = search.bisects
    again.examine(judged)
    return shadow, again


def _in_shadow(
    shadow: Counted, native: Search, searches: Mapping[int, Search], *, auto: bool, rng: np.random.Generator
) -> dict[int, Search]:
    """What float64 tells of tensors that are open natively (``auto``), and of wrong ones whose formula is right there:
    those are merely imprecise.
    """
    base = native.base
    wide = _wide_gradients(shadow, base)
    doubtful = [at for at in searches if native.status(at) == "wrong" and wide is not None]
    asked = [at for at in searches if at in doubtful or (auto and native.status(at) == "unresolved")]
    if not asked:
        return {}
    value = shadow.value({})
    around = assumed_surroundings(shadow, value, rng)
    search = Search(shadow, _widened(shadow, base, value, around, wide), native.sensitivity, rng)
    if not search.glance(asked):
        around = surroundings(shadow, value, rng).repeated(shadow.value({}) - value)
        search = _examined(shadow, _widened(shadow, base, value, around, wide), native.sensitivity, asked, rng)
    harmless = excused(native.problem.roundoff)
    found = {
        at: search
        for at in asked
        if at not in doubtful
        or (search.status(at) in harmless and _imprecision(search.given, native.base, at) <= native.sensitivity)
    }
    # A formula that isn't right there may only not be computed in float64 throughout, and one that is may be computed
    # otherwise, or badly, in the model's own precision: then the claim itself is judged.
    inside = measure_precision(native.base, native.base.roundoff)
    most = max(native.sensitivity, _MOST_IF_COARSE if inside.seen > _COARSE else 0.0)
    unlike = [
        at
        for at in found
        if wide is not None
        and at not in doubtful
        and (search.status(at) != "right" or _apart(search.given, native.base, at) > most)
    ]
    if unlike:
        claimed = replace(native.base, **in_float64(shadow, value, around))
        judged = _examined(shadow, claimed, native.sensitivity, unlike, rng)
        # What rounds so coarsely that the claim can't be judged has a formula that can, if it is off by so much.
        found |= {at: judged for at in unlike if judged.status(at) != "unresolved" or not _is_far_off(search, at)}
    return found


def _widened(shadow: Counted, base: Base, value: Array, around: Surroundings, wide: tuple[Array, ...] | None) -> Base:
    """The base in the shadow, with the formula's gradient in float64 where there is one."""
    base = replace(base, **in_float64(shadow, value, around))
    if wide is None:
        return base
    share = _DISTRUST_WIDE * shadow.roundoff / base.gradient_roundoff
    return replace(
        base,
        gradients=wide,
        gradient_errors=tuple(share * errors for errors in base.gradient_errors),
        gradient_doubts=tuple(share * doubts for doubts in base.gradient_doubts),
        gradient_roundoff=shadow.roundoff,
    )


def _is_far_off(search: Search, at: int) -> bool:
    return search.status(at) == "wrong" and relative_error_of(search.lines[at])[0] > search.sensitivity


def in_float64(shadow: Counted, value: Array, around: Surroundings) -> dict[str, Any]:
    """What of a base is another in the shadow."""
    unit = rounding(np.ones(value.size), 1.0) * shadow.output_roundoff
    return {"value": value, "noise": around.noise, "rounding": unit, "roundoff": shadow.roundoff}


def _examined(
    problem: Counted, base: Base, sensitivity: float, group: Sequence[int], rng: np.random.Generator
) -> Search:
    search = Search(problem, base, sensitivity, rng)
    search.examine(group)
    search.examine_alone(group)
    return search


def _wide_gradients(shadow: Counted, native: Base) -> tuple[Array, ...] | None:
    """The claimed gradient's formula in float64, where it can be had."""
    found = shadow.wide_gradient(native.cotangent)
    if found is None or any(g.value is not None and not np.isfinite(g.value).all() for g in found):
        return None
    if any(g.got_shape is not None or g.stopped for g in found):
        return None
    return tuple(np.zeros_like(x) if g.value is None else g.value for g, x in zip(found, native.points, strict=True))


def _apart(wide: Base, native: Base, at: int) -> float:
    """How far the claimed gradient lies from its own formula in float64, relatively."""
    size = float(np.linalg.norm(wide.gradients[at]))
    return float(np.linalg.norm(native.gradients[at] - wide.gradients[at])) / size if size else 0.0


def _explained(wide: Base, native: Base, at: int) -> float:
    """How far apart these two may lie by the claimed gradient's own rounding, relatively."""
    size = float(np.linalg.norm(wide.gradients[at]))
    own = SUSPECT_AT * float(np.linalg.norm(native.gradient_errors[at]))
    return max(own / size, native.material) if size else 0.0


def _imprecision(wide: Base, native: Base, at: int) -> float:
    """The same where rounding doesn't explain it, else 0."""
    apart = _apart(wide, native, at)
    return apart if apart > _explained(wide, native, at) else 0.0


def _outcome(search: Search, native: Base, at: int, *, closely: bool) -> Outcome:
    """What a search tells of a tensor, and how imprecise its claimed gradient is."""
    outcome = outcome_of(search, at, closely=closely)
    is_here = np.array_equal(search.given.points[at], native.points[at])  # not a step beside a kink
    if not is_here or search.given.gradient_roundoff >= native.gradient_roundoff:
        return outcome
    # A mistake that only the model's own precision has shows in how far it lies from the formula, and nowhere else.
    seen = min(_explained(search.given, native, at), max(search.sensitivity, _apart(search.given, native, at)))
    of_an_entry = seen * math.sqrt(native.points[at].size)
    imprecision = _imprecision(search.given, native, at)
    return replace(
        outcome,
        imprecision=imprecision,
        relative_error=max(outcome.relative_error, imprecision / 2),
        resolution=max(outcome.resolution, seen),
        entry_resolution=max(outcome.entry_resolution, of_an_entry),
    )


def _open(searches: Mapping[int, Search]) -> list[int]:
    return [at for at, search in searches.items() if search.status(at) == "unresolved"]


def _can_be_judged(gradient: Gradient) -> bool:
    """Whether slopes can be compared with it: it came, in shape and finite; or none came, which counts as zero."""
    if gradient.got_shape is not None or gradient.stopped:
        return False
    return gradient.value is None or bool(np.isfinite(gradient.value).all())
