"""How far the scale of each layer is from what the plan would give, and which way through the network suffers most."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from gradvitals.frameworks.capture import Call
from gradvitals.frameworks.weights import WeightSummary
from gradvitals.signals.measure import consumers
from gradvitals.weights.measure import Survey
from gradvitals.weights.neighbours import is_normalisation
from gradvitals.weights.recipe import Recipe
from gradvitals.weights.recipes import recipes

#: Biases beyond this share of what weights make of inputs of power 1 move the activation to another working point.
_SHIFTED = 0.25
#: Weights that were fitted to a batch lie this close to what theory expects of them.
_NEAR = 0.1


@dataclass(frozen=True, slots=True)
class Departure:
    """How far a layer's RMS is from what the plan would give, and how much of that matters.

    Parameters
    ----------
    recipe : Recipe
        The plan for it.
    ratio : float
        Its RMS over the planned one.
    off : float
        The same over the nearest one that is sound as well; 1 inside.

    """

    recipe: Recipe
    ratio: float
    off: float


def departures(survey: Survey, fitted: Collection[str] = ()) -> dict[str, Departure]:
    """By path: every layer whose scale reaches the next one, so not before a normalisation, and not at a head.

    Left out is also what theory can't judge: layers behind an unknown function, and those ``fitted`` to a batch, whose
    outputs have been measured.
    """
    free = [replace(weight, obstacle=None) for weight in survey.weights]
    biases = {weight.path: weight.summary for weight in survey.weights}
    tailored = {one.weight.path: one for one in recipes(free, survey.around, survey.chains, method="tailored")}
    found: dict[str, Departure] = {}
    for recipe in recipes(free, survey.around):
        summary, near = recipe.weight.summary, survey.around.get(recipe.weight.path)
        usable = near is not None and recipe.weight.role == "mixing" and 0 < summary.rms < math.inf
        if near is None or not usable or near.normalised or near.is_last or not recipe.std:
            continue
        if near.unknown or recipe.weight.path in fitted:
            continue
        if summary.mirrored or _is_shifted(recipe, biases) or _is_tailored(tailored[recipe.weight.path], biases):
            continue  # it works at another point on purpose
        ratio = summary.rms / recipe.std
        low, high = recipe.tolerated
        off = ratio / low if ratio < low else ratio / high if ratio > high else 1.0
        found[recipe.weight.path] = Departure(recipe, ratio, off)
    return found


def worst_path(calls: Sequence[Call], found: Mapping[str, Departure]) -> tuple[float, tuple[str, ...]]:
    """The product of departures at the end that it is furthest from 1, and the layers on the way there.

    Where ways join, the larger signal counts: what a skip connection carries doesn't vanish.
    """
    sizes: list[float] = []
    ways: list[tuple[str, ...]] = []
    for call in calls:
        source = max(call.sources, key=lambda at: sizes[at], default=None)
        size, way = (1.0, ()) if source is None or is_normalisation(call) else (sizes[source], ways[source])
        own = next((path for path in call.parameters if path in found), None)
        sizes.append(size * found[own].off if own else size)
        ways.append((*way, own) if own else way)
    users = consumers(calls)
    ends = [at for at in range(len(calls)) if not users[at]]
    worst = max(ends, key=lambda at: abs(math.log(max(sizes[at], 1e-300))), default=None)
    return (1.0, ()) if worst is None else (sizes[worst], tuple(dict.fromkeys(ways[worst])))


def scheme_name(recipe: Recipe) -> str:
    """What a reader calls the scheme of a recipe."""
    names = {"lecun": "LeCun", "xavier": "Xavier", "he": "He", "orthogonal": "orthogonal"}
    name = names.get(recipe.scheme, recipe.scheme)
    gain = (recipe.std or 0.0) * math.sqrt(recipe.weight.fan_in or 1)
    return f"{name} (gain {gain:.3g})" if recipe.scheme == "orthogonal" else name


def _is_tailored(recipe: Recipe, summaries: Mapping[str, WeightSummary]) -> bool:
    """Whether weights and biases are at the working point that suits the depth, where one was sought."""
    weight = recipe.weight
    near = recipe.std is not None and abs(weight.summary.rms / recipe.std - 1) < _NEAR
    moved = all(summaries[bias].rms > 0 for bias in weight.biases)
    return recipe.reason == "tailored" and recipe.bias in {"shifted", "centred"} and near and moved


def _is_shifted(recipe: Recipe, summaries: Mapping[str, WeightSummary]) -> bool:
    """Whether the biases are as large as what the weights give, those that there are as well as the planned ones."""
    given = max(recipe.std or 0.0, recipe.weight.summary.rms) * math.sqrt(recipe.weight.fan_in or 1)
    return any(summaries[bias].rms > _SHIFTED * given for bias in recipe.weight.biases)
