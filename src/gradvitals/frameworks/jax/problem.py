"""A JAX function as a Problem: the gradient of reverse mode, or one that was given, is the claim; plain evaluations are
the truth.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.jax.arrays import held_in, is_array, is_inexact, roundoff
from gradvitals.frameworks.jax.claims import claimed, judgeable
from gradvitals.frameworks.jax.function import Function
from gradvitals.frameworks.jax.inputs import Inputs
from gradvitals.frameworks.jax.objective import Objective
from gradvitals.frameworks.jax.programs import Program, flat, program_of
from gradvitals.frameworks.jax.reverse import JaxPullback, Reverse
from gradvitals.frameworks.jax.second_order import SecondOrder
from gradvitals.frameworks.problem import Array, Gradient, Tensor, agree, matching, values_one_by_one
from gradvitals.vocabulary.errors import InputError, ModelError, UsageError

_FLOAT64 = 2.0**-53


class JaxProblem:
    """A JAX function, or a module that is a pytree, with its inputs.

    All numbers are real here: a complex array is moved, and its gradient judged, as pairs of real and imaginary part.

    Parameters
    ----------
    case : Case
        ``grad`` and ``vjp`` are what is judged where they are given; else it is ``jax.vjp``.
    wrt : str or sequence of str, optional
        Names or patterns of the leaves to differentiate; all floating-point and complex ones when not given.
    outputs : str, int, or sequence of them, optional
        What of the output is differentiated, see :class:`~gradvitals.frameworks.jax.objective.Objective`.
    order : int
        2: the function is the gradient.

    Raises
    ------
    InputError
        From ``Inputs``; when the output holds no floating-point array, when the value isn't a scalar where ``grad=``
        was given, and when gradients can't be matched with inputs.
    UsageError
        When a name in ``wrt`` or ``outputs`` fits nothing, and when ``grad=`` and ``vjp=`` are given together, or
        with order 2.

    """

    #: JAX's arrays can't be written into, and nobody sees how they lie in memory.
    layouts: tuple[str, ...] = ()
    shares_cotangents = False

    def __init__(self, case: Case, wrt: Any = None, *, outputs: Any = None, order: int = 1) -> None:
        if case.grad is not None and case.vjp is not None:
            raise UsageError(
                "give either grad= or vjp=",
                f"check({case.subject}, ...) with both",
                "a scalar function takes grad=, a layer takes vjp=backward; without either jax.vjp is checked",
            )
        if order != 1 and (case.grad is not None or case.vjp is not None):
            raise UsageError(
                "order=2 goes with JAX's own gradient",
                f"check({case.subject}, ..., order={order}) with grad= or vjp=",
                "leave them out, or check the gradient function itself: gv.check(grad, *inputs)",
            )
        self._case = case
        self._claim = "grad" if case.grad is not None else "vjp" if case.vjp is not None else ""
        inputs = Inputs(case)
        self._objective = Objective(case.loss, outputs, self._claim, f"{case.subject}()")
        everything = Function(case, inputs, self._objective, inputs.movable).based()
        chosen = self._chosen(everything, wrt)
        self._native = everything if chosen == everything.keys else everything.moving(chosen)
        if not self._claim and len(self._native.outputs) > 1 and outputs is None:
            self._objective.left_out = Reverse(self._native, compiles=True).constants()
            if self._objective.left_out:
                self._native.based()
        if order != 1:
            self._native = SecondOrder(self._native).based()
        leaves = [inputs.leaves[at] for at in chosen]
        self.tensors = tuple(
            Tensor(leaf.path, leaf.role, base.shape, held_in(leaf.value).name, roundoff(base.dtype), _is_complex(leaf))
            for leaf, base in zip(leaves, self._native.base, strict=True)
        )
        self.objective = self._native.kind
        self.roundoff = max(tensor.roundoff for tensor in self.tensors)
        self.wide = False
        self.sample_sizes = _sample_sizes(inputs, scalar=self.objective != "random")
        self._size = self._native.size
        self._begin(self._native, self._compiled(self._native))
        self._native_reverse = self._reverse

    def _begin(self, function: Function, program: Program) -> None:
        """Evaluate this function from now on."""
        self._function = function
        self._program = program
        self.evaluation = program.how
        self._reverse = Reverse(function, compiles=program.call is not None)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Outputs that aren't differentiated, because no gradient can come back from them."""
        return self._objective.left_out

    def shadow(self, within: Array | None = None) -> JaxProblem | None:
        if self.roundoff <= _FLOAT64:
            return None
        wide = self._native.widened()
        shadow = copy.copy(self)
        shadow.wide = True
        try:
            # Where tracing shows another dtype, nothing needs to be compiled or run.
            _ = wide.based() if self._program.call is None else wide.sketched()
            if any(out.dtype != np.float64 for out in wide.outputs):
                return None
            shadow._begin(wide, shadow._compiled(wide))  # noqa: SLF001 - it is of this class
            if shadow._program.call is None and self._program.call is not None:  # noqa: SLF001
                return None  # compiled it gives another value than the native one
            same = agree(shadow.value({}), flat(self._native.outputs), self.roundoff, within)
        except Exception:  # noqa: BLE001 - a constant of another dtype in a loop that must keep its own, a kernel for one
            return None
        shadow.roundoff = _FLOAT64
        return shadow if same else None

    def point(self, tensor: int) -> Array:
        return self._native.base[tensor].astype(np.float64).reshape(-1)

    def rounded(self, tensor: int, values: Array) -> Array:
        if self.wide:
            return values
        with np.errstate(over="ignore"):
            return values.astype(self._native.base[tensor].dtype).astype(np.float64)

    def value(self, moved: Mapping[int, Array]) -> Array:
        found = self._computed([moved])
        return flat(self._function.plainly(moved)) if found is None else found[0]

    def values(self, points: Sequence[Mapping[int, Array]]) -> Array:
        found = self._computed(points)
        return values_one_by_one(self, points, self._size) if found is None else found

    @property
    def output_roundoff(self) -> Array:
        return np.concatenate([np.full(out.size, roundoff(out.dtype)) for out in self._function.outputs])

    @property
    def output_sizes(self) -> tuple[int, ...]:
        return tuple(out.size for out in self._function.outputs)

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(out.shape for out in self._function.outputs)

    @property
    def input_shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return tuple((tensor.path, tensor.shape) for tensor in self.tensors)

    def cuts(self) -> tuple[str, ...]:
        return ()

    def hand_written(self) -> None:
        return None

    def representable(self, cotangent: Array) -> Array:
        return flat(self._native.split(cotangent))

    def gradient(self, cotangent: Array, moved: Mapping[int, Array] | None = None) -> tuple[Gradient, ...]:
        return self._gradients(self._native, self._native_reverse, cotangent, moved or {})

    def wide_gradient(self, cotangent: Array, moved: Mapping[int, Array] | None = None) -> tuple[Gradient, ...] | None:
        if not self.wide or (self._claim == "grad" and not callable(self._case.grad)):
            return None
        try:
            return self._gradients(self._function, self._reverse, cotangent, moved or {})
        except (ModelError, InputError):
            return None

    def pullback(
        self,
        moved: Mapping[int, Array] | None = None,
        *,
        layout: str = "plain",
        shared: Sequence[tuple[int, int]] = (),
        only: Sequence[int] | None = None,
    ) -> JaxPullback:
        """A forward pass that takes several cotangents back."""
        if layout != "plain":
            raise InputError("JAX's arrays have no layouts", f"layout={layout!r}", "leave it out")
        point = {**(moved or {})}
        for first, second in shared:
            point[second] = point.get(first, self.point(first))
        wanted = range(len(self.tensors)) if only is None else only

        def gradients(cotangent: Array) -> tuple[Gradient, ...]:
            found = self._gradients(self._native, self._native_reverse, cotangent, point, shared)
            return tuple(gradient if at in wanted else Gradient(None) for at, gradient in enumerate(found))

        return JaxPullback(self.value(point), gradients)

    def tangent(self, direction: Mapping[int, Array]) -> Array | None:
        """The derivative of F along a direction by forward mode; None where there is none, as behind a
        ``custom_vjp``.
        """
        function = self._function
        here = function.at({})
        along = [
            direction.get(at, np.zeros(view.size)).astype(view.dtype).reshape(view.shape)
            for at, view in enumerate(here)
        ]

        def forward(views: Sequence[Any], tangents: Sequence[Any], fixed: Sequence[Any]) -> Any:
            return jax.jvp(lambda moved: function.real(moved, fixed), (list(views),), (list(tangents),))[1]

        for run in (jax.jit(forward), forward):
            with function.context(), contextlib.suppress(Exception):
                return flat(run([jnp.asarray(view) for view in here], [jnp.asarray(u) for u in along], function.fixed))
        return None

    def _chosen(self, everything: Function, wrt: Any) -> list[int]:
        leaves = everything.inputs.leaves
        paths = {at: leaves[at].path for at in everything.keys}
        if self._claim:
            found = claimed(everything, np.ones(everything.size), {})
            paths = {at: path for at, path in paths.items() if at in found}
        patterns = [wrt] if isinstance(wrt, str) else None if wrt is None else list(wrt)
        if patterns is not None and not all(isinstance(pattern, str) for pattern in patterns):
            raise UsageError(
                "JAX's tensors are chosen by their names",
                f"wrt={wrt!r}",
                f"give names or patterns; there are: {', '.join(paths.values())}",
            )
        wanted = set(matching(list(paths.values()), patterns))
        return [at for at, path in paths.items() if path in wanted]

    def _compiled(self, function: Function) -> Program:
        if self._claim == "vjp":
            return Program(None, batched=False, how="sequential: a hand-written layer may keep a state")
        native = flat(self._native.outputs)
        with function.context():
            return program_of(function.real, function.at({}), function.fixed, native, self.roundoff)

    def _computed(self, points: Sequence[Mapping[int, Array]]) -> Array | None:
        """F at points by the compiled program; None where there is none, or where it raises."""
        if self._program.call is None:
            return None
        if not points:
            return np.empty((0, self._size))
        function = self._function
        try:
            with function.context():
                return self._program.values([function.at(moved) for moved in points], function.fixed)
        except Exception:  # noqa: BLE001 - point by point it shows which one raises, and in which line
            return None

    def _gradients(
        self,
        function: Function,
        reverse: Reverse,
        cotangent: Array,
        moved: Mapping[int, Array],
        shared: Sequence[tuple[int, int]] = (),
    ) -> tuple[Gradient, ...]:
        if not self._claim:
            return reverse.gradients(cotangent, moved, shared)
        found = claimed(function, cotangent, moved)
        factor = float(cotangent[0]) if self._claim == "grad" else 1.0
        leaves = [(at, function.inputs.leaves[at]) for at in function.keys]
        return tuple(judgeable(found.get(at), leaf.path, leaf.value, factor) for at, leaf in leaves)


def _is_complex(leaf: Any) -> bool:
    return bool(jnp.iscomplexobj(leaf.value))


def _sample_sizes(inputs: Inputs, *, scalar: bool) -> tuple[int, ...]:
    """Sizes by which a mean may have been divided: of batches, and of what a scalar was made from."""
    values = [leaf.value for leaf in inputs.leaves if is_array(leaf.value) and leaf.role == "input"]
    sizes = [int(value.shape[0]) for value in values if np.ndim(value) >= 2]
    if scalar:
        sizes += [int(value.size) for value in values if is_inexact(value)]
    return tuple(dict.fromkeys(sizes))
