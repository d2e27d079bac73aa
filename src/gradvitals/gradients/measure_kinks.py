"""Outputs at a kink or a jump: found among what was measured, left out of the cotangent, and judged by themselves.

At a kink any slope between those on its two sides is right (a sub-gradient), so that nothing finer can be asked there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradvitals.frameworks.problem import Array, Gradient, Problem
from gradvitals.gradients.measure_base import Base
from gradvitals.gradients.measure_rays import Ray

#: An output is bent where a kink leaves its slope open by more than this share of it.
_BENT = 0.02
#: A claim this far outside (relative) is no sub-gradient: both sides are measured to about 1 % in float32 and bfloat16.
OUTSIDE = 0.05
#: Noise that a gradient at a kink may be off by, in standard deviations, and the leeway of the sides' own slopes.
_WITHIN, _LEEWAY = 5.0, 1.1


@dataclass(frozen=True, slots=True)
class Kinks:
    """Which outputs were left out (``masked``, of shape (M,)).

    ``outside`` is how far, relatively, the claimed gradient of some ``tensors`` lies outside of what sub-gradients
    allow there (zero: inside); ``beside`` are tensors that were checked a step beside the point.
    """

    masked: np.ndarray
    outside: float = 0.0
    tensors: tuple[int, ...] = ()
    beside: tuple[int, ...] = ()

    @property
    def doubtful(self) -> tuple[int, ...]:
        """The tensors whose gradient is no sub-gradient at the outputs left out."""
        return self.tensors if self.outside > OUTSIDE else ()

    @property
    def share(self) -> float:
        """The share of the outputs that was left out."""
        return float(np.mean(self.masked)) if self.masked.size else 0.0


def bent_outputs(base: Base, rays: Sequence[Ray]) -> np.ndarray:
    """Outputs whose slope along some ray can't be had (a jump, an edge of the domain) or is open because of a kink."""
    bent = np.zeros(base.value.size, dtype=bool)
    for ray in rays:
        slopes = ray.slopes(ray.noise(base))
        unknown = ~(np.isfinite(slopes.value) & np.isfinite(slopes.error))
        with np.errstate(invalid="ignore"):
            bent |= unknown | (slopes.kinks > _BENT * (np.abs(slopes.value) + slopes.kinks))
    return bent


def without(problem: Problem, base: Base, masked: np.ndarray) -> tuple[Array, tuple[Gradient, ...]]:
    """The cotangent without some outputs, and the gradients that it gives."""
    cotangent = np.where(masked, 0.0, base.cotangent)
    return cotangent, problem.gradient(cotangent)


def outside(problem: Problem, base: Base, masked: np.ndarray, ray: Ray) -> float:
    """How far the claimed gradient of the outputs left out lies outside the slopes on both sides of their kinks.

    The outputs are weighed by the sign of their own slope, so that they don't cancel one another.

    Parameters
    ----------
    base : Base
        With all outputs.
    masked : array of shape (M,)
        Those left out.
    ray : Ray

    Returns
    -------
    float
        Relative to the claimed slope; zero when it lies inside.

    """
    with np.errstate(invalid="ignore"):
        quotients = (ray.ahead - ray.behind) / (2 * ray.steps[:, None])
        bend = np.abs(ray.ahead + ray.behind - 2 * ray.centre) / (2 * ray.steps[:, None])
    # A jump has no slopes that could be compared.
    seen = masked & np.isfinite(quotients).all(axis=0) & ~ray.jumps(ray.noise(base))
    signs = np.where(quotients[-1] < 0, -1.0, 1.0)
    cotangent = problem.representable(np.where(seen, signs * np.abs(base.cotangent), 0.0))
    values = [claim.value for claim in problem.gradient(cotangent)]
    moved = [(values[at], u) for at, u in ray.direction.items()]
    claimed = sum(float(value @ u) for value, u in moved if value is not None)
    measured = quotients[:, seen] @ cotangent[seen]
    open_by = bend[:, seen] @ np.abs(cotangent[seen])
    noise = float(np.linalg.norm(cotangent * base.noise)) / ray.steps
    own = sum(float(np.sum((base.gradient_errors[at] * u) ** 2)) for at, u in ray.direction.items()) ** 0.5
    beyond = np.abs(claimed - measured) - _LEEWAY * open_by - _WITHIN * (noise + own)
    # Of several steps the one that explains most counts: where any of them allows the claim, it stands.
    return max(0.0, float(beyond.min())) / max(abs(claimed), 1e-300) if seen.any() and np.isfinite(claimed) else 0.0
