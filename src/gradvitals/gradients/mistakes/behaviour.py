"""How a backward pass behaves when it is asked again: with another cotangent, elsewhere, twice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.frameworks.problem import Array
from gradvitals.gradients.mistakes.mistake import Mistake
from gradvitals.gradients.mistakes.readings import Readings
from gradvitals.vocabulary.finding import Fact

if TYPE_CHECKING:
    from gradvitals.gradients.mistakes.scene import Scene

#: How far tensors are moved to see whether a gradient follows, relative to their scale.
_FAR = 0.25
#: A slope that changes by less than this share needn't be followed.
_FOLLOWED = 1e-2
#: Tensors that are moved at most: each costs a few evaluations.
_MOST_TENSORS = 24
#: Unit roundoff of float64, and nothing coarser.
_WIDE = 1e-12
#: The backward pass in another precision is as good as this, relatively, or it is another formula.
_STILL_CLOSE = 0.5


def indifferent(scene: Scene) -> Mistake | None:
    """A gradient that doesn't depend on the cotangent, or on a power of it other than the first."""
    here, doubled = scene.backward(), scene.backward(2 * scene.base.cotangent)
    if here is None or doubled is None or not here.any() or scene.same(doubled, 2 * here):
        return None
    turned = scene.backward(-scene.base.cotangent)
    if turned is not None and scene.same(turned, here) and scene.same(doubled, here):
        return Mistake("ignores-cotangent", 0.98)
    degree = math.log2(max(float(np.linalg.norm(doubled)), 1e-300) / float(np.linalg.norm(here)))
    if scene.same(doubled, 2.0**degree * here):
        return Mistake("not-linear", 0.95, facts={"degree": round(degree, 3)})
    return None


def bent(scene: Scene) -> Mistake | None:
    """A gradient that isn't linear in the cotangent in some other way: something is added to it, or cut off."""
    here, doubled = scene.backward(), scene.backward(2 * scene.base.cotangent)
    return None if here is None or doubled is None or scene.same(doubled, 2 * here) else Mistake("not-linear", 0.8)


def memory(scene: Scene) -> Mistake | None:
    """A gradient that depends on what was asked before: it adds up, or lags behind."""
    first = scene.backward()
    second = scene.backward()
    if first is None or second is None:
        return None
    if not scene.same(first, second):
        third = scene.backward()
        adds = third is not None and scene.same(third - second, second - first)
        return Mistake("accumulates", 0.95) if adds else None
    there, there_again = scene.backward(moved=elsewhere(scene)), scene.backward(moved=elsewhere(scene))
    back = scene.backward()
    if there is None or there_again is None or back is None:
        return None
    if not scene.same(there, there_again) or not scene.same(back, first):
        return Mistake("stale", 0.95)
    return None


def unfollowed(scene: Scene) -> Mistake | None:
    """A gradient that doesn't change with a tensor, though the slope does: it was computed from an old copy."""
    direction = scene.base.scales[scene.at] * scene.rng.standard_normal(scene.tensor.size)
    here, error = scene.slopes(direction)
    numeric = float(scene.base.cotangent @ here)
    stays = scene.backward()
    ignored, followed = [], 0
    for at in range(min(len(scene.problem.tensors), _MOST_TENSORS)):
        moved = {at: _moved(scene, at)}
        there_claimed = scene.backward(moved=moved)
        if there_claimed is None or stays is None:
            return None
        there, _ = scene.slopes(direction, moved)
        size = float(np.linalg.norm(scene.base.cotangent) * max(np.linalg.norm(here), np.linalg.norm(there)))
        changed = abs(float(scene.base.cotangent @ there) - numeric)
        if np.array_equal(there_claimed, stays):
            if np.isfinite(changed) and changed > _FOLLOWED * size + error:
                ignored.append(scene.problem.tensors[at].path)
        else:
            followed += 1
    if not ignored or (not followed and _is_given_as_values(scene)):
        return None
    return Mistake("stale", 0.6, facts={"unfollowed": tuple(ignored)})


def _is_given_as_values(scene: Scene) -> bool:
    """Whether no gradient of the problem changes anywhere: computed values don't."""
    pairs = zip(scene.backwards(moved=elsewhere(scene)), scene.base.gradients, strict=True)
    return all(there is not None and np.array_equal(there, claimed) for there, claimed in pairs)


def elsewhere(scene: Scene) -> dict[int, Array]:
    """A point at which every tensor is a good way off."""
    return {at: _moved(scene, at) for at in range(len(scene.problem.tensors))}


def _moved(scene: Scene, at: int) -> Array:
    """The tensor's values, each moved a good way by its own amount: always the same, so that it can be asked twice."""
    point = scene.base.points[at]
    signs = np.where(np.arange(point.size) % 3 == 1, -1.0, 1.0)
    by = 1 + np.arange(point.size) % 5 / 8
    return scene.problem.rounded(at, point + _FAR * scene.base.scales[at] * signs * by)


def operands(scene: Scene, observed: Readings) -> Mistake | None:
    """The backward pass is right when another tensor, or the cotangent, is handed to it transposed, flipped, or
    exchanged.
    """
    for facts, moved in _substitutions(scene):
        candidate = scene.backward(moved=moved)
        if candidate is not None and observed.explained_by(candidate):
            return Mistake("operand-permuted", 0.85, facts=facts)
    for facts, cotangent in _cotangents(scene):
        candidate = scene.backward(cotangent)
        if candidate is None:
            continue
        if observed.explained_by(candidate):
            return Mistake("operand-permuted", 0.85, facts=facts)
        turned = _turned_back(scene, facts, candidate)
        if turned is not None and observed.explained_by(turned):
            return Mistake("flipped", 0.85, facts={"axes": facts["axes"]})
        fit = observed.fit(observed.project(candidate)[:, None])
        if fit is not None:
            return Mistake("term-transposed", 0.85, facts={"coefficient": fit.estimate, **facts})
    return None


def conjugated(scene: Scene, observed: Readings) -> Mistake | None:
    """A complex gradient that is right when it, another tensor or the cotangent is conjugated."""
    if observed.explained_by(_conjugate(scene.claimed)):
        return Mistake("conjugated", 0.95)
    for at, tensor in enumerate(scene.problem.tensors[:_MOST_TENSORS]):
        if at != scene.at and tensor.is_complex:
            candidate = scene.backward(moved={at: _conjugate(scene.base.points[at])})
            if candidate is not None and observed.explained_by(candidate):
                return Mistake("conjugated", 0.95, facts={"conjugate_of": tensor.path})
    if scene.problem.objective != "random" or any(not shape or shape[-1] != 2 for shape in scene.outputs):
        return None
    candidate = scene.backward(_conjugate(scene.base.cotangent))
    if candidate is not None and observed.explained_by(candidate):
        return Mistake("conjugated", 0.95, facts={"conjugate_of": "output"})
    return None


def _conjugate(pairs: Array) -> Array:
    """Of complex numbers as pairs, flat."""
    turned: Array = (pairs.reshape(-1, 2) * np.array([1.0, -1.0])).reshape(-1)
    return turned


def _cotangents(scene: Scene) -> Iterator[tuple[dict[str, Fact], Array]]:
    """The cotangent of a single output with its axes exchanged or reversed."""
    if len(scene.outputs) != 1 or scene.problem.objective != "random":
        return
    (shape,) = scene.outputs
    values = scene.base.cotangent.reshape(shape)
    for one, other in itertools.combinations(range(len(shape)), 2):
        if shape[one] == shape[other] > 1:
            swapped = np.ascontiguousarray(values.swapaxes(one, other)).reshape(-1)
            yield {"other": "output", "how": "transposed", "axes": f"{one}, {other}"}, swapped
    for axis, n in enumerate(shape):
        if n > 1:
            flipped = np.ascontiguousarray(np.flip(values, axis)).reshape(-1)
            yield {"other": "output", "how": "flipped", "axes": str(axis)}, flipped


def _turned_back(scene: Scene, facts: Mapping[str, Fact], candidate: Array) -> Array | None:
    """The gradient for a reversed cotangent, reversed: right where a running sum isn't run backwards."""
    if facts["how"] != "flipped" or scene.tensor.shape != scene.outputs[0]:
        return None
    return np.flip(candidate.reshape(scene.tensor.shape), int(str(facts["axes"]))).reshape(-1)


def _substitutions(scene: Scene) -> Iterator[tuple[dict[str, Fact], Mapping[int, Array]]]:
    tensors, points = scene.problem.tensors, scene.base.points
    near = range(min(len(tensors), _MOST_TENSORS))
    for at in near:
        shape = tensors[at].shape
        if at == scene.at or len(shape) < 2:
            continue
        values = points[at].reshape(shape)
        facts: dict[str, Fact] = {"other": tensors[at].path}
        for one, other in itertools.combinations(range(len(shape)), 2):
            if shape[one] == shape[other] > 1:
                swapped = np.ascontiguousarray(values.swapaxes(one, other)).reshape(-1)
                yield facts | {"how": "transposed", "axes": f"{one}, {other}"}, {at: swapped}
        for axes in ((-2, -1), (-1,), (-2,)):
            flipped = np.ascontiguousarray(np.flip(values, axes)).reshape(-1)
            yield facts | {"how": "flipped", "axes": ", ".join(str(len(shape) + a) for a in axes)}, {at: flipped}
    for one, other in itertools.combinations(near, 2):
        if tensors[one].shape == tensors[other].shape and tensors[one].size > 1:
            named = tensors[other].path if one == scene.at else tensors[one].path
            yield {"other": named, "how": "exchanged"}, {one: points[other], other: points[one]}


def imprecision(scene: Scene, observed: Readings) -> Mistake | None:
    """Right in formula: the same backward pass in float64 is right, and says by how much this one is off."""
    shadow = scene.problem if scene.problem.roundoff < _WIDE else scene.problem.shadow()
    found = None if shadow is None else shadow.wide_gradient(scene.base.cotangent)
    wide = None if found is None else found[scene.at].value
    if wide is None or not wide.any() or scene.same(wide, scene.claimed) or not observed.explained_by(wide):
        return None
    off = float(np.linalg.norm(scene.claimed - wide)) / float(np.linalg.norm(wide))
    return Mistake("precision", 0.95 if off < _STILL_CLOSE else 0.7, facts={"imprecision": off})
