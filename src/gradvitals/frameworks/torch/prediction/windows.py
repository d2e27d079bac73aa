"""Windows that slide over positions: which output sees which input, and what that makes of kernels and maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Table = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Windows:
    """One table per spatial dimension, of shape (taps, outputs): the input behind each tap, −1 where it is padding."""

    tables: tuple[Table, ...]
    inputs: tuple[int, ...]

    @property
    def outputs(self) -> tuple[int, ...]:
        """The number of outputs per dimension."""
        return tuple(table.shape[1] for table in self.tables)

    @property
    def taps(self) -> int:
        """The size of a window."""
        return math.prod(len(table) for table in self.tables)

    def reversed(self) -> Windows:
        """From the inputs' side: which output each tap of an input belongs to."""
        tables = []
        for table, n in zip(self.tables, self.inputs, strict=True):
            back = np.full((len(table), n), -1, dtype=np.intp)
            for tap, row in enumerate(table):
                seen = row >= 0
                back[tap, row[seen]] = np.nonzero(seen)[0]
            tables.append(back)
        return Windows(tuple(tables), self.outputs)

    # ---- sums over independent taps: convolutions with random weights ----

    def summed_map(self, array: Any, axes: Sequence[int]) -> Any:
        """For every output, the sum of a map over its window."""
        for axis, table, n in zip(axes, self.tables, self.inputs, strict=True):
            array = np.moveaxis(np.tensordot(_matrix(table, n), array, (1, axis)), 0, axis)
        return array

    def summed_kernel(self, kernel: Any, axes: Sequence[int], places: int) -> Any:
        """For every two outputs, the sum over taps of the kernel at the two inputs behind the same tap."""
        for axis, table, n in zip(axes, self.tables, self.inputs, strict=True):
            total: Any = 0.0
            padded = np.moveaxis(kernel, (axis, places + axis), (0, 1))
            padded = np.pad(padded, [(0, 1), (0, 1), *[(0, 0)] * (padded.ndim - 2)])
            for row in table:
                at = np.where(row < 0, n, row)
                total = total + padded[np.ix_(at, at)]
            kernel = np.moveaxis(total, (0, 1), (axis, places + axis))
        return kernel

    def summed_rows(self, rows: Any, axes: Sequence[int]) -> Any:
        """The sum of a map over the taps that a typical other output has as well."""
        for axis, table, n in zip(axes, self.tables, self.inputs, strict=True):
            matrix = np.zeros((table.shape[1], n))
            for row in table:
                seen = row >= 0
                matrix[np.nonzero(seen)[0], row[seen]] += seen.mean()
            rows = np.moveaxis(np.tensordot(matrix, rows, (1, axis)), 0, axis)
        return rows

    # ---- averages of what the window holds: pooling ----

    def mixed_kernel(self, kernel: Any, axes: Sequence[int], places: int, *, back: bool = False) -> Any:
        """The kernel of the sums over windows, A K Aᵀ."""
        for axis, table, n in zip(axes, self.tables, self.inputs, strict=True):
            a = _matrix(table, n)
            a = a.T if back else a
            kernel = np.moveaxis(np.tensordot(a, kernel, (1, axis)), 0, axis)
            kernel = np.moveaxis(np.tensordot(a, kernel, (1, places + axis)), 0, places + axis)
        return kernel

    def counts(self) -> Any:
        """How many inputs each output's window holds."""
        return _outer([(table >= 0).sum(axis=0).astype(float) for table in self.tables])


def _matrix(table: Table, inputs: int) -> Any:
    """Which inputs each output sums."""
    matrix = np.zeros((table.shape[1], inputs))
    for row in table:
        seen = row >= 0
        matrix[np.nonzero(seen)[0], row[seen]] += 1
    return matrix


def _outer(vectors: Sequence[Any]) -> Any:
    result = np.ones(())
    for vector in vectors:
        result = np.multiply.outer(result, vector)
    return result


def sliding(
    inputs: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    outputs: Sequence[int],
) -> Windows:
    """The windows of a convolution or pooling.

    >>> sliding((4,), (3,), (1,), (1,), (1,), (4,)).tables[0]
    array([[-1,  0,  1,  2],
           [ 0,  1,  2,  3],
           [ 1,  2,  3, -1]])
    """
    tables = []
    for n, k, s, p, d, out in zip(inputs, kernel, stride, padding, dilation, outputs, strict=True):
        at = np.arange(out)[None, :] * s - p + np.arange(k)[:, None] * d
        tables.append(np.where((at >= 0) & (at < n), at, -1))
    return Windows(tuple(tables), tuple(inputs))


def transposed(
    inputs: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    outputs: Sequence[int],
) -> Windows:
    """The windows of a transposed convolution: those of the convolution from its outputs, reversed."""
    return sliding(outputs, kernel, stride, padding, dilation, inputs).reversed()


def adaptive(inputs: Sequence[int], outputs: Sequence[int]) -> Windows:
    """The windows of an adaptive pooling."""
    tables = []
    for n, out in zip(inputs, outputs, strict=True):
        starts = [i * n // out for i in range(out)]
        stops = [-(-(i + 1) * n // out) for i in range(out)]
        size = max(b - a for a, b in zip(starts, stops, strict=True))
        table = np.full((size, out), -1, dtype=np.intp)
        for i, (a, b) in enumerate(zip(starts, stops, strict=True)):
            table[: b - a, i] = np.arange(a, b)
        tables.append(table)
    return Windows(tuple(tables), tuple(inputs))


__all__ = ["Windows", "adaptive", "sliding", "transposed"]
