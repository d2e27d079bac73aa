"""Residual branches that start small: R of them add 1/R of the stream's variance each."""

from __future__ import annotations

import math
from dataclasses import replace

from gradvitals.weights import analytic
from gradvitals.weights.recipe import Place, Recipe


def layer(place: Place) -> Recipe:
    """As ``analytic``, and the last projection of attention counts as the end of its branch as well."""
    recipe = analytic.layer(place)
    shrinks = place.near.branches > 1 and not place.near.normalised and place.weight.role == "attention"
    if not shrinks or recipe.std is None:
        return recipe
    return replace(recipe, std=recipe.std / math.sqrt(place.near.branches), reason="residual")
