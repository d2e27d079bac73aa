"""One layer farther: what a displaced unit does to the output of the layer behind it.

Between two layers that are linear in their inputs often stands nothing but an activation, entry by entry. A unit's
displacement then reaches the second layer through that unit's own column of weights, and the other columns needn't be
multiplied again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

#: Activations that take every number by itself.
_ENTRY_BY_ENTRY = frozenset(
    {nn.Tanh, nn.Sigmoid, nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Softsign, nn.Mish}
    | {nn.SELU, nn.CELU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.LogSigmoid, nn.Tanhshrink}
)
_CONVOLUTIONS: Mapping[type, Any] = {
    nn.Conv1d: functional.conv1d,
    nn.Conv2d: functional.conv2d,
    nn.Conv3d: functional.conv3d,
}


def is_activation(module: nn.Module) -> bool:
    """Whether it takes every number by itself, and nothing else happens there.

    >>> is_activation(nn.ReLU()), is_activation(nn.ReLU(inplace=True)), is_activation(nn.Softmax(-1))
    (True, False, False)
    """
    hooks = (module._forward_hooks, module._forward_pre_hooks)  # noqa: SLF001 - they may change what passes
    return type(module) in _ENTRY_BY_ENTRY and not getattr(module, "inplace", False) and not any(hooks)


@dataclass(frozen=True, slots=True, eq=False)
class Ahead:
    """The shape of a layer's output, the activation behind it, and the layer behind that with its output."""

    before: torch.Size
    activation: nn.Module
    layer: Any
    output: torch.Tensor

    def has_columns_for(self, units: int) -> bool:
        """Whether the layer has a column of weights for each unit of the one before."""
        layer, kind = self.layer, type(self.layer)
        if kind is nn.Linear:
            return bool(self.before[-1] == units == layer.in_features)
        plain = kind in _CONVOLUTIONS and layer.groups == 1 and layer.padding_mode == "zeros"
        return plain and bool(len(self.before) == layer.weight.ndim and self.before[1] == units == layer.in_channels)

    def displaced(self, outputs: torch.Tensor, added: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
        """The layer's output where one unit before it is displaced.

        Parameters
        ----------
        outputs : torch.Tensor of shape (K, R, S)
            What the unit gives without the displacement, in R rows and S places.
        added : torch.Tensor of shape (K, R, S)
        unit : torch.Tensor of shape (K,)

        Returns
        -------
        torch.Tensor of shape (K, *shape of the output)

        """
        moved = self.activation(outputs + added) - self.activation(outputs)
        weight = self.layer.weight.detach().to(self.output.dtype)
        count = len(unit)
        given = self.output.expand(count, *self.output.shape).contiguous()
        if type(self.layer) is nn.Linear:
            given.view(count, moved.shape[1], -1).addcmul_(moved, weight.T[unit][:, None, :])
            return given
        layer, (batch, _, *spots) = self.layer, self.before
        convolve = _CONVOLUTIONS[type(layer)]
        for one in torch.unique(unit):
            rows = (unit == one).nonzero()[:, 0]
            column = weight[:, one : one + 1]
            part = moved[rows].reshape(len(rows) * batch, 1, *spots)
            reached = convolve(part, column, None, layer.stride, layer.padding, layer.dilation)
            given[rows] += reached.reshape(len(rows), *self.output.shape)
        return given
