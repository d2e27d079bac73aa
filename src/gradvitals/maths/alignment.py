"""Two layouts brought together: tensors that broadcast against one another, and gradients on their way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradvitals.maths.field import Axis, Field, Layout, Role
from gradvitals.maths.roles import fused, split_axis, summed, with_role


def refined(first: Sequence[int], second: Sequence[int]) -> tuple[list[list[int]], list[list[int]]]:
    """How the axes of two dimensions of the same size are to be split so that they fall together.

    >>> refined([32], [8, 4])
    ([[8, 4]], [[8], [4]])

    Raises
    ------
    ValueError
        Where they can't.
    """
    left, right = [[] for _ in first], [[] for _ in second]  # type: ignore[var-annotated]
    i = j = 0
    a, b = (list(first) or [1])[-1], (list(second) or [1])[-1]
    i, j = len(first) - 1, len(second) - 1
    while i >= 0 and j >= 0:
        part = min(a, b)
        if max(a, b) % part:
            raise ValueError(f"axes of {list(first)} and {list(second)} don't divide one another")
        left[i].insert(0, part)
        right[j].insert(0, part)
        a, b = a // part, b // part
        if a == 1:
            i -= 1
            a = first[i] if i >= 0 else 1
        if b == 1:
            j -= 1
            b = second[j] if j >= 0 else 1
    return left, right


def spread_to(field: Field, layout: Layout) -> Field:
    """Broadcast a field to a layout: missing dimensions are copies; axes are split and roles exchanged."""
    missing = len(layout) - len(field.layout)
    if missing > 0:
        field = field.with_layout(((),) * missing + field.layout)
    for dim, wanted in enumerate(layout):
        if not field.layout[dim] and wanted:
            copies = tuple(Axis(axis.size, Role.COPY) for axis in wanted)
            field = field.with_layout((*field.layout[:dim], copies, *field.layout[dim + 1 :]))
        field = _matched(field, dim, wanted, gradient=False)
    return field


def gathered_to(gradient: Field, layout: Layout) -> Field:
    """Bring a gradient to the layout of its tensor: what was broadcast is summed, what was split is fused."""
    more = len(gradient.layout) - len(layout)
    if more > 0:
        gradient = summed(gradient, range(more), keep=True, gradient=True)
        gradient = gradient.with_layout(gradient.layout[more:])
    for dim, wanted in enumerate(layout):
        if not wanted and gradient.layout[dim]:
            gradient = summed(gradient, [dim], gradient=True)
        elif wanted and not gradient.layout[dim]:
            copies = tuple(Axis(axis.size, Role.COPY) for axis in wanted)
            gradient = gradient.with_layout((*gradient.layout[:dim], copies, *gradient.layout[dim + 1 :]))
            gradient = _matched(gradient, dim, wanted, gradient=False)
        else:
            gradient = _matched(gradient, dim, wanted, gradient=True)
    return gradient


def _matched(field: Field, dim: int, wanted: Sequence[Axis], *, gradient: bool) -> Field:
    have = field.layout[dim]
    if have == tuple(wanted):
        return field
    mine, theirs = refined([axis.size for axis in have], [axis.size for axis in wanted])
    for at in range(len(have) - 1, -1, -1):
        if len(mine[at]) > 1:
            field = split_axis(field, dim, at, mine[at])
    for at, parts in enumerate(theirs):
        if len(parts) > 1:
            field = fused(field, dim, at, at + len(parts))
    for at, axis in enumerate(wanted):
        field = with_role(field, dim, at, axis.role, gradient=gradient)
    return field


#: Which role wins where two tensors meet: the one that tells more.
_STRENGTH = {Role.COPY: 0, Role.UNIT: 1, Role.PIXEL: 2, Role.PLACE: 3}


def common_layout(layouts: Sequence[Layout]) -> Layout:
    """The layout of the result of an elementwise operation on tensors that broadcast against one another."""
    rank = max(map(len, layouts))
    padded = [((),) * (rank - len(layout)) + layout for layout in layouts]
    result: list[tuple[Axis, ...]] = []
    for dims in zip(*padded, strict=True):
        known: tuple[Axis, ...] = ()
        for dim in dims:
            known = _merged(known, dim)
        result.append(known)
    return tuple(result)


def _merged(first: tuple[Axis, ...], second: tuple[Axis, ...]) -> tuple[Axis, ...]:
    if not first or not second or first == second:
        return first or second
    left, right = refined([axis.size for axis in first], [axis.size for axis in second])
    one = [Axis(n, axis.role) for axis, parts in zip(first, left, strict=True) for n in parts]
    two = [Axis(n, axis.role) for axis, parts in zip(second, right, strict=True) for n in parts]
    return tuple(a if _STRENGTH[a.role] >= _STRENGTH[b.role] else b for a, b in zip(one, two, strict=True))


def alike(first: Field, second: Field) -> tuple[Field, Field]:
    """Two fields of one layout, cut to the samples that both hold."""
    if first.second.shape == second.second.shape:
        return first, second
    shape = tuple(min(n, m) for n, m in zip(first.second.shape, second.second.shape, strict=True))
    return cut(first, shape), cut(second, shape)


def cut(field: Field, shape: tuple[int, ...]) -> Field:
    """The first samples of a field."""
    if field.second.shape == shape:
        return field
    window = tuple(slice(0, n) for n in shape)
    by_place = tuple(slice(0, n) for n, axis in zip(shape, field.mapped, strict=True) if axis.role is Role.PLACE)
    return replace(
        field, mean=field.mean[window], second=field.second[window], kernel=field.kernel[by_place + by_place]
    )
