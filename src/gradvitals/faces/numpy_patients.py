"""The demo's NumPy patients: a layer written by hand, with a factor missing in its backward pass, and the same layer
put right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from gradvitals.faces.demo import Examination
from gradvitals.frameworks import Case
from gradvitals.gradients import check

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"


class SquaredReLU:
    """A linear layer with a squared ReLU (So et al., 2021) behind it; ``backward`` as a student might write it, or
    right.
    """

    def __init__(self, *, factor: float) -> None:
        self._factor = factor

    def forward(self, x: Array, w: Array, b: Array) -> Any:
        self._x, self._w = x, w
        self._active = np.maximum(x @ w + b, 0)
        return np.square(self._active)

    def backward(self, dout: Array) -> tuple[Array, Array, Array]:
        dz = dout * self._factor * self._active
        return dz @ self._w.T, self._x.T @ dz, dz.sum(axis=0)


def examinations(seed: int) -> Iterator[Examination]:
    """The layer with the mistake; then, for machines without torch, a sound one."""
    rng = np.random.default_rng(seed)
    inputs = (rng.normal(size=(6, 4)), rng.normal(size=(4, 3)), rng.normal(size=3))

    def examine(factor: float) -> Any:
        layer = SquaredReLU(factor=factor)
        return check(Case(layer.forward, inputs, vjp=layer.backward, name="SquaredReLU"), seed=seed)

    wrong, right = examine(1.0), examine(2.0)
    yield Examination("wrong-layer", ("gradient-wrong",), wrong, right, wrong)
    yield Examination("sound-layer", (), right, None, right)
