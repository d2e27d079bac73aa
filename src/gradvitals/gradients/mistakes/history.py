"""Backward passes that remember: asked again, at the same point, they don't say the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradvitals.frameworks.problem import Problem
from gradvitals.gradients.measure_base import Base
from gradvitals.gradients.mistakes.behaviour import elsewhere, memory
from gradvitals.gradients.mistakes.mistake import Mistake
from gradvitals.gradients.mistakes.scene import Scene


@dataclass(frozen=True, slots=True)
class Remembered:
    """A tensor whose gradient depends on the calls before: by how much, relatively, and how."""

    relative_error: float
    mistake: Mistake


def remembered(problem: Problem, base: Base, rng: np.random.Generator) -> dict[int, Remembered]:
    """The tensors whose gradient, asked for once more after one far away, is another one.

    A sound backward pass takes two calls; noise that follows no pattern is left to others.

    Parameters
    ----------
    problem : Problem
    base : Base
        With the gradients as they came first.
    rng : numpy.random.Generator

    """
    found = {}
    scenes = [Scene(problem, base, at, problem.sample_sizes, rng) for at in range(len(problem.tensors))]
    if not scenes:
        return {}
    scenes[0].backwards(moved=elsewhere(scenes[0]))
    again = scenes[0].backwards()
    for scene, gradient in zip(scenes, again, strict=True):
        if gradient is None or scene.same(gradient, scene.claimed):
            continue
        mistake = memory(scene)
        if mistake is not None:
            apart = float(np.linalg.norm(gradient - scene.claimed))
            size = float(np.linalg.norm(gradient)) + float(np.linalg.norm(scene.claimed))
            found[scene.at] = Remembered(apart / size, mistake)
    return found
