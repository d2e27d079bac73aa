"""What surrounds a wrong tensor: the other tensors, the outputs, and ways to ask for more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.frameworks.problem import Array, Problem, Tensor
from gradvitals.gradients.measure_base import Base
from gradvitals.gradients.measure_lines import Line, measure_line
from gradvitals.gradients.mistakes.factors import Sizes
from gradvitals.gradients.mistakes.readings import Readings
from gradvitals.vocabulary.errors import GradvitalsError

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

#: A plain central difference for questions of yes and no: its step, relative to the tensor's scale, is the cube root
#: of the roundoff, where truncation and rounding meet.
_STEP_POWER = 1 / 3
#: Two gradients that were computed alike differ by less than this many times the roundoff, relatively.
_ROUNDING = 64.0


@dataclass(frozen=True, slots=True)
class Scene:
    """A problem at its base point, seen from the tensor number ``at``."""

    problem: Problem
    base: Base
    at: int
    sample_sizes: tuple[int, ...]
    rng: np.random.Generator

    @property
    def tensor(self) -> Tensor:
        return self.problem.tensors[self.at]

    @property
    def own(self) -> Array:
        """The tensor's values."""
        return self.base.points[self.at]

    @property
    def claimed(self) -> Array:
        """The tensor's gradient as the backward pass gave it."""
        return self.base.gradients[self.at]

    @property
    def outputs(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the function's outputs."""
        return self.problem.output_shapes

    @property
    def sizes(self) -> Sizes:
        shapes = {tensor.path: tensor.shape for tensor in self.problem.tensors} | dict(self.problem.input_shapes)
        shapes |= {f"output{i}" if len(self.outputs) > 1 else "output": s for i, s in enumerate(self.outputs)}
        return Sizes(self.sample_sizes, tuple(shapes.items()))

    def line(self, direction: Array) -> Line:
        """One more line of this tensor alone."""
        return measure_line(self.problem, self.base, {self.at: direction})

    def backward(self, cotangent: Array | None = None, moved: Mapping[int, Array] | None = None) -> Array | None:
        """The tensor's claimed gradient for another cotangent, or elsewhere; None where none came."""
        return self.backwards(cotangent, moved)[self.at]

    def backwards(
        self, cotangent: Array | None = None, moved: Mapping[int, Array] | None = None
    ) -> tuple[Array | None, ...]:
        """Every tensor's claimed gradient, see :meth:`backward`."""
        given = self.base.cotangent if cotangent is None else cotangent
        try:
            found = [gradient.value for gradient in self.problem.gradient(given, moved)]
        except GradvitalsError:  # a substitution that the user's code doesn't take
            found = [None] * len(self.problem.tensors)
        return tuple(value if value is not None and np.isfinite(value).all() else None for value in found)

    def same(self, one: Array, other: Array) -> bool:
        """Whether two gradients agree within rounding."""
        size = max(float(np.linalg.norm(one)), float(np.linalg.norm(other)))
        roundoff = max(self.base.gradient_roundoff, self.tensor.roundoff)
        return float(np.linalg.norm(one - other)) <= _ROUNDING * roundoff * size

    def slopes(self, direction: Array, moved: Mapping[int, Array] | None = None) -> tuple[Array, float]:
        """The derivative of every output along a direction of this tensor, of shape (M,), and how far it may be off.

        A plain central difference, once more at half the step.
        """
        elsewhere = dict(moved or {})
        start = elsewhere.get(self.at, self.own)
        found = []
        for h in (self._step, self._step / 2):
            points = [
                elsewhere | {self.at: self.problem.rounded(self.at, start + sign * h * direction)} for sign in (1, -1)
            ]
            ahead, behind = self.problem.values(points)
            found.append((ahead - behind) / (2 * h))
        refined = (4 * found[1] - found[0]) / 3
        return refined, float(np.linalg.norm(refined - found[1]))

    def entries(self, indices: NDArray[np.int64]) -> Readings:
        """A few entries by plain central differences: four evaluations each, where a ladder takes twenty."""
        scale = self.base.scales[self.at]
        numeric, error = np.empty(len(indices)), np.empty(len(indices))
        for row, index in enumerate(indices):
            unit = np.zeros(self.tensor.size)
            unit[index] = scale
            slope, off = self.slopes(unit)
            numeric[row] = float(self.base.cotangent @ slope)
            noise = self.base.projected_noise / self._step
            error[row] = math.hypot(off * float(np.linalg.norm(self.base.cotangent)), noise)
        analytic, scales = scale * self.claimed[indices], np.full(len(indices), scale)
        return Readings(numeric, analytic, error, np.zeros(len(indices)), indices, scales, (), self.tensor.size)

    @property
    def _step(self) -> float:
        return 2.0 ** round(math.log2(max(self.base.roundoff, self.tensor.roundoff) ** _STEP_POWER))
