"""Ways to get one tensor's gradient wrong, and which of them count.

A mutation is linear in the gradient (a real mistake doesn't depend on the cotangent) and works on NumPy arrays and
torch tensors alike. It counts where it changes the tensor's gradient by at least half of what its kind nominally does:
measured in the 2-norm, over vector-Jacobian products with random cotangents, so that no draw of the check under test
has a say in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

#: A mutation counts from this share of its nominal relative change.
COUNTING_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Mutation:
    """A mistake in one tensor's gradient.

    ``factor`` is numeric over analytic where the mistake is one factor, ``nominal`` the relative change in the 2-norm
    that the kind stands for.
    """

    kind: str
    spoil: Callable[[Any], Any]
    nominal: float
    factor: float | None = None

    def relative_change(self, gradients):
        """Root of the sum of ‖spoilt − g‖² over that of ‖g‖², over several gradients g stacked along the first axis."""
        spoilt = np.stack([self.spoil(gradient) for gradient in gradients])
        size = np.linalg.norm(gradients)
        return float(np.linalg.norm(spoilt - gradients) / size) if size else 0.0

    def counts(self, gradients):
        return self.relative_change(gradients) >= COUNTING_SHARE * self.nominal


def scaled(kind, factor):
    """The whole gradient times a factor."""
    return Mutation(kind, lambda g: factor * g, abs(factor - 1), 1 / factor)


def entry_scaled(kind, index, factor, nominal):
    """One entry times a factor."""

    def spoil(g):
        spoilt = g + 0  # a copy, in both frameworks
        spoilt[index] = factor * spoilt[index]
        return spoilt

    return Mutation(kind, spoil, nominal)


def entry_added(kind, index, share):
    """An error in one entry, of a given size relative to the RMS of all."""

    def spoil(g):
        size = 1
        for axis in g.shape:
            size *= axis
        spoilt = g + 0
        spoilt[index] = spoilt[index] + share * ((g * g).sum() / size) ** 0.5
        return spoilt

    return Mutation(kind, spoil, share)


def shuffled(kind, share, shape, seed=0):
    """An error of the given relative size and no structure: the gradient's entries, rearranged, with random signs."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    order, signs = rng.permutation(size), rng.choice([-1.0, 1.0], size)

    def spoil(g):
        if isinstance(g, np.ndarray):
            return g + share * (signs.astype(g.dtype) * g.reshape(-1)[order]).reshape(g.shape)
        return g + share * (g.new_tensor(signs) * g.reshape(-1)[order]).reshape(g.shape)

    return Mutation(kind, spoil, share)


def mutations(gradients, mean_over=None):
    """All mutations that count, given a tensor's gradients (M, *shape) for M random cotangents.

    ``mean_over`` is N where the layer returns a mean over N samples.
    """
    shape = gradients.shape[1:]
    sizes = np.sqrt((gradients**2).mean(axis=0))
    nominal = 1 / sizes.size**0.5  # an entry's share of the norm when all are alike
    largest = np.unravel_index(int(sizes.argmax()), shape)
    found = [scaled("sign", -1.0), scaled("double", 2.0), scaled("percent", 1.01)]
    found.append(entry_scaled("zero-largest", largest, 0.0, nominal))
    nonzero = np.sort(sizes[sizes > 0])
    if nonzero.size > 2:
        median = np.unravel_index(int(np.argmax(sizes == nonzero[nonzero.size // 2])), shape)
        found.append(entry_scaled("zero-median", median, 0.0, nominal))
    if len(shape) == 2 and shape[0] == shape[1] > 1:
        found.append(Mutation("transposed", lambda g: g.T, 1.0))
    if mean_over is not None:
        found.append(scaled("missing-1/N", float(mean_over)))
    return [mutation for mutation in found if mutation.counts(gradients)]
