"""The double backward: the first gradient is the function, and what reverse mode says is its gradient the claim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradvitals.frameworks.jax.function import Function
from gradvitals.frameworks.problem import Array

#: Entries of the random cotangent lie between these, of either sign, so that none vanishes.
_COTANGENT = (0.5, 1.0)
_SEED = 20_240_229


class SecondOrder(Function):
    """G(θ) = the gradient of ⟨v, F(θ)⟩ at θ, with v 1 for a scalar F and random for any other.

    Whether the first gradient is right is the first order's question.

    Parameters
    ----------
    first : Function
        Evaluated at its base.

    """

    def __init__(self, first: Function) -> None:
        super().__init__(first.case, first.inputs, first.objective, first.keys)
        rng = np.random.default_rng(_SEED)
        drawn: Array = rng.choice((-1.0, 1.0), first.size) * rng.uniform(*_COTANGENT, first.size)
        self._sent = first.split(np.ones(1) if first.kind != "random" else drawn)
        self._names = tuple(first.inputs.leaves[at].path for at in first.keys)

    def real(self, views: Sequence[Any], fixed: Sequence[Any]) -> list[Any]:
        """The first gradient, one real array for each that is moved."""
        value = super().real
        outputs, pull = jax.vjp(lambda moved: value(moved, fixed), [jnp.asarray(view) for view in views])
        sent = [jnp.asarray(part, out.dtype) for part, out in zip(self._sent, outputs, strict=True)]
        self.kind, self.paths = "random", self._names
        gradients: list[Any] = pull(sent)[0]
        return gradients
