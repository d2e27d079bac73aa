"""The size of parameters that have no values: what was given, or how their module starts them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

#: Parameters that scale: they start at one.
_ONES = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.RMSNorm)


def meta_weights(model: nn.Module, given: Mapping[str, float]) -> tuple[dict[str, tuple[float, float]], list[str]]:
    """By parameter on the meta device its mean square and mean; and which of them are assumed."""
    found: dict[str, tuple[float, float]] = {}
    assumed: list[str] = []
    spread = getattr(getattr(model, "config", None), "initializer_range", None)
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{path}.{name}".lstrip(".")
            if full in given:
                found[full] = (given[full] ** 2, 0.0)
                continue
            if parameter.is_meta:
                assumed.append(full)
            found[full] = _usual(module, name, tuple(parameter.shape), spread)
    return found, assumed


def _usual(module: nn.Module, name: str, shape: tuple[int, ...], spread: float | None) -> tuple[float, float]:
    """PyTorch's own start, or the spread that a Hugging Face configuration names."""
    if len(shape) == 1:
        scales = name == "weight" or (isinstance(module, _ONES) and "bias" not in name)
        if scales:
            return 1.0, 1.0
        weight = getattr(module, "weight", None)
        fan_in = math.prod(weight.shape[1:]) if isinstance(weight, torch.Tensor) else 1
        plain = isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and spread is None
        return (1 / (3 * max(fan_in, 1)), 0.0) if plain else (0.0, 0.0)
    if spread is not None:
        return float(spread) ** 2, 0.0
    if isinstance(module, nn.Embedding):
        return 1.0, 0.0
    fan_in = math.prod(shape[1:])
    return 1 / (3 * max(fan_in, 1)), 0.0
