"""Which part of a tensor's gradient is wrong: entries, rows, columns, channels, a block, or where something holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.frameworks.problem import Array, Problem
from gradvitals.gradients.measure_base import Base
from gradvitals.gradients.measure_lines import measure_line

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

#: Of the entries of a block this share must be seen to be wrong: a gradient that is small by chance hides a mistake.
_FILLED = 0.7
#: The same of a sample, in which a block may look like a condition.
_FILLED_SAMPLE = 0.95
#: So many single positions are written out.
_SHOWN = 8
#: A condition must hold for so many entries that were looked at.
_FEWEST = 2
#: Beyond this share the whole tensor is wrong, not a part of it.
_MOST = 0.95
#: Random directions per part of an axis; a mistake that is as large as the rest hides from one of them in 1 of 100.
_LINES = 2
#: Slices of an axis that are tried first: when all of them are wrong, the axis doesn't tell where the mistake is.
_TRIED = 4


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a tensor: the positions along every axis (None: all of them), or where a condition holds.

    ``condition`` is one of diagonal, off-diagonal, upper-triangle, lower-triangle, border (by place), value-negative,
    value-positive, value-zero (by the tensor's own values), claim-zero, slope-zero (by its gradient).
    """

    shape: tuple[int, ...]
    positions: tuple[tuple[int, ...] | None, ...]
    condition: str = ""

    @property
    def limited(self) -> tuple[int, ...]:
        """The axes along which it is a part only."""
        return tuple(axis for axis, positions in enumerate(self.positions) if positions is not None)

    @property
    def is_entry(self) -> bool:
        return bool(self.shape) and self.size == 1

    @property
    def size(self) -> int:
        return int(self.mask.sum())

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Of shape (size,): which entries belong to it."""
        inside = np.ones(self.shape, dtype=bool)
        for axis in self.limited:
            along = np.zeros(self.shape[axis], dtype=bool)
            along[list(self.positions[axis] or ())] = True
            inside &= along.reshape([-1 if i == axis else 1 for i in range(len(self.shape))])
        return inside.reshape(-1)

    def __str__(self) -> str:
        return f"[{', '.join(':' if p is None else spelt(p) for p in self.positions)}]"


def spelt(positions: tuple[int, ...]) -> str:
    """Positions along an axis as one writes them.

    >>> spelt((3,)), spelt((3, 4, 5)), spelt((0, 4))
    ('3', '3:6', '(0, 4)')
    """
    if len(positions) == 1:
        return str(positions[0])
    if positions == tuple(range(positions[0], positions[-1] + 1)):
        return f"{positions[0]}:{positions[-1] + 1}"
    shown = ", ".join(map(str, positions[:_SHOWN]))
    return f"({shown}{', …' if len(positions) > _SHOWN else ''})"


def region_of(
    wrong: NDArray[np.bool_], known: Mapping[str, NDArray[np.bool_]], shape: tuple[int, ...]
) -> Region | None:
    """The part that wrong entries make up, given all of them; None where it is everything, or has no shape.

    ``known`` are masks of conditions that may hold just there, see :func:`conditions`.

    >>> wrong = np.zeros((4, 3), dtype=bool)
    >>> wrong[2] = True
    >>> str(region_of(wrong.reshape(-1), {}, (4, 3)))
    '[2, :]'
    """
    count = int(wrong.sum())
    if count == 0 or count > _MOST * wrong.size:
        return None
    where = np.nonzero(wrong.reshape(shape))
    positions = tuple(
        None if len(found) == n else tuple(int(i) for i in found)
        for n, found in ((n, np.unique(along)) for n, along in zip(shape, where, strict=True))
    )
    box = Region(shape, positions)
    if box.limited and count >= _FILLED * box.size:
        return box
    condition = condition_of(wrong, known, np.arange(wrong.size))
    return Region(shape, (None,) * len(shape), condition) if condition else None


def condition_of(wrong: NDArray[np.bool_], known: Mapping[str, NDArray[np.bool_]], looked_at: NDArray[np.int64]) -> str:
    """The condition that holds where entries are wrong and nowhere else, among those that were looked at."""
    bad = wrong[looked_at]
    filled = _FILLED if len(looked_at) == wrong.size else _FILLED_SAMPLE
    for condition, mask in known.items():
        inside = mask[looked_at]
        if not bad[~inside].any() and _FEWEST <= inside.sum() < len(inside) and bad.sum() >= filled * inside.sum():
            return condition
    return ""


def conditions(own: Array, claimed: Array, shape: tuple[int, ...]) -> dict[str, NDArray[np.bool_]]:
    """Masks of shape (size,) that mistakes follow: by value, by claim, by place."""
    found: dict[str, NDArray[np.bool_]] = {}
    if len(shape) >= 2:
        rows, columns = np.ogrid[: shape[-2], : shape[-1]]
        for condition, mask in (
            ("diagonal", rows == columns),
            ("off-diagonal", rows != columns),
            ("upper-triangle", rows < columns),
            ("lower-triangle", rows > columns),
            ("border", (rows == 0) | (rows == shape[-2] - 1) | (columns == 0) | (columns == shape[-1] - 1)),
        ):
            found[condition] = np.broadcast_to(mask, shape).reshape(-1)
    found |= {"value-negative": own < 0, "value-positive": own > 0, "value-zero": own == 0, "claim-zero": claimed == 0}
    return found


def locate(problem: Problem, base: Base, at: int, rng: np.random.Generator) -> Region | None:
    """Find the rows, columns, channels or the block in which a large tensor's gradient is wrong.

    Slices of one axis are moved together and halved again and again; what is found on one axis narrows the search on
    the next.

    Parameters
    ----------
    problem : Problem
    base : Base
    at : int
        The tensor.
    rng : numpy.random.Generator
        Of the directions.

    Returns
    -------
    Region or None
        None where no axis tells more than that the whole tensor is wrong.

    """
    shape = problem.tensors[at].shape
    positions: list[tuple[int, ...] | None] = [None] * len(shape)
    for axis, n in enumerate(shape):
        if n < 2:
            continue
        search = _Search(problem, base, at, rng, axis, Region(shape, tuple(positions)).mask.reshape(shape))
        found = search.positions(n)
        if found and len(found) < n:
            positions[axis] = found
    region = Region(shape, tuple(positions))
    return region if region.limited else None


@dataclass(frozen=True, slots=True)
class _Search:
    """The search along one axis, within what other axes have left."""

    problem: Problem
    base: Base
    at: int
    rng: np.random.Generator
    axis: int
    within: NDArray[np.bool_]

    def positions(self, n: int) -> tuple[int, ...]:
        """The positions along the axis at which something is wrong."""
        tried = [int(i) for i in self.rng.choice(n, min(n, _TRIED), replace=False)]
        if all(self._wrong([i]) for i in tried):
            return tuple(range(n))
        return tuple(sorted(self._within(list(range(n)))))

    def _within(self, slices: list[int]) -> list[int]:
        if not self._wrong(slices):
            return []
        if len(slices) == 1:
            return slices
        half = len(slices) // 2
        return self._within(slices[:half]) + self._within(slices[half:])

    def _wrong(self, slices: list[int]) -> bool:
        """Whether something is missing along directions inside these slices."""
        inside = np.zeros_like(self.within)
        chosen = [slice(None)] * inside.ndim
        for position in slices:
            chosen[self.axis] = slice(position, position + 1)
            inside[tuple(chosen)] = self.within[tuple(chosen)]
        flat = inside.reshape(-1)
        # Compared with what is material for entries as large as the tensor's usual ones: these may be nothing beside
        # the rest.
        usual = float(np.linalg.norm(self.base.gradients[self.at])) * np.sqrt(flat.sum() / flat.size)
        material = self.base.material * self.base.scales[self.at] * usual
        for _ in range(_LINES):
            direction = np.where(flat, self.base.scales[self.at] * self.rng.standard_normal(flat.size), 0.0)
            if measure_line(self.problem, self.base, {self.at: direction}).suspect(material):
                return True
        return False
