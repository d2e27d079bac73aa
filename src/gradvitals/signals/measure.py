"""Numbers on the signal over depth and over time, from what one pass showed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gradvitals.frameworks.capture import Call, Capture, Steps, Stream
from gradvitals.maths.trend import LogGain, log_gain
from gradvitals.signals.trunk import Trunk, node, trunk

#: Going back from the loss, the layer where less than this is left of the gradient is where it "is lost".
_LOST = 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """One point of a main path: its label and kind, the size there, and whether a normalisation follows anywhere."""

    label: str
    size: float
    depth: int
    normalised_later: bool = False
    is_stream: bool = False


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
    places : tuple of Place
        What was fitted, in the direction of the way.
    path : str
        Of a loop over time, the layer.
    over_steps : bool
        Whether these are steps inside one call of a recurrent layer.

    """

    direction: str
    fit: LogGain
    layers: int
    left: float
    first: str
    last: str
    lost_at: str | None = None
    through_time: bool = False
    places: tuple[Place, ...] = ()
    path: str = ""
    over_steps: bool = False

    @property
    def measured(self) -> float:
        """The size at the end of the way over that at its beginning, as it is; NaN where nothing was kept."""
        return self.places[-1].size / self.places[0].size if self.places else math.nan


def gains(capture: Capture, main: Trunk | None = None) -> tuple[Gain, ...]:
    """The gain per layer of the main path in both directions, and per step over time; each where four points show it.

    A place's depth is the number of layers with weights and of residual additions on the longest way to it, so that
    layers side by side (query, key and value; two towers) count once. What lies in residual branches is left out, as
    are layers behind which no other follows: the scale of a head's output and of its gradient is set by the task.
    """
    main = main or trunk(capture)
    found = [
        *_both_ways(capture, main, main.levels, path=""),
        *(
            gain
            for path, chain in main.loops.items()
            for gain in _both_ways(capture, main, [(at,) for at in chain[:-1]], path)
        ),
        *(gain for steps in capture.steps for gain in _over_steps(steps)),
    ]
    return tuple(found)


def _both_ways(capture: Capture, main: Trunk, levels: Sequence[Sequence[int]], path: str) -> list[Gain]:
    found = (
        _gain("forward", capture, main, levels, forward_rms, path),
        _gain("backward", capture, main, levels, gradient_rms, path),
    )
    return [gain for gain in found if gain is not None]


def _gain(
    direction: str,
    capture: Capture,
    main: Trunk,
    levels: Sequence[Sequence[int]],
    rms: Callable[[Call | Stream], float | None],
    path: str,
) -> Gain | None:
    """Fit the gain of a quantity over depth; parallel layers enter by their geometric mean."""
    places = []
    for depth, nodes in enumerate(levels):
        size = _geometric_mean([rms(node(capture, at)) for at in nodes])
        if size is not None:
            end = nodes[0] if direction == "forward" else nodes[-1]
            later = all(at in main.normalised_later for at in nodes)
            places.append(Place(label(node(capture, end)), size, depth, later, is_stream=end < 0))
    if direction == "backward":
        places.reverse()
    fit = log_gain([place.size for place in places], [abs(place.depth - places[0].depth) for place in places])
    if fit is None:
        return None
    layers = abs(places[-1].depth - places[0].depth)
    ends = sorted((places[0].depth, places[-1].depth))
    lost = next((place.label for place in places if place.size < _LOST * places[0].size), None)
    paths = {node(capture, at).path for nodes in levels for at in nodes}
    return Gain(
        direction,
        fit,
        layers,
        fit.over(layers),
        first=label(node(capture, levels[ends[0]][0])),
        last=label(node(capture, levels[ends[1]][-1])),
        lost_at=lost if direction == "backward" else None,
        through_time=bool(path) or len(paths) == 1,
        places=tuple(places),
        path=path,
    )


def _over_steps(steps: Steps) -> list[Gain]:
    """The gain per step inside a recurrent layer: of its output, and of what its last output knows of earlier inputs."""
    found = []
    ways = (("forward", list(enumerate(steps.forward_rms))), ("backward", list(enumerate(steps.echo_rms))[::-1]))
    for direction, sizes in ways:
        places = tuple(Place(f"{steps.path}[{at}]", size, at) for at, size in sizes if 0 < size < math.inf)
        fit = log_gain([place.size for place in places], [abs(place.depth - places[0].depth) for place in places])
        if fit is None:
            continue
        count = abs(places[-1].depth - places[0].depth)
        ends = sorted((places[0], places[-1]), key=lambda place: place.depth)
        lost = next((place.label for place in places if place.size < _LOST * places[0].size), None)
        found.append(
            Gain(
                direction,
                fit,
                count,
                fit.over(count),
                first=ends[0].label,
                last=ends[1].label,
                lost_at=lost if direction == "backward" else None,
                through_time=True,
                places=places,
                path=steps.path,
                over_steps=True,
            )
        )
    return found


def consumers(calls: Sequence[Call]) -> Mapping[int, tuple[int, ...]]:
    """By call, the calls that it is a source of."""
    found: dict[int, list[int]] = {index: [] for index in range(len(calls))}
    for index, call in enumerate(calls):
        for source in call.sources:
            found[source].append(index)
    return {index: tuple(users) for index, users in found.items()}


def label(call: Call | Stream) -> str:
    """A call's path, with its number where the path is called again.

    >>> from gradvitals.frameworks.capture import Moments
    >>> moments = Moments(1, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    >>> label(Call("cell", 2, "RNNCell", (1, 1), (), (), True, None, True, moments, 1))
    'cell #2'
    """
    return f"{call.path} #{call.call}" if call.call else call.path


def _geometric_mean(values: Sequence[float | None]) -> float | None:
    logs = [math.log(value) for value in values if value is not None and 0 < value < math.inf]
    return math.exp(sum(logs) / len(logs)) if logs else None


def forward_rms(call: Call | Stream) -> float | None:
    """RMS of an output; None where it isn't finite."""
    return call.forward.rms if call.forward.nonfinite == 0 else None


def gradient_rms(call: Call | Stream) -> float | None:
    """None where no gradient came; NaN where it isn't finite."""
    if call.gradient is None:
        return None
    return call.gradient.rms if call.gradient.nonfinite == 0 else math.nan
