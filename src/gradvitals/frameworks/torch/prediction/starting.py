"""Where a signal starts: an input or known numbers meet a layer's weights, or rows of a table are looked up.

What was made of parameters and known numbers alone counts as known until a layer takes it (learned queries, positions
and times as sines): from there on a gradient goes back that a probe measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gradvitals.frameworks.torch.prediction.knowledge import Trace
from gradvitals.frameworks.torch.prediction.measured import default_roles, measured
from gradvitals.frameworks.torch.prediction.values import Constant, Node

#: Operations of layers with weights: where they take their input, and where their weights.
_TAKES = {
    "aten::mm": (0, 1),
    "aten::addmm": (1, 2),
    "aten::linear": (0, 1),
    "aten::convolution": (0, 1),
    "aten::native_layer_norm": (0, 2),
}
#: Layers whose input is no weight, even where it is learned.
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.LayerNorm)  # noqa: SLF001 - all convolutions


def starts(trace: Trace, name: str, args: Sequence[Any], values: Sequence[Constant], made: Sequence[Any]) -> bool:
    """Whether a signal starts here; known numbers that a layer takes become one."""
    learned = any(v.learned and v.held.is_floating_point() for v in values)
    if not learned or not any(tensor.is_floating_point() for tensor in made):
        return False
    if any(v.data or (not v.learned and v.held.numel() > 1 and not v.held.is_floating_point()) for v in values):
        return True
    return _is_layers(trace, name, args)


def _is_layers(trace: Trace, name: str, args: Sequence[Any]) -> bool:
    if name not in _TAKES:
        return False
    given, weight = (args[at] for at in _TAKES[name])
    if not isinstance(given, torch.Tensor) or not isinstance(weight, torch.Tensor) or given.dim() < 2:
        return False
    known, value = trace.value(given), trace.value(weight)
    if not isinstance(known, Constant) or not isinstance(value, Constant) or not value.learned:
        return False
    if known.learned and not isinstance(trace.layer(), _LAYERS):
        return False
    trace.bind(given, Node(measured(known.value, default_roles(given.shape))))
    trace.lent.append((given, known))
    return True


def take_back(trace: Trace) -> None:
    """Let known numbers that a layer took be known again for others."""
    for tensor, known in trace.lent:
        if isinstance(trace.value(tensor), Node):
            trace.bind(tensor, known)
    trace.lent.clear()
