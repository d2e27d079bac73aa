"""What else tells of tensors that a kink at the point leaves open, or makes seem wrong: moving them without the
others, for which alone the point may be a kink; or a step beside the point.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from gradvitals.frameworks.problem import Gradient, Problem
from gradvitals.gradients.beside import STEPS, Beside
from gradvitals.gradients.counted import BudgetSpent, Counted
from gradvitals.gradients.measure_base import Base, measure_base, surroundings, with_gradients
from gradvitals.gradients.measure_kinks import Kinks
from gradvitals.gradients.measure_lines import COARSE, excused
from gradvitals.gradients.search import Search
from gradvitals.vocabulary.errors import ModelError


def look_alone(searches: Mapping[int, Search], native: Search, rng: np.random.Generator) -> dict[int, Search]:
    """The searches of tensors that are open for the jumps of another one (a target that is compared with 1), by the
    tensors that they settle; all in the model's own precision.
    """
    found: dict[int, Search] = {}
    for at, search in searches.items():
        if len(searches) > 1 and search.status(at) == "unresolved" and search.is_at_a_kink(at):
            with contextlib.suppress(BudgetSpent):
                alone = _alone(native, at, rng)
                # In a 16-bit format steps reach over jumps: what seems wrong there decides nothing.
                if alone.status(at) == "right" or (alone.status(at) == "wrong" and native.problem.roundoff < COARSE):
                    found[at] = alone
    return found


def _alone(search: Search, at: int, rng: np.random.Generator) -> Search:
    """The search of one tensor, with the noise and rounding that are seen when nothing else moves."""
    problem, given = search.problem, search.given
    around = surroundings(problem, given.value, rng, alone=at).repeated(problem.value({}) - given.value)
    base = replace(given, noise=around.noise, alone=at)
    base = with_gradients(problem, base, given.cotangent, problem.gradient(given.cotangent), rng)
    alone = Search(problem, base, search.sensitivity, rng, patient=search.patient)
    alone.examine([at])
    return alone


def look_beside(
    searches: Mapping[int, Search], native: Search, rng: np.random.Generator
) -> tuple[dict[int, Search], Kinks]:
    """The searches a step beside the point, by the tensors that they settle, and what is known of kinks then.

    Where kinks follow one another (a net of ReLUs whose biases and inputs are zero; three values that tie), a
    framework's own rules need not give a sub-gradient of the whole, though each of them does: where the point shows
    kinks and nobody's own backward pass is involved, a gradient that is right beside the point is no mistake.

    Parameters
    ----------
    searches : mapping of tensor number to Search
        What has judged each tensor so far.
    native : Search
        In the model's own precision.
    rng : numpy.random.Generator

    """
    kinked = [at for at, search in searches.items() if search.is_at_a_kink(at) or native.kinks.masked.any()]
    undecided = [at for at in kinked if searches[at].status(at) == "unresolved" and searches[at].is_at_a_kink(at)]
    seeming = [at for at in kinked if searches[at].status(at) == "wrong" or at in native.kinks.doubtful]
    if seeming and native.problem.hand_written() != ():
        seeming = []
    found: dict[int, Search] = {}
    for step in STEPS:
        left = [at for at in (*undecided, *seeming) if at not in found]
        if left:
            with contextlib.suppress(BudgetSpent, ModelError):  # a step beside may lead out of the domain
                found |= _beside(searches[left[0]], left, rng, step)
    settled = {
        at: search
        for at, search in found.items()
        if at in undecided or (at in seeming and search.status(at) == "right")
    }
    kinks = native.kinks
    if kinks.doubtful and all(at in settled and settled[at].status(at) == "right" for at in kinks.doubtful):
        kinks = replace(kinks, outside=0.0)
    return settled, replace(kinks, beside=tuple(settled))


def _beside(search: Search, group: Sequence[int], rng: np.random.Generator, step: float) -> dict[int, Search]:
    """The search a step beside the kinks that the point lies on, for the tensors that it settles."""
    seed = int(rng.integers(2**32))
    beside, differ = _searched(search.problem.problem, search, group, seed, step)
    right = {at: beside for at in group if beside.status(at) == "right" and not _vanishes(beside.base, search.base, at)}
    wrong = [at for at in group if beside.status(at) == "wrong"] if differ and not search.base.in_stairs else []
    shadow = search.problem.shadow() if wrong else None
    if shadow is not None:
        wide, _ = _searched(shadow, search, wrong, seed, step)
        wrong = [at for at in wrong if wide.status(at) not in excused(search.problem.roundoff)]
    return right | dict.fromkeys(wrong, beside)


def _searched(given: Problem, search: Search, group: Sequence[int], seed: int, step: float) -> tuple[Search, bool]:
    """A search a step beside the point, and whether the claimed gradients are others there."""
    rng = np.random.default_rng(seed)
    problem = Counted(Beside(given, search.base, rng, step), search.problem.count)
    value, again = problem.value({}), problem.value({})
    around = surroundings(problem, value, rng).repeated(again - value)
    gradients = problem.gradient(search.base.cotangent)
    base = measure_base(problem, value, around, search.base.cotangent, gradients, rng)
    beside = Search(problem, base, search.sensitivity, rng)
    beside.examine(group)
    return beside, _differ(gradients, search.base)


def _vanishes(beside: Base, base: Base, at: int) -> bool:
    """Whether nothing of a gradient is left beside the point: that nothing is missing there says nothing."""
    return bool(base.gradients[at].any()) and not beside.gradients[at].any()


def _differ(gradients: Sequence[Gradient], base: Base) -> bool:
    """Whether gradients are others than those at the base; those given as computed values never are."""
    return any(
        g.value is not None and not np.array_equal(g.value, b) for g, b in zip(gradients, base.gradients, strict=True)
    )
