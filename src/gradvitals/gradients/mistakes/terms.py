"""A term that is missing or too much: what is missing is a multiple of something that is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.frameworks.problem import Array
from gradvitals.gradients.mistakes.factors import named
from gradvitals.gradients.mistakes.mistake import Mistake
from gradvitals.gradients.mistakes.patterns import transpositions
from gradvitals.gradients.mistakes.readings import Readings
from gradvitals.vocabulary.finding import Estimate, Fact

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    from gradvitals.gradients.mistakes.scene import Scene

#: What reaches other positions goes through the statistic when it leaves no more than this share.
_SAME_WAY = 0.02
#: Slices of which entries are measured, and entries in each, where a tensor is too large to be measured whole.
_GROUPS, _EACH = 3, 8
#: Observations beyond which two fitted numbers that explain all of them are no chance; how many standard deviations the
#: second one must have.
_SEVERAL, _SURE = 5, 5.0
#: Observations per number that is fitted slice by slice.
_PER_UNKNOWN = 2.0


def one_term(scene: Scene, observed: Readings) -> Mistake | None:
    """One coefficient times one known thing that explains all that is missing."""
    for likely, facts, direction in _terms(scene):
        if not direction.any():
            continue
        fit = observed.fit(observed.project(direction)[:, None])
        if fit is not None:
            certain = len(observed.numeric) > _PER_UNKNOWN
            return Mistake(likely, 0.9 if certain else 0.5, facts={"coefficient": fit.estimate, **facts})
    return None


def factor_and_own_term(scene: Scene, observed: Readings) -> Mistake | None:
    """One factor, but for a multiple of the tensor itself: 1/N forgotten beside a penalty that has its own."""
    columns = np.stack([observed.project(scene.claimed), observed.project(scene.own)], axis=1)
    fit = observed.fit(columns) if scene.own.any() and len(observed.numeric) > _SEVERAL else None
    if fit is None or abs(fit.coefficients[1]) <= _SURE * fit.errors[1]:
        return None
    found = named(Estimate(1 + float(fit.coefficients[0]), float(fit.errors[0])), scene.sizes)
    if found is None:
        return None
    own_term = Estimate(float(fit.coefficients[1]), float(fit.errors[1]))
    return replace(found, confidence=min(found.confidence, 0.85), facts={**found.facts, "own_term": own_term})


def _terms(scene: Scene) -> Iterator[tuple[str, dict[str, Fact], Array]]:
    tensor, own = scene.tensor, scene.own
    yield "term-own", {}, own
    for direction in fitted(scene.base.cotangent, scene.outputs, tensor.shape):
        yield "term-cotangent", {}, direction
    yield "term-sign", {}, np.sign(own)
    yield "term-constant", {}, np.ones(tensor.size)
    for axes, turned in transpositions(scene.claimed.reshape(tensor.shape)):
        yield "term-transposed", {"axes": ", ".join(map(str, axes))}, turned.reshape(-1)
    others = [at for at in range(len(scene.problem.tensors)) if at != scene.at]
    for at in others:
        other = scene.problem.tensors[at]
        if other.size == tensor.size and other.shape == tensor.shape:
            yield "term-other", {"other": other.path}, scene.base.points[at]
            yield "term-gradient", {"other": other.path}, scene.base.gradients[at]
    for direction in fitted(scene.base.value, scene.outputs, tensor.shape):
        yield "term-output", {}, direction
    for at in others:
        other = scene.problem.tensors[at]
        if other.shape == tensor.shape:
            for direction in fitted(scene.base.cotangent, scene.outputs, tensor.shape):
                yield "term-other", {"other": other.path}, direction * scene.base.points[at]


def fitted(values: Array, outputs: tuple[tuple[int, ...], ...], shape: tuple[int, ...]) -> Iterator[Array]:
    """Values of the outputs' shapes as a tensor of another shape: as they are, summed or repeated as broadcasting
    does.
    """
    start = 0
    for output in outputs:
        size = int(np.prod(output, dtype=np.int64))
        part = values[start : start + size].reshape(output)
        start += size
        if size <= 1:
            continue
        if part.size == int(np.prod(shape, dtype=np.int64)):
            yield part.reshape(-1)
        elif part.ndim >= len(shape):
            lead = part.ndim - len(shape)
            summed = part.sum(axis=tuple(range(lead)))
            narrow = tuple(i for i, (n, m) in enumerate(zip(summed.shape, shape, strict=True)) if m == 1 < n)
            summed = summed.sum(axis=narrow, keepdims=True)
            if summed.shape == shape:
                yield summed.reshape(-1)
        else:
            try:
                yield np.broadcast_to(part, shape).reshape(-1)
            except ValueError:
                continue


def per_slice(scene: Scene, observed: Readings) -> Mistake | None:
    """A statistic that was taken for a constant: in each slice what is missing is the same multiple of something.

    The way back through a mean adds the same to all entries that it was taken over, through a norm or a variance a
    multiple of the entries themselves (and, when the mean is taken out, a constant), through a softmax a multiple of
    the shares.
    """
    shape = scene.tensor.shape
    for axes in _axes_of_statistics(shape):
        over = int(np.prod([shape[axis] for axis in axes]))
        parts = _slices(scene, observed, axes)
        for statistic, columns in _statistics(scene, axes):
            if over > _PER_UNKNOWN * len(columns) and _explained(parts, columns):
                facts: dict[str, Fact] = {"statistic": statistic, "axis": axes[0] if len(axes) == 1 else None}
                facts["axes"] = ", ".join(map(str, axes))
                likely = "statistic-wrong" if _is_there(scene, axes, columns) else "detached"
                return Mistake(likely, 0.85, facts=facts)
    return None


def _is_there(scene: Scene, axes: tuple[int, ...], columns: list[Array]) -> bool:
    """Whether the way through the statistic isn't cut: what comes from above at one position of each slice reaches the
    others by a multiple of the same.
    """
    if scene.outputs[:1] != (scene.tensor.shape,) or scene.problem.objective != "random":
        return False
    labels = slice_labels(scene.tensor.shape, axes)
    first = np.zeros(scene.tensor.size, dtype=bool)
    first[np.unique(labels, return_index=True)[1]] = True
    sent = np.zeros_like(scene.base.cotangent)
    sent[: first.size] = np.where(first, scene.base.cotangent[: first.size], 0.0)
    came = scene.backward(sent)
    if came is None:
        return False
    label = labels[int(np.argmax(np.abs(np.where(first, 0.0, came))))]
    others = (labels == label) & ~first
    if not came[others].any():
        return False
    basis = np.stack([column[others] for column in columns], axis=1)
    left = came[others] - basis @ np.linalg.lstsq(basis, came[others], rcond=None)[0]
    return float(np.linalg.norm(left)) <= _SAME_WAY * float(np.linalg.norm(came[others]))


def _axes_of_statistics(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """What statistics are taken over: everything, some of the last axes, all but one (a channel's), or one axis.

    The widest come first, for they explain the same with fewer numbers.
    """
    wide = tuple(axis for axis, n in enumerate(shape) if n > 1)
    found = [
        *(wide[start:] for start in range(len(wide))),
        *(tuple(axis for axis in wide if axis != kept) for kept in wide),
        *((axis,) for axis in wide),
    ]
    sizes = {axes: int(np.prod([shape[axis] for axis in axes])) for axes in found if axes}
    return sorted(sizes, key=lambda axes: -sizes[axes])


def _statistics(scene: Scene, axes: tuple[int, ...]) -> list[tuple[str, list[Array]]]:
    """What is missing where a statistic over some axes is taken for a constant, as columns of shape (size,)."""
    shape, own = scene.tensor.shape, scene.own
    ones = np.ones(own.size)
    values = own.reshape(shape)
    powers = np.exp(values - values.max(axis=axes, keepdims=True))
    shares = (powers / powers.sum(axis=axes, keepdims=True)).reshape(-1)
    return [
        ("mean", [ones]),
        ("norm-or-variance", [own]),
        ("softmax", [shares]),
        *(("softmax", [value]) for value in fitted(scene.base.value, scene.outputs, shape)),
        ("mean-and-variance", [own, ones]),
    ]


def _slices(scene: Scene, observed: Readings, axes: tuple[int, ...]) -> list[Readings]:
    """The observations slice by slice; a few entries of a few slices are measured where there are too many."""
    labels = slice_labels(scene.tensor.shape, axes)
    everything = np.unique(labels)
    if observed.is_complete:
        return [observed.only(labels == label) for label in everything]
    chosen = scene.rng.choice(everything, min(_GROUPS, len(everything)), replace=False)
    inside = [np.flatnonzero(labels == label) for label in chosen]
    return [scene.entries(np.sort(scene.rng.choice(i, min(_EACH, len(i)), replace=False))) for i in inside]


def _explained(parts: list[Readings], columns: list[Array]) -> bool:
    """Whether in every slice in which something is missing a combination of the columns explains it."""
    wrong = [part for part in parts if part.wrong.any()]
    return bool(wrong) and all(
        part.fit(np.stack([part.project(column) for column in columns], axis=1)) is not None for part in wrong
    )


def slice_labels(shape: tuple[int, ...], axes: tuple[int, ...]) -> NDArray[np.int64]:
    """A number per entry, of shape (size,): equal where entries differ along the axes only."""
    kept = [1 if axis in axes else n for axis, n in enumerate(shape)]
    numbers = np.arange(int(np.prod(kept))).reshape(kept)
    return np.broadcast_to(numbers, shape).reshape(-1)


def repeated(scene: Scene, observed: Readings) -> Mistake | None:
    """One gradient repeated along an axis, where each position has its own."""
    claimed = scene.claimed.reshape(scene.tensor.shape)
    for axis, n in enumerate(claimed.shape):
        first = np.take(claimed, [0], axis)
        if n < 2 or not np.array_equal(np.broadcast_to(first, claimed.shape), claimed):
            continue
        facts: dict[str, Fact] = {"axis": axis}
        if observed.is_complete:
            slopes = observed.slopes.reshape(claimed.shape)
            named = {"mean": slopes.mean(axis, keepdims=True), "sum": slopes.sum(axis, keepdims=True)}
            size = np.linalg.norm(first)
            how = [name for name, value in named.items() if np.linalg.norm(value - first) <= 1e-3 * size]
            if np.linalg.norm(slopes - slopes.mean(axis, keepdims=True)) <= 1e-3 * np.linalg.norm(slopes):
                continue  # each position has the same slope: then it isn't the repetition that is wrong
            facts["how"] = how[0] if how else None
        return Mistake("broadcast", 0.85, facts=facts)
    return None
