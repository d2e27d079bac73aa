"""Second moments of a tensor without its values: what a wide random network makes of its signal, as plain arrays.

A tensor's dimensions are products of axes, and an axis has a role. Along *units* (features, channels, heads) the
entries are exchangeable: only averages over them are kept. *Places* (samples, tokens) are kept one by one, with the
second moments E[x_p x_q] of every two of them (the kernel of the network's Gaussian process). *Pixels* are places too
many for that: a map of E[x²] over them, and the kernel as the average over two different pixels. Along *copies* all
entries are the same.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from gradvitals.maths.scatter import NONE, Scatter, new_cause

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]


#: Places of which every two are kept at the most: half a gigabyte of products.
MOST_PAIRED = 8192


class Role(enum.Enum):
    """What the entries along an axis are to one another."""

    UNIT = "unit"
    PLACE = "place"
    PIXEL = "pixel"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a dimension."""

    size: int
    role: Role

    @property
    def is_mapped(self) -> bool:
        """Whether the arrays of a field have an axis for it."""
        return self.role in (Role.PLACE, Role.PIXEL)


#: For each dimension of a tensor its axes, slowest first; none for a dimension of size 1.
Layout: TypeAlias = "tuple[tuple[Axis, ...], ...]"


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """Moments of a tensor's entries, averaged over its units.

    Parameters
    ----------
    layout : Layout
    mean, second : array
        E[x] and E[x²], with one axis per place and pixel axis of the layout, in its order. Of very large batches the
        arrays hold some samples only.
    kernel : array
        E[x_p x_q] with one axis per place axis, twice. Without pixels its diagonal is ``second``.
    inherited : Scatter
        How log E[x²] departs over random weights by what came before (finite width).
    kurtosis : float
        E[x⁴]/E[x²]² of an entry.
    profile : array, optional
        How much an entry has in common with the entries at other pixels, relative to the average: less at the border
        of an image that was padded. In the shape of ``second``; one where it isn't known.
    blur : float
        By how much the correlation of two places in one network differs from the kernel's: its variance over random
        weights of finite width. None for what was measured.
    own : float, optional
        What one unit adds to the variance of log E[x²]; else it is taken from the kurtosis and the kernel.
    cause : int
        Names the departure that its own units make.
    excess : float
        Of a gradient behind batch norm, which divides each unit by its own deviation: by how much that exceeds, on
        average, what division by the mean deviation gives. A unit's weights made its deviation, and take it back.
    shared_blur : float
        The part of it that other tensors made of the same signal share.

    """

    layout: Layout
    mean: Array
    second: Array
    kernel: Array
    inherited: Scatter = NONE
    kurtosis: float = 3.0
    profile: Array | None = None
    blur: float = 0.0
    shared_blur: float = 0.0
    own: float | None = None
    cause: int = dataclasses.field(default_factory=new_cause)
    excess: float = 1.0
    _known: dict[str, float] = dataclasses.field(init=False, default_factory=dict, repr=False)

    # ---- what it is ----

    @property
    def rows(self) -> Array:
        """The profile in the shape of ``second``."""
        known = self.profile
        return known if known is not None and known.shape == self.second.shape else np.ones_like(self.second)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """All axes in order."""
        return tuple(axis for dim in self.layout for axis in dim)

    @property
    def mapped(self) -> tuple[Axis, ...]:
        """The axes that the arrays have."""
        return tuple(axis for axis in self.axes if axis.is_mapped)

    @property
    def places(self) -> int:
        """How many place axes there are."""
        return sum(axis.role is Role.PLACE for axis in self.axes)

    @property
    def has_pixels(self) -> bool:
        """Whether the kernel is an average over pixels."""
        return any(axis.role is Role.PIXEL for axis in self.axes)

    @property
    def units(self) -> int:
        """Exchangeable entries per place."""
        return math.prod(axis.size for axis in self.axes if axis.role is Role.UNIT)

    @property
    def mean_square(self) -> float:
        """E[x²] over all entries."""
        known = self._known.get("mean_square")
        if known is None:
            known = self._known["mean_square"] = float(self.second.mean()) if self.second.size else 0.0
        return known

    @property
    def spread(self) -> float:
        """The variance of log E[x²] over random weights: inherited, and from the finite number of its own units."""
        return self.inherited.variance + self._own_variance if self.mean_square > 0 else 0.0

    @property
    def scatter(self) -> Scatter:
        """How log E[x²] departs over random weights: what it inherited, and its own units."""
        return self.inherited + Scatter.of(self._own_variance, self.cause) if self.mean_square > 0 else NONE

    @property
    def _own_variance(self) -> float:
        own = self.own
        if own is None:
            own = (self.kurtosis - 1) * self.agreement() if self.kurtosis > 1 else 0.0
        return math.log1p(own / max(self.units, 1))  # that of the logarithm, of what is nearly lognormal

    def drawn(self, scatter: Scatter) -> Field:
        """The same as the work of new weights, on something that departed by a scatter: its entries are Gaussian."""
        return replace(self, inherited=scatter, kurtosis=3.0, own=None, cause=new_cause(), excess=1.0)

    def agreement(self) -> float:
        """The mean squared correlation between two places: 1 where all places have the same fluctuation."""
        known = self._known.get("agreement")
        if known is None:
            known = self._known["agreement"] = self._agreement()
        return known

    def _agreement(self) -> float:
        total = self.mean_square
        if total <= 0:
            return 1.0
        count = self.count()
        n = math.prod(self.kernel.shape[: self.places])
        flat = self.kernel.reshape(n, n) if self.places else self.kernel.reshape(1, 1)
        diagonal = self.place_second().reshape(-1)
        off = np.vdot(flat, flat) - (np.diagonal(flat) ** 2).sum()
        pairs = max(n * (n - 1), 1)
        same = float((diagonal**2).mean())
        inside = float((np.diagonal(flat) ** 2).mean())
        places = math.prod(axis.size for axis in self.axes if axis.role is Role.PLACE)
        pixels = max(count // max(places, 1), 1)
        within = same / pixels + (1 - 1 / pixels) * inside
        between = float(off) / pairs if n > 1 else 0.0
        alike = (within / places + (1 - 1 / places) * between) / total**2
        return min(alike + (1 - 1 / max(count, 1)) * self.shared_blur, 1.0)

    def count(self) -> int:
        """Places times pixels, of the whole batch."""
        return math.prod(axis.size for axis in self.axes if axis.is_mapped)

    def place_second(self) -> Array:
        """E[x²] by place, averaged over pixels."""
        pixels = tuple(at for at, axis in enumerate(self.mapped) if axis.role is Role.PIXEL)
        return self.second.mean(axis=pixels) if pixels else self.second

    def pair_means(self) -> tuple[float, float]:
        """E[x²] over all entries, and E[x_p x_q] over all pairs of different places or pixels of the whole batch."""
        n = math.prod(self.kernel.shape[: self.places])
        flat = self.kernel.reshape(n, n)
        places = math.prod(axis.size for axis in self.axes if axis.role is Role.PLACE)
        pixels = math.prod(axis.size for axis in self.axes if axis.role is Role.PIXEL)
        inside = float(np.diagonal(flat).mean())
        between = float(flat.sum() - np.trace(flat)) / (n * (n - 1)) if n > 1 else 0.0
        pairs = places * pixels * (places * pixels - 1)
        if pairs == 0:
            return self.mean_square, 0.0
        within = places * pixels * (pixels - 1)
        return self.mean_square, (within * inside + (pairs - within) * between) / pairs

    def all_pairs(self) -> float:
        """E[x_p x_q] over all pairs of places and pixels, each with itself as well: E of the batch mean squared."""
        same, different = self.pair_means()
        count = max(self.count(), 1)
        return same / count + (1 - 1 / count) * different

    def array_axis(self, dim: int, at: int) -> tuple[int, int]:
        """Of an axis: its place among the mapped axes, and among the place axes."""
        before = [axis for d in self.layout[:dim] for axis in d] + list(self.layout[dim][:at])
        return sum(a.is_mapped for a in before), sum(a.role is Role.PLACE for a in before)

    # ---- arithmetic that holds for any tensor ----

    def times(self, factor: float) -> Field:
        """The field of the tensor times a number."""
        if factor == 1:
            return self
        square = factor * factor
        return replace(self, mean=self.mean * factor, second=self.second * square, kernel=self.kernel * square)

    def scaled(self, square: float) -> Field:
        """The same, by the factor's square, its sign unknown."""
        return self.times(math.sqrt(square))

    def without_mean(self) -> Field:
        """The same with the mean forgotten."""
        return replace(self, mean=np.zeros_like(self.mean))

    def with_layout(self, layout: Layout) -> Field:
        """The same arrays under another layout with as many places and pixels in the same order."""
        return replace(self, layout=layout)

    def consistent(self) -> Field:
        """Without pixels, put ``second`` on the kernel's diagonal."""
        if self.has_pixels:
            return self
        n = self.second.size
        kernel = np.array(self.kernel).reshape(n, n)
        np.fill_diagonal(kernel, self.second.reshape(-1))
        return replace(self, kernel=kernel.reshape(self.kernel.shape))

    def outer_mean(self) -> Array:
        """E[x_p]E[x_q], in the shape of the kernel (averaged over pixels)."""
        pixels = tuple(at for at, axis in enumerate(self.mapped) if axis.role is Role.PIXEL)
        mean = self.mean.mean(axis=pixels) if pixels else self.mean
        return np.asarray(np.multiply.outer(mean, mean))


def layout_of(shape: Sequence[int], roles: Sequence[Role]) -> Layout:
    """One axis per dimension of a size other than 1.

    >>> layout_of((4, 1, 8), (Role.PLACE, Role.UNIT, Role.UNIT))[1]
    ()
    """
    return tuple(() if n == 1 else (Axis(int(n), role),) for n, role in zip(shape, roles, strict=True))


def shape_of(layout: Layout) -> tuple[int, ...]:
    """The shape of a tensor with this layout."""
    return tuple(math.prod(axis.size for axis in dim) for dim in layout)


def require_room(places: int) -> None:
    """Refuse more places than those of which every two can be held.

    Raises
    ------
    NotImplementedError
        Beyond :data:`MOST_PAIRED`.

    """
    if places > MOST_PAIRED:
        raise NotImplementedError(f"what {places} places have in common, every two, takes too much memory")


def constant_field(
    layout: Layout, second: float, mean: float = 0.0, *, between: float = 0.0, held: Sequence[int] | None = None
) -> Field:
    """A field that is the same everywhere, with ``between`` for E[x_p x_q] at two different places.

    ``held`` are the sizes of its arrays where they hold the first samples only, as those of another field's ``second``.
    """
    axes = [axis for dim in layout for axis in dim if axis.is_mapped]
    mapped = [axis.size for axis in axes] if held is None else list(held)
    places = [size for size, axis in zip(mapped, axes, strict=True) if axis.role is Role.PLACE]
    if held is None:
        require_room(math.prod(places))
    field = Field(
        layout,
        np.full(mapped, mean, dtype=np.float64),
        np.full(mapped, second, dtype=np.float64),
        np.full((*places, *places), between, dtype=np.float64),
    )
    return field.consistent()
