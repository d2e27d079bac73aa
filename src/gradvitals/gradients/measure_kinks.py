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
#: Noise that a gradient at a kink may be off by, in standard deviations, and the leeway of the sides' own slopes.
_WITHIN, _LEEWAY = 5.0, 1.1


@dataclass(frozen=True, slots=True)
class Kinks:
    """Which outputs were left out (``masked``, of shape (M,)); ``outside``: how far, relatively, the claimed gradient
    lies outside of what sub-gradients allow there (zero: inside); ``beside``: whether tensors were checked a step
    beside the point.
    """

    masked: np.ndarray
    outside: float = 0.0
    beside: bool = False

    @property
    def share(self) -> float:
        """The share of the outputs that was left out."""
        return float(np.mean(self.masked)) if self.masked.size else 0.0


def bent_outputs(base: Base, rays: Sequence[Ray]) -> np.ndarray:
    """Outputs whose slope along some ray can't be had (a jump, an edge of the domain) or is open because of a kink."""
    bent = np.zeros(base.value.size, dtype=bool)
    for ray in rays:
        slopes = ray.slopes(base)
        unknown = ~(np.isfinite(slopes.value) & np.isfinite(slopes.error))
        with np.errstate(invalid="ignore"):
            bent |= unknown | (slopes.kinks > _BENT * (np.abs(slopes.value) + slopes.kinks))
    return bent


def without(problem: Problem, base: Base, masked: np.ndarray) -> tuple[Array, tuple[Gradient, ...]]:
    """The cotangent without some outputs, and the gradients that it gives."""
    cotangent = np.where(masked, 0.0, base.cotangent)
    return cotangent, problem.gradient(cotangent)


def outside(whole: Base, rest: Base, masked: np.ndarray, rays: Sequence[Ray]) -> float:
    """How far the claimed gradient of the outputs left out lies outside the slopes on both sides of their kinks.

    Parameters
    ----------
    whole, rest : Base
        With all outputs, and without those left out.
    masked : array of shape (M,)

    Returns
    -------
    float
        Relative to the claimed slope; zero when it lies inside along every ray.

    """
    weight = np.where(masked, np.abs(whole.cotangent), 0.0)
    worst = []
    for ray in rays:
        claimed = sum(float((whole.gradients[at] - rest.gradients[at]) @ u) for at, u in ray.direction.items())
        with np.errstate(invalid="ignore"):
            quotients = (ray.ahead - ray.behind) / (2 * ray.steps[:, None])
            bend = np.abs(ray.ahead + ray.behind - 2 * whole.value) / (2 * ray.steps[:, None])
            measured = np.where(masked, whole.cotangent * quotients, 0.0).sum(axis=1)
            open_by = np.where(masked, weight * bend, 0.0).sum(axis=1)
        noise = float(np.linalg.norm(weight * whole.noise)) / ray.steps
        own = sum(float(np.sum((whole.gradient_errors[at] * u) ** 2)) for at, u in ray.direction.items()) ** 0.5
        beyond = np.abs(claimed - measured) - _LEEWAY * open_by - _WITHIN * (noise + own)
        finite = beyond[np.isfinite(beyond)]
        # Of several steps the one that explains most counts: where any step allows the claim, it stands.
        worst.append(float(finite.min()) / max(abs(claimed), 1e-300) if finite.size else 0.0)
    return max(0.0, min(worst, default=0.0))
