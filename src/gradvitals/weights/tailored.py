"""Tailored weights: every activation works where its whole chain is as nonlinear as one moderate layer."""

from __future__ import annotations

import math
from dataclasses import replace

from gradvitals.frameworks.weights import Goal, Weight
from gradvitals.maths.tailoring import WorkingPoint, working_point
from gradvitals.weights import analytic
from gradvitals.weights.recipe import Place, Recipe, fan_in, orthogonal_scheme, plain


def layer(place: Place) -> Recipe:
    """Bring the activation behind the layer to its working point; what has none starts as in ``analytic``.

    With a batch, the mean of the inputs and the size of the outputs are measured. Without, the activation before the
    layer tells what to expect.
    """
    weight, near = place.weight, place.near
    if weight.role == "attention" or near.normalised:
        return analytic.fitted_layer(place)
    point = working_point_of(place)
    if point is None and near.after is not None:
        recipe = analytic.fitted_layer(place)
        return replace(recipe, reason="untailored") if recipe.reason in {"gain", "rectified"} else recipe
    before = _before(place)
    std, mean = (1.0, 0.0) if point is None else (point.alpha, point.beta)
    std /= math.sqrt(analytic.shares(place))
    recipe = plain(place, orthogonal_scheme(place), _reason(place, point))
    expected = std / math.sqrt((before.variance if before else 1.0) * fan_in(weight))
    bias = "shifted" if mean and _has_bias(weight) else _bias(weight, before, fitted=place.fitted)
    goal = Goal(weight, std, mean, centred=_has_bias(weight)) if place.fitted else None
    return replace(
        recipe,
        std=expected,
        bias=bias,
        centre=before.mean if before else 0.0,
        shift=mean,
        goal=goal,
        chi=before.chi if before else None,
    )


def working_point_of(place: Place) -> WorkingPoint | None:
    """Where the activation behind a layer works; None where there is none, or it can't be tailored."""
    near = place.near
    if near.after is None or not near.feeds or near.branches > 1:
        return None
    return working_point(near.after, place.chain.depth, shifted=_has_bias(place.weight))


def _before(place: Place) -> WorkingPoint | None:
    """The working point of the activation before a layer, as if it stood in the same chain with a bias before it."""
    before = place.near.before
    return None if before is None else working_point(before, place.chain.depth)


def _reason(place: Place, point: WorkingPoint | None) -> str:
    if analytic.shares(place) > 1:
        return "residual"
    if point is not None:
        return "tailored"
    return "head" if place.near.is_last else "linear"


def _bias(weight: Weight, before: WorkingPoint | None, *, fitted: bool) -> str | None:
    """The mean of the inputs is taken away by the bias, or by rows that sum to zero where there is none."""
    if _has_bias(weight):
        return "centred" if fitted or (before is not None and before.mean) else "zero"
    return "rows" if before is not None and before.mean else None


def _has_bias(weight: Weight) -> bool:
    return len(weight.biases) == 1
