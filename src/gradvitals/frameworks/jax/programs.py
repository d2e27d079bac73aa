"""A JAX function compiled once and evaluated often; and as it is, where it can't be compiled.

The function of real arrays is traced with the moved arrays as its first argument and the fixed ones as its second.
All values come from the same program, a single one as well: another program may round otherwise, and what is compared
must be rounded alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.extend
import numpy as np

Arrays: TypeAlias = Sequence[Any]
Function: TypeAlias = Callable[[Arrays, Arrays], list[Any]]

#: Points in one call: a check asks for about so many at once, and each further size is compiled anew (0.1 s and more).
_FEW = 8
#: Points in one call where very many are asked for; batches of 64 to 256 did best on networks of 10⁴ parameters.
_MANY = 64
#: Bytes of moved arrays in one call.
_MOST_BYTES = 2**28
#: How far a compiled function may be from the function as it is (2-norm, relative), by unit roundoff: fused operations
#: round otherwise. Farther away it is another function: it keeps a state, or draws random numbers of its own.
_SAME = ((1e-12, 1e-9), (1e-6, 1e-3), (1.0, 5e-2))


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled function.

    ``call`` takes K points at once where ``batched``, stacked along a first axis, else one point. ``how`` is
    ``"batched"``, or ``"sequential: "`` and why.
    """

    call: Callable[[Arrays, Arrays], list[Any]] | None
    batched: bool
    how: str

    def values(self, points: Sequence[Arrays], fixed: Arrays) -> np.ndarray:
        """The function at points, one row of float64 numbers each."""
        if self.call is None or not points:
            raise ValueError(self.how)
        if not self.batched:
            return np.array([flat(self.call(point, fixed)) for point in points])
        rows = []
        size = batch_size(points[0], len(points))
        for start in range(0, len(points), size):
            some = points[start : start + size]
            full = [*some, *[some[-1]] * (size - len(some))]
            stacked = [np.stack(each) for each in zip(*full, strict=True)]
            found = [np.asarray(out).astype(np.float64).reshape(size, -1) for out in self.call(stacked, fixed)]
            rows.append(np.concatenate(found, axis=1)[: len(some)])
        return np.concatenate(rows)


def batch_size(point: Arrays, count: int) -> int:
    """How many points are evaluated in one call, of so many; 1 where the arrays are too large for more.

    >>> batch_size([np.ones(10)], 3), batch_size([np.ones(10)], 1000), batch_size([np.ones(10**7)], 1000)
    (8, 64, 3)
    """
    room = max(1, _MOST_BYTES // max(1, sum(int(array.nbytes) for array in point)))
    wanted = _MANY if count >= _MANY <= room else _FEW
    return min(wanted, room)


def program_of(function: Function, base: Arrays, fixed: Arrays, native: np.ndarray, roundoff: float) -> Program:
    """Compile a function, for many points at once where that goes.

    Parameters
    ----------
    function : callable
        Of moved and fixed arrays; returns a list of real arrays.
    base, fixed : sequence of array
    native : array of shape (M,)
        The function's value at the base, computed as it is. A compiled one that isn't near it isn't used.
    roundoff : float
        Unit roundoff of the function.

    """
    if batch_size(base, 1) > 1:
        batched = Program(jax.jit(jax.vmap(function, in_axes=(0, None))), batched=True, how="batched")
        reason = _obstacle(batched, base, fixed, native, roundoff)
        if reason is None:
            return batched
    else:
        reason = "the inputs are too large for batches"
    single = Program(jax.jit(function), batched=False, how=f"sequential: {reason}")
    reason = _obstacle(single, base, fixed, native, roundoff)
    return single if reason is None else Program(None, batched=False, how=f"sequential: {reason}")


def _obstacle(program: Program, base: Arrays, fixed: Arrays, native: np.ndarray, roundoff: float) -> str | None:
    """Why a program can't be used; None where it can."""
    try:
        (value,) = program.values([base], fixed)
    except Exception as error:  # noqa: BLE001 - whatever tracing or batching meets, the function still runs as it is
        return type(error).__name__
    tolerance = next(share for bound, share in _SAME if roundoff < bound)
    same = np.isfinite(value) & np.isfinite(native) if value.shape == native.shape else np.zeros(1, dtype=bool)
    if value.shape != native.shape or not np.array_equal(np.isfinite(value), np.isfinite(native)):
        return "compiled it gives another value"
    apart = float(np.linalg.norm(value[same] - native[same]))
    return None if apart <= tolerance * float(np.linalg.norm(native[same])) else "compiled it gives another value"


def flat(arrays: Arrays) -> np.ndarray:
    """Arrays one behind the other as float64 numbers."""
    return np.concatenate([np.asarray(array).astype(np.float64).reshape(-1) for array in arrays] or [np.empty(0)])


def links(jaxpr: Any, sources: int) -> list[frozenset[int]]:
    """For each output of a traced function, which of its last ``sources`` inputs it may depend on, by number.

    >>> links(jax.make_jaxpr(lambda x, y, z: (2 * x, x * y, y + z))(1.0, 2.0, 3.0), 2)
    [frozenset(), frozenset({0}), frozenset({0, 1})]
    """
    inner = jaxpr.jaxpr
    behind = {variable: frozenset({at}) for at, variable in enumerate(inner.invars[len(inner.invars) - sources :])}

    def of(variables: Sequence[Any]) -> frozenset[int]:
        known = [behind[v] for v in variables if not isinstance(v, jax.extend.core.Literal) and v in behind]
        return frozenset().union(*known)

    for equation in inner.eqns:
        found = of(equation.invars)
        behind.update(dict.fromkeys(equation.outvars, found))
    return [of([variable]) for variable in inner.outvars]
