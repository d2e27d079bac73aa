"""Numbers on the signal over depth and over time, from what one pass showed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gradvitals.frameworks.capture import Call, Capture, Steps, Stream
from gradvitals.frameworks.prediction import PredictedCall
from gradvitals.maths.trend import LogGain, log_gain
from gradvitals.signals.trunk import Trunk, node, trunk

#: Going back from the loss, the layer where less than this is left of the gradient is where it "is lost".
_LOST = 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """One point of a way: the labels of what lies side by side there, the size, and the depth in layers or steps.

    ``nodes`` are the calls and additions, ``normalised_later`` says whether a normalisation follows all of them, at
    whatever distance.
    """

    labels: tuple[str, ...]
    size: float
    depth: int
    nodes: tuple[int, ...] = ()
    normalised_later: bool = False

    @property
    def label(self) -> str:
        """The last of the labels."""
        return self.labels[-1]


@dataclass(frozen=True, slots=True)
class Way:
    """The sizes along a path, in the direction of the way: forwards, or from the loss back.

    ``path`` is the layer of a loop over time, ``""`` on the main path; ``over_steps`` tells steps inside one call.
    """

    direction: str
    places: tuple[Place, ...]
    path: str = ""
    through_time: bool = False
    over_steps: bool = False


@dataclass(frozen=True, slots=True)
class Gain:
    """How the RMS changes per layer of the main path, or per step of a loop, forwards or on the way back.

    Parameters
    ----------
    direction : str
        ``"forward"``: RMS of the outputs. ``"backward"``: RMS of the gradient with respect to them, from the loss back.
    fit : LogGain
        The factor per layer: a ratio of RMS values (χ, the factor on the variance, is its square).
    layers : int
        Steps between the first and the last layer.
    left : float
        The factor over all of them, ``gain ** layers``.
    first, last : str
        The layers at the two ends, in execution order.
    lost_at : str or None
        Backwards: the first layer, going back, at whose output less than half of the gradient is left.
    through_time : bool
        Whether these are calls of one and the same layer, one after the other.
    way : Way or None
        What was fitted.

    """

    direction: str
    fit: LogGain
    layers: int
    left: float
    first: str
    last: str
    lost_at: str | None = None
    through_time: bool = False
    way: Way | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """All that is judged: what one pass showed, its main path, the sizes along it, and their gains."""

    capture: Capture
    trunk: Trunk
    ways: tuple[Way, ...]
    gains: tuple[Gain, ...]


def signal(capture: Capture) -> Signal:
    """Find the main path of what was recorded, and measure along it."""
    main = trunk(capture)
    along = ways(capture, main)
    return Signal(capture, main, along, gains(along))


def ways(capture: Capture, main: Trunk) -> tuple[Way, ...]:
    """The sizes along the main path, along loops over time, and over the steps of recurrent layers; in both directions.

    A place's depth is the number of layers with weights and of residual additions on the longest way to it, so that
    layers side by side (query, key and value; two towers) count once. What lies in residual branches is left out, as
    are layers behind which no other follows: the scale of a head's output and of its gradient is set by the task.
    """
    found = _both_ways(capture, main, main.levels, "")
    for path, chain in main.loops.items():
        found += _both_ways(capture, main, [(at,) for at in chain[:-1]], path)
    for steps in capture.steps:
        found += _over_steps(steps)
    return tuple(found)


def gains(along: Sequence[Way]) -> tuple[Gain, ...]:
    """The gain of every way on which four places or more have a size."""
    return tuple(gain for gain in map(gain_along, along) if gain is not None)


def _both_ways(capture: Capture, main: Trunk, levels: Sequence[Sequence[int]], path: str) -> list[Way]:
    # Additions in one loop of code have one path as well, but the layers between them are others.
    paths = {capture.calls[at].path if at >= 0 else at for nodes in levels for at in nodes}
    alone = bool(path) or (len(paths) == 1 and len(levels) > 1)
    forward = _places(capture, main, levels, forward_rms)
    backward = _places(capture, main, levels, gradient_rms)
    return [Way("forward", forward, path, alone), Way("backward", backward[::-1], path, alone)]


def _places(
    capture: Capture, main: Trunk, levels: Sequence[Sequence[int]], rms: Callable[[Call | Stream], float | None]
) -> tuple[Place, ...]:
    """One place per level where anything has a size; what lies side by side enters by its geometric mean."""
    places = []
    for depth, nodes in enumerate(levels):
        size = _together([rms(node(capture, at)) for at in nodes])
        if size is not None:
            later = all(at in main.normalised_later for at in nodes)
            places.append(Place(tuple(label(node(capture, at)) for at in nodes), size, depth, tuple(nodes), later))
    return tuple(places)


def _over_steps(steps: Steps) -> list[Way]:
    """The size of a recurrent layer's output over its steps, and of what its last output knows of earlier inputs."""
    forward = tuple(Place((f"{steps.path}[{at}]",), size, at) for at, size in enumerate(steps.forward_rms))
    echo = tuple(Place((f"{steps.path}[{at}]",), size, at) for at, size in enumerate(steps.echo_rms))
    return [
        Way("forward", forward, steps.path, through_time=True, over_steps=True),
        Way("backward", echo[::-1], steps.path, through_time=True, over_steps=True),
    ]


def gain_along(way: Way) -> Gain | None:
    """Fit the gain along a way; sizes that are zero or not finite have none."""
    places = [place for place in way.places if 0 < place.size < math.inf]
    if not places:
        return None
    start = places[0].depth
    fit = log_gain([place.size for place in places], [abs(place.depth - start) for place in places])
    if fit is None:
        return None
    layers = abs(places[-1].depth - start)
    first, last = sorted((places[0], places[-1]), key=lambda place: place.depth)
    lost = next((place.label for place in places if place.size < _LOST * places[0].size), None)
    return Gain(
        way.direction,
        fit,
        layers,
        fit.over(layers),
        first=first.labels[0],
        last=last.label,
        lost_at=lost if way.direction == "backward" else None,
        through_time=way.through_time,
        way=way,
    )


def consumers(calls: Sequence[Call | PredictedCall]) -> Mapping[int, tuple[int, ...]]:
    """By call, the calls that it is a source of."""
    found: dict[int, list[int]] = {index: [] for index in range(len(calls))}
    for index, call in enumerate(calls):
        for source in call.sources:
            found[source].append(index)
    return {index: tuple(users) for index, users in found.items()}


def label(call: Call | Stream | PredictedCall) -> str:
    """A call's path, with its number where the path is called again.

    >>> from gradvitals.frameworks.capture import Moments
    >>> moments = Moments(1, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    >>> label(Call("cell", 2, "RNNCell", (1, 1), (), (), True, None, True, moments, 1))
    'cell #2'
    """
    return f"{call.path} #{call.call}" if call.call else call.path


def _together(values: Sequence[float | None]) -> float | None:
    """The geometric mean of those that have a size; 0 where all are zero, None where there is nothing."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    logs = [math.log(value) for value in known if value > 0]
    if not known:
        return None
    return math.exp(sum(logs) / len(logs)) if logs else 0.0


def forward_rms(call: Call | Stream) -> float | None:
    """RMS of an output; None where it isn't finite."""
    return call.forward.rms if call.forward.nonfinite == 0 else None


def gradient_rms(call: Call | Stream) -> float | None:
    """None where no gradient came; NaN where it isn't finite."""
    if call.gradient is None:
        return None
    return call.gradient.rms if call.gradient.nonfinite == 0 else math.nan
