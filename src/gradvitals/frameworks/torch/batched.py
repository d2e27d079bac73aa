"""Many points at once: the function runs one time under ``torch.func.vmap``, where that can go and pays.

What comes out is trusted after it was compared with a plain evaluation. Where vmap can't go (an autograd.Function
without a rule for it, an LSTM, a branch on a value) points are evaluated one after another, and why is remembered.
"""

from __future__ import annotations

import contextlib
import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from gradvitals.frameworks.problem import Array
from gradvitals.frameworks.torch.masks import SameMasks
from gradvitals.frameworks.torch.work import LEAST_POINTS, Work, watched
from gradvitals.vocabulary.errors import ModelError

#: Points in one run at most: chunks of 64 to 256 were the fastest on an MLP, a conv net and a transformer block.
LARGEST_CHUNK = 256
#: With so many points and more, every new set of moved tensors is compared with a plain evaluation (1 in 9 more).
_COMPARED_FROM = 8
#: Runs that may fail where something was batched before.
_STRIKES = 2
#: A run's widest operation may take so many bytes: beyond, caches lose more than calls cost (two MLPs of width 256,
#: float32: 24 points at once took 0.8 times as long as one by one, 96 points 1.4 times).
CACHED = 24 * 2**20
#: A run adds up in another order than a plain evaluation: units in the last place of the largest output by which they
#: may differ, by unit roundoff. The measured functions differ by at most 17 (float64) and 15 (float32).
_UNITS = ((1e-6, 256.0), (1.0, 8.0))

#: What is said where vmap can't go, and the reason that is recorded.
_OBSTACLES = (
    (r"autograd\.Function|does not have vmap support", "custom-function"),
    (r"control flow|\.item\(\)|data pointer|storage|\.numpy\(\)", "reads-values"),
    (r"dynamic shape", "shape-depends-on-values"),
    (r"in[- ]?place|broadcast shape", "writes-in-place"),
    (r"vmap fallback|[Bb]atching rule", "no-batching-rule"),
)


class Evaluated(Protocol):
    """A problem whose points can be evaluated together."""

    def point(self, tensor: int) -> Array: ...

    def value(self, moved: Mapping[int, Array]) -> Array: ...

    def tensor_at(self, at: int, values: Array) -> torch.Tensor:
        """Flat values of shape (..., size) as the tensor takes them: (..., *shape), in its dtype and on its device."""
        ...

    def outputs_at(self, moved: Mapping[int, torch.Tensor]) -> list[torch.Tensor]:
        """Outputs with some tensors replaced, which may be those of ``torch.func.vmap``."""
        ...


class Batch:
    """Evaluates the points of a problem in as few runs as possible.

    Parameters
    ----------
    problem : Evaluated
    modules : sequence of torch.nn.Module
        All that it may run.
    *functions : any
        The user's module or function, and the loss.

    """

    def __init__(self, problem: Evaluated, modules: Sequence[torch.nn.Module], *functions: Any) -> None:
        self._problem: Evaluated = weakref.proxy(problem)  # which holds this: else both stay until they are collected
        self._modules = modules
        self._masks: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        self._work: Work | None = None
        self._compared: set[frozenset[int]] = set()
        self._blocked: set[frozenset[int]] = set()
        self._strikes = 0
        #: Why no points are evaluated together; empty where they may be.
        self.reason = "compiled" if _is_compiled(functions, self._modules) else ""

    @property
    def evaluation(self) -> str:
        """``"batched"``, or ``"sequential"`` (so far there was nothing to gain), or that and the reason."""
        if self.reason:
            return f"sequential: {self.reason}"
        return "batched" if self._compared else "sequential"

    def values(self, points: Sequence[Mapping[int, Array]], size: int) -> Array:
        """F at K points, of shape (K, size); a row of NaN where F can't be had in that size."""
        found = np.full((len(points), size), np.nan)
        for moved, rows in _grouped(points).items():
            group = [points[row] for row in rows]
            done = self._batched(group, moved, size)
            alone = [self._alone(point, size) for point in group[len(done) :]]
            found[rows] = np.array([*done, *alone])
        return found

    def _batched(self, points: Sequence[Mapping[int, Array]], moved: frozenset[int], size: int) -> list[Array]:
        """Rows of the first points, as many as could be had in runs of several points."""
        if self.reason or not moved or len(points) < LEAST_POINTS or moved in self._blocked:
            return []
        plain = None
        if self._work is None:
            with watched() as self._work:
                plain = self._alone(points[0], size)
        if not self._work.batching_pays:
            return [] if plain is None else [plain]
        compare = moved not in self._compared and (len(points) >= _COMPARED_FROM or not self._compared)
        found: list[Array] = []
        chunk = self._chunk(points[0])
        while len(found) < len(points) and not (self.reason or moved in self._blocked):
            some = points[len(found) : len(found) + chunk]
            try:
                rows, roundoff = self._run(some, moved)
            except Exception as error:  # noqa: BLE001 - whatever vmap or the user's code raises, single points may do
                found += self._one_by_one(some, moved, size, error)
                continue
            if compare:
                plain = self._alone(points[0], size) if plain is None else plain
                if not same_values(rows[0], plain, roundoff):
                    if not isinstance(self._masks, SameMasks):  # perhaps it is dropout that differs
                        self._masks = SameMasks()
                        continue
                    self.reason = "values-differ"
                    break
                self._compared.add(moved)
                compare = False
            found += list(rows)
        return found

    def _one_by_one(
        self, points: Sequence[Mapping[int, Array]], moved: frozenset[int], size: int, error: Exception
    ) -> list[Array]:
        """After a run that failed: was it for a point that the function refuses, or because of vmap?"""
        found = [self._alone(point, size) for point in points]
        refused = any(np.isnan(row).all() for row in found)
        self._strikes += 1
        if not refused:
            self._blocked.add(moved)
        if self._strikes > _STRIKES or not (refused or self._compared):
            self.reason = _obstacle(error)
        return found

    def _alone(self, point: Mapping[int, Array], size: int) -> Array:
        try:
            value = self._problem.value(point)
        except ModelError:
            return np.full(size, np.nan)
        return value if value.size == size else np.full(size, np.nan)

    def _run(self, points: Sequence[Mapping[int, Array]], moved: frozenset[int]) -> tuple[Array, float]:
        """F at the points, of shape (K, M), and the unit roundoff of its coarsest output."""
        problem, order = self._problem, sorted(moved)
        stacked = [problem.tensor_at(at, np.stack([_flat(problem, point, at) for point in points])) for at in order]

        def one(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(problem.outputs_at(dict(zip(order, tensors, strict=True))))

        with torch.no_grad(), self._masks, without_fallback(), self._without_remains():
            outputs = torch.func.vmap(one, randomness="same")(*stacked)
        rows = [output.to("cpu", torch.float64).reshape(len(points), -1).numpy() for output in outputs]
        return np.concatenate(rows, axis=1), max(torch.finfo(output.dtype).eps / 2 for output in outputs)

    def _chunk(self, point: Mapping[int, Array]) -> int:
        """Points in one run."""
        widest = max(self._work.widest if self._work else 0, *(values.nbytes for values in point.values()))
        return max(2, min(LARGEST_CHUNK, CACHED // max(widest, 1)))

    @contextlib.contextmanager
    def _without_remains(self) -> Iterator[None]:
        """A module that keeps a tensor between calls must not keep one of vmap's."""
        before = [(module, dict(vars(module))) for module in self._modules]
        try:
            yield
        finally:
            for module, attributes in before:
                now = vars(module)
                for name in [name for name, value in now.items() if _is_of_vmap(value)]:
                    if name in attributes:
                        now[name] = attributes[name]
                    else:
                        del now[name]


@contextlib.contextmanager
def without_fallback() -> Iterator[None]:
    """An operation that vmap knows only as a loop raises: then the loop over whole points is as fast, and plain."""
    functorch: Any = torch._C._functorch  # noqa: SLF001 - torch has no public name for it
    before, off = functorch._is_vmap_fallback_enabled(), False  # noqa: SLF001
    functorch._set_vmap_fallback_enabled(off)  # noqa: SLF001
    try:
        yield
    finally:
        functorch._set_vmap_fallback_enabled(before)  # noqa: SLF001


def _grouped(points: Sequence[Mapping[int, Array]]) -> dict[frozenset[int], list[int]]:
    """Rows by which tensors are moved; the base point goes with the largest group."""
    groups: dict[frozenset[int], list[int]] = {}
    for row, point in enumerate(points):
        groups.setdefault(frozenset(point), []).append(row)
    base = groups.pop(frozenset(), [])
    if base and groups:
        # Behind the others: the first is compared with its plain value, which should be at a point that moved.
        max(groups.values(), key=len).extend(base)
    elif base:
        groups[frozenset()] = base
    return groups


def _flat(problem: Evaluated, point: Mapping[int, Array], at: int) -> Array:
    return point[at] if at in point else problem.point(at)


def same_values(one: Array, other: Array, roundoff: float) -> bool:
    """Whether two evaluations at one point agree but for rounding."""
    if one.shape != other.shape:
        return False
    finite = np.isfinite(one) & np.isfinite(other)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return False
    units = next(units for bound, units in _UNITS if roundoff < bound)
    size = float(np.max(np.abs(other[finite]), initial=0.0))
    return bool(np.max(np.abs(one[finite] - other[finite]), initial=0.0) <= units * roundoff * size)


def _obstacle(error: BaseException) -> str:
    """Why vmap couldn't go there."""
    text = str(error)
    return next((reason for pattern, reason in _OBSTACLES if re.search(pattern, text)), "vmap-failed")


def _is_compiled(functions: Sequence[Any], modules: Sequence[torch.nn.Module]) -> bool:
    """Whether ``torch.compile`` made it, or a part of it: a run of several points would compile anew."""
    return any(hasattr(function, "_torchdynamo_orig_callable") for function in functions) or any(
        type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None
        for module in modules
    )


def _is_of_vmap(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and bool(torch._C._functorch.is_functorch_wrapped_tensor(value))  # noqa: SLF001
