"""Fields of tensors whose values are known: inputs, embedded tokens, positions, biases, masks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from gradvitals.maths.field import Axis, Field, Layout, Role, layout_of, require_room

#: Places whose kernel is kept: its square is what an activation costs.
MOST_PLACES = 512
#: And of images, each pixel of which has little of its own but where it lies: more are averaged over. 30 layers on
#: images of 8 × 8 take a sixth of the time so, and are as right (benchmarks/signals_prediction.py, CNN-30).
_MOST_IN_IMAGES = 128
#: Units up to which the correlations of pixels are looked at beyond their average; of more, they differ little from it.
_MOST_UNITS = 256
#: And of samples of which there are more, as many as fill this.
MOST_KEPT = 256
#: Samples that are kept at least where there are many places: two, so that they can be compared.
_FEWEST_SAMPLES = 2
#: And of images: batch norm compares all with all.
FEWEST_IMAGES = 8


def place_roles(sizes: Sequence[int], fewest: int = _FEWEST_SAMPLES) -> list[Role]:
    """Roles for samples and positions (sizes in order, samples first): places, or pixels where too many."""
    positions = math.prod(sizes[1:])
    if positions * min(fewest, max(sizes[0], 1) if sizes else 1) <= MOST_PLACES:
        return [Role.PLACE] * len(sizes)
    return [Role.PLACE, *[Role.PIXEL] * (len(sizes) - 1)]


def spatial_roles(sizes: Sequence[int]) -> list[Role]:
    """The same for what convolutions slide over."""
    if math.prod(sizes[1:]) * min(FEWEST_IMAGES, max(sizes[0], 1)) <= most_places(len(sizes) - 1):
        return [Role.PLACE] * len(sizes)
    return [Role.PLACE, *[Role.PIXEL] * (len(sizes) - 1)]


def most_places(spatial: int) -> int:
    """How many places of all samples are told apart, by the number of spatial dimensions."""
    return MOST_PLACES if spatial < 2 else _MOST_IN_IMAGES


def default_roles(shape: Sequence[int]) -> list[Role]:
    """Roles of a floating-point input by its shape: samples first; images have their channels second."""
    if len(shape) <= 1:
        return [Role.UNIT] * len(shape)
    if len(shape) <= 3:
        return [*place_roles(shape[:-1]), Role.UNIT]
    spatial = spatial_roles([shape[0], *shape[2:]])
    return [spatial[0], Role.UNIT, *spatial[1:]]


def measured(value: torch.Tensor, roles: Sequence[Role]) -> Field:
    """The field of a tensor with a role for each dimension; of a large first dimension the first samples are kept."""
    layout = layout_of(value.shape, roles)
    first = roles[0] is Role.PLACE and value.shape[0] > 1
    others = math.prod(n for n, role in zip(value.shape[1:], roles[1:], strict=True) if role is Role.PLACE)
    fewest = FEWEST_IMAGES if value.dim() > 3 else _FEWEST_SAMPLES
    kept = max(fewest, MOST_KEPT // max(others, 1)) if first else 1
    return measured_as(value[:kept] if first else value, layout)


def first_samples(value: torch.Tensor, field: Field) -> torch.Tensor:
    """Of a tensor with a field's layout, the entries that the field's arrays hold."""
    index = [slice(None)] * value.dim()
    for at, dim in enumerate(field.layout):
        if len(dim) == 1 and dim[0].is_mapped:
            index[at] = slice(0, field.second.shape[field.array_axis(at, 0)[0]])
    return value[tuple(index)]


def measured_as(value: torch.Tensor, layout: Layout) -> Field:
    """The field of a tensor under a layout with whose axes its dimensions can be split."""
    extents: list[int] = []
    order: dict[Role, list[int]] = {role: [] for role in Role}
    at = 0
    for dim, size in zip(layout, value.shape, strict=True):
        sizes = [axis.size for axis in dim]
        if len(dim) == 1:
            sizes = [int(size)]
        elif dim and math.prod(sizes) != size:
            sizes[0] = int(size) // math.prod(sizes[1:])
        for axis, n in zip(dim, sizes, strict=True):
            extents.append(n)
            order[axis.role].append(at)
            at += 1
    places, pixels = order[Role.PLACE], order[Role.PIXEL]
    units = order[Role.UNIT] + order[Role.COPY]
    require_room(math.prod(extents[i] for i in places))
    x = value.detach().to("cpu", torch.float64).reshape(extents).permute([*places, *pixels, *units])
    p, s = math.prod(extents[i] for i in places), math.prod(extents[i] for i in pixels)
    flat = x.reshape(p, s, -1).numpy()
    n_units, blur = flat.shape[2], 0.0
    second, mean = (flat * flat).mean(axis=2), flat.mean(axis=2)
    if s == 1:
        kernel = flat[:, 0] @ flat[:, 0].T / n_units
    else:
        total = flat.sum(axis=1)
        kernel = total @ total.T / n_units / s**2
        own = ((total * total).mean(axis=1) - second.sum(axis=1)) / (s * (s - 1))
        np.fill_diagonal(kernel, own)
        blur = _beyond_the_average(flat, kernel)
    mapped = sorted(places + pixels)
    by_role = [*places, *pixels]
    back = [by_role.index(i) for i in mapped]
    shape = [extents[i] for i in by_role]
    count = [extents[i] for i in places]
    return Field(
        layout,
        mean.reshape(shape).transpose(back),
        second.reshape(shape).transpose(back),
        kernel.reshape((*count, *count)),
        kurtosis=1.0,  # it is what it is: it doesn't vary with the weights
        blur=blur,
    )


def _beyond_the_average(flat: np.ndarray, kernel: np.ndarray) -> float:
    """The variance of two pixels' correlation about its average over pixels: that of few channels is far from it.

    ``flat`` (places, pixels, units); Σ_pq (x_p·x_q)² is the squared norm of a matrix over units.
    """
    places, pixels, units = flat.shape
    count = places * pixels
    if units > _MOST_UNITS or count < 2:
        return 0.0
    entries = flat.reshape(count, units)
    gram = entries.T @ entries / units
    own = float(np.square(np.square(entries).mean(axis=1)).sum())
    squares = (float(np.vdot(gram, gram)) - own) / (count * (count - 1))
    averages = float(np.vdot(kernel, kernel)) / places**2
    mean_square = float(np.square(entries).mean())
    return float(max(squares - averages, 0.0) / max(mean_square**2, 1e-300))


def measured_beside(value: torch.Tensor, other: Field) -> Field:
    """The field of a tensor that is broadcast against another's: its dimensions have the other's axes and roles."""
    rank = len(other.layout)
    layout: list[tuple[Axis, ...]] = []
    index: list[slice] = []
    for at, size in enumerate(value.shape):
        d = rank - value.dim() + at
        dim = other.layout[d] if d >= 0 else ()
        known = tuple(Axis(a.size, Role.PLACE if a.role is Role.COPY else a.role) for a in dim)
        if size == 1:
            layout.append(())
        elif not known:
            layout.append((Axis(int(size), Role.PLACE if d < rank - 1 else Role.UNIT),))
        else:
            layout.append(known)
        held = size
        if size > 1 and known and known[0].role is Role.PLACE and dim[0].role is Role.PLACE:
            m, _ = other.array_axis(d, 0)
            held = other.second.shape[m] * (size // known[0].size)
        index.append(slice(0, held))
    return measured_as(value[tuple(index)], tuple(layout))
