"""Random numbers for one parameter: its own, whatever else is drawn, and any part of them without the others."""

from __future__ import annotations

import hashlib
import math

import torch

#: Draws whose entries have nothing to do with one another.
INDEPENDENT = frozenset({"normal", "uniform"})
#: Entries that share a generator: four megabytes, so that a shard draws hardly more than what it keeps.
_CHUNK = 2**20


def generator_for(path: str, seed: int) -> torch.Generator:
    """A parameter's own random generator.

    >>> first, same, other = (torch.rand(1, generator=generator_for(path, 0)) for path in ("a", "a", "b"))
    >>> first == same, first == other
    (tensor([True]), tensor([False]))
    """
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def independent(
    draw: str, path: str, seed: int, part: tuple[slice, ...], shape: torch.Size, dtype: torch.dtype
) -> torch.Tensor:
    """Part of a tensor of independent numbers with variance 1, on the CPU.

    Parameters
    ----------
    draw : str
        ``"normal"`` or ``"uniform"``.
    path : str
        The parameter's qualified name: each has numbers of its own.
    seed : int
    part : tuple of slice
        What is wanted, one slice with start and stop per dimension. Of a part along the first dimension, as FSDP cuts
        it, only its own entries (and up to two chunks beside them) are drawn; of any other, all rows that it touches.
    shape : torch.Size
        Of the whole tensor.
    dtype : torch.dtype

    Returns
    -------
    torch.Tensor
        The same numbers, whatever part of the tensor they are asked for with.

    """
    row = math.prod(shape[1:])
    first, last = (part[0].start * row, part[0].stop * row) if shape else (0, 1)
    chunks = [
        _chunk(draw, f"{path}#{at}", seed, min(_CHUNK, math.prod(shape) - at * _CHUNK), dtype)[
            max(first - at * _CHUNK, 0) : last - at * _CHUNK
        ]
        for at in range(first // _CHUNK, math.ceil(last / _CHUNK))
        if last > first
    ]
    rows = torch.cat(chunks) if chunks else torch.empty(0, dtype=dtype, device="cpu")
    return (
        rows.reshape(part[0].stop - part[0].start, *shape[1:])[(slice(None), *part[1:])] if shape else rows.reshape(())
    )


def _chunk(draw: str, name: str, seed: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    generator = generator_for(name, seed)
    if draw == "uniform":
        return (torch.rand(count, generator=generator, dtype=dtype, device="cpu") * 2 - 1) * math.sqrt(3.0)
    return torch.randn(count, generator=generator, dtype=dtype, device="cpu")
