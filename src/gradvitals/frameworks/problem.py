"""The seam between the gradient check and a framework: what can be moved, the value there, and the gradient to be
judged.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from gradvitals.vocabulary.errors import ModelError, UsageError

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[np.float64]"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor that is differentiated.

    ``path`` is the framework's own qualified name, ``role`` is ``"parameter"`` or ``"input"``, ``roundoff`` the unit
    roundoff of ``dtype``, or the coarser one that it is computed with (autocast). ``shape`` is that of the entries: of
    a complex tensor it ends in an axis of 2, real and imaginary part; of a sparse one it is that of its values.
    """

    path: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    roundoff: float
    is_complex: bool = False

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def shown_shape(self) -> tuple[int, ...]:
        """The shape as the user has it: a complex number is one entry."""
        return self.shape[:-1] if self.is_complex else self.shape


@dataclass(frozen=True, slots=True)
class Gradient:
    """What the backward pass gave for one tensor.

    ``value`` is flat float64, or None where there is none; then ``got_shape`` says whether a gradient of a wrong shape
    came instead, and ``stopped`` whether the backward pass ended, at such a one, before it came to this tensor.
    """

    value: Array | None
    got_shape: tuple[int, ...] | None = None
    stopped: bool = False


#: F in float64 is F itself when it agrees with F in the user's precision within this (relative, 2-norm): float64,
#: float32, 16-bit formats.
AGREES = ((1e-12, 0.0), (1e-6, 1e-3), (1.0, 5e-2))


def agree(wide: Array, native: Array, roundoff: float, within: Array | None = None) -> bool:
    """Whether an evaluation in float64 gives the value that the user's own precision (of that unit roundoff) gives;
    entries may differ by as much as ``within`` besides.
    """
    if wide.shape != native.shape:
        return False
    tolerance = next(share for bound, share in AGREES if roundoff < bound)
    apart = np.abs(wide - native)
    beyond = apart if within is None else np.fmax(apart - within, 0.0)
    return bool(np.linalg.norm(beyond) <= tolerance * np.linalg.norm(native))


def matching(paths: Sequence[str], patterns: Sequence[str] | None) -> list[str]:
    """The paths that fit any of some patterns (``"encoder.*"``); all without patterns.

    Raises UsageError where a pattern fits nothing.

    >>> matching(["W1", "b1", "W2"], ["W*"])
    ['W1', 'W2']
    """
    if patterns is None:
        return list(paths)
    known, chosen = set(paths), set[str]()
    for pattern in patterns:
        fits = {pattern} if pattern in known else {path for path in paths if fnmatch.fnmatchcase(path, pattern)}
        if not fits:
            raise UsageError(
                f"no tensor is called {pattern!r}", f"wrt={list(patterns)}", f"there are: {', '.join(paths)}"
            )
        chosen |= fits
    return [path for path in paths if path in chosen]


def values_one_by_one(problem: Problem, points: Sequence[Mapping[int, Array]], size: int) -> Array:
    """F at K points, each evaluated alone, of shape (K, size); a row of NaN where F can't be had.

    A step may leave the function's domain (a matrix is no longer positive definite) or change how many outputs there
    are: then there is nothing to compare.
    """
    found = np.full((len(points), size), np.nan)
    for row, moved in enumerate(points):
        try:
            value = problem.value(moved)
        except ModelError:
            continue
        if value.size == size:
            found[row] = value
    return found


class Problem(Protocol):
    """A function F of several tensors, with the gradient that somebody claims for it.

    Points and gradients are flat float64 arrays, one per tensor, whatever the dtype the function computes in. F and
    its claimed gradient are computed in the user's own precision; :meth:`shadow` gives the same problem computed in
    float64. The random state is the same at every evaluation. A problem never changes what the user handed in.
    """

    tensors: tuple[Tensor, ...]
    #: Sizes that are a number of samples, by which a mean may have been divided.
    sample_sizes: tuple[int, ...]
    #: How F became what is differentiated: "loss", "output-loss", "scalar" or "random" (a random cotangent is needed).
    objective: str
    #: Unit roundoff of the evaluations of F.
    roundoff: float

    def point(self, tensor: int) -> Array:
        """The base point of one tensor, of shape (size,)."""
        ...

    def rounded(self, tensor: int, values: Array) -> Array:
        """The values that the tensor really takes when F is asked for at these."""
        ...

    @property
    def evaluation(self) -> str:
        """How :meth:`values` evaluates many points: ``"batched"``, or ``"sequential"`` and why."""
        ...

    def value(self, moved: Mapping[int, Array]) -> Array:
        """F with some tensors moved elsewhere, of shape (M,). Raises ModelError where the user's code raises."""
        ...

    def values(self, points: Sequence[Mapping[int, Array]]) -> Array:
        """F at K points, of shape (K, M); a row of NaN where F raises or has another shape than at the base."""
        ...

    def shadow(self, within: Array | None = None) -> Problem | None:
        """The same problem computed in float64, or None where the user's code doesn't allow it or then computes
        something else; ``within``, of shape (M,), is how much every output is known to be off by natively.
        """
        ...

    @property
    def output_roundoff(self) -> Array:
        """Unit roundoff of every output, of shape (M,); known after the first :meth:`value`."""
        ...

    @property
    def output_sizes(self) -> tuple[int, ...]:
        """How many entries each output tensor has: they add up to M; known after the first :meth:`value`."""
        ...

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each output tensor; known after the first :meth:`value`."""
        ...

    @property
    def input_shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Path and shape of every array that the function was given, differentiated or not."""
        ...

    def hand_written(self) -> tuple[str, ...] | None:
        """The functions of the user's own on the way back, where the framework writes the rest; None where all of it
        may be.
        """
        ...

    def cuts(self) -> tuple[str, ...]:
        """Where the forward pass was seen to leave the graph; empty where it can't be seen, too."""
        ...

    def representable(self, cotangent: Array) -> Array:
        """The cotangent as the outputs' dtype holds it."""
        ...

    def gradient(self, cotangent: Array, moved: Mapping[int, Array] | None = None) -> tuple[Gradient, ...]:
        """The claimed gradient of ⟨cotangent, F⟩, one per tensor.

        Moved elsewhere it serves to measure the gradient's own rounding; a gradient given as computed values doesn't
        follow.
        """
        ...

    def wide_gradient(self, cotangent: Array, moved: Mapping[int, Array] | None = None) -> tuple[Gradient, ...] | None:
        """The same formula for the gradient computed in float64; None where it can't be, and in a problem that isn't a
        :meth:`shadow`.
        """
        ...

    def tangent(self, direction: Mapping[int, Array]) -> Array | None:
        """Forward mode: the framework's derivative of F along a direction, of shape (M,); None where it has none."""
        ...
