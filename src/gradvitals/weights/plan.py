"""The plan for a whole model, and its table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradvitals.frameworks.weights import Fit
from gradvitals.vocabulary.finding import Fact
from gradvitals.vocabulary.report import Table
from gradvitals.weights.choice import Choice, choose
from gradvitals.weights.measure import Survey
from gradvitals.weights.recipe import Recipe
from gradvitals.weights.recipes import recipes

_COLUMNS = (
    *("path", "kind", "shape", "fan_in", "fan_out", "activation", "scheme", "std_before", "std_after", "bias"),
    *("reason", "fitted", "output_std", "output_mean"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is going to be done.

    Parameters
    ----------
    choice : Choice
    recipes : tuple of Recipe
        One per weight; those that stay as they are last.
    order : str
        As in ``Survey``.

    """

    choice: Choice
    recipes: tuple[Recipe, ...]
    order: str


def plan_of(
    survey: Survey, *, method: str, distribution: str, only: Sequence[str] = (), skip: Sequence[str] = ()
) -> Plan:
    """Choose a method where that is left open, and write the recipes."""
    choice = choose(survey, method)
    written = recipes(
        survey.weights,
        survey.around,
        survey.chains,
        assumed=survey.assumed,
        method=choice.method,
        fitted=survey.order == "dataflow",
        heads=choice.fits_heads,
        distribution=distribution,
        only=only,
        skip=skip,
    )
    return Plan(choice, written, survey.order)


def by_theory(recipes: Iterable[Recipe], found: Iterable[Fit]) -> tuple[Fit, ...]:
    """Fits of what a batch showed nothing of (no call, no output but zeros): they bring it to the planned size."""
    fitted = {fit.goal.weight.path for fit in found}
    return tuple(
        Fit(recipe.goal, (recipe.std or 0.0) / recipe.fill.std, recipe.centre if recipe.goal.centred else 0.0)
        for recipe in recipes
        if recipe.goal and recipe.fill and recipe.weight.path not in fitted
    )


def plan_table(plan: Plan) -> Table:
    """One row per weight."""
    return Table("plan", _COLUMNS, ("",) * len(_COLUMNS), tuple(_row(recipe) for recipe in plan.recipes))


def _row(recipe: Recipe) -> tuple[Fact, ...]:
    weight, goal = recipe.weight, recipe.goal
    open_draw = recipe.scheme in {"lecun", "xavier", "he"}
    return (
        weight.path,
        weight.kind,
        weight.shape,
        weight.fan_in,
        weight.fan_out,
        recipe.activation,
        f"{recipe.scheme} {recipe.draw}" if open_draw else recipe.scheme,
        None if math.isnan(weight.summary.std) else weight.summary.std,  # on the meta device there is none
        recipe.std,
        recipe.bias,
        recipe.reason,
        goal is not None,
        goal.std if goal else None,
        goal.mean if goal else None,
    )
