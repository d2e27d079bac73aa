"""The right numbers in the wrong places: transposed, flipped, rolled, in another order, or another tensor's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.frameworks.problem import Array
from gradvitals.gradients.measure_lines import SUSPECT_AT
from gradvitals.gradients.mistakes.mistake import Mistake
from gradvitals.gradients.mistakes.readings import Readings
from gradvitals.gradients.mistakes.region import spelt
from gradvitals.vocabulary.finding import Fact

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    from gradvitals.gradients.mistakes.scene import Scene

#: Axes longer than this are tried with few shifts only, and their order isn't matched.
_LONG = 64
#: Shifts of a long axis that are tried, besides the half of it.
_SHORT_SHIFTS = (1, 2, -1, -2)
#: Directions along which a slice is measured: two slices hardly agree by chance along all of them.
_LINES = 2
#: Tensors of more axes than this have too many permutations.
_MOST_AXES = 5


def rearranged(observed: Readings, gradient: Array, shape: tuple[int, ...]) -> Mistake | None:
    """A rearrangement of the claimed gradient that explains everything."""
    for likely, facts, candidate in _rearrangements(gradient.reshape(shape)):
        if observed.explained_by(candidate.reshape(-1)):
            return Mistake(likely, 0.95, facts=facts)
    return None


def _rearrangements(gradient: NDArray[np.float64]) -> Iterator[tuple[str, dict[str, Fact], NDArray[np.float64]]]:
    for axes, candidate in transpositions(gradient):
        yield "transposed", {"axes": _listed(axes)}, candidate
    long = [axis for axis, n in enumerate(gradient.shape) if n > 1]
    for count in range(1, len(long) + 1):
        for axes in itertools.combinations(long, count):
            yield "flipped", {"axes": _listed(axes)}, np.flip(gradient, axes)
    for axis in long:
        n = gradient.shape[axis]
        shifts = range(1, n) if n <= _LONG else (*_SHORT_SHIFTS, n // 2)
        for shift in shifts:
            signed = shift if shift <= n // 2 else shift - n
            yield "rolled", {"axis": axis, "shift": signed}, np.roll(gradient, shift, axis)


def transpositions(gradient: NDArray[np.float64]) -> Iterator[tuple[tuple[int, ...], NDArray[np.float64]]]:
    """The axes in another order, and what becomes right when a reshape is replaced by a transposition."""
    shape = gradient.shape
    if len(shape) > _MOST_AXES:
        return
    for order in itertools.permutations(range(len(shape))):
        turned = tuple(shape[axis] for axis in order)
        if order == tuple(range(len(shape))):
            continue
        axes = tuple(axis for axis, other in enumerate(order) if axis != other)
        if all(shape[axis] == 1 for axis in axes):
            continue
        if turned == shape:
            yield axes, gradient.transpose(order)
        else:
            yield axes, gradient.reshape(turned).transpose(np.argsort(order))


def reordered(scene: Scene, observed: Readings) -> Mistake | None:
    """The order of slices along one axis that explains everything: each measured slice is another claimed one."""
    shape = scene.tensor.shape
    for axis, n in enumerate(shape):
        if not 1 < n <= _LONG:
            continue
        claimed = np.moveaxis(scene.claimed.reshape(shape), axis, 0).reshape(n, -1)
        order = _matched(*_slices(scene, observed, axis, claimed))
        if order is None or np.array_equal(order, np.arange(n)):
            continue
        candidate = np.take(scene.claimed.reshape(shape), order, axis)
        if observed.explained_by(candidate.reshape(-1)):
            moved = spelt(tuple(int(i) for i in np.flatnonzero(order != np.arange(n))))
            return Mistake("permuted", 0.9, facts={"axis": axis, "order": tuple(int(i) for i in order), "moved": moved})
    return None


def _slices(scene: Scene, observed: Readings, axis: int, claimed: Array) -> tuple[Array, Array, Array]:
    """Measured slices (n, m), their errors, and the claimed ones (n, m).

    Where not every entry was measured, each slice is measured along a few directions, the same for all.
    """
    shape = scene.tensor.shape
    n = shape[axis]
    if observed.is_complete:
        slopes = np.moveaxis(observed.slopes.reshape(shape), axis, 0).reshape(n, -1)
        errors = np.zeros(observed.size)
        errors[observed.index] = (SUSPECT_AT * observed.error + observed.slack)[: len(observed.index)] / observed.scale
        return slopes, np.moveaxis(errors.reshape(shape), axis, 0).reshape(n, -1), claimed
    scale = scene.base.scales[scene.at]
    along = scale * scene.rng.standard_normal((_LINES, claimed.shape[1]))
    rest = shape[:axis] + shape[axis + 1 :]
    lines = np.empty((n, _LINES), dtype=object)
    for i, k in np.ndindex(lines.shape):
        direction = np.zeros((n, claimed.shape[1]))
        direction[i] = along[k]
        lines[i, k] = scene.line(np.moveaxis(direction.reshape(n, *rest), 0, axis).reshape(-1))
    measured = np.array([[line.numeric for line in row] for row in lines])
    errors = np.array([[SUSPECT_AT * line.error + line.slack for line in row] for row in lines])
    return measured, errors, claimed @ along.T


def _matched(measured: Array, errors: Array, claimed: Array) -> NDArray[np.int64] | None:
    """For each measured slice the claimed one that is nearest, when every claimed one is taken once."""
    apart = np.linalg.norm(measured[:, None, :] - claimed[None, :, :], axis=2)
    within = np.linalg.norm(errors, axis=1)
    order = np.array([i if row[i] <= row.min() + within[i] else int(row.argmin()) for i, row in enumerate(apart)])
    return order if len(set(order.tolist())) == len(order) else None


def anothers(scene: Scene, observed: Readings) -> Mistake | None:
    """The gradient of another tensor: exchanged, or given twice."""
    for other, tensor in enumerate(scene.problem.tensors):
        if other == scene.at or tensor.size != scene.tensor.size or tensor.size == 1:
            continue
        theirs = scene.base.gradients[other]
        if not theirs.any():
            continue
        for candidate in _as_shaped(theirs, tensor.shape, scene.tensor.shape):
            if observed.explained_by(candidate):
                return Mistake("exchanged", 0.95, facts={"other": tensor.path})
            if scene.same(candidate, scene.claimed):
                return Mistake("gradient-of-other", 0.9, facts={"other": tensor.path})
    return None


def _as_shaped(values: Array, shape: tuple[int, ...], wanted: tuple[int, ...]) -> Iterator[Array]:
    """Another tensor's values in this one's shape, as they are or transposed."""
    if shape == wanted or len(shape) != 2:
        yield values
    if len(shape) == 2 and shape[::-1] == wanted:
        yield values.reshape(shape).T.reshape(-1)


def _listed(axes: tuple[int, ...]) -> str:
    return ", ".join(map(str, axes))
