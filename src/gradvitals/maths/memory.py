"""What a gate keeps of a memory over many steps: kernels of shape (T, T, n, n), over T steps and n samples.

An entry holds E[x_sa x_tb] for steps s, t and samples a, b, averaged over units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


class Kept:
    """c_t = F_t c_(t−1) + P_t: what is kept of a memory by a gate, and what is added, independent of it.

    ``kernel`` (T + 1, T + 1, n, n) begins with the memory before the first step.
    """

    def __init__(self, start: Array, steps: int) -> None:
        self.kernel = started(start, steps)
        self._added = np.zeros((steps, steps, *start.shape))
        self._means = np.zeros(steps)
        #: The share of each addition that is left in each state, on average.
        self._left = np.zeros((steps + 1, steps))
        self._steps = 0

    @property
    def last(self) -> Array:
        """The kernel of the memory now."""
        return np.asarray(self.kernel[self._steps, self._steps])

    def step(self, added: Array, kept: Array, mean: Array) -> Array:
        """Kernel (t + 1, n, n) of the memories so far with the new one, by those of additions and gates; E[F] (n,)."""
        t = self._steps
        self._means[t] = m = float(mean.mean())
        put(self._added, t, added)
        before = np.tensordot(self._left[: t + 1, :t], self._added[:t, t], 1)  # E[c_s P_t]
        after = np.einsum("spab,p->sab", self._added[: t + 1, :t], self._left[t, :t])  # E[P_s c_(t−1)]
        factors = self._means[: t + 1, None, None]
        block = kept * self.kernel[: t + 1, t] + m * after + factors * before + added
        self._left[t + 1] = m * self._left[t]
        self._left[t + 1, t] = 1.0
        put(self.kernel[1:, 1:], t, block)
        self.kernel[0, t + 1] = m * self.kernel[0, t]
        self.kernel[t + 1, 0] = self.kernel[0, t + 1].T
        self._steps += 1
        return np.asarray(block)


def put(whole: Array, t: int, block: Array) -> None:
    """The kernel of a step with those before it, in both orders."""
    whole[: t + 1, t] = block
    whole[t, : t + 1] = block.transpose(0, 2, 1)


def started(state: Array, steps: int) -> Array:
    """Room for a kernel that begins before the first step."""
    whole = np.zeros((steps + 1, steps + 1, *state.shape))
    whole[0, 0] = state
    return whole


def turned(kernel: Array) -> Array:
    """Steps in reversed order."""
    return kernel[::-1, ::-1]


def flat(kernel: Array) -> Array:
    """Of shape (T·n, T·n)."""
    steps, _, samples, _ = kernel.shape
    return kernel.transpose(0, 2, 1, 3).reshape(steps * samples, steps * samples)


def by_steps(matrix: Array, steps: int) -> Array:
    """Of shape (T, T, n, n) again."""
    samples = len(matrix) // steps
    return np.asarray(matrix.reshape(steps, samples, steps, samples).transpose(0, 2, 1, 3))
