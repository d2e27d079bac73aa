"""Whether a case is JAX's: looked at only where jax has been imported by somebody else."""

from __future__ import annotations

import functools
from typing import Any

import jax

from gradvitals.frameworks.case import Case

_PACKAGES = frozenset({"jax", "jaxlib"})


def is_jax(case: Case) -> bool:
    """Whether an input, or a leaf of one, is a ``jax.Array``, or the callable is JAX's own or transformed by JAX.

    >>> is_jax(Case(jax.jit(lambda x: 2 * x), (1.0,))), is_jax(Case(sum, ([1.0],)))
    (True, False)
    """
    trees = [*case.args, *case.keywords.values(), case.model]
    return _is_transformed(case.model) or any(isinstance(leaf, jax.Array) for tree in trees for leaf in _leaves(tree))


def _leaves(tree: Any) -> list[Any]:
    try:
        return jax.tree_util.tree_leaves(tree)
    except (TypeError, ValueError):  # keys that can't be sorted: no pytree of JAX's
        return []


def _is_transformed(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, (jax.custom_vjp, jax.custom_jvp, jax.stages.Wrapped)):
        return True
    # What vmap, grad and checkpoint return has the user's name and module; only the code in it is JAX's.
    names = (
        getattr(type(function), "__module__", None),
        getattr(function, "__module__", None),
        getattr(function, "__globals__", {}).get("__name__"),
    )
    return any(str(name).partition(".")[0] in _PACKAGES for name in names)
