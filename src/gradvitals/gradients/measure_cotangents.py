"""Does a kernel's backward pass treat the gradient from above as every one must: is it linear in it?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradvitals.frameworks.problem import Array
from gradvitals.frameworks.rivals import Rivals
from gradvitals.gradients.measure_reference import Compared, Comparison
from gradvitals.vocabulary.errors import ModelError

#: What the gradient from above is multiplied by, and the relative difference that may be a kernel's imprecision: times
#: −2 changes sign and size and rounds nothing; ¾, no whole number, makes all products round anew, in however coarse a
#: type (of five in bfloat16, 2 %).
_MULTIPLES = ((-2.0, 0.0), (0.75, 0.1))
#: What differs by no more than so many times the eager version's error may be rounding, as in ``measure_layouts``.
_ABOVE = 8.0


@dataclass(frozen=True, slots=True)
class KernelFault:
    """A gradient that breaks a rule that all gradients obey, by how much, and in which memory layouts."""

    tensor: int
    kind: str
    relative: float
    layouts: tuple[str, ...] = ()


def cotangent_faults(rivals: Rivals, gradients: Sequence[Comparison], seed: int) -> list[KernelFault]:
    """The gradients that don't follow the gradient from above; none where the kernel raises.

    Parameters
    ----------
    rivals : Rivals
    gradients : sequence of Comparison
        One per tensor.
    seed : int
        Of the cotangents.

    """
    rng = np.random.default_rng(seed)
    sent: tuple[Array, ...] = (np.ones(1),)
    if rivals.objective == "random":
        sent = rivals.representable([rng.standard_normal(out.size) for out in rivals.outputs])
    try:
        first = rivals.kernel({}, sent)
        others = [(*known, rivals.kernel({}, [known[0] * part for part in sent])) for known in _MULTIPLES]
    except ModelError:
        return []
    found = []
    for at, c in enumerate(gradients):
        one = first.gradients[at].value
        pairs = [(times, share, other.gradients[at].value) for times, share, other in others]
        off = [_apart(one, None if got is None else got / times, c, share) for times, share, got in pairs]
        if max(off) > 0:
            same = all(_apart(one, got, c, share) == 0 for _, share, got in pairs)
            found.append(KernelFault(at, "ignores-cotangent" if same else "not-linear", max(off)))
    return found


def with_faults(compared: Compared, faults: Sequence[KernelFault]) -> Compared:
    """What was right is wrong where such a fault was found; of what is wrong, one in the cotangent is the reason."""
    kinds = {fault.tensor: fault.kind for fault in reversed(faults)}
    telling = {fault.tensor for fault in faults if not fault.layouts}
    gradients = tuple(
        replace(c, status="wrong", reason=kinds[at]) if at in kinds and (c.status == "right" or at in telling) else c
        for at, c in enumerate(compared.gradients)
    )
    return replace(compared, gradients=gradients)


def _apart(plain: Array | None, other: Array | None, c: Comparison, share: float) -> float:
    """How much two gradients differ that should be the same, relatively; zero where it may be rounding, or overflow."""
    if plain is None or other is None or not np.isfinite(plain).all() or not np.isfinite(other).all():
        return 0.0
    size, apart = float(np.linalg.norm(plain)), float(np.linalg.norm(other - plain))
    truth = math.sqrt(float(np.mean(c.tally.truth)))
    error = math.sqrt(max(float(np.mean(c.tally.eager)), float(np.mean(c.tally.granted)))) + c.tally.least
    allowed = max(_ABOVE * error * max(1.0, size / truth if truth else 1.0), share * size)
    return apart / size if apart > allowed else 0.0
