"""Layers that are linear in their parameters: what each output is made of.

A layer's output is seen as z[r, o, s] = Σ_j W[o, j] · P[r, g(o), j, s] + b[o] with rows r (samples, tokens), units o in
groups g, and places s (pixels). P is computed from the layer's input alone, without its backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

#: Entries of P beyond which it isn't made (128 MB).
_LARGEST = 2**24
#: How closely P must give the output that the layer gave, by unit roundoff (relative, 2-norm).
_AGREES = ((1e-12, 1e-10), (1e-6, 1e-4))


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """What a layer's output is made of.

    Attributes
    ----------
    terms : torch.Tensor of shape (R, G, J, S)
        P, float64.
    units : int
        O.
    places : torch.Tensor of shape (O, J)
        Where W[o, j] lies in the flat weight.

    """

    terms: torch.Tensor
    units: int
    places: torch.Tensor

    def output(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Z, of shape (R, O, S)."""
        rows, groups, count, spots = self.terms.shape
        own = weight.reshape(-1)[self.places].reshape(groups, -1, count)
        out = torch.einsum("goj,rgjs->rgos", own, self.terms).reshape(rows, self.units, spots)
        return out if bias is None else out + bias.reshape(1, -1, 1)

    def pulled(self, slopes: torch.Tensor, size: int) -> torch.Tensor:
        """From slopes along every output, (R, O, S), to those along the flat weight, of shape (size,)."""
        rows, groups, count, spots = self.terms.shape
        grouped = slopes.reshape(rows, groups, -1, spots)
        return self.placed(torch.einsum("rgos,rgjs->goj", grouped, self.terms).reshape(-1, count), size)

    def squared(self) -> Design:
        """The same for variances of independent slopes."""
        return Design(self.terms.square(), self.units, self.places)

    def placed(self, values: torch.Tensor, size: int) -> torch.Tensor:
        """From slopes along W, (O, J), to those along the flat weight."""
        flat = torch.zeros(size, dtype=torch.float64, device="cpu")
        flat[self.places.reshape(-1)] = values.reshape(-1)
        return flat


def design_of(layer: nn.Module, x: Any, output: torch.Tensor) -> Design | None:
    """What the output of a layer is made of, where that is known and is what the layer really gave.

    Subclasses with a forward pass of their own, and whatever changes a layer's output, are found out by comparison.

    Examples
    --------
    >>> layer, x = nn.Linear(3, 2).double(), torch.ones(4, 3, dtype=torch.float64)
    >>> design_of(layer, x, layer(x)).terms.shape
    torch.Size([4, 1, 3, 1])
    >>> design_of(layer, x, 2 * layer(x)) is None
    True

    """
    make = KINDS.get(type(layer))
    if make is None or not isinstance(x, torch.Tensor) or not isinstance(output, torch.Tensor):
        return None
    closely = next((share for bound, share in _AGREES if torch.finfo(output.dtype).eps / 2 < bound), None)
    weight: Any = layer.weight
    if closely is None or weight is None or not output.numel() or output.device.type != "cpu":
        return None
    with torch.no_grad():
        terms = make(layer, x.double() if x.is_floating_point() else x)
        if terms is None or terms.terms.numel() > _LARGEST:
            return None
        bias: Any = getattr(layer, "bias", None)
        expected = output.double().reshape(-1)
        got = terms.output(weight.double(), None if bias is None else bias.double()).reshape(-1)
        same = got.shape == expected.shape and bool((got - expected).norm() <= closely * expected.norm())
    return terms if same else None


def _straight(units: int, count: int) -> torch.Tensor:
    return torch.arange(units * count, device="cpu").reshape(units, count)


def _linear(layer: Any, x: torch.Tensor) -> Design:
    return Design(
        x.reshape(-1, 1, layer.in_features, 1), layer.out_features, _straight(layer.out_features, layer.in_features)
    )


def _embedding(layer: Any, index: torch.Tensor) -> Design | None:
    if layer.max_norm is not None or layer.sparse:
        return None
    if layer.padding_idx is not None and bool((index == layer.padding_idx).any()):
        return None  # that row takes no part in the gradient
    used, inverse = torch.unique(index.reshape(-1), return_inverse=True)
    width = layer.embedding_dim
    chosen = functional.one_hot(inverse, len(used)).double()
    places = used[None, :] * width + torch.arange(width, device="cpu")[:, None]
    return Design(chosen.reshape(-1, 1, len(used), 1), width, places)


def _convolution(layer: Any, x: torch.Tensor) -> Design | None:
    """Every input pixel under a kernel, seen by kernels that hold a single 1."""
    convolve: Callable[..., torch.Tensor] = _CONVOLUTIONS[type(layer)]
    size, padding = layer.kernel_size, layer.padding
    if x.ndim == len(size) + 1:
        x = x[None]
    if layer.padding_mode != "zeros":
        x = functional.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)  # noqa: SLF001
        padding = 0
    width = layer.in_channels // layer.groups
    count = width * int(torch.tensor(size, device="cpu").prod())
    if x.numel() * count // width > _LARGEST:
        return None
    single = torch.eye(count, dtype=torch.float64, device="cpu").reshape(count, width, *size)
    seen = [
        convolve(part, single, None, layer.stride, padding, layer.dilation).flatten(2)
        for part in torch.split(x, width, dim=1)
    ]
    return Design(torch.stack(seen, dim=1), layer.out_channels, _straight(layer.out_channels, count))


def _scaled(normal: torch.Tensor, units: int) -> Design:
    """A layer that multiplies every unit of a normalised input, (R, O, S), with a weight of its own."""
    return Design(normal[:, :, None, :], units, _straight(units, 1))


def _layer_norm(layer: Any, x: torch.Tensor) -> Design:
    units = layer.weight.numel()
    return _scaled(functional.layer_norm(x, layer.normalized_shape, eps=layer.eps).reshape(-1, units, 1), units)


def _rms_norm(layer: Any, x: torch.Tensor) -> Design:
    units = layer.weight.numel()
    return _scaled(functional.rms_norm(x, layer.normalized_shape, eps=layer.eps).reshape(-1, units, 1), units)


def _group_norm(layer: Any, x: torch.Tensor) -> Design:
    normal = functional.group_norm(x, layer.num_groups, eps=layer.eps)
    return _scaled(normal.reshape(*x.shape[:2], -1), x.shape[1])


def _batch_norm(layer: Any, x: torch.Tensor) -> Design:
    over_batch = layer.training or layer.running_mean is None
    mean, var = (None, None) if over_batch else (layer.running_mean.double(), layer.running_var.double())
    normal = functional.batch_norm(x, mean, var, training=over_batch, eps=layer.eps)
    return _scaled(normal.reshape(*x.shape[:2], -1), x.shape[1])


_CONVOLUTIONS: Mapping[type, Callable[..., torch.Tensor]] = {
    nn.Conv1d: functional.conv1d,
    nn.Conv2d: functional.conv2d,
    nn.Conv3d: functional.conv3d,
}
KINDS: Mapping[type, Callable[[Any, torch.Tensor], Design | None]] = {
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.GroupNorm: _group_norm,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
}
