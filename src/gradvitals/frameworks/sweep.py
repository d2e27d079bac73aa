"""Single entries of tensors measured in bulk: where a displacement enters, and what its slopes say of the entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from gradvitals.frameworks.problem import Array, Problem

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Indices = NDArray[np.int64]


class Sweep(Protocol):
    """Entrances at which F can be displaced, one at a time; slopes along all of them give all entries of some tensors.

    The entrances of :class:`EntrySweep` are a tensor's own entries.
    """

    #: The tensors whose entries are measured.
    tensors: tuple[int, ...]
    #: How many entrances there are.
    size: int

    def displacements(self, step: float) -> Array:
        """For every entrance a displacement of about this step, relative to its scale, that rounds nothing."""
        ...

    def values(self, entrances: Indices, displacements: Array) -> Array:
        """F with one entrance displaced, K times over: of shape (K, M); NaN where F can't be had."""
        ...

    def entries(self, slopes: Array) -> Mapping[int, Array]:
        """From the slopes along all entrances, of shape (size,), to those along all entries of each tensor."""
        ...

    def errors(self, errors: Array) -> Mapping[int, Array]:
        """From independent errors of the slopes to those of the entries, both of shape (size,) and standard
        deviations.
        """
        ...


class EntrySweep:
    """A tensor's own entries, moved one by one.

    Examples
    --------
    >>> from gradvitals.frameworks import Case, opened
    >>> with opened(Case(np.square, (np.array([1.0, 2.0]),), vjp=lambda dout: 2 * dout)) as problem:
    ...     EntrySweep(problem, 0, scale=1.0).values(np.array([1, 0]), np.array([1.0, 1.0]))
    array([[1., 9.],
           [4., 4.]])

    """

    def __init__(self, problem: Problem, at: int, scale: float) -> None:
        self.tensors: tuple[int, ...] = (at,)
        self.size = problem.tensors[at].size
        self._scale = scale
        self._roundoff = min(problem.tensors[at].roundoff, problem.roundoff)
        self._problem = problem
        self._point = problem.point(at)

    def displacements(self, step: float) -> Array:
        return exact_displacements(self._point, step * self._scale, self._roundoff)

    def values(self, entrances: Indices, displacements: Array) -> Array:
        points = []
        for entrance, displacement in zip(entrances, displacements, strict=True):
            moved = self._point.copy()
            moved[entrance] += displacement
            points.append({self.tensors[0]: moved})
        return self._problem.values(points)

    def entries(self, slopes: Array) -> Mapping[int, Array]:
        return {self.tensors[0]: slopes}

    def errors(self, errors: Array) -> Mapping[int, Array]:
        return {self.tensors[0]: errors}


def exact_displacements(values: Array, displacement: float, roundoff: float) -> Array:
    """Displacements near a wanted one, so that values plus and minus them are numbers of a precision.

    >>> exact_displacements(np.array([1.0, 100.0]), 1e-6, 2.0**-24) * 2**23
    array([ 8., 64.])
    """
    unit = np.ldexp(2 * roundoff, np.frexp(np.abs(values) + displacement)[1] - 1)
    moved: Array = np.fmax(np.round(displacement / unit), 1.0) * unit
    return moved


@runtime_checkable
class Swept(Protocol):
    """A problem that has faster ways to its entries than moving them one by one."""

    def sweeps(self) -> Sequence[Sweep]:
        """Ways that serve some of the tensors, each tensor at most once."""
        ...
