"""Does a kernel's backward pass give the same for a gradient from above that lies in memory in another way?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gradvitals.frameworks.problem import Array
from gradvitals.frameworks.rivals import Rivals
from gradvitals.gradients.measure_cotangents import KernelFault
from gradvitals.gradients.measure_reference import Comparison
from gradvitals.vocabulary.errors import ModelError

#: The same numbers with other strides; and one number, or one row, that stands for all.
_STRIDED = ("transposed", "sliced", "channels-last")
_EXPANDED = ("expanded", "expanded-rows")
#: A kernel may sum in another order for another layout; a stride that is ignored changes far more than this many times
#: its error (both were measured on the kernels of ``tests/oracles/kernels.py``: at most 2, at least 10⁴).
_ABOVE = 8.0


def layout_faults(rivals: Rivals, gradients: Sequence[Comparison], seed: int) -> list[KernelFault]:
    """The gradients that aren't the same; none where a loss is differentiated, or where the kernel refuses a layout.

    Parameters
    ----------
    rivals : Rivals
    gradients : sequence of Comparison
        One per tensor.
    seed : int
        Of the cotangents.

    """
    if rivals.objective != "random":
        return []
    rng = np.random.default_rng(seed)
    drawn = [rng.standard_normal(out.size) for out in rivals.outputs]
    found: list[KernelFault] = []
    for kind, layouts in (("cotangent-strides", _STRIDED), ("cotangent-expanded", _EXPANDED)):
        worst = [0.0] * len(gradients)
        where: list[list[str]] = [[] for _ in gradients]
        for layout in layouts:
            sent = rivals.representable(
                [_repeated(w, out.shown_shape, layout) for w, out in zip(drawn, rivals.outputs, strict=True)]
            )
            try:
                plain, laid = rivals.kernel({}, sent), rivals.kernel({}, sent, layout)
            except ModelError:
                continue
            for at, (one, other) in enumerate(zip(plain.gradients, laid.gradients, strict=True)):
                relative = _apart(one.value, other.value, gradients[at])
                if relative > 0:
                    worst[at] = max(worst[at], relative)
                    where[at].append(layout)
        found += [KernelFault(at, kind, worst[at], tuple(names)) for at, names in enumerate(where) if names]
    return found


def _repeated(cotangent: Array, shape: tuple[int, ...], layout: str) -> Array:
    """The numbers that an expanded layout stands for."""
    values = cotangent if cotangent.size == math.prod(shape) else cotangent.reshape(-1, 2)  # complex ones are pairs
    if layout == "expanded" and len(values):
        values = np.broadcast_to(values[:1], values.shape)
    elif layout == "expanded-rows" and len(shape) >= 2 and len(values):
        rows = values.reshape(shape[0], -1)
        values = np.broadcast_to(rows[:1], rows.shape)
    return np.array(values, dtype=np.float64).reshape(-1)


def _apart(plain: Array | None, laid: Array | None, c: Comparison) -> float:
    """How much two gradients differ, relatively; zero where it may be rounding."""
    if plain is None or laid is None or not np.isfinite(plain).all():
        return 0.0
    size, apart = float(np.linalg.norm(plain)), float(np.linalg.norm(laid - plain))
    truth = math.sqrt(float(np.mean(c.tally.truth)))
    error = math.sqrt(max(float(np.mean(c.tally.kernel)), float(np.mean(c.tally.granted)))) + c.tally.least
    if apart <= _ABOVE * error * max(1.0, size / truth if truth else 1.0):
        return 0.0
    return apart / size if size and math.isfinite(apart) else math.inf
