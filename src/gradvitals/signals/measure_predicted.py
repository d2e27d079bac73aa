"""Numbers on the predicted signal over depth, and on how it compares with a measured one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gradvitals.frameworks.capture import Capture
from gradvitals.frameworks.prediction import Predicted, PredictedCall, Prediction
from gradvitals.maths.trend import LogGain, log_gain
from gradvitals.signals.measure import label
from gradvitals.vocabulary.finding import Fact
from gradvitals.vocabulary.report import Table

#: Going back from the loss, the layer where less than this is left of the gradient is where it "is lost".
_LOST = 0.5
#: What the theory itself is off by, relative, besides the scatter of one draw: the 90th percentiles that
#: benchmarks/signals_prediction.py asks for, taken as two standard deviations.
FORWARD_ERROR, BACKWARD_ERROR = 0.05, 0.10


@dataclass(frozen=True, slots=True)
class PredictedGain:
    """How the RMS changes per layer with weights: as in :class:`gradvitals.signals.measure.Gain`."""

    direction: str
    fit: LogGain
    layers: int
    left: float
    first: str
    last: str
    lost_at: str | None


def predicted_gains(prediction: Prediction) -> tuple[PredictedGain, ...]:
    """The gain per layer in both directions, where at least four layers follow one another.

    The last layers with weights, those behind which no other follows, are left out, as a probe does it.
    """
    deepest = max((call.depth for call in prediction.calls), default=0)
    by_depth: dict[int, list[PredictedCall]] = {}
    for call in prediction.calls:
        if call.has_weights and 0 < call.depth < deepest:
            by_depth.setdefault(call.depth, []).append(call)
    found = (
        _gain("forward", by_depth, lambda call: call.forward),
        _gain("backward", by_depth, lambda call: call.gradient),
    )
    return tuple(gain for gain in found if gain is not None)


def _gain(
    direction: str, by_depth: Mapping[int, Sequence[PredictedCall]], read: Callable[[PredictedCall], Predicted | None]
) -> PredictedGain | None:
    points: list[tuple[int, float]] = []
    for depth in sorted(by_depth):
        known = [said.rms for said in map(read, by_depth[depth]) if said is not None and 0 < said.rms < math.inf]
        if known:
            points.append((depth, math.exp(sum(map(math.log, known)) / len(known))))
    if direction == "backward":
        points = [(-depth, size) for depth, size in reversed(points)]
    fit = log_gain([size for _, size in points], [place for place, _ in points])
    if fit is None:
        return None
    ends = sorted(abs(place) for place in (points[0][0], points[-1][0]))
    layers = points[-1][0] - points[0][0]
    lost = next((abs(place) for place, size in points if size < _LOST * points[0][1]), None)
    return PredictedGain(
        direction,
        fit,
        layers,
        fit.over(layers),
        first=label(by_depth[ends[0]][0]),
        last=label(by_depth[ends[1]][-1]),
        lost_at=label(by_depth[lost][-1]) if direction == "backward" and lost is not None else None,
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """One call, predicted and measured.

    Parameters
    ----------
    path, call, kind
        Of the call.
    direction : str
        ``"forward"`` or ``"backward"``; ``"parameter"`` of a parameter's gradient.
    predicted, measured : float
        RMS.
    error : float
        One standard deviation of the logarithm of their ratio: of one draw of the weights, and of the theory.

    """

    path: str
    call: int
    kind: str
    direction: str
    predicted: float
    measured: float
    error: float

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        if self.predicted > 0:
            return self.measured / self.predicted
        return 1.0 if self.measured == 0 else math.inf

    @property
    def deviations(self) -> float:
        """How many standard deviations the logarithm of the ratio is from zero."""
        ratio = self.ratio
        if ratio in (0.0, math.inf) or not math.isfinite(ratio):
            return math.inf
        return abs(math.log(ratio)) / self.error


def compared(prediction: Prediction, capture: Capture) -> tuple[Comparison, ...]:
    """Every call that both know, forwards and backwards, and every parameter's gradient."""
    measured = {(call.path, call.call): call for call in capture.calls}
    found: list[Comparison] = []
    for call in prediction.calls:
        other = measured.get((call.path, call.call))
        if other is None or other.shape != call.shape:
            continue
        if call.forward is not None and other.forward.nonfinite == 0:
            found.append(_comparison(call, "forward", call.forward, other.forward.rms, FORWARD_ERROR))
        if call.gradient is not None and other.gradient is not None and other.gradient.nonfinite == 0:
            found.append(_comparison(call, "backward", call.gradient, other.gradient.rms, BACKWARD_ERROR))
    return (*found, *_compared_parameters(prediction, capture))


def _compared_parameters(prediction: Prediction, capture: Capture) -> Iterator[Comparison]:
    measured = {record.path: record for record in capture.parameters}
    for parameter in prediction.parameters:
        record, said = measured.get(parameter.path), parameter.gradient
        if record is not None and said is not None and record.gradient is not None and record.gradient.nonfinite == 0:
            error = math.hypot(said.judged_by, BACKWARD_ERROR)
            yield Comparison(parameter.path, 0, "parameter", "parameter", said.rms, record.gradient.rms, error)


def _comparison(call: PredictedCall, direction: str, said: Predicted, measured: float, theory: float) -> Comparison:
    return Comparison(
        call.path, call.call, call.kind, direction, said.rms, measured, math.hypot(said.judged_by, theory)
    )


# ---- tables ----


def tables(
    prediction: Prediction, gains: Sequence[PredictedGain], comparisons: Sequence[Comparison]
) -> tuple[Table, ...]:
    """The tables ``gains``, ``layers`` and ``parameters``; also ``agreement`` and ``parameter_agreement``."""
    found = [_gain_table(gains), _layer_table(prediction), _parameter_table(prediction)]
    if comparisons:
        found.insert(1, _agreement_table([item for item in comparisons if item.direction != "parameter"]))
        found.append(_parameter_agreement([item for item in comparisons if item.direction == "parameter"]))
    return tuple(found)


def _gain_table(gains: Sequence[PredictedGain]) -> Table:
    columns = ("direction", "gain", "low", "high", "layers", "left", "first", "last")
    rows: tuple[tuple[Fact, ...], ...] = tuple(
        (gain.direction, gain.fit.gain, gain.fit.low, gain.fit.high, gain.layers, gain.left, gain.first, gain.last)
        for gain in gains
    )
    return Table("gains", columns, ("",) * len(columns), rows)


def _layer_table(prediction: Prediction) -> Table:
    """The columns of a probe's table; what theory can't say is None."""
    columns = (
        *("path", "call", "kind", "shape", "forward_mean", "forward_std", "forward_rms", "zero_share", "dead_share"),
        *("saturated_share", "sample_cosine", "gradient_rms", "nonfinite", "activation"),
        *("forward_rms_error", "gradient_rms_error"),
    )
    rows: list[tuple[Fact, ...]] = []
    for call in prediction.calls:
        forward, gradient = call.forward, call.gradient
        std = math.sqrt(max(forward.rms**2 - forward.mean**2, 0.0)) if forward else None
        rows.append(
            (
                *(call.path, call.call, call.kind, call.shape, forward.mean if forward else None, std),
                *(forward.rms if forward else None, None, None, None, call.sample_cosine),
                *(gradient.rms if gradient else None, None, call.activation),
                *(forward.error if forward else None, gradient.error if gradient else None),
            )
        )
    return Table("layers", columns, ("",) * len(columns), tuple(rows))


def _parameter_table(prediction: Prediction) -> Table:
    columns = ("path", "weight_rms", "gradient_rms", "gradient_rms_error")
    rows: list[tuple[Fact, ...]] = []
    for parameter in prediction.parameters:
        gradient = parameter.gradient
        sizes = (None, None) if gradient is None else (gradient.rms, gradient.error)
        rows.append((parameter.path, parameter.weight_rms, *sizes))
    return Table("parameters", columns, ("",) * len(columns), tuple(rows))


def _agreement_table(comparisons: Sequence[Comparison]) -> Table:
    """One row per call: what was predicted, what was measured, and their ratio, forwards and backwards."""
    by_call: dict[tuple[str, int], dict[str, Comparison]] = {}
    for comparison in comparisons:
        by_call.setdefault((comparison.path, comparison.call), {})[comparison.direction] = comparison
    columns = (
        *("path", "call", "kind", "forward_predicted", "forward_measured", "forward_ratio", "forward_deviations"),
        *("gradient_predicted", "gradient_measured", "gradient_ratio", "gradient_deviations"),
    )
    rows: list[tuple[Fact, ...]] = []
    for (path, call), sides in by_call.items():
        first = next(iter(sides.values()))
        row: list[Fact] = [path, call, first.kind]
        for direction in ("forward", "backward"):
            side = sides.get(direction)
            row += [None] * 4 if side is None else [side.predicted, side.measured, side.ratio, side.deviations]
        rows.append(tuple(row))
    return Table("agreement", columns, ("",) * len(columns), tuple(rows))


def _parameter_agreement(comparisons: Sequence[Comparison]) -> Table:
    """One row per parameter: its gradient as predicted and as measured."""
    columns = ("path", "gradient_predicted", "gradient_measured", "gradient_ratio", "gradient_deviations")
    rows = tuple((item.path, item.predicted, item.measured, item.ratio, item.deviations) for item in comparisons)
    return Table("parameter_agreement", columns, ("",) * len(columns), rows)
