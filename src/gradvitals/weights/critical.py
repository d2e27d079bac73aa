"""Orthogonal weights at the edge of chaos: singular values of the whole network's Jacobian stay together."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gradvitals.maths import gaussian
from gradvitals.maths.activations import Activation
from gradvitals.maths.balance import is_homogeneous
from gradvitals.weights import analytic
from gradvitals.weights.recipe import Place, Recipe, fan_in, plain


def layer(place: Place) -> Recipe:
    """The gain makes up for the slope of the activation before: 1/|φ′(0)|, or He's for ReLU and its like.

    Convolutions get their matrices in the middle of the kernel. φ(0) is taken away.
    """
    if place.weight.role == "attention" or place.near.normalised:
        return analytic.layer(place)
    before = place.near.before
    recipe = plain(place, "delta_orthogonal", "critical")
    gain = _gain(before) / math.sqrt(analytic.shares(place))
    recipe = replace(recipe, std=gain / math.sqrt(fan_in(place.weight)), chi=1.0)
    centre = 0.0 if before is None else float(before.value(np.zeros(1))[0])
    if not centre:
        return recipe
    return replace(recipe, centre=centre, bias="centred" if len(place.weight.biases) == 1 else "rows")


def _gain(before: Activation | None) -> float:
    if before is None:
        return 1.0
    if is_homogeneous(before):
        return 1.0 / math.sqrt(gaussian.expectation(lambda z: before.slope(z) ** 2, kinks=before.kinks))
    slope = abs(float(before.slope(np.zeros(1))[0]))
    return 1.0 / slope if slope else gaussian.gain(before)
