"""Reverse mode of a function, compiled where it can be."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradvitals.frameworks.jax.function import Function
from gradvitals.frameworks.jax.programs import flat, links
from gradvitals.frameworks.problem import Array, Gradient
from gradvitals.frameworks.pullback import Pull
from gradvitals.frameworks.user_code import user_code
from gradvitals.vocabulary.errors import GradvitalsError, ModelError

#: JAX's own words when a custom_vjp's backward returns a gradient of a wrong shape.
_WRONG_SHAPE = re.compile(
    r"produced an output of type \w+\[([\d, ]*)\] corresponding to an input of type \w+\[([\d, ]*)\]"
)


#: How JAX writes the call of a ``custom_vjp``.
_CUSTOM = "custom_vjp_call"


class Reverse:
    """The gradients that ``jax.vjp`` gives.

    Parameters
    ----------
    function : Function
        Evaluated at its base.
    compiles : bool
        Whether the function can be traced.

    """

    def __init__(self, function: Function, *, compiles: bool) -> None:
        self._function = function
        self._compiles = compiles
        self._program: Callable[..., Any] | None = None
        self._missing: frozenset[int] | None = None

    def constants(self) -> tuple[str, ...]:
        """Paths of the outputs that no gradient comes back from, where one comes back from others.

        Statistics behind a ``stop_gradient`` are meant so. Where a ``custom_vjp`` is at work nothing tells them from an
        output whose cotangent it forgot.
        """
        function = self._function
        views, parts = function.at({}), [np.ones_like(out) for out in function.outputs]
        try:
            with function.context():
                reached = links(jax.make_jaxpr(self._backward)(views, function.fixed, parts), len(parts))
                dead = [path for at, path in enumerate(function.paths) if not any(at in found for found in reached)]
                meant = 0 < len(dead) < len(parts) and _CUSTOM not in str(
                    jax.make_jaxpr(function.real)(views, function.fixed)
                )
        except Exception:  # noqa: BLE001 - what can't be traced is differentiated as it is
            return ()
        return tuple(dead) if meant else ()

    def gradients(
        self, cotangent: Array, moved: Mapping[int, Array], shared: Sequence[tuple[int, int]] = ()
    ) -> tuple[Gradient, ...]:
        """The gradient of ⟨cotangent, F⟩ at a point; None where the function has no path back to a leaf.

        Of each pair of leaves that is ``shared`` the first one is handed over as the second as well.
        """
        function = self._function
        views, parts = function.at(moved), function.split(cotangent)
        with function.context():
            found = None if shared else self._compiled(views, parts)
            if found is None:
                try:
                    with user_code(f"the backward pass of {function.case.subject}"):
                        found = self._plainly(views, parts, dict(shared))
                except ModelError as error:
                    fault = _WRONG_SHAPE.search(str(error))
                    if fault is None:
                        raise
                    return self._misshapen(*(_shape_of(sizes) for sizes in fault.groups()))
        values = [flat([gradient]) for gradient in found]
        missing = (self._missing or frozenset()) | {second for _, second in shared}
        return tuple(Gradient(None if at in missing and not v.any() else v) for at, v in enumerate(values))

    def _backward(self, views: Sequence[Any], fixed: Sequence[Any], cotangents: Sequence[Any]) -> Any:
        return jax.vjp(lambda moved: self._function.real(moved, fixed), list(views))[1](list(cotangents))[0]

    def _compiled(self, views: Sequence[Any], parts: Sequence[Any]) -> Sequence[Any] | None:
        """By a compiled program; None where there is none, or where it raises."""
        if not self._compiles:
            return None
        fixed = self._function.fixed
        try:
            if self._program is None:
                traced = jax.jit(self._backward).trace(views, fixed, parts)
                self._missing = _without(links(traced.jaxpr, len(parts)))
                self._program = traced.lower().compile()
            found: Sequence[Any] = [np.asarray(g) for g in self._program(views, fixed, parts)]
        except Exception:  # noqa: BLE001 - as it is, the function shows what it raises, and in which line
            return None
        return found

    def _plainly(self, views: Sequence[Any], parts: Sequence[Any], shared: Mapping[int, int]) -> Sequence[Any]:
        function = self._function
        firsts = {second: first for first, second in shared.items()}

        def real(moved: list[Any]) -> list[Any]:
            handed = [moved[firsts.get(at, at)] for at in range(len(moved))]
            return function.real(handed, function.copies())

        _, pull = jax.vjp(real, [jnp.asarray(view) for view in views])
        cotangents = [jnp.asarray(part) for part in parts]
        if self._missing is None and not shared:
            self._missing = _without(links(jax.make_jaxpr(pull)(cotangents), len(parts)))
        found: Sequence[Any] = pull(cotangents)[0]
        return found

    def _misshapen(self, got: tuple[int, ...], expected: tuple[int, ...]) -> tuple[Gradient, ...]:
        """JAX names the shapes and not the leaf: it is the one of that shape, or something inside the function."""
        leaves = self._function.inputs.leaves
        fits = [np.shape(leaves[at].value) == expected for at in self._function.keys]
        if not any(fits):
            return (Gradient(None, got),) * len(fits)
        return tuple(Gradient(None, got) if fit else Gradient(None, stopped=True) for fit in fits)


class JaxPullback:
    """A forward pass that takes several cotangents back; JAX's arrays have no layouts, and can't be written into."""

    #: What a ``custom_vjp`` keeps for its backward pass are values: no other call disturbs them.
    own_backward = False
    own_forward_mode = False
    draws = False
    runs_anew = False

    def __init__(self, value: Array, gradients: Callable[[Array], tuple[Gradient, ...]]) -> None:
        self.value = value
        self._gradients = gradients

    def send(self, cotangent: Array, layout: str = "plain") -> Pull:  # noqa: ARG002 - there is but one
        """Take a cotangent back."""
        try:
            return Pull(self._gradients(cotangent), cotangent)
        except GradvitalsError as error:
            return Pull((), cotangent, raised=f"{error.what}: {error.where}".partition("\n")[0])


def _without(reached: Sequence[frozenset[int]]) -> frozenset[int]:
    return frozenset(at for at, sources in enumerate(reached) if not sources)


def _shape_of(sizes: str) -> tuple[int, ...]:
    return tuple(int(n) for n in sizes.split(",") if n.strip())
