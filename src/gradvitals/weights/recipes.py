"""How every weight of a model should start: what has a convention of its own, and what the method decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from gradvitals.frameworks.weights import OVERRULED, Weight
from gradvitals.maths import schemes
from gradvitals.weights import analytic, critical, scaled, tailored
from gradvitals.weights.arguments import matches
from gradvitals.weights.chains import Chain
from gradvitals.weights.neighbours import Neighbours
from gradvitals.weights.recipe import FORGET, Place, Recipe, left_alone, negative_slope, plain, zero

#: How a layer whose weights mix its inputs starts, by method.
LAYERS: Mapping[str, Callable[[Place], Recipe]] = MappingProxyType(
    {
        "analytic": analytic.layer,
        "calibrated": analytic.fitted_layer,
        "tailored": tailored.layer,
        "critical": critical.layer,
        "scaled-residual": scaled.layer,
    }
)
#: The methods that ``init_`` knows: those for whole models, and the schemes.
METHODS = ("auto", *LAYERS, *schemes.SCHEMES)
#: Methods that look at the data where there are inputs.
FITTED = frozenset({"calibrated", "tailored"})
#: How numbers may be drawn where a scheme leaves it open.
DISTRIBUTIONS = ("normal", "uniform", "truncated")
#: An embedding is a linear layer with one input that is 1 among zeros: LeCun's rule with a fan-in of one.
_EMBEDDING_STD = 1.0
_ALONE, _UNCHAINED = Neighbours(), Chain()


def recipes(
    weights: Iterable[Weight],
    around: Mapping[str, Neighbours],
    chain_of: Mapping[str, Chain] = MappingProxyType({}),
    *,
    assumed: Mapping[str, Neighbours] = MappingProxyType({}),
    method: str = "analytic",
    fitted: bool = False,
    heads: bool = True,
    distribution: str = "normal",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
) -> tuple[Recipe, ...]:
    """Write one recipe per weight: those to be filled in the model's order, then those that stay as they are.

    A bias goes with its weight, unless it has to stay as it is.

    Parameters
    ----------
    weights : iterable of Weight
    around : mapping of str to Neighbours
        By the weight's path.
    chain_of : mapping of str to Chain
        By the weight's path.
    assumed : mapping of str to Neighbours
        The same of weights that the pass didn't come by.
    method : str
        One of :data:`LAYERS`, or of the schemes: those are the papers', with no further gain.
    fitted : bool
        Whether there is a batch to fit scales to.
    heads : bool
        Whether those of the last layers are fitted too.
    distribution : str
        ``"normal"``, ``"uniform"`` or ``"truncated"``; orthogonal matrices have their own.
    only, skip : sequence of str
        Patterns (``"encoder.*"``) of the weights to fill or to leave out, by the parameter's or its layer's path. What
        ``only`` names is filled also where its module is marked as initialised already, or zero beside frozen ones.

    """
    written = []
    for weight in weights:
        if weight.role == "bias" and weight.obstacle is None:
            continue
        biases = tuple(bias for bias in weight.biases if not matches(bias, skip))
        near = around.get(weight.path, _ALONE)
        place = Place(
            replace(weight, biases=biases),
            around.get(weight.path) or assumed.get(weight.path, _ALONE),
            chain_of.get(weight.path, _UNCHAINED),
            distribution,
            fitted
            and method in FITTED
            and (heads or not near.is_last)
            and (weight.path in around or weight.path not in assumed),
        )
        obstacle = _obstacle(weight, only, skip)
        written.append(left_alone(weight, place.near, obstacle) if obstacle else _recipe(place, method))
    filled = {bias for recipe in written if recipe.draw for bias in recipe.weight.biases}
    return tuple(
        sorted((r for r in written if r.weight.path not in filled), key=lambda recipe: recipe.scheme == "untouched")
    )


def _obstacle(weight: Weight, only: Sequence[str], skip: Sequence[str]) -> str | None:
    named_by = bool(only) and matches(weight.path, only)
    if weight.obstacle is not None and not (weight.obstacle in OVERRULED and named_by):
        return weight.obstacle
    if matches(weight.path, skip) or (only and not named_by):
        return "left-out"
    return "kind-unknown" if weight.role in {"other", "bias"} else None


def _recipe(place: Place, method: str) -> Recipe:
    weight = place.weight
    if weight.role == "norm":
        return _norm(place, method)
    if weight.role == "embedding":
        return Recipe(weight, "", "normal", "normal", _EMBEDDING_STD, None, "embedding")
    if weight.role == "embedding-tied":
        std = 1.0 / math.sqrt(weight.shape[-1])
        return Recipe(weight, "", "lecun", "normal", std, zero(weight), "embedding-tied")
    if weight.role == "recurrent-hidden":
        return plain(place, "orthogonal", "recurrent")
    if weight.role == "recurrent-input":
        recipe = plain(place, "xavier", "recurrent")
        return replace(recipe, bias="forget") if weight.biases and weight.layout.blocks == len(FORGET) else recipe
    if method in LAYERS:
        return LAYERS[method](place)
    slope = negative_slope(place.near.after)
    return plain(place, method, "named", math.sqrt(1.0 / (1.0 + slope**2)) if method == "he" else 1.0)


def _norm(place: Place, method: str) -> Recipe:
    """Weight 1 and bias 0; at the end of residual branches that are to start small, their share."""
    if method == "scaled-residual" and place.near.branches > 1:
        value = 1.0 / math.sqrt(place.near.branches)
        return Recipe(place.weight, "", "constant", "constant", value, zero(place.weight), "residual")
    return Recipe(place.weight, "", "ones", "ones", 0.0, zero(place.weight), "norm")
