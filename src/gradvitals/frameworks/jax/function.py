"""F as a function of real arrays: those that are moved, and those that stay where they are."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.jax.arrays import as_real, from_real, held_in, is_inexact, is_key, real_view, widened
from gradvitals.frameworks.jax.inputs import Inputs
from gradvitals.frameworks.jax.objective import Objective
from gradvitals.frameworks.problem import Array
from gradvitals.frameworks.user_code import HostRandomState, positionals, user_code


class Function:
    """The user's function at points, plainly or traced, in its own precision or, ``wide``, in float64.

    Parameters
    ----------
    case : Case
    inputs : Inputs
        Of the case.
    objective : Objective
        What of the output is differentiated.
    moved : sequence of int
        The leaves that are moved, by their numbers.

    """

    def __init__(self, case: Case, inputs: Inputs, objective: Objective, moved: Sequence[int]) -> None:
        self.case = case
        self.inputs = inputs
        self.objective = objective
        self.keys = list(moved)
        self.wide = False
        self._random = HostRandomState.capture()
        self._needs_cache = case.vjp is not None and positionals(case.vjp)[0] >= 2
        leaves = inputs.leaves
        self.base = [real_view(leaves[at].value, held_in(leaves[at].value)) for at in self.keys]
        # Labels, sizes and flags stay concrete, for Python may look at them. Keys are handed over, so that random
        # numbers aren't computed by the compiler.
        others = [at for at in range(len(leaves)) if at not in set(self.keys)]
        self._held = [at for at in others if is_inexact(leaves[at].value) or is_key(leaves[at].value)]
        self.fixed: list[Any] = [leaves[at].value for at in self._held]
        self._device = _own_device([leaf.value for leaf in leaves])
        #: The outputs at the base, as real arrays, their paths, and how they came to be.
        self.outputs: list[np.ndarray] = []
        self.paths: tuple[str, ...] = ()
        self.kind = "random"

    def moving(self, moved: Sequence[int]) -> Function:
        """The same function of other leaves."""
        return Function(self.case, self.inputs, self.objective, moved).based()

    def widened(self) -> Function:
        """The same function in float64, not yet evaluated."""
        wide = copy.copy(self)
        wide.wide = True
        with wide.context():
            wide.fixed = [widened(value) for value in self.fixed]
        return wide

    def based(self) -> Function:
        """Itself, evaluated at the base."""
        self.outputs = self.plainly({})
        return self

    def sketched(self) -> Function:
        """Itself, traced at the base: its outputs have their shapes and dtypes, and no values."""
        with self.context():
            shapes = jax.eval_shape(lambda views: self.real(views, self.fixed), self.at({}))
        self.outputs = [np.full(shape.shape, np.nan, shape.dtype) for shape in shapes]
        return self

    @property
    def size(self) -> int:
        """How many numbers its outputs hold."""
        return sum(out.size for out in self.outputs)

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """NaN at a step is an answer and no error, whatever the user's settings; with float64 where it is wide."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(jax.debug_nans(new_val=False))
            stack.enter_context(jax.debug_infs(new_val=False))
            if self.wide:
                stack.enter_context(jax.enable_x64(new_val=True))
            if self._device is not None:
                stack.enter_context(jax.default_device(self._device))
            yield

    def at(self, moved: Mapping[int, Array]) -> list[np.ndarray]:
        """The moved leaves at a point, as real arrays of their own dtype, or of float64."""
        with np.errstate(over="ignore"):
            return [
                np.asarray(moved.get(at, base)).astype(np.float64 if self.wide else base.dtype).reshape(base.shape)
                for at, base in enumerate(self.base)
            ]

    def split(self, cotangent: Array) -> list[np.ndarray]:
        """The cotangent as the outputs' real views."""
        parts, start = [], 0
        for out in self.outputs:
            parts.append(cotangent[start : start + out.size].reshape(out.shape).astype(out.dtype))
            start += out.size
        return parts

    def real(self, views: Sequence[Any], fixed: Sequence[Any]) -> list[Any]:
        """The outputs as real arrays, concrete or traced, as the inputs are."""
        found, self.kind = self.objective.of(self.returned(views, fixed)[0])
        self.paths = tuple(found)
        return [as_real(array) for array in found.values()]

    def plainly(self, moved: Mapping[int, Array]) -> list[np.ndarray]:
        """The outputs as the function gives them when it isn't compiled as a whole."""
        with self.context(), user_code(f"{self.case.subject}()"):
            return [np.asarray(out) for out in self.real(self.at(moved), self.copies())]

    def returned(self, views: Sequence[Any], fixed: Sequence[Any]) -> tuple[Any, Any]:
        """The value that the function returned, without an auxiliary one, and the cache for a hand-written backward."""
        result = self.call(self.case.model, views, fixed)
        if not isinstance(result, tuple) or not result or (self.case.loss is not None and self.case.vjp is None):
            return result, None
        if self.case.grad is not None:
            return result[0], None
        if self.case.vjp is not None and len(result) > 1 and (self._needs_cache or not is_inexact(result[-1])):
            return result[0] if len(result) == 2 else result[:-1], result[-1]
        return result, None

    def call(self, function: Any, views: Sequence[Any], fixed: Sequence[Any]) -> Any:
        """Call the model, or another function of the same arguments; the random state is that of the start."""
        self._random.restore()
        leaves = [leaf.value for leaf in self.inputs.leaves]
        leaves = [value.copy() if isinstance(value, np.ndarray) else value for value in leaves]
        for at, view in zip(self.keys, views, strict=True):
            leaves[at] = from_real(jnp.asarray(view), self.inputs.leaves[at].value)
        for at, value in zip(self._held, fixed, strict=True):
            leaves[at] = value
        return self.inputs.call(leaves, None if function is self.case.model else function)

    def copies(self) -> list[Any]:
        """The fixed arrays anew: the user's function may give its arguments away (``donate_argnums``)."""
        return [value.copy() for value in self.fixed]


def _own_device(values: Sequence[Any]) -> Any:
    """The device that the arrays are on, where it is a single one."""
    devices = {device for value in values if isinstance(value, jax.Array) for device in value.devices()}
    return devices.pop() if len(devices) == 1 else None
