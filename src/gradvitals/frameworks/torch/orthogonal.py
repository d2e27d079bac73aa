"""Draw matrices with structure: orthogonal ones, in the middle of kernels, mirrored; and normal numbers cut off."""

from __future__ import annotations

import math

import torch

from gradvitals.frameworks.weights import UNMIRRORED, Mirror
from gradvitals.maths.schemes import TRUNCATION, truncated_deviation


def orthogonal(
    shape: tuple[int, ...],
    generator: torch.Generator,
    dtype: torch.dtype,
    *,
    kernel: tuple[int, ...] = (),
    compares: bool = False,
    mirror: Mirror = UNMIRRORED,
) -> torch.Tensor:
    """Draw orthogonal matrices whose entries have mean square 1, of shape (blocks, units, inputs · kernel).

    Parameters
    ----------
    shape : (int, int, int)
    generator : torch.Generator
    dtype : torch.dtype
    kernel : tuple of int
        Where given, the matrices stand in the middle of kernels of this shape that are zero elsewhere.
    compares : bool
        The kernels subtract what stands beside the middle, each unit's on a side of its own: every kernel sums to zero.
    mirror : Mirror
        Halves of opposite sign; their sides are even.

    Notes
    -----
    A mirrored matrix [[W, −W], [−W, W]] behind an activation φ of mirrored inputs (a, −a) gives W(φ(a) − φ(−a)): twice
    the odd part of φ, without any mean; for ReLU, GELU and SiLU that is W·a exactly.

    References
    ----------
    Mezzadri (2007), section 5; Xiao et al. (2018), algorithm 1; Balduzzi et al. (2017), section 4 (looks-linear).

    """
    blocks, units, columns = shape
    size = math.prod(kernel)
    inputs = columns // size
    half_units, half_inputs = units // (1 + mirror.units), inputs // (1 + mirror.inputs)
    noise = torch.randn((blocks, half_units, half_inputs), generator=generator, dtype=dtype, device="cpu")
    drawn = torch.stack([_one(block) for block in noise]) * math.sqrt(max(half_units, half_inputs))
    if mirror.inputs:
        drawn = torch.cat([drawn, -drawn], dim=2)
    if mirror.units:
        drawn = torch.cat([drawn, -drawn], dim=1)
    if not kernel:
        return drawn
    whole = torch.zeros((blocks, units, inputs, size), dtype=dtype, device="cpu")
    if not compares:
        whole[..., _middle(kernel)] = drawn * math.sqrt(size)
        return whole.reshape(shape)
    beside = _beside(kernel)
    for unit in range(units):
        whole[:, unit, :, _middle(kernel)] = drawn[:, unit] * math.sqrt(size / 2)
        whole[:, unit, :, beside[unit % len(beside)]] = -drawn[:, unit] * math.sqrt(size / 2)
    return whole.reshape(shape)


def truncated_normal(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    """Normal numbers cut off at two standard deviations, of variance 1 after the cut; by the inverse distribution."""
    edge = math.erf(TRUNCATION / math.sqrt(2))
    drawn = torch.erfinv(
        (torch.rand(shape, generator=generator, dtype=dtype, device="cpu") * 2 - 1) * edge
    ) * math.sqrt(2)
    return drawn.clamp_(-TRUNCATION, TRUNCATION) / truncated_deviation(TRUNCATION)


def balanced(drawn: torch.Tensor, size: int) -> torch.Tensor:
    """Matrices (blocks, units, inputs · size) whose rows sum to zero at each of ``size`` positions, of the same RMS.

    With one input there is nothing to balance but the positions.
    """
    blocks, units, columns = drawn.shape
    if columns == 1:
        return drawn
    split = drawn.reshape(blocks, units, columns // size, size)
    centred = split - split.mean(dim=2 if columns > size else (2, 3), keepdim=True)
    return (centred * (drawn.square().mean() / centred.square().mean()).sqrt()).reshape(drawn.shape)


def _one(noise: torch.Tensor) -> torch.Tensor:
    """An orthogonal matrix from Gaussian noise, uniform over all of them (Mezzadri, 2007, section 5)."""
    tall = noise if noise.shape[0] >= noise.shape[1] else noise.T
    q, r = torch.linalg.qr(tall)
    # without this the signs of QR's diagonal favour some matrices
    q = q * torch.where(torch.diagonal(r) < 0, -1.0, 1.0)
    oriented: torch.Tensor = q if noise.shape[0] >= noise.shape[1] else q.T
    return oriented


def _beside(kernel: tuple[int, ...]) -> list[int]:
    """The flat indices of the middle's neighbours along each axis."""
    middle, found, stride = _middle(kernel), [], 1
    for length in reversed(kernel):
        found += [middle + step * stride for step in (-1, 1) if 0 <= length // 2 + step < length]
        stride *= length
    return found


def _middle(kernel: tuple[int, ...]) -> int:
    """The flat index of a kernel's middle; of an even one's the later of the two."""
    flat = 0
    for length in kernel:
        flat = flat * length + length // 2
    return flat
