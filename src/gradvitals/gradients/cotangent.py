"""The cotangent that turns the outputs into one number, whose gradient is judged."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gradvitals.frameworks.problem import Array, Gradient, Problem
from gradvitals.gradients.measure_base import parts_of
from gradvitals.gradients.measure_lines import COARSE

#: Outputs that change less than this beside the others get no greater weight in the cotangent.
_LEAST_CHANGE = 1e-6
#: A gradient of so few entries may be nearly the same turned around, by chance; by less than this share (2-norm) it is
#: too nearly so for a 16-bit format, and another cotangent is drawn, so often at most.
_FEW_ENTRIES, _NEARLY, _DRAWN = 4, 0.4, 3


def cotangent_of(problem: Problem, change: Array, rng: np.random.Generator) -> Array:
    """1 for a scalar objective; else random signs of random size, which no mistake cancels by accident, and larger for
    output tensors that change little, so that each of several outputs counts alike.

    Parameters
    ----------
    change : array of shape (M,)
        How fast each output changes, roughly.

    """
    if problem.objective != "random":
        return np.ones(change.size)
    drawn = rng.choice((-1.0, 1.0), change.size) * rng.uniform(0.5, 1.0, change.size)
    parts = list(parts_of(problem.output_sizes))
    rates = np.array([float(np.sqrt(np.mean(np.square(change[part])))) for part in parts])
    fastest = float(rates.max(initial=0.0))
    if fastest > 0:  # of what stays the same (a sign, a count) a greater weight would only raise the noise
        rates = np.where(rates > 0, np.fmax(rates, _LEAST_CHANGE * fastest), fastest)
        for part, rate in zip(parts, rates / fastest, strict=True):
            drawn[part] /= 2.0 ** round(math.log2(rate))
    return problem.representable(drawn)


def claimed(problem: Problem, change: Array, rng: np.random.Generator) -> tuple[Array, tuple[Gradient, ...]]:
    """A cotangent and the gradients that are claimed for it: in 16-bit formats such that entries in the wrong order
    would show.
    """
    cotangent = cotangent_of(problem, change, rng)
    gradients = problem.gradient(cotangent)
    if problem.objective != "random" or change.size == 1 or problem.roundoff < COARSE:
        return cotangent, gradients
    for _ in range(_DRAWN - 1):
        if not _looks_alike_reversed(gradients):
            break
        cotangent = cotangent_of(problem, change, rng)
        gradients = problem.gradient(cotangent)
    return cotangent, gradients


def _looks_alike_reversed(gradients: Sequence[Gradient]) -> bool:
    values = [g.value for g in gradients if g.value is not None and 1 < g.value.size <= _FEW_ENTRIES]
    return any(float(np.linalg.norm(g - g[::-1])) < _NEARLY * float(np.linalg.norm(g)) for g in values)
