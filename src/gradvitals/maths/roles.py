"""Changes of a field's layout: dimensions permuted, split, fused, copied and summed, roles exchanged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.maths.field import Axis, Field, Layout, Role, require_room

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

#: Samples that have to be held, so that two can be compared.
_FEWEST = 2


def permuted(field: Field, dims: Sequence[int]) -> Field:
    """Reorder the dimensions."""
    layout = tuple(field.layout[d] for d in dims)
    mapped_by_dim, places_by_dim = _positions(field.layout)
    mapped = [at for d in dims for at in mapped_by_dim[d]]
    places = [at for d in dims for at in places_by_dim[d]]
    p = len(places)
    return replace(
        field,
        layout=layout,
        mean=field.mean.transpose(mapped),
        second=field.second.transpose(mapped),
        kernel=field.kernel.transpose([*places, *(p + at for at in places)]),
    )


def _positions(layout: Layout) -> tuple[list[list[int]], list[list[int]]]:
    mapped: list[list[int]] = []
    places: list[list[int]] = []
    m = p = 0
    for dim in layout:
        mapped.append([])
        places.append([])
        for axis in dim:
            if axis.is_mapped:
                mapped[-1].append(m)
                m += 1
            if axis.role is Role.PLACE:
                places[-1].append(p)
                p += 1
    return mapped, places


def reshaped(field: Field, shape: Sequence[int]) -> Field:
    """Give the dimensions another shape of as many entries; axes are split where need be.

    Raises
    ------
    ValueError
        Where an axis would have to be cut across.

    """
    queue = [(d, a) for d, dim in enumerate(field.layout) for a in range(len(dim))]
    layout: list[list[Axis]] = []
    axes = [field.layout[d][a] for d, a in queue]
    sizes: list[list[int]] = [[] for _ in axes]  # into what each axis is split
    at, rest = 0, axes[0].size if axes else 1
    for size in shape:
        group: list[Axis] = []
        missing = int(size)
        while missing > 1:
            if at >= len(axes):
                raise ValueError(f"{shape} has more entries than {[a.size for a in axes]}")
            part = rest if missing % rest == 0 else math.gcd(missing, rest)
            if part == 1 or rest % part:
                raise ValueError(f"an axis of {rest} can't be cut into pieces of {missing}")
            if part < rest and part != missing:
                raise ValueError(f"an axis of {rest} can't be cut into pieces of {missing}")
            group.append(Axis(part, axes[at].role))
            sizes[at].append(part)
            missing //= part
            rest //= part
            if rest == 1:
                at += 1
                rest = axes[at].size if at < len(axes) else 1
        layout.append(group)
    return _split_arrays(field, axes, sizes).with_layout(tuple(tuple(group) for group in layout))


def _split_arrays(field: Field, axes: Sequence[Axis], sizes: Sequence[Sequence[int]]) -> Field:
    """Reshape the arrays for axes that are split; the layout is left for the caller to set."""
    if all(len(parts) == 1 for parts in sizes):
        return field
    mapped: list[int] = []
    places: list[int] = []
    m = p = 0
    for axis, parts in zip(axes, sizes, strict=True):
        if axis.is_mapped:
            extent = field.second.shape[m]
            inner = math.prod(parts[1:])
            split = list(parts)
            if len(parts) > 1 and extent != axis.size:
                if extent % inner or extent < _FEWEST * inner:
                    field = _completed(field, m, p if axis.role is Role.PLACE else None, axis.size)
                else:  # of whole samples those that are held
                    split[0] = extent // inner
            mapped += split if len(parts) > 1 else [field.second.shape[m]]
            m += 1
            if axis.role is Role.PLACE:
                places += split if len(parts) > 1 else [field.kernel.shape[p]]
                p += 1
    return replace(
        field,
        mean=field.mean.reshape(mapped),
        second=field.second.reshape(mapped),
        kernel=field.kernel.reshape((*places, *places)),
    )


def _completed(field: Field, mapped: int, place: int | None, size: int) -> Field:
    """Stand in for the samples that the arrays leave out by those that they hold."""
    index = np.arange(size) % field.second.shape[mapped]
    mean, second = np.take(field.mean, index, axis=mapped), np.take(field.second, index, axis=mapped)
    kernel = field.kernel
    if place is not None:
        p = field.places
        held = kernel.shape[place]
        require_room(math.isqrt(kernel.size) // held * size)
        off = (
            np.moveaxis(kernel, (place, p + place), (0, 1)).sum(axis=(0, 1))
            - np.trace(kernel, axis1=place, axis2=p + place)
        ) / max(held * (held - 1), 1)
        kernel = np.moveaxis(kernel, (place, p + place), (0, 1))[index][:, index]
        twice = (index[:, None] == index[None, :]) & ~np.eye(size, dtype=bool)
        kernel = np.array(kernel)
        kernel[twice] = off
        kernel = np.moveaxis(kernel, (0, 1), (place, p + place))
    return replace(field, mean=mean, second=second, kernel=kernel)


def split_axis(field: Field, dim: int, at: int, sizes: Sequence[int]) -> Field:
    """Split one axis into several, slowest first."""
    axes = [axis for d in field.layout for axis in d]
    position = sum(len(d) for d in field.layout[:dim]) + at
    parts = [[axis.size] for axis in axes]
    parts[position] = list(sizes)
    role = field.layout[dim][at].role
    changed = (*field.layout[dim][:at], *(Axis(n, role) for n in sizes), *field.layout[dim][at + 1 :])
    return _split_arrays(field, axes, parts).with_layout((*field.layout[:dim], changed, *field.layout[dim + 1 :]))


def fused(field: Field, dim: int, start: int, stop: int) -> Field:
    """Fuse the axes ``start`` to ``stop`` (exclusive) of a dimension into one, in the role that tells most."""
    group = field.layout[dim][start:stop]
    if len(group) == 1:
        return field
    roles = {axis.role for axis in group}
    role = next(r for r in (Role.PLACE, Role.PIXEL, Role.UNIT, Role.COPY) if r in roles)
    for at in range(start, stop):
        field = with_role(field, dim, at, role)
    size = math.prod(axis.size for axis in group)
    m, p = field.array_axis(dim, start)
    n = len(group)
    mean, second, kernel = field.mean, field.second, field.kernel
    if role in (Role.PLACE, Role.PIXEL):
        shape = second.shape
        extents = (*shape[:m], math.prod(shape[m : m + n]), *shape[m + n :])
        mean, second = mean.reshape(extents), second.reshape(extents)
    if role is Role.PLACE:
        places = kernel.shape[: field.places]
        extents = (*places[:p], math.prod(places[p : p + n]), *places[p + n :])
        kernel = kernel.reshape((*extents, *extents))
    changed = (*field.layout[dim][:start], Axis(size, role), *field.layout[dim][stop:])
    layout = (*field.layout[:dim], changed, *field.layout[dim + 1 :])
    return replace(field, layout=layout, mean=mean, second=second, kernel=kernel)


def with_role(field: Field, dim: int, at: int, role: Role, *, gradient: bool = False) -> Field:
    """Exchange the role of one axis. Of a gradient, an axis of copies holds (1/n)·E of the squared sum over them."""
    axis = field.layout[dim][at]
    if axis.role is role:
        return field
    changed = (*field.layout[dim][:at], Axis(axis.size, role), *field.layout[dim][at + 1 :])
    layout = (*field.layout[:dim], changed, *field.layout[dim + 1 :])
    m, p = field.array_axis(dim, at)
    known = axis.role
    if known is Role.COPY and gradient:
        known = Role.UNIT
    if known is Role.COPY:
        return _copied(field, layout, m, p, axis.size, role)
    if known is Role.UNIT:
        if role in (Role.UNIT, Role.COPY):
            return field.with_layout(layout)
        return _told_apart(field, layout, m, p, axis.size, role)
    if known is Role.PLACE:
        return _place_as(field, layout, m, p, axis.size, role)
    return _pixel_as(field, layout, m, p, axis.size, role)


def _insert(array: Array, at: int, size: int) -> Array:
    return np.repeat(np.expand_dims(array, at), size, axis=at)


def _insert_pair(kernel: Array, at: int, places: int, size: int) -> Array:
    require_room(math.isqrt(kernel.size) * size)
    return _insert(_insert(kernel, places + at, size), at, size)


def _copied(field: Field, layout: Layout, m: int, p: int, size: int, role: Role) -> Field:
    if role is Role.UNIT:
        return field.with_layout(layout)
    mean, second = _insert(field.mean, m, size), _insert(field.second, m, size)
    kernel = field.kernel
    if role is Role.PLACE:
        kernel = _insert_pair(kernel, p, field.places, size)
    elif not field.has_pixels:
        kernel = field.consistent().kernel
    return replace(field, layout=layout, mean=mean, second=second, kernel=kernel)


def _told_apart(field: Field, layout: Layout, m: int, p: int, size: int, role: Role) -> Field:
    """Units become places: two different ones have nothing but their means in common."""
    mean, second = _insert(field.mean, m, size), _insert(field.second, m, size)
    outer = field.outer_mean()
    if role is Role.PIXEL:
        kernel = field.kernel / size + (1 - 1 / size) * outer
        if not field.has_pixels:  # the diagonal now holds pairs of different pixels
            n = field.second.size
            flat = np.array(kernel).reshape(n, n)
            np.fill_diagonal(flat, np.diagonal(outer.reshape(n, n)))
            kernel = flat.reshape(kernel.shape)
        return replace(field, layout=layout, mean=mean, second=second, kernel=kernel)
    same = np.eye(size, dtype=bool)
    shape = [1] * (2 * field.places + 2)
    shape[p] = shape[field.places + 1 + p] = size
    apart = _insert_pair(outer, p, field.places, size)
    own = _insert_pair(field.kernel, p, field.places, size)
    kernel = np.where(same.reshape(shape), own, apart)
    return replace(field, layout=layout, mean=mean, second=second, kernel=kernel)


def _place_as(field: Field, layout: Layout, m: int, p: int, size: int, role: Role) -> Field:
    places = field.places
    diagonal = np.diagonal(field.kernel, axis1=p, axis2=places + p)
    if role is Role.UNIT:
        return replace(
            field,
            layout=layout,
            mean=field.mean.mean(axis=m),
            second=field.second.mean(axis=m),
            kernel=diagonal.mean(-1),
        )
    total = field.kernel.sum(axis=(p, places + p))
    held = field.kernel.shape[p]
    if role is Role.PIXEL:
        off = (total - diagonal.sum(-1)) / max(held * (held - 1), 1)
        return replace(field, layout=layout, kernel=off)
    # A gradient's copies: (1/n) of the squared sum.
    scale = size / held
    kernel = (total - diagonal.sum(-1)) * scale * (size - 1) / max(held - 1, 1) + diagonal.sum(-1) * scale
    kernel = kernel / size
    before = field.second.sum(axis=m) * scale / size
    plain = _own(diagonal.sum(-1) * scale / size, places - 1)
    second = before + _over_pixels(_own(kernel, places - 1) - plain, field, m)
    return replace(field, layout=layout, mean=field.mean.mean(axis=m), second=second, kernel=kernel)


def _own(kernel: Array, places: int) -> Array:
    """The diagonal: each place with itself."""
    shape = kernel.shape[:places]
    n = math.prod(shape)
    return np.diagonal(kernel.reshape(n, n)).reshape(shape)


def _over_pixels(by_place: Array, field: Field, without: int) -> Array:
    """An array over the places, given axes for the pixels of a field from which one mapped axis was taken."""
    mapped = [axis for at, axis in enumerate(field.mapped) if at != without]
    shape = iter(by_place.shape)
    return by_place.reshape([next(shape) if axis.role is Role.PLACE else 1 for axis in mapped])


def _pixel_as(field: Field, layout: Layout, m: int, p: int, size: int, role: Role) -> Field:
    mean, second = field.mean.mean(axis=m), field.second.mean(axis=m)
    if role is Role.UNIT:
        changed = replace(field, layout=layout, mean=mean, second=second)
        return changed.consistent()
    if role is Role.PLACE:
        kernel = _insert_pair(field.kernel, p, field.places, size)
        return replace(field, layout=layout, kernel=kernel).consistent()
    own = _own(field.kernel, field.places)
    second = second + (size - 1) * _over_pixels(own, field, m)
    return replace(field, layout=layout, mean=mean, second=second, kernel=field.kernel * size).consistent()


def summed(field: Field, dims: Sequence[int], *, keep: bool = True, gradient: bool = False) -> Field:
    """The field of the tensor summed over some dimensions."""
    for dim in sorted(dims):
        while field.layout[dim]:
            roles = [axis.role for axis in field.layout[dim]]
            at = roles.index(Role.UNIT) if Role.UNIT in roles else len(roles) - 1
            field = _summed_axis(field, dim, at, gradient=gradient)
    if not keep:
        field = field.with_layout(tuple(dim for at, dim in enumerate(field.layout) if at not in set(dims)))
    return field


def _summed_axis(field: Field, dim: int, at: int, *, gradient: bool) -> Field:
    axis = field.layout[dim][at]
    n = axis.size
    if axis.role is Role.UNIT:
        mean_square = field.mean**2
        outer = field.outer_mean()
        summed_ = replace(
            field,
            mean=n * field.mean,
            second=n * field.second + n * (n - 1) * mean_square,
            kernel=n * field.kernel + n * (n - 1) * outer,
        )
        return _dropped(summed_, dim, at)
    if axis.role is Role.COPY:
        # A gradient's copies hold (1/n) of the squared sum already.
        return _dropped(field.scaled(n) if gradient else field.times(n), dim, at)
    field = with_role(field, dim, at, Role.COPY, gradient=True)
    return _dropped(field.scaled(n), dim, at, mean=math.sqrt(n))


def _dropped(field: Field, dim: int, at: int, *, mean: float = 1.0) -> Field:
    changed = (*field.layout[dim][:at], *field.layout[dim][at + 1 :])
    layout = (*field.layout[:dim], changed, *field.layout[dim + 1 :])
    return replace(field, layout=layout, mean=field.mean * mean)
