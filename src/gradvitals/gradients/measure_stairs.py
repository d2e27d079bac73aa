"""Stairs that no step of the ladder reaches: outputs that are rounded inside to far less than their own size.

A large number that is added and taken away again leaves a value that is a multiple of that number's last place. Near
the point such an output stays the same whatever its inputs do, so that its slope seems to be zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from gradvitals.frameworks.problem import Array, Problem
from gradvitals.gradients.measure_base import Base
from gradvitals.maths.differences import ladder_for, noise_from, staircase

#: Stairs are looked for at points in a row, the first row as long as the coarsest step of a ladder and each further
#: one this many times longer: a row shows stairs whose treads are two to eight times as wide as its points are apart.
_IN_A_ROW, _WIDER, _ROWS = 16, 4.0, 11
#: A sum of stairs is as noisy as they are together; that shows so many rows beyond the one that shows a single step,
#: and is believed up to so many times the noise of one.
_BEYOND, _TOGETHER = 2, 16.0


def far_stairs(problem: Problem, base: Base, direction: Mapping[int, Array]) -> Array:
    """Standard deviation of the noise that every output's stairs make, of shape (M,), looked for from near to far
    along a direction; zero where there are none.
    """
    noise, limit = np.zeros(base.value.size), np.zeros(base.value.size)
    left = np.full(base.value.size, _BEYOND)
    spacing = ladder_for(base.roundoff).first / _IN_A_ROW
    for _ in range(_ROWS):
        row = [{at: base.points[at] + k * spacing * u for at, u in direction.items()} for k in range(_IN_A_ROW + 1)]
        values = problem.values(row)
        one = staircase(values) / math.sqrt(12)
        known = limit > 0
        together = np.where(known & (left > 0), np.nan_to_num(noise_from(values)), 0.0)
        left -= known
        limit = np.where(known, limit, _TOGETHER * one)
        noise = np.fmax(np.fmax(noise, np.where(known, 0.0, one)), np.fmin(together, limit))
        if (left[base.cotangent != 0] <= 0).all():
            break
        spacing *= _WIDER
    return noise
