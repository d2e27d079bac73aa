"""A case's inputs as leaves with readable paths, and the same call with other leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.jax.arrays import held_in, is_array, is_inexact
from gradvitals.frameworks.user_code import argument_names
from gradvitals.vocabulary.errors import InputError

#: The root that a model is which is itself a pytree (an Equinox module): its leaves need no name before them.
MODEL = ""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of one input; ``relative`` is its path within that input, ``role`` parameter or input."""

    path: str
    relative: str
    role: str
    value: Any


@dataclass(frozen=True, slots=True)
class Root:
    """One argument, or the model: its leaves by their numbers in ``Inputs.leaves``, and how they hang together."""

    name: str
    tree: Any
    first: int
    relatives: tuple[str, ...]
    structure: Any

    @property
    def numbers(self) -> range:
        """The numbers of its leaves."""
        return range(self.first, self.first + len(self.relatives))


class Inputs:
    """The inputs of a case, flattened as JAX flattens them.

    Parameters
    ----------
    case : Case
        Its model is an input as well where it is a pytree with arrays in it.

    Raises
    ------
    InputError
        When an input is no pytree, holds NaN or no entries, was donated, or is traced.

    """

    def __init__(self, case: Case) -> None:
        self._case = case
        named = [*zip(argument_names(case.model, case.args, {})[0], case.args, strict=True), *case.keywords.items()]
        self.model_is_tree = any(is_inexact(leaf) for leaf in jax.tree_util.tree_leaves(case.model))
        trees = [(MODEL, case.model), *named] if self.model_is_tree else named
        # JAX's functions take all their parameters in one pytree, first; further nests are batches and states.
        nested = [at for at, (_, tree) in enumerate(trees) if not jax.tree_util.all_leaves([tree])]
        self.roots: list[Root] = []
        self.leaves: list[Leaf] = []
        for at, (name, tree) in enumerate(trees):
            role = "parameter" if at in nested[:1] else "input"
            found, structure = _flattened(name, tree)
            relatives = tuple(relative for relative, _ in found)
            self.roots.append(Root(name, tree, len(self.leaves), relatives, structure))
            for relative, value in found:
                path = name + relative if name else relative.removeprefix(".")
                self.leaves.append(Leaf(path, relative, role, value))
        self.movable = self._movable()

    @property
    def arguments(self) -> list[Root]:
        """The roots without the model."""
        return self.roots[1:] if self.model_is_tree else self.roots

    def call(self, leaves: Sequence[Any], function: Callable[..., Any] | None = None) -> Any:
        """Call the model, or another function of the same arguments, on these leaves."""
        made = [
            jax.tree_util.tree_unflatten(root.structure, [leaves[at] for at in root.numbers]) for root in self.roots
        ]
        model = made.pop(0) if self.model_is_tree else self._case.model
        count = len(self._case.args)
        return (function or model)(*made[:count], **dict(zip(self._case.keywords, made[count:], strict=True)))

    def _movable(self) -> list[int]:
        """The leaves that have slopes; Python's own floats are settings, unless there is nothing else."""
        for leaf in self.leaves:
            _require_usable(leaf)
        found = [at for at, leaf in enumerate(self.leaves) if is_inexact(leaf.value) and not _is_mask(leaf.value)]
        found = found or [at for at, leaf in enumerate(self.leaves) if isinstance(leaf.value, (float, complex))]
        if not found:
            kinds = [f"{leaf.path} ({_kind(leaf.value)})" for leaf in self.leaves]
            raise InputError(
                "there is no floating-point array to differentiate",
                f"inputs: {', '.join(kinds) or 'none'}",
                "pass at least one floating-point array; a class that holds some must be registered as a pytree "
                "(jax.tree_util.register_dataclass)",
            )
        for at in found:
            _require_sound(self.leaves[at])
        return found


def _flattened(name: str, tree: Any) -> tuple[list[tuple[str, Any]], Any]:
    try:
        found, structure = jax.tree_util.tree_flatten_with_path(tree)
    except (TypeError, ValueError) as error:
        raise InputError(
            "an input is no pytree", f"{name}: {error}", "give a dict keys of one kind, which can be sorted"
        ) from error
    return [(relative_path(keys), leaf) for keys, leaf in found], structure


def relative_path(keys: Sequence[Any]) -> str:
    """A path of JAX's keys as it is written in Python: ``.dense.W``, ``[0].bias``.

    >>> [relative_path(keys) for keys, _ in jax.tree_util.tree_leaves_with_path({"dense": [1, (2, 3)]})]
    ['.dense[0]', '.dense[1][0]', '.dense[1][1]']
    """
    return "".join(_step(key) for key in keys)


def _step(key: Any) -> str:
    if isinstance(key, jax.tree_util.SequenceKey):
        return f"[{key.idx}]"
    if isinstance(key, jax.tree_util.GetAttrKey):
        return f".{key.name}"
    return f".{key.key}" if hasattr(key, "key") else str(key)


def named(tree: Any) -> Iterator[tuple[str, Any]]:
    """Leaves of a gradient with their paths; None is a leaf there: no gradient."""
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda value: value is None):
        yield relative_path(keys), leaf


def _kind(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if is_array(value) else type(value).__name__


def _is_mask(value: Any) -> bool:
    """An attention mask of 0 and −∞ is added, and has no slope."""
    if jnp.iscomplexobj(value):
        return False
    array = np.asarray(value).astype(np.float64)
    return bool(np.isneginf(array).any() and (np.isneginf(array) | (array == 0)).all())


def _require_usable(leaf: Leaf) -> None:
    if isinstance(leaf.value, jax.core.Tracer):
        raise InputError(
            "an input has no values",
            f"{leaf.path} is traced: the call stands inside a function that JAX transforms (jit, grad, vmap)",
            "call it outside, on concrete arrays",
        )
    if isinstance(leaf.value, jax.Array) and leaf.value.is_deleted():
        raise InputError(
            "an input has been donated",
            f"{leaf.path} was given away to a jitted function with donate_argnums",
            "make it anew, or pass a copy to that function",
        )


def _require_sound(leaf: Leaf) -> None:
    """Refuse what no slope can be measured from."""
    if np.size(leaf.value) == 0:
        raise InputError(
            "an input is empty", f"{leaf.path} has shape {np.shape(leaf.value)}", "pass at least one sample"
        )
    dtype = held_in(leaf.value)
    wide = np.complex128 if jnp.iscomplexobj(leaf.value) else np.float64
    array = np.asarray(leaf.value).astype(dtype).astype(wide)
    finite = np.isfinite(array)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise InputError(
            "an input is not finite",
            f"{leaf.path} has {int((~finite).sum())} NaN or infinite value(s) of {array.size}, the first at {first}",
            "clean the input first: no slope can be measured from it",
        )
