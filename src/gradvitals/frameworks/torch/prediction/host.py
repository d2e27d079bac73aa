"""A model that lives on another device, followed on the CPU: with the operations that run there, and no others.

A GPU's attention, dropout and recurrent nets are operations of its own, which say the same in another way. So tensors
of the CPU stand in for the model's parameters and buffers, and for its inputs, and whatever is to be made on another
device is made on the CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from gradvitals.frameworks.torch.prediction.knowledge import Trace
from gradvitals.frameworks.torch.swap import Places

_HERE = frozenset({"cpu", "meta"})


def is_here(tensor: torch.Tensor) -> bool:
    """Whether a tensor is the CPU's, or nowhere."""
    return tensor.device.type in _HERE


@contextlib.contextmanager
def parameters_on_host(
    model: nn.Module, trace: Trace, convert: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Put what ``convert`` makes in the places of the model's tensors elsewhere; of both the same is known."""
    places = Places(list(model.modules()))
    stand_ins: dict[int, torch.Tensor] = {}
    for at, tensor in places.tensors.items():
        if is_here(tensor):
            continue
        made = convert(tensor.detach())
        if isinstance(tensor, nn.Parameter):
            made = nn.Parameter(made, requires_grad=tensor.requires_grad)
        stand_ins[at] = made
        trace.bind(made, trace.value(tensor))
    recurrent = [module for module in model.modules() if stand_ins and isinstance(module, nn.RNNBase)]
    kept = [list(module._flat_weights) for module in recurrent]  # noqa: SLF001 - what its forward pass reads
    try:
        for module, weights in zip(recurrent, kept, strict=True):
            module._flat_weights = [stand_ins.get(id(weight), weight) for weight in weights]  # noqa: SLF001
        with places.swapped(stand_ins):
            yield
    finally:
        for module, weights in zip(recurrent, kept, strict=True):
            module._flat_weights = weights  # noqa: SLF001


def made_here(options: dict[str, Any]) -> dict[str, Any]:
    """An operation's keywords, with the CPU for any device with memory that it is to make something on."""
    device = options.get("device")
    return options if device is None or torch.device(device).type in _HERE else with_values(options)


def with_values(options: dict[str, Any]) -> dict[str, Any]:
    """An operation's keywords, with the CPU for any device: there what it makes has values."""
    return options if options.get("device") is None else {**options, "device": torch.device("cpu")}


def home_of(model: nn.Module, inputs: list[torch.Tensor]) -> torch.device:
    """Where a model's output would be: where its last parameter is, or its first input."""
    tensors = [*list(model.parameters())[-1:], *inputs[:1]]
    known = [tensor.device for tensor in tensors if not tensor.is_meta]
    return known[0] if known else torch.device("cpu")
