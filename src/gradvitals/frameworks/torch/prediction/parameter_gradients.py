"""The gradient of each parameter: by the gradient at what it was used for, and what it was multiplied with.

A weight's gradient is a sum over places, ∂w = Σ_p g_p x_p, of two signals that count as independent, so that its mean
square is Σ_pq E[g_p g_q] E[x_p x_q]. A bias has x = 1, a table of embeddings x_p x_q = 1 where two places look up the
same row. Parts of a parameter, and uses of one that is tied, add up.

References
----------
Glorot and Bengio (2010), eq. 8, one place; Yang (2020), Tensor Programs II, of a whole batch.

"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from gradvitals.frameworks.prediction import Predicted
from gradvitals.frameworks.torch.prediction.values import Node
from gradvitals.maths.alignment import alike
from gradvitals.maths.field import Field, Role
from gradvitals.maths.scatter import NONE, Scatter

#: What is left of two sums that cancel, relative to each, by rounding and by what kernels leave out.
_ROUNDING = 1e-8


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """One use of a parameter, or of a part of one.

    Parameters
    ----------
    name : str
        The parameter's.
    output : Node
        The signal that it made.
    inputs : Field or None
        What it was multiplied with, under the output's layout up to its units; None of a bias.
    entries : int
        How many entries of the parameter were used.
    times : float
        Products of independent units in each entry, over which the sum runs too; a share of the rows of a table.

    """

    name: str
    output: Node
    inputs: Field | None
    entries: int
    times: float = 1.0


def parameter_gradients(uses: Iterable[Use], gradients: Mapping[int, Field]) -> dict[str, tuple[float, Scatter, int]]:
    """By parameter: the sum of the squares of its gradient, how its logarithm departs, and the entries that it is of.

    A parameter of which a use couldn't be followed is left out.
    """
    found: dict[str, tuple[float, Scatter, int]] = {}
    lost: set[str] = set()
    for use in uses:
        gradient = gradients.get(use.output.key)
        if gradient is None:  # it has no influence on what is sent back
            continue
        try:
            square = use.times * pair_sum(gradient, use.inputs)
        except ValueError:
            lost.add(use.name)
            continue
        total = max(square, 0.0) * use.entries
        scatter = gradient.scatter + (use.inputs.scatter if use.inputs is not None else NONE)
        scatter = scatter + Scatter.of(2 / max(use.entries, 1))
        before, known, entries = found.get(use.name, (0.0, NONE, 0))
        both = max(before + total, 1e-300)
        mixed = known.times(before / both) + scatter.times(total / both)
        found[use.name] = before + total, mixed, entries + use.entries
    return {name: value for name, value in found.items() if name not in lost}


def said(total: float, scatter: Scatter, entries: int) -> Predicted:
    """The typical RMS of a gradient over all entries, and one standard deviation of one draw, relative."""
    chance = scatter.chance
    error, alone = math.sqrt(scatter.variance) / 2, math.sqrt(chance) / 2
    return Predicted(
        math.sqrt(total / max(entries, 1)) * math.exp(-chance / 4), error, chance=alone if alone < error else None
    )


def pair_sum(gradient: Field, inputs: Field | None) -> float:
    """Σ_pq E[g_p g_q] E[x_p x_q] over all places and pixels of the batch, of which the fields may hold some samples.

    Raises
    ------
    ValueError
        Where the two don't have the same places.

    """
    if inputs is not None:
        if [(a.size, a.role) for a in gradient.mapped] != [(a.size, a.role) for a in inputs.mapped]:
            raise ValueError("a parameter's gradient over places that differ from its input's")
        gradient, inputs = alike(gradient, inputs)
    n = math.prod(gradient.kernel.shape[: gradient.places])
    pairs = gradient.kernel.reshape(n, n)
    own = gradient.second
    if inputs is not None:
        pairs, own = pairs * inputs.kernel.reshape(n, n), own * inputs.second
    pixels = math.prod(axis.size for axis in gradient.axes if axis.role is Role.PIXEL)
    diagonal = float(pairs.trace())
    samples = next((axis.size for axis in gradient.axes if axis.role is Role.PLACE), 1)
    held = gradient.kernel.shape[0] if gradient.places else 1
    within = diagonal if held == n else float(np.einsum("iaib->", pairs.reshape(held, n // held, held, n // held)))
    across = (float(pairs.sum()) - within) * pixels**2
    inside = float(own.sum()) + (pixels * (pixels - 1)) * diagonal + (within - diagonal) * pixels**2
    alone = inside * samples / held
    together = across * samples * (samples - 1) / (held * (held - 1)) if held > 1 else 0.0
    return alone + together if abs(alone + together) > _ROUNDING * abs(alone) else 0.0
