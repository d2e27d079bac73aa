"""Draw new weights and put them into a model: all of them, or none."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from gradvitals.frameworks.torch.draws import INDEPENDENT, generator_for, independent
from gradvitals.frameworks.torch.layers import parameters_by_path, wrapped_at
from gradvitals.frameworks.torch.orthogonal import balanced, orthogonal, truncated_normal
from gradvitals.frameworks.torch.shards import is_sharded, own_part, own_values, write
from gradvitals.frameworks.weights import Fill, Layout


@contextlib.contextmanager
def filled(
    model: nn.Module, fills: Iterable[Fill], *, seed: int = 0, filled_one: Callable[[], None] | None = None
) -> Iterator[None]:
    """Give parameters new values in place; they stay when the ``with`` block ends well, and go when it raises.

    Every parameter draws from a generator of its own, seeded by ``seed`` and its path inside of wrappers: the order
    doesn't matter, no two layers get the same numbers, and the global generator isn't touched. Numbers are drawn on the
    CPU, so that a model starts alike on every device; dtype and device stay.

    Where parameters are spread over processes (FSDP2), each process writes its part, and the whole is the same as on
    one. Independent numbers are drawn for that part only; orthogonal matrices, centred and padded ones are drawn whole
    by every process, one parameter at a time: they need all entries.

    Parameters
    ----------
    model : torch.nn.Module
    fills : iterable of Fill
    seed : int
    filled_one : callable, optional
        Called after each parameter.

    Notes
    -----
    When anything raises in the middle or in the block, an interrupt included, the parameters are as they were before.

    """
    parameters = parameters_by_path(model)
    rows = _padding_rows(model)
    wrapper = wrapped_at(model)
    kept: dict[str, torch.Tensor] = {}
    try:
        with torch.no_grad():
            for item in fills:
                for path in (item.weight.path, *item.weight.biases):
                    kept.setdefault(path, parameters[path].detach().clone())
                source = _Source(item.weight.path.removeprefix(wrapper), seed)
                _fill_one(item, parameters, rows.get(item.weight.path), source)
                if filled_one:
                    filled_one()
        yield
    except BaseException:
        with torch.no_grad():
            for path, values in kept.items():
                parameters[path].copy_(values)
        raise


def matrices(values: torch.Tensor, layout: Layout) -> torch.Tensor:
    """A weight as matrices of shape (blocks, units, inputs)."""
    if not layout.transposed:
        return values.reshape(layout.blocks, values.shape[0] // layout.blocks, math.prod(values.shape[1:]))
    inputs, units, kernel = values.shape[0] // layout.blocks, values.shape[1], math.prod(values.shape[2:])
    stacked = values.reshape(layout.blocks, inputs, units, kernel)
    return stacked.transpose(1, 2).reshape(layout.blocks, units, inputs * kernel)


def from_matrices(drawn: torch.Tensor, shape: torch.Size, layout: Layout) -> torch.Tensor:
    """The inverse of :func:`matrices`."""
    if not layout.transposed:
        return drawn.reshape(shape)
    inputs, units, kernel = shape[0] // layout.blocks, shape[1], math.prod(shape[2:])
    return drawn.reshape(layout.blocks, units, inputs, kernel).transpose(1, 2).reshape(shape)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a parameter's random numbers come from."""

    name: str
    seed: int


def _fill_one(item: Fill, parameters: dict[str, nn.Parameter], padding: int | None, source: _Source) -> None:
    weight = item.weight
    target = parameters[weight.path]
    biases = [parameters[path] for path in weight.biases]
    is_plain = item.draw in INDEPENDENT and not (item.centre or item.shift or item.balanced or item.offsets)
    if is_sharded(target) and is_plain and padding is None:
        part = own_part(target)
        own_values(target).copy_(
            independent(item.draw, source.name, source.seed, part, target.shape, _dtype(target)) * item.std
        )
        for bias in biases:
            bias.zero_()
        return
    drawn = _draw(item, target, source)
    shift: torch.Tensor | None = None
    if (item.centre or item.shift) and len(biases) == 1:
        shift = item.shift - item.centre * drawn.sum(dim=2).flatten() / weight.layout.overlap
    elif item.centre or item.balanced:
        # without a bias, rows that sum to zero don't see the mean
        drawn = balanced(drawn, 1 if weight.layout.transposed else math.prod(target.shape[2:]))
    if padding is not None:
        drawn[0, padding] = 0
    write(target, from_matrices(drawn, target.shape, weight.layout))
    for bias in biases:
        bias.zero_()
    if item.offsets and biases:
        shift = torch.tensor(item.offsets, device="cpu").repeat_interleave(biases[0].numel() // len(item.offsets))
    if shift is not None:
        write(biases[0], shift.reshape(biases[0].shape))


def _draw(item: Fill, target: nn.Parameter, source: _Source) -> torch.Tensor:
    """New values as matrices, in float32 or better, on the CPU."""
    dtype, weight = _dtype(target), item.weight
    shape = matrices(torch.empty(target.shape, device="meta"), weight.layout).shape
    if item.draw in {"ones", "constant"}:
        return torch.full(shape, 1.0 if item.draw == "ones" else item.std, dtype=dtype, device="cpu")
    if item.draw in INDEPENDENT:
        everything = tuple(slice(0, size) for size in target.shape)
        drawn = independent(item.draw, source.name, source.seed, everything, target.shape, dtype)
        return matrices(drawn * item.std, weight.layout)
    generator = generator_for(source.name, source.seed)
    if item.draw == "truncated-normal":
        return truncated_normal(shape, generator, dtype) * item.std
    compares = item.draw == "difference-orthogonal"
    kernel = tuple(target.shape[2:]) if compares or item.draw == "delta-orthogonal" else ()
    return orthogonal(shape, generator, dtype, kernel=kernel, compares=compares, mirror=item.mirror) * item.std


def _dtype(target: torch.Tensor) -> torch.dtype:
    return torch.float64 if target.dtype == torch.float64 else torch.float32


def _padding_rows(model: nn.Module) -> dict[str, int]:
    """The rows of embeddings that stand for padding: they stay zero."""
    names = {id(parameter): name for name, parameter in parameters_by_path(model).items()}
    return {
        names[id(module.weight)]: module.padding_idx
        for module in model.modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        and module.padding_idx is not None
        and id(module.weight) in names
    }
