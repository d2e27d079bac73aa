"""Which parts of the output reach a gradient: a sum that takes only the first sample, an output that is ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradvitals.frameworks.problem import Array
from gradvitals.gradients.mistakes.mistake import Mistake
from gradvitals.gradients.mistakes.region import Region
from gradvitals.vocabulary.finding import Estimate, Fact

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    from gradvitals.gradients.mistakes.scene import Scene

#: Slices of the output are told right from dropped with this much to spare; a mistake inside a slice is neither.
_CLOSE = 0.02
#: More slices along an axis than this are joined: each costs a backward pass.
_MOST_SLICES = 32
#: A contribution below this share of the largest one says nothing.
_TELLING = 1e-3
#: The label of what belongs to another output.
_ELSEWHERE = -1
#: Random directions; a slice must be right, or dropped, along all of them.
_DIRECTIONS = 2


def dropped(scene: Scene) -> Mistake | None:
    """Some slices of the output reach this gradient as they should, the others don't reach it at all."""
    directions = [
        scene.base.scales[scene.at] * scene.rng.standard_normal(scene.tensor.size) for _ in range(_DIRECTIONS)
    ]
    slopes = []
    for direction in directions:
        slope, error = scene.slopes(direction)
        size = float(np.linalg.norm(scene.base.cotangent * slope))
        if not np.isfinite(slope).all() or error > _CLOSE * float(np.linalg.norm(slope)) or size == 0:
            return None
        slopes.append(scene.base.cotangent * slope)
    if len(scene.outputs) > 1:
        labels = np.repeat(np.arange(len(scene.outputs)), [int(np.prod(s, dtype=np.int64)) for s in scene.outputs])
        lost = _lost(scene, labels, directions, slopes)
        if lost is not None:
            return Mistake("output-ignored", 0.95, facts={"part": ", ".join(f"output{i}" for i in lost)})
        scaled = _scaled(scene, labels, directions, slopes)
        if scaled is not None:
            return scaled
    for output, axis, labels in _axes(scene.outputs):
        lost = _lost(scene, labels, directions, slopes)
        if lost == (_ELSEWHERE,):
            others = [f"output{i}" for i in range(len(scene.outputs)) if i != output]
            return Mistake("output-ignored", 0.9, facts={"part": ", ".join(others)})
        if lost is not None and _ELSEWHERE not in lost:
            return _described(scene, output, axis, labels, lost)
    return None


def _axes(outputs: tuple[tuple[int, ...], ...]) -> list[tuple[int, int, NDArray[np.int64]]]:
    """(output, axis, label of every entry of the value, −1 outside this output)."""
    total = sum(int(np.prod(shape, dtype=np.int64)) for shape in outputs)
    found, start = [], 0
    for number, shape in enumerate(outputs):
        size = int(np.prod(shape, dtype=np.int64))
        for axis, n in enumerate(shape):
            if n < 2 or n == size == total == 1:
                continue
            labels = np.full(total, _ELSEWHERE)
            index = np.arange(n) * min(n, _MOST_SLICES) // n
            along = np.broadcast_to(index.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)
            labels[start : start + size] = along.reshape(-1)
            found.append((number, axis, labels))
        start += size
    return found


def _lost(
    scene: Scene, labels: NDArray[np.int64], directions: list[Array], slopes: list[Array]
) -> tuple[int, ...] | None:
    """The labels that don't reach the gradient, if some do rightly and all others not at all."""
    lost, kept = [], 0
    largest = [max(abs(float(slope[labels == k].sum())) for k in np.unique(labels)) for slope in slopes]
    for label in np.unique(labels):
        inside = labels == label
        gradient = scene.backward(np.where(inside, scene.base.cotangent, 0.0))
        if gradient is None:
            return None
        pairs = [(float(s[inside].sum()), float(gradient @ u)) for s, u in zip(slopes, directions, strict=True)]
        if all(abs(numeric) <= _TELLING * most for (numeric, _), most in zip(pairs, largest, strict=True)):
            continue
        if all(abs(a) <= _CLOSE * abs(n) for n, a in pairs):
            lost.append(int(label))
        elif all(abs(n - a) <= _CLOSE * most for (n, a), most in zip(pairs, largest, strict=True)):
            kept += 1
        else:
            return None
    return tuple(lost) if lost and kept else None


def _scaled(scene: Scene, labels: NDArray[np.int64], directions: list[Array], slopes: list[Array]) -> Mistake | None:
    """One output that comes in with a factor of its own, where all others are right."""
    factors = {}
    for label in np.unique(labels):
        inside = labels == label
        gradient = scene.backward(np.where(inside, scene.base.cotangent, 0.0))
        if gradient is None:
            return None
        numeric = np.array([float(slope[inside].sum()) for slope in slopes])
        claimed = np.array([float(gradient @ direction) for direction in directions])
        if not claimed.any():
            continue
        factor = float(numeric @ claimed / (claimed @ claimed))
        if not np.all(np.abs(numeric - factor * claimed) <= _CLOSE * np.abs(numeric).max()):
            return None
        factors[int(label)] = factor
    off = [label for label, factor in factors.items() if abs(factor - 1) > 2 * _CLOSE]
    if len(off) != 1 or len(factors) < 2:
        return None
    value = factors[off[0]]
    return Mistake(
        "output-factor", 0.9, facts={"part": f"output{off[0]}", "output_factor": Estimate(value, _CLOSE * abs(value))}
    )


def _described(scene: Scene, output: int, axis: int, labels: NDArray[np.int64], lost: tuple[int, ...]) -> Mistake:
    shape = scene.outputs[output]
    along = np.moveaxis(labels[labels >= 0].reshape(shape), axis, 0).reshape(shape[axis], -1)[:, 0]
    gone = np.isin(along, lost)
    whole = Region(shape, tuple(tuple(np.flatnonzero(gone).tolist()) if i == axis else None for i in range(len(shape))))
    name = f"output{output}" if len(scene.outputs) > 1 else "output"
    facts: dict[str, Fact] = {"axis": axis, "length": shape[axis], "part": f"{name}{whole}"}
    rest = [n for other, n in enumerate(shape) if other != axis]
    summed = _is_subsequence([n for n in scene.tensor.shape if n > 1], rest)
    samples = axis == 0 and shape[axis] in scene.sample_sizes
    is_sum = summed or samples or int((~gone).sum()) == 1
    return Mistake("sum-missing" if is_sum else "output-ignored", 0.95, facts=facts)


def _is_subsequence(short: list[int], long: list[int]) -> bool:
    """Whether a tensor of these axes is broadcast to the others."""
    remaining = iter(long)
    return all(n in remaining for n in short)
