"""What was measured, as the tables of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradvitals.frameworks.capture import Call, Capture, Moments, ParameterRecord, Stream
from gradvitals.signals.measure import Gain, gradient_rms
from gradvitals.vocabulary.finding import Fact
from gradvitals.vocabulary.report import Table


def tables(capture: Capture, over_depth: Sequence[Gain]) -> tuple[Table, ...]:
    """The tables ``gains``, ``layers``, ``streams``, ``steps`` and ``parameters``; those without a row are empty."""
    return (
        _gain_table(over_depth),
        layer_table(capture),
        _stream_table(capture.streams),
        _step_table(capture),
        _parameter_table(capture.parameters),
    )


def layer_table(capture: Capture, name: str = "layers") -> Table:
    """One row per call in execution order."""
    columns = (
        *("path", "call", "kind", "shape", "forward_mean", "forward_std", "forward_rms", "zero_share", "dead_share"),
        *("saturated_share", "sample_cosine", "gradient_rms", "nonfinite", "activation", "forward_min", "forward_max"),
        *("attention_entropy", "attention_lowest_entropy", "attention_largest_score", "parameters"),
        *("underflow_fp16", "underflow_bf16"),
    )
    sizes = {record.path: math.prod(record.shape) for record in capture.parameters}
    rows = tuple(_layer(call, sum(sizes.get(path, 0) for path in call.parameters)) for call in capture.calls)
    return Table(name, columns, ("",) * len(columns), rows)


def _layer(call: Call, parameters: int) -> tuple[Fact, ...]:
    forward, attention = call.forward, call.attention
    return (
        *(call.path, call.call, call.kind, call.shape),
        *(forward.mean, forward.std, forward.rms, forward.zero_share, call.dead_share),
        *(call.saturated_share, call.sample_cosine, gradient_rms(call), forward.nonfinite, call.activation),
        *(forward.low, forward.high),
        *((attention.entropy, attention.lowest_entropy, attention.largest_score) if attention else (None,) * 3),
        parameters,
        *_underflow(call.gradient),
    )


def _underflow(gradient: Moments | None) -> tuple[Fact, Fact]:
    return (None, None) if gradient is None else (gradient.underflow_fp16, gradient.underflow_bf16)


def _gain_table(over_depth: Sequence[Gain]) -> Table:
    columns = ("direction", "gain", "low", "high", "layers", "left", "first", "last", "along", "path")
    rows: tuple[tuple[Fact, ...], ...] = tuple(
        (
            *(gain.direction, gain.fit.gain, gain.fit.low, gain.fit.high, gain.layers, gain.left),
            *(
                gain.first,
                gain.last,
                "time" if gain.through_time else "depth",
                (gain.way.path if gain.way else None) or None,
            ),
        )
        for gain in over_depth
    )
    return Table("gains", columns, ("",) * len(columns), rows)


def _stream_table(streams: Sequence[Stream]) -> Table:
    """The main path of residual networks: each addition, and how large what it adds is beside the stream."""
    columns = ("path", "call", "forward_rms", "branch_rms", "branch_ratio", "gradient_rms")
    rows: tuple[tuple[Fact, ...], ...] = tuple(
        (
            *(stream.path, stream.call, stream.forward.rms, stream.branch_rms),
            *(stream.branch_rms / stream.forward.rms if stream.forward.rms > 0 else None, gradient_rms(stream)),
        )
        for stream in streams
    )
    return Table("streams", columns, ("",) * len(columns), rows)


def _step_table(capture: Capture) -> Table:
    """Recurrent layers step by step."""
    columns = ("path", "time_step", "forward_rms", "echo_rms")
    rows: list[tuple[Fact, ...]] = [
        (steps.path, at, *sizes)
        for steps in capture.steps
        for at, sizes in enumerate(zip(steps.forward_rms, steps.echo_rms, strict=True))
    ]
    return Table("steps", columns, ("",) * len(columns), tuple(rows))


def _parameter_table(records: Sequence[ParameterRecord]) -> Table:
    columns = ("path", "weight_rms", "gradient_rms", "gradient_to_weight", "adam_step", "nonfinite")
    rows = tuple(_parameter(record) for record in records)
    return Table("parameters", (*columns, "underflow_fp16", "underflow_bf16"), ("",) * 8, rows)


def _parameter(record: ParameterRecord) -> tuple[Fact, ...]:
    gradient, weight = record.gradient, record.values.rms
    ratio = gradient.rms / weight if gradient is not None and weight > 0 else None
    broken = None if gradient is None else gradient.nonfinite
    rms = None if gradient is None else gradient.rms
    return (record.path, weight, rms, ratio, record.adam_step, broken, *_underflow(gradient))
