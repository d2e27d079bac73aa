"""How large a kernel's errors are beside those of an eager version, over several trials: as a whole, in every slice, in
single entries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.frameworks.problem import Array
from gradvitals.vocabulary.finding import Estimate

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

#: A result that is rounded once, correctly, is off by ulp/√12 (RMS): no kernel can be better. An eager version that
#: comes to less is so by luck, and one that comes to no more rounds fewer times than many a sound kernel has to: so
#: many times the error of one rounding is granted. A softmax in chunks comes to 2.4 unit roundoffs in bfloat16 where
#: the eager one has 0.5; twice this grant is 2.5. A sum over 256 products in bfloat16 comes to 2.9 and is still told.
_GRANTED = 3.0
#: The smallest number of a dtype, below which everything is lost; float32 and bfloat16 flush to zero on many devices.
_SMALLEST = {"float16": 2.0**-24, "bfloat16": 1.2e-38, "float32": 1.2e-38, "complex32": 2.0**-24, "complex64": 1.2e-38}
_ROUNDOFF = {
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float32": 2.0**-24,
    "complex32": 2.0**-11,
    "complex64": 2.0**-24,
}
#: Rounding errors within a slice hang together (one sum, one normaliser): it counts for at most so many draws a trial.
_DRAWS_OF_SLICE = 4
#: Where the eager version is exact (a row of a causal mask), this share of its typical squared error is granted.
_SHARE = 0.5
#: So many draws of the whole tensor are added to a slice's own: few of its own may be small by luck.
_PRIOR_DRAWS = 16
#: Slices of a vector, which has no axis to be cut along.
_BLOCK = 16
#: Entries that are followed over all trials, the worst of the first ones.
_FOLLOWED = 4096
#: Trials that choose them.
CHOOSING = 2


@dataclass(slots=True)
class Tally:
    """The errors of one tensor, trial by trial.

    Parameters
    ----------
    shape : tuple of int
    dtype : str

    """

    shape: tuple[int, ...]
    dtype: str
    #: Beneath this (2-norm) an error doesn't matter: for a gradient that is zero by design.
    least: float = 0.0
    kernel: list[float] = field(default_factory=list)
    eager: list[float] = field(default_factory=list)
    granted: list[float] = field(default_factory=list)
    truth: list[float] = field(default_factory=list)
    #: The first trials whole: the kernel's and the eager version's values and the truth.
    first: list[tuple[Array, Array, Array]] = field(default_factory=list)
    #: Entries where the truth and the eager version are finite and the kernel isn't.
    broken: NDArray[np.bool_] | None = None
    #: How many entries can't be compared, because the truth or the eager version isn't finite there.
    lost: int = 0
    _slices: list[list[tuple[Array, Array]]] = field(default_factory=list)
    _followed: NDArray[np.int64] | None = None
    _entries: list[tuple[Array, Array, Array]] = field(default_factory=list)

    def add(self, kernel: Array, eager: Array, truth: Array) -> None:
        """One trial: flat values of all three."""
        usable = np.isfinite(eager) & np.isfinite(truth)
        finite = np.isfinite(kernel)
        broken = usable & ~finite
        self.broken = broken if self.broken is None else self.broken | broken
        self.lost = max(self.lost, int((~usable).sum()))
        known = usable & finite
        truth = np.where(known, truth, 0.0)
        off = np.where(known, kernel, 0.0) - truth
        off_eager = np.where(known, eager, 0.0) - truth
        granted = np.where(known, _GRANTED * spacing(truth, self.dtype) / math.sqrt(12), 0.0)
        self.kernel.append(float(off @ off))
        self.eager.append(float(off_eager @ off_eager))
        self.granted.append(float(granted @ granted))
        self.truth.append(float(truth @ truth))
        allowed = np.fmax(off_eager**2, granted**2)
        self._slices.append(
            [(summed(off**2), np.fmax(summed(off_eager**2), summed(granted**2))) for summed in _groupings(self.shape)]
        )
        if len(self.first) < CHOOSING:
            self.first.append((truth + off, truth + off_eager, truth))
        if self._followed is None and len(self.kernel) == CHOOSING:
            self._follow()
        if self._followed is not None and len(self.kernel) > CHOOSING:
            at = self._followed
            self._entries.append((off[at] ** 2, allowed[at], granted[at] ** 2))

    @property
    def ratio(self) -> Estimate:
        """RMS error of the kernel over the eager version's, with its standard error (a jackknife over trials)."""
        kernel = np.array(self.kernel)
        eager = self._beside()
        value = _root(kernel.sum(), eager.sum())
        if not 0 < value < math.inf or len(kernel) < 2:
            return Estimate(value, 0.0)
        left = np.log([_root(kernel.sum() - k, eager.sum() - e) or value for k, e in zip(kernel, eager, strict=True)])
        spread = math.sqrt((len(left) - 1) * float(np.mean((left - left.mean()) ** 2)))
        return Estimate(value, value * spread)

    @property
    def kernel_error(self) -> float:
        """RMS over trials of the kernel's error, relative to the truth's norm."""
        return _root(sum(self.kernel), sum(self.truth))

    @property
    def eager_error(self) -> float:
        return _root(sum(self.eager), sum(self.truth))

    @property
    def beside_error(self) -> float:
        """What the kernel's error is divided by: the eager version's, or what is granted."""
        return _root(float(self._beside().sum()), sum(self.truth))

    def _beside(self) -> Array:
        return np.fmax(np.fmax(self.eager, self.granted), self.least**2)

    def slices(self) -> list[Array]:
        """For every way to cut the tensor: each slice's error beside the eager version's there (typical of trials)."""
        found = []
        pooled = self._pooled()
        counts = [summed(np.ones(math.prod(self.shape))) for summed in _groupings(self.shape)]
        for at, count in enumerate(counts):
            kernel = np.median([trial[at][0] for trial in self._slices], axis=0)
            own = np.median([trial[at][1] for trial in self._slices], axis=0)
            draws = len(self._slices) * np.fmin(count, _DRAWS_OF_SLICE)
            beside = (draws * own + _PRIOR_DRAWS * pooled * count) / (draws + _PRIOR_DRAWS)
            found.append(np.sqrt(_divided(kernel, beside)))
        return found

    def worst_entry(self) -> float:
        """The largest error of a followed entry beside what the eager version has thereabouts."""
        if self._followed is None or not self._entries:
            return 0.0
        kernel, own, granted = (np.median([trial[at] for trial in self._entries], axis=0) for at in range(3))
        typical = self._typical()[self._followed]
        draws = len(self._entries)
        beside = np.fmax((draws * own + _PRIOR_DRAWS * typical) / (draws + _PRIOR_DRAWS), granted)
        return math.sqrt(float(_divided(kernel, beside).max(initial=0.0)))

    def standing_out(self, times: float) -> NDArray[np.int64]:
        """The entries of the first trial whose error is so many times what the eager version has thereabouts."""
        kernel, _, truth = self.first[0]
        granted = (_GRANTED * spacing(truth, self.dtype)) ** 2 / 12
        over = (kernel - truth) ** 2 > times**2 * np.fmax(self._typical(), granted)
        return np.flatnonzero(over)

    def entry_beside(self) -> float:
        """The largest error of an entry that is taken for the eager version's own."""
        granted = max(
            (_GRANTED * float(spacing(truth, self.dtype).max(initial=0.0)) / math.sqrt(12) for *_, truth in self.first),
            default=0.0,
        )
        return max(math.sqrt(float(self._typical().max(initial=0.0))), granted)

    def _pooled(self) -> float:
        """The eager version's squared error per entry."""
        return float(self._beside().mean()) / max(math.prod(self.shape), 1)

    def _typical(self) -> Array:
        """Its squared error at every entry, as the product of what the slices along each axis have."""
        pooled = self._pooled()
        if len(self.shape) < 2 or pooled == 0:
            return np.full(math.prod(self.shape), pooled)
        typical = np.full(self.shape, pooled)
        for at, axis in enumerate(axis for axis, n in enumerate(self.shape) if n > 1):
            own = np.mean([trial[at][1] for trial in self._slices], axis=0) * len(self._slices[0][at][1])
            share = own / (pooled * math.prod(self.shape))
            typical = typical * share.reshape([-1 if i == axis else 1 for i in range(len(self.shape))])
        found: Array = np.fmax(typical.reshape(-1), _SHARE * pooled)
        return found

    def _follow(self) -> None:
        typical = self._typical()
        score = np.zeros(math.prod(self.shape))
        for kernel, _, truth in self.first:
            granted = (spacing(truth, self.dtype)) ** 2
            score = np.fmax(score, _divided((kernel - truth) ** 2, typical + granted))
        if score.size <= _FOLLOWED:
            self._followed = np.arange(score.size)
        else:
            self._followed = np.sort(np.argpartition(-score, _FOLLOWED)[:_FOLLOWED])


def spacing(values: Array, dtype: str) -> Array:
    """The distance between neighbours in a dtype, at values given in float64.

    >>> [float(s) for s in spacing(np.array([1.0, 3.0, 0.0]), "bfloat16")]
    [0.0078125, 0.015625, 1.2e-38]
    """
    unit = 2 * _ROUNDOFF.get(dtype, 2.0**-53)
    _, exponent = np.frexp(values)
    own = np.where(values == 0, 0.0, np.ldexp(unit, exponent - 1))
    found: Array = np.fmax(own, _SMALLEST.get(dtype, 5e-324))
    return found


def _groupings(shape: tuple[int, ...]) -> list[Summed]:
    """Ways to cut a tensor: along each axis first, then into rows, matrices, …; a vector into blocks."""
    if len(shape) == 1:
        return [_Blocks()] if shape[0] >= 2 * _BLOCK else []
    axes = [axis for axis, n in enumerate(shape) if n > 1]
    ways = [_Summed(shape, tuple(i for i in range(len(shape)) if i != axis)) for axis in axes]
    ways += [
        _Summed(shape, tuple(range(depth, len(shape))))
        for depth in range(2, len(shape))
        if math.prod(shape[:depth]) > max(shape[:depth])
    ]
    return [*ways]


@dataclass(frozen=True, slots=True)
class _Summed:
    shape: tuple[int, ...]
    over: tuple[int, ...]

    def __call__(self, values: Array) -> Array:
        found: Array = values.reshape(self.shape).sum(axis=self.over).reshape(-1)
        return found


@dataclass(frozen=True, slots=True)
class _Blocks:
    def __call__(self, values: Array) -> Array:
        found: Array = np.add.reduceat(values, np.arange(0, values.size, _BLOCK))
        return found


Summed = _Summed | _Blocks


def _root(over: float, under: float) -> float:
    if over <= 0:
        return 0.0
    return math.sqrt(over / under) if under > 0 else math.inf


def _divided(over: Array, under: Array) -> Array:
    found: Array = np.divide(over, under, out=np.where(over > 0, math.inf, 0.0), where=under > 0)
    return found


def agreement(errors: Sequence[Array]) -> float:
    """The mean cosine between all pairs."""
    found = [
        float(one @ other) / (float(np.linalg.norm(one)) * float(np.linalg.norm(other)) or math.inf)
        for at, one in enumerate(errors)
        for other in errors[at + 1 :]
    ]
    return float(np.mean(found)) if found else 1.0
