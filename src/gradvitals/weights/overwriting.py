"""A warning before weights are overwritten that look trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

from gradvitals.frameworks.weights import Weight
from gradvitals.weights.recipe import Recipe
from gradvitals.weights.rules import looks_trained


class TrainedWeightsWarning(UserWarning):
    """Weights that look trained are about to be overwritten."""


def warn_of_loss(subject: str, recipes: Iterable[Recipe], weights: Sequence[Weight]) -> None:
    """Warn where what is going to be filled looks trained; made an error, nothing has been overwritten yet.

    >>> warn_of_loss("net", (), ())
    """
    overwritten = [recipe.weight for recipe in recipes if recipe.fill]
    if looks_trained(overwritten, weights):
        message = (
            f"weights that look trained are overwritten\n"
            f"  where: {subject}, {len(overwritten)} weight(s) from {overwritten[0].path}\n"
            f'  do:    load them again if that wasn\'t meant; skip="encoder.*" keeps what is loaded, and '
            f'warnings.simplefilter("ignore", gradvitals.weights.TrainedWeightsWarning) this warning away'
        )
        warnings.warn(message, TrainedWeightsWarning, stacklevel=3)
