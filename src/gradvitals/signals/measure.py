"""Numbers on the signal over depth, from what one pass showed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gradvitals.frameworks.capture import Call, Capture
from gradvitals.maths.trend import LogGain, log_gain
from gradvitals.vocabulary.finding import Fact
from gradvitals.vocabulary.report import Table

#: Going back from the loss, the layer where less than this is left of the gradient is where it "is lost".
_LOST = 0.5


@dataclass(frozen=True, slots=True)
class Gain:
    """How the RMS changes per layer with weights, forwards or on the way back.

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

    """

    direction: str
    fit: LogGain
    layers: int
    left: float
    first: str
    last: str
    lost_at: str | None = None
    through_time: bool = False


def gains(capture: Capture) -> tuple[Gain, ...]:
    """The gain per layer in both directions, each where at least four layers have a signal.

    A layer's place is the number of layers with weights on the longest way to it, so that layers side by side (query,
    key and value; two towers) count once. Layers behind which no other follows are left out: the scale of a head's
    output and of its gradient is set by the task.
    """
    ways = _by_depth(capture.calls)
    found = (_gain("forward", ways, _forward_rms), _gain("backward", ways, _gradient_rms))
    return tuple(gain for gain in found if gain is not None)


def consumers(calls: Sequence[Call]) -> Mapping[int, tuple[int, ...]]:
    """By call, the calls that it is a source of."""
    found: dict[int, list[int]] = {index: [] for index in range(len(calls))}
    for index, call in enumerate(calls):
        for source in call.sources:
            found[source].append(index)
    return {index: tuple(users) for index, users in found.items()}


def label(call: Call) -> str:
    """A call's path, with its number where the path is called again.

    >>> from gradvitals.frameworks.capture import Moments
    >>> moments = Moments(1, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    >>> label(Call("cell", 2, "RNNCell", (1, 1), (), (), True, None, True, moments, 1))
    'cell #2'
    """
    return f"{call.path} #{call.call}" if call.call else call.path


def _by_depth(calls: Sequence[Call]) -> dict[int, list[Call]]:
    """Calls with weights, by the number of such calls on the longest way to each; without those that end a way."""
    depths: list[int] = []
    nearest: list[frozenset[int]] = []  # calls with weights that reach this one's output with none between
    inner: set[int] = set()
    for index, call in enumerate(calls):
        depths.append(max((depths[source] for source in call.sources), default=0) + call.has_weights)
        before = frozenset().union(*(nearest[source] for source in call.sources))
        nearest.append(frozenset({index}) if call.has_weights else before)
        if call.has_weights:
            inner |= before
    found: dict[int, list[Call]] = {}
    for index in sorted(inner):
        found.setdefault(depths[index], []).append(calls[index])
    return dict(sorted(found.items()))


def _gain(direction: str, ways: Mapping[int, list[Call]], rms: Callable[[Call], float | None]) -> Gain | None:
    """Fit the gain of a quantity over depth; parallel layers enter by their geometric mean."""
    points = {depth: _geometric_mean([rms(call) for call in calls]) for depth, calls in ways.items()}
    sizes = [(depth, size) for depth, size in points.items() if size is not None]
    if direction == "backward":
        sizes = [(-depth, size) for depth, size in reversed(sizes)]
    fit = log_gain([size for _, size in sizes], [place for place, _ in sizes])
    if fit is None:
        return None
    layers = sizes[-1][0] - sizes[0][0]
    ends = sorted(abs(place) for place in (sizes[0][0], sizes[-1][0]))
    lost = next((abs(place) for place, size in sizes if size < _LOST * sizes[0][1]), None)
    return Gain(
        direction,
        fit,
        layers,
        fit.over(layers),
        first=label(ways[ends[0]][0]),
        last=label(ways[ends[1]][-1]),
        lost_at=label(ways[lost][-1]) if direction == "backward" and lost is not None else None,
        through_time=len({call.path for calls in ways.values() for call in calls}) == 1,
    )


def _geometric_mean(values: Sequence[float | None]) -> float | None:
    logs = [math.log(value) for value in values if value is not None and 0 < value < math.inf]
    return math.exp(sum(logs) / len(logs)) if logs else None


def _forward_rms(call: Call) -> float | None:
    return call.forward.rms if call.forward.nonfinite == 0 else None


def _gradient_rms(call: Call) -> float | None:
    """None where no gradient came; NaN where it isn't finite."""
    if call.gradient is None:
        return None
    return call.gradient.rms if call.gradient.nonfinite == 0 else math.nan


def tables(capture: Capture, over_depth: Sequence[Gain]) -> tuple[Table, ...]:
    """The tables ``gains``, ``layers`` and ``parameters``."""
    return (_gain_table(over_depth), layer_table(capture), _parameter_table(capture))


def layer_table(capture: Capture, name: str = "layers") -> Table:
    """One row per call in execution order."""
    columns = (
        *("path", "call", "kind", "shape", "forward_mean", "forward_std", "forward_rms", "zero_share", "dead_share"),
        *("saturated_share", "sample_cosine", "gradient_rms", "nonfinite", "activation"),
    )
    rows: tuple[tuple[Fact, ...], ...] = tuple(
        (
            *(call.path, call.call, call.kind, call.shape),
            *(call.forward.mean, call.forward.std, call.forward.rms, call.forward.zero_share, call.dead_share),
            *(call.saturated_share, call.sample_cosine, _gradient_rms(call), call.forward.nonfinite, call.activation),
        )
        for call in capture.calls
    )
    return Table(name, columns, ("",) * len(columns), rows)


def _gain_table(over_depth: Sequence[Gain]) -> Table:
    columns = ("direction", "gain", "low", "high", "layers", "left", "first", "last")
    rows: tuple[tuple[Fact, ...], ...] = tuple(
        (gain.direction, gain.fit.gain, gain.fit.low, gain.fit.high, gain.layers, gain.left, gain.first, gain.last)
        for gain in over_depth
    )
    return Table("gains", columns, ("",) * len(columns), rows)


def _parameter_table(capture: Capture) -> Table:
    rows: tuple[tuple[Fact, ...], ...] = tuple(
        (record.path, record.values.rms, record.gradient.rms if record.gradient else None)
        for record in capture.parameters
    )
    return Table("parameters", ("path", "weight_rms", "gradient_rms"), ("",) * 3, rows)
