"""What one output shows: a call's row, from its values, what was looked at before it ran, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gradvitals.frameworks.capture import Attention, Call
from gradvitals.frameworks.torch import flatness, layers
from gradvitals.frameworks.torch.dataflow import Origin
from gradvitals.frameworks.torch.moments import (
    Health,
    is_readable,
    moments,
    position_spread,
    sample_spread,
    silent_share,
)


@dataclass(frozen=True, slots=True)
class Before:
    """What must be looked at before an activation runs, for it may work in place."""

    saturated: float | None = None
    off: torch.Tensor | None = None


NOTHING = Before()


@dataclass(frozen=True, slots=True)
class Layer:
    """What is known of a call beside its tensors."""

    path: str
    kind: str
    origin: Origin
    health: Health
    parameters: tuple[str, ...] = ()
    has_weights: bool = False
    activation: layers.ActivationKind | None = None
    axis: int | None = None
    before: Before = NOTHING
    attention: Attention | None = None


def look(kind: layers.ActivationKind | None, args: tuple[Any, ...]) -> Before:
    """What an activation's input shows of it."""
    if kind is None or not args or not isinstance(args[0], torch.Tensor) or not is_readable(args[0]):
        return NOTHING
    return Before(flatness.saturated_share(kind, args[0].detach()), flatness.off(kind, args[0].detach()))


def describe(values: torch.Tensor, layer: Layer, axis: int, *, batch: int, number: int) -> Call:
    """The row of a call: ``axis`` is that of its units (negative), ``number`` how often its path was called before."""
    activation = layer.activation
    spread = spread_of_samples(values, batch)
    return Call(
        path=layer.path,
        call=number,
        kind=layer.kind,
        shape=tuple(values.shape),
        sources=tuple(sorted(layer.origin.calls)),
        parameters=layer.parameters,
        has_weights=layer.has_weights,
        activation=activation.name if activation else None,
        options=activation.options if activation else {},
        inputs_finite=layer.health < Health.BROKEN,
        forward=moments(values),
        units=values.shape[axis] if values.ndim else 1,
        dead_share=_dead_share(layer, values, axis),
        saturated_share=layer.before.saturated,
        sample_cosine=None if spread is None else 1 - spread * spread,
        sample_spread=spread,
        position_spread=spread_of_positions(values, axis, batch) if layer.has_weights else None,
        parents=tuple(sorted(layer.origin.nodes)),
        attention=layer.attention,
        precision=torch.finfo(values.dtype).eps,
    )


def spread_of_samples(values: torch.Tensor, batch: int) -> float | None:
    """How far samples lie apart, where the first axis is that of the batch."""
    return sample_spread(values.detach()) if values.ndim > 1 and len(values) == batch else None


def spread_of_positions(values: torch.Tensor, axis: int, batch: int) -> float | None:
    """Of sequences (samples, positions, features), how far a sample's positions lie apart."""
    if values.ndim != 3 or axis != -1 or len(values) != batch:
        return None
    return position_spread(values.detach())


def _dead_share(layer: Layer, values: torch.Tensor, axis: int) -> float | None:
    """Share of the units of a rectifying activation that are off for every sample and position."""
    if layer.activation is not None and layer.activation.name in layers.RECTIFYING:
        return silent_share(values == 0, axis)
    off = layer.before.off
    return silent_share(off, axis) if off is not None and off.shape == values.shape else None
