"""What a remedy needs to know of a network, however it was seen: measured by a probe, or followed by a prediction."""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from gradvitals.frameworks.capture import Call
from gradvitals.frameworks.prediction import PredictedCall, Prediction
from gradvitals.maths import activations
from gradvitals.signals.measure import Signal, consumers, label
from gradvitals.signals.trunk import is_normalisation

#: Layers whose weight has the fan-in in all axes but the first.
_PLAIN = ("Linear", "Conv1d", "Conv2d", "Conv3d", "linear", "conv1d", "conv2d", "conv3d")
#: Activations that start like another one.
_LIKE = {"prelu": "leaky_relu", "relu6": "relu"}


@dataclass(frozen=True, slots=True)
class Layer:
    """A plain layer: its weight, its other parameters, and the activation that its output is handed to.

    ``std`` and ``rms`` are those of the weight's entries; ``on_path`` says whether it lies on the main path.
    """

    label: str
    weight: str
    shape: tuple[int, ...]
    std: float
    rms: float
    biases: tuple[str, ...]
    activation: str | None
    options: Mapping[str, float]
    on_path: bool


@dataclass(frozen=True, slots=True)
class Structure:
    """A network as a remedy sees it.

    Parameters
    ----------
    layers : tuple of Layer
        In execution order.
    favourite : str or None
        The activation that is called most often.
    normalised : bool
        Whether anything in it normalises.
    branches : tuple of (str or None)
        Of each residual branch the weight of its last plain layer.
    depth : int
        Layers with weights and residual additions on the main path.

    """

    layers: tuple[Layer, ...]
    favourite: str | None
    normalised: bool
    branches: tuple[str | None, ...]
    depth: int


@dataclass(frozen=True, slots=True)
class _Parameter:
    path: str
    shape: tuple[int, ...]
    std: float
    rms: float


def measured(signal: Signal) -> Structure:
    """The structure that a probe saw."""
    capture = signal.capture
    known = {
        record.path: _Parameter(record.path, record.shape, record.values.std, record.values.rms)
        for record in capture.parameters
    }
    on_path = {at for nodes in signal.trunk.levels for at in nodes}
    branches = [stream.branch for stream in capture.streams]
    return _structure(capture.calls, known, on_path, branches, len(signal.trunk.levels))


def foretold(prediction: Prediction) -> Structure:
    """The structure that a prediction followed."""
    known = {
        parameter.path: _Parameter(parameter.path, parameter.shape, parameter.weight_std, parameter.weight_rms)
        for parameter in prediction.parameters
    }
    inside = {at for branch in prediction.streams for at in branch}
    on_path = set(range(len(prediction.calls))) - inside
    depth = len({call.depth for at, call in enumerate(prediction.calls) if at in on_path and call.has_weights})
    return _structure(prediction.calls, known, on_path, prediction.streams, depth + len(prediction.streams))


def _structure(
    calls: Sequence[Call | PredictedCall],
    known: Mapping[str, _Parameter],
    on_path: Collection[int],
    branches: Sequence[Collection[int]],
    depth: int,
) -> Structure:
    users = consumers(calls)
    layers: dict[int, Layer] = {}
    for at, call in enumerate(calls):
        own = [known[path] for path in call.parameters if path in known]
        weight = next((parameter for parameter in own if len(parameter.shape) > 1), None)
        if weight is None or call.kind not in _PLAIN or not weight.rms > 0:
            continue
        follower = next(
            (calls[user] for user in users[at] if calls[user].activation in {*activations.NAMES, *_LIKE}), None
        )
        layers[at] = Layer(
            label(call),
            weight.path,
            weight.shape,
            weight.std,
            weight.rms,
            tuple(parameter.path for parameter in own if len(parameter.shape) == 1),
            None if follower is None else _LIKE.get(follower.activation or "", follower.activation),
            {} if follower is None else follower.options,
            at in on_path,
        )
    main = collections.Counter(call.activation for call in calls if call.activation in activations.NAMES)
    return Structure(
        tuple(layers.values()),
        main.most_common(1)[0][0] if main else None,
        any(is_normalisation(call) for call in calls),
        tuple(
            next((layers[at].weight for at in sorted(branch, reverse=True) if at in layers), None)
            for branch in branches
        ),
        depth,
    )
