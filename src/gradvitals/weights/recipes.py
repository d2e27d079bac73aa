"""How each weight should start: the scheme, its standard deviation, what becomes of the bias, and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np

from gradvitals.frameworks.weights import Weight
from gradvitals.maths import schemes
from gradvitals.maths.activations import Activation
from gradvitals.maths.balance import Balance, balance, is_homogeneous
from gradvitals.weights.neighbours import Neighbours

#: The methods that ``init_`` knows.
METHODS = ("auto", *schemes.SCHEMES)
#: How numbers may be drawn where a scheme leaves it open.
DISTRIBUTIONS = ("normal", "uniform")
#: An embedding is a linear layer with one input that is 1 among zeros: LeCun's rule with a fan-in of one.
_EMBEDDING_STD = 1.0
_ALONE = Neighbours()
#: Data and normalised signals have power 1, and so should what no activation follows.
_PLAIN = Balance(q=1.0, centre=0.0, power=1.0, chi=1.0, gains=(1.0, 1.0))


@dataclass(frozen=True, slots=True)
class Recipe:
    """The plan for one weight.

    Parameters
    ----------
    weight : Weight
    activation : str
        The activation that follows, ``""`` where there is none.
    scheme : str
        ``"lecun"``, ``"xavier"``, ``"he"``, ``"orthogonal"``, ``"normal"``, ``"ones"`` or ``"untouched"``.
    draw : str
        ``"normal"``, ``"uniform"``, ``"orthogonal"``, ``"ones"``, or ``""`` where nothing is drawn.
    std : float or None
        Planned standard deviation (root mean square of orthogonal entries); None where nothing is drawn.
    bias : str or None
        ``"zero"``, ``"centred"``, ``"rows"`` (no bias: the rows sum to zero), or None where there is none to set.
    reason : str
        A key of the locale's ``[value]`` section.
    centre : float
        Mean of the input that is taken away.
    tolerated : (float, float)
        Standard deviations relative to the planned one that are sound too.

    """

    weight: Weight
    activation: str
    scheme: str
    draw: str
    std: float | None
    bias: str | None
    reason: str
    centre: float = 0.0
    tolerated: tuple[float, float] = (1.0, 1.0)


def recipes(
    weights: Iterable[Weight],
    around: Mapping[str, Neighbours],
    *,
    method: str = "auto",
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
    method : str
        One of :data:`METHODS`. A named scheme is the paper's, with no further gain; ``"auto"`` chooses by what stands
        around each layer.
    distribution : str
        ``"normal"`` or ``"uniform"``; orthogonal matrices have their own.
    only, skip : sequence of str
        Patterns (``"encoder.*"``) of the weights to fill or to leave out, by the parameter's or its layer's path.

    """
    written = []
    for weight in weights:
        if weight.role == "bias" and weight.obstacle is None:
            continue
        biases = tuple(bias for bias in weight.biases if not matches(bias, skip))
        near = around.get(weight.path, _ALONE)
        written.append(_recipe(replace(weight, biases=biases), near, method, distribution, only, skip))
    return tuple(sorted(written, key=lambda recipe: recipe.scheme == "untouched"))


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a parameter's path, or that of a module around it, matches one of the patterns."""
    parts = path.split(".")
    candidates = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return any(fnmatchcase(candidate, pattern) for pattern in patterns for candidate in candidates)


def _recipe(
    weight: Weight, near: Neighbours, method: str, distribution: str, only: Sequence[str], skip: Sequence[str]
) -> Recipe:
    obstacle = weight.obstacle
    if obstacle is None and (matches(weight.path, skip) or (only and not matches(weight.path, only))):
        obstacle = "left-out"
    if obstacle is not None:
        return Recipe(weight, near.after_name, "untouched", "", None, None, obstacle)
    if weight.role in {"other", "bias"}:
        return Recipe(weight, near.after_name, "untouched", "", None, None, "kind-unknown")
    if weight.role == "norm":
        return Recipe(weight, "", "ones", "ones", 0.0, _zero(weight), "norm")
    if weight.role == "embedding":
        return Recipe(weight, "", "normal", "normal", _EMBEDDING_STD, None, "embedding")
    if weight.role == "embedding-tied":
        std = 1.0 / math.sqrt(weight.shape[-1])
        return Recipe(weight, "", "lecun", "normal", std, _zero(weight), "embedding-tied")
    if weight.role == "recurrent-hidden":
        return _plain(weight, near, "orthogonal", distribution, "recurrent")
    if weight.role == "recurrent-input":
        return _plain(weight, near, "xavier", distribution, "recurrent")
    if method != "auto":
        slope = _negative_slope(near.after)
        gain = math.sqrt(1.0 / (1.0 + slope**2)) if method == "he" else 1.0
        return _plain(weight, near, method, distribution, "named", gain)
    if weight.role == "attention":
        return _plain(weight, near, "xavier", distribution, "attention")
    return _auto(weight, near, distribution)


def _auto(weight: Weight, near: Neighbours, distribution: str) -> Recipe:
    """Choose by what stands around the layer.

    The activation behind it says which variance q its outputs should have, the one before it how much power arrives:
    Var(W) = q/(power · fan_in). Between two ReLUs that is He's 2/fan_in.
    """
    before = balance(near.before) if near.before else _PLAIN
    if near.after is None:
        reason = "normalised" if near.normalised else "head" if near.is_last else "linear"
        recipe = _plain(weight, near, "lecun", distribution, reason)
        return _finished(recipe, near, before.centre)
    target = balance(near.after)
    std = math.sqrt(target.q / before.power / _fan_in(weight))
    low, high = (gain / target.gain for gain in target.gains)
    tolerated = (low, high) if near.before else (1.0, max(1.0, 1.0 / math.sqrt(target.q)))
    if is_homogeneous(near.after) and near.after.name != "identity":
        recipe = Recipe(weight, near.after_name, "he", distribution, std, _zero(weight), "rectified", 0.0, tolerated)
    else:
        # Measured (digits, 20 and 50 layers, Adam): orthogonal weights reach 0 to 20 points more than normal ones.
        recipe = Recipe(weight, near.after_name, "orthogonal", "orthogonal", std, _zero(weight), "gain", 0.0, tolerated)
    return _finished(recipe, near, before.centre)


def _plain(weight: Weight, near: Neighbours, scheme: str, distribution: str, reason: str, gain: float = 1.0) -> Recipe:
    """A scheme as its paper gives it."""
    std = math.sqrt(schemes.variance(scheme, _fan_in(weight), weight.fan_out or 1, gain=gain))
    draw = "orthogonal" if scheme == "orthogonal" else distribution
    return Recipe(weight, near.after_name, scheme, draw, std, _zero(weight), reason)


def _finished(recipe: Recipe, near: Neighbours, centre: float) -> Recipe:
    """The same recipe with residual branches scaled down, and the mean of its input taken away.

    What R branches of variance 1/R add to a stream multiplies its variance by e at most, not by 2 at every one; any
    branch that is smaller, down to zero, is sound as well.
    """
    if near.branches > 1 and not near.normalised and recipe.std is not None:
        shrunk = math.sqrt(near.branches)
        tolerated = (0.0, recipe.tolerated[1] * shrunk)
        recipe = replace(recipe, std=recipe.std / shrunk, reason="residual", tolerated=tolerated)
    if not centre:
        return recipe
    bias = "centred" if len(recipe.weight.biases) == 1 else "rows"
    return replace(recipe, bias=bias, reason="centred", centre=centre)


def _zero(weight: Weight) -> str | None:
    return "zero" if weight.biases else None


def _fan_in(weight: Weight) -> int:
    return weight.fan_in or 1


def _negative_slope(phi: Activation | None) -> float:
    """The slope of a ReLU-like activation for negative inputs; 0 for all others, as He's formula has it."""
    if phi is None or not is_homogeneous(phi) or phi.name == "identity":
        return 0.0
    return float(-phi.value(np.array([-1.0]))[0])
