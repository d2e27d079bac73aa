"""Try one kind of mistake after another, those that assume least first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradvitals.frameworks.problem import Array, Problem, Tensor
from gradvitals.gradients.counted import BudgetSpent
from gradvitals.gradients.measure_base import Base
from gradvitals.gradients.measure_entries import Entry
from gradvitals.gradients.measure_lines import Line
from gradvitals.gradients.mistakes import behaviour, outputs, patterns, terms
from gradvitals.gradients.mistakes.factors import Sizes, common_factor, named
from gradvitals.gradients.mistakes.mistake import Mistake
from gradvitals.gradients.mistakes.readings import Readings, readings
from gradvitals.gradients.mistakes.region import Region, condition_of, conditions, locate, region_of
from gradvitals.gradients.mistakes.scene import Scene
from gradvitals.vocabulary.finding import Fact

#: So many entries must be wrong before a condition on some of the entries says something of all.
_TELLING = 5
#: Kinds that say what is wrong whether or not a formula can be: where every formula is the framework's own, all others
#: are explained by a cut.
_NOT_CUT = {"sign", "factor-missing", "factor-extra", "zero", "accumulates", "precision", "ignores-cotangent"}
#: How sure a kind is that was found where every formula is the framework's own and no cut was seen.
_UNSEEN = 0.5
#: Cuts that are listed.
_SHOWN = 3
#: A region of at most this share of the looked-at entries is called single entries.
_FEW = 0.5


def recognise(
    tensor: Tensor,
    gradient: Array,
    lines: Sequence[Line],
    entries: Sequence[Entry],
    sample_sizes: Sequence[int],
    at: int,
    *,
    problem: Problem | None = None,
    base: Base | None = None,
    seed: int = 0,
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
    problem, base : Problem and Base, optional
        With them the other tensors are looked at, and the backward pass is asked again where that tells more.
    seed : int
        Of further directions.

    """
    observed = readings(lines, entries, at, tensor.size)
    scene = None
    if problem is not None and base is not None:
        scene = Scene(problem, base, at, tuple(sample_sizes), np.random.default_rng((seed, at)))
    sizes = scene.sizes if scene else Sizes(tuple(sample_sizes), ((tensor.path, tensor.shape),))
    if not gradient.any():
        return Mistake("zero", 0.95)
    if scene is not None:
        try:
            return _cut(_asked(scene, observed, entries, sizes), scene)
        except BudgetSpent:  # then what was measured must do
            pass
    return (
        _of_one_factor(observed, sizes)
        or patterns.rearranged(observed, gradient, tensor.shape)
        or _in_a_part(None, observed, entries, tensor, sizes)
        or _in_single_entries(entries)
        or Mistake("formula", 1.0)
    )


def _asked(scene: Scene, observed: Readings, entries: Sequence[Entry], sizes: Sizes) -> Mistake:
    """The mistake, with everything that can be asked of the problem."""
    return (
        _behaving(scene, observed)
        or _of_one_factor(observed, sizes)
        or (behaviour.conjugated(scene, observed) if scene.tensor.is_complex else None)
        or patterns.rearranged(observed, scene.claimed, scene.tensor.shape)
        or _in_company(scene, observed)
        or _in_a_part(scene, observed, entries, scene.tensor, sizes)
        or _last(scene, observed)
        or _in_single_entries(entries)
        or Mistake("formula", 1.0)
    )


def _cut(found: Mistake, scene: Scene) -> Mistake:
    """Where every formula is the framework's own, a part of the gradient is missing because its way was cut off.

    If no cut was seen, a formula was used where it doesn't hold: run again with other random numbers, or for scores
    that it takes for normalised.
    """
    if found.likely in _NOT_CUT or scene.problem.hand_written() != ():
        return found
    cuts = scene.problem.cuts()
    if cuts:
        return Mistake("detached", 0.9, facts={**found.facts, "framework_only": True, "cuts": cuts[:_SHOWN]})
    likely = "formula" if found.likely == "detached" else found.likely
    return Mistake(likely, min(found.confidence, _UNSEEN), found.factor, found.name, {**found.facts, "uncut": True})


def _behaving(scene: Scene, observed: Readings) -> Mistake | None:
    """Mistakes that show in how the backward pass answers, whatever the numbers."""
    return behaviour.memory(scene) or behaviour.indifferent(scene) or behaviour.imprecision(scene, observed)


def _of_one_factor(observed: Readings, sizes: Sizes) -> Mistake | None:
    factor = common_factor(observed)
    if factor is None:
        return None
    return named(factor, sizes) or Mistake("formula", 1.0)


def _in_company(scene: Scene, observed: Readings) -> Mistake | None:
    """Mistakes that involve other tensors, or a known term."""
    return (
        patterns.anothers(scene, observed)
        or patterns.reordered(scene, observed)
        or terms.one_term(scene, observed)
        or terms.factor_and_own_term(scene, observed)
        or behaviour.operands(scene, observed)
        or terms.repeated(scene, observed)
    )


def _last(scene: Scene, observed: Readings) -> Mistake | None:
    """Mistakes that take more numbers, or more evaluations, to explain."""
    return (
        (outputs.dropped(scene) if scene.outputs and scene.base.value.size > 1 else None)
        or terms.per_slice(scene, observed)
        or behaviour.bent(scene)
        or behaviour.unfollowed(scene)
    )


def _in_a_part(
    scene: Scene | None, observed: Readings, entries: Sequence[Entry], tensor: Tensor, sizes: Sizes
) -> Mistake | None:
    """Wrong in one part only; what is wrong there may be one factor."""
    wrong = np.zeros(tensor.size, dtype=bool)
    wrong[[entry.index for entry in entries if entry.wrong]] = True
    claimed = scene.claimed if scene else np.zeros(tensor.size)
    known = conditions(scene.own if scene else np.zeros(tensor.size), claimed, tensor.shape)
    flat = np.zeros(tensor.size, dtype=bool)
    flat[observed.index] = np.abs(observed.numeric)[: len(observed.index)] <= observed.bar[: len(observed.index)]
    known["slope-zero"] = flat
    region = None
    if observed.is_complete:
        region = region_of(wrong, known, tensor.shape)
    elif scene is not None and tensor.size > 1:
        condition = condition_of(wrong, known, np.unique(observed.index)) if wrong.sum() >= _TELLING else ""
        if condition:
            region = Region(tensor.shape, (None,) * len(tensor.shape), condition)
        else:
            region = locate(scene.problem, scene.base, scene.at, scene.rng)
    return None if region is None else _described(region, observed, sizes)


def _described(region: Region, observed: Readings, sizes: Sizes) -> Mistake:
    """What is wrong in a region: where it is, and the one factor that is wrong there, if there is one."""
    if region.condition:
        return Mistake("entries", 0.9, facts={"condition": region.condition})
    facts: dict[str, Fact] = {"region": str(region)}
    if len(region.limited) == 1:
        facts["axis"] = region.limited[0]
    part = observed.only(region.mask)
    factor = common_factor(part) if len(part.numeric) > 1 else None
    inside = None if factor is None else named(factor, sizes)
    if inside is not None:
        facts["there"] = inside.likely
    elif part.numeric.size and not part.analytic.any():
        facts["there"] = "zero"
    return Mistake("entries" if region.is_entry else "slice", 0.9, inside.factor if inside else None, facts=facts)


def _in_single_entries(entries: Sequence[Entry]) -> Mistake | None:
    wrong = sum(entry.wrong for entry in entries)
    return Mistake("entries", 0.8) if 0 < wrong <= _FEW * len(entries) else None
