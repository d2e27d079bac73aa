"""What to do about a signal that vanishes or explodes, as the model's structure suggests it: facts for a remedy."""

from __future__ import annotations

import math

from gradvitals.maths import activations, gaussian, schemes
from gradvitals.signals.structure import Layer, Structure
from gradvitals.vocabulary.finding import Fact

#: Weights whose spread is within this factor of the scheme's are not what is wrong.
_NEAR = 1.25
#: Activations that He's scheme was made for.
_RECTIFIERS = frozenset({"relu", "leaky_relu"})
#: More plain layers than this are hard to train however they start: He et al. (2016), figure 1.
_DEEP = 30


def remedy_facts(structure: Structure, name: str) -> dict[str, Fact]:
    """The kind of advice for a finding, and the layer whose spread is furthest from its scheme's."""
    facts: dict[str, Fact] = {}
    advice = _advice(structure, name)
    if advice is not None:
        facts["advice"] = f"advice-{advice}"
    if not name.endswith("through-time"):
        facts |= _off_scheme(structure, name)
    return facts


def _advice(structure: Structure, name: str) -> str | None:
    if name.endswith("through-time"):
        return "forgets" if "vanishing" in name else "clip"
    if structure.branches and not structure.normalised and "exploding" in name:
        return "scale-branches"
    if structure.favourite == "sigmoid" and "vanishing" in name:
        return "no-sigmoid"
    if not structure.branches and not structure.normalised and structure.depth > _DEEP:
        return "skips"
    return None


def _off_scheme(structure: Structure, name: str) -> dict[str, Fact]:
    """The layer of the main path whose weights are furthest from their scheme, on the side that hurts."""
    worst: tuple[float, dict[str, Fact]] = (math.log(_NEAR), {})
    for layer in structure.layers:
        if not layer.on_path or not layer.std > 0:
            continue
        scheme, wanted = _wanted(layer)
        off = math.log(layer.std / wanted) * (1 if "exploding" in name else -1)
        if off > worst[0]:
            now = {"std_now": layer.std, "std_wanted": wanted}
            worst = (off, {"scheme": scheme, "layer": layer.label, **now})
    return worst[1]


def scheme_weights(structure: Structure) -> dict[str, float]:
    """The RMS of every plain layer's parameters, by name, if it started by its scheme: its biases at zero."""
    found: dict[str, float] = {}
    for layer in structure.layers:
        found.setdefault(layer.weight, _wanted(layer)[1])
        found.update(dict.fromkeys(layer.biases, 0.0))
    return found


def branch_weights(structure: Structure) -> dict[str, float]:
    """The same, the last plain layer of each of L residual branches over √L: Hayou et al. (2021), Stable ResNet."""
    found = scheme_weights(structure)
    for weight in {weight for weight in structure.branches if weight is not None}:
        found[weight] /= math.sqrt(len(structure.branches))
    return found


def _wanted(layer: Layer) -> tuple[str, float]:
    """The scheme for what follows a layer, and the standard deviation that it gives to the weights."""
    fan_in, fan_out = math.prod(layer.shape[1:]), layer.shape[0]
    name = layer.activation
    if name is None:
        return "LeCun", math.sqrt(schemes.lecun(fan_in))
    if name in _RECTIFIERS:
        slope = layer.options.get("negative_slope", 0.0)
        return "He", math.sqrt(schemes.he(fan_in, negative_slope=slope))
    if name == "tanh":
        return "Xavier", math.sqrt(schemes.xavier(fan_in, fan_out))
    gain = gaussian.gain(activations.activation(name, **layer.options))
    return f"LeCun × {gain:.2f}", gain * math.sqrt(schemes.lecun(fan_in))
