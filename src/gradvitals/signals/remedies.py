"""What to do about a signal that vanishes or explodes, as the model's structure suggests it: facts for a remedy."""

from __future__ import annotations

import collections
import math

from gradvitals.frameworks.capture import Call, ParameterRecord
from gradvitals.maths import activations, gaussian, schemes
from gradvitals.signals.measure import Signal, consumers, label
from gradvitals.signals.trunk import is_normalisation
from gradvitals.vocabulary.finding import Fact

#: Weights whose spread is within this factor of the scheme's are not what is wrong.
_NEAR = 1.25
#: Activations that start like another one.
_LIKE = {"prelu": "leaky_relu", "relu6": "relu"}
#: Activations that He's scheme was made for.
_RECTIFIERS = frozenset({"relu", "leaky_relu"})
#: Layers whose weight has the fan-in in all axes but the first.
_PLAIN = ("Linear", "Conv1d", "Conv2d", "Conv3d", "linear", "conv1d", "conv2d", "conv3d")
#: More plain layers than this are hard to train however they start: He et al. (2016), figure 1.
_DEEP = 30


def remedy_facts(signal: Signal, name: str) -> dict[str, Fact]:
    """The kind of advice for a finding, and the layer whose spread is furthest from its scheme's."""
    calls = signal.capture.calls
    main = collections.Counter(call.activation for call in calls if call.activation in activations.NAMES)
    favourite = main.most_common(1)[0][0] if main else None
    facts: dict[str, Fact] = {}
    advice = _advice(signal, name, favourite)
    if advice is not None:
        facts["advice"] = f"advice-{advice}"
    if not name.endswith("through-time"):
        facts |= _off_scheme(signal, name)
    return facts


def _advice(signal: Signal, name: str, favourite: str | None) -> str | None:
    if name.endswith("through-time"):
        return "forgets" if "vanishing" in name else "clip"
    calls, streams = signal.capture.calls, signal.capture.streams
    normalised = any(is_normalisation(call) for call in calls)
    if streams and not normalised and "exploding" in name:
        return "scale-branches"
    if favourite == "sigmoid" and "vanishing" in name:
        return "no-sigmoid"
    if not streams and not normalised and len(signal.trunk.levels) > _DEEP:
        return "skips"
    return None


def _off_scheme(signal: Signal, name: str) -> dict[str, Fact]:
    """The layer of the main path whose weights are furthest from their scheme, on the side that hurts."""
    worst: tuple[float, dict[str, Fact]] = (math.log(_NEAR), {})
    planned = _plan(signal)
    for at in (at for nodes in signal.trunk.levels for at in nodes if at in planned):
        weight, scheme, wanted = planned[at]
        off = (
            math.log(weight.values.std / wanted) * (1 if "exploding" in name else -1) if weight.values.std > 0 else 0.0
        )
        if off > worst[0]:
            now = {"std_now": weight.values.std, "std_wanted": wanted}
            worst = (off, {"scheme": scheme, "layer": label(signal.capture.calls[at]), **now})
    return worst[1]


def _plan(signal: Signal) -> dict[int, tuple[ParameterRecord, str, float]]:
    """By call of a plain layer its weight, the scheme for what follows, and the standard deviation that this gives."""
    records = {record.path: record for record in signal.capture.parameters}
    calls = signal.capture.calls
    users = consumers(calls)
    found = {}
    for at, call in enumerate(calls):
        weight = next((records[path] for path in call.parameters if len(records[path].shape) > 1), None)
        if weight is None or call.kind not in _PLAIN or not weight.values.rms > 0:
            continue
        follower = next(
            (calls[user] for user in users[at] if calls[user].activation in {*activations.NAMES, *_LIKE}), None
        )
        found[at] = (weight, *_wanted(follower, math.prod(weight.shape[1:]), weight.shape[0]))
    return found


def scheme_weights(signal: Signal) -> dict[str, float]:
    """The RMS of every plain layer's parameters, by name, if it started by its scheme: its biases at zero."""
    shapes = {record.path: record.shape for record in signal.capture.parameters}
    found: dict[str, float] = {}
    for at, (weight, _, wanted) in _plan(signal).items():
        found.setdefault(weight.path, wanted)
        found.update({path: 0.0 for path in signal.capture.calls[at].parameters if len(shapes[path]) == 1})
    return found


def branch_weights(signal: Signal) -> dict[str, float]:
    """The same, the last plain layer of each of L residual branches over √L: Hayou et al. (2021), Stable ResNet."""
    planned, found = _plan(signal), scheme_weights(signal)
    for stream in signal.capture.streams:
        last = next((at for at in sorted(stream.branch, reverse=True) if at in planned), None)
        if last is not None:
            weight, _, wanted = planned[last]
            found[weight.path] = wanted / math.sqrt(len(signal.capture.streams))
    return found


def _wanted(follower: Call | None, fan_in: int, fan_out: int) -> tuple[str, float]:
    """The scheme for what follows a layer, and the standard deviation that it gives to the weights."""
    if follower is None:
        return "LeCun", math.sqrt(schemes.lecun(fan_in))
    name = _LIKE.get(follower.activation or "", follower.activation or "")
    if name in _RECTIFIERS:
        slope = follower.options.get("negative_slope", 0.0)
        return "He", math.sqrt(schemes.he(fan_in, negative_slope=slope))
    if name == "tanh":
        return "Xavier", math.sqrt(schemes.xavier(fan_in, fan_out))
    gain = gaussian.gain(activations.activation(name, **follower.options))
    return f"LeCun × {gain:.2f}", gain * math.sqrt(schemes.lecun(fan_in))
