"""Gradients that were given with ``grad=`` or came from ``vjp=``, each matched with the leaf that it is of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradvitals.frameworks.jax.arrays import as_real, is_array, is_complex, is_inexact
from gradvitals.frameworks.jax.function import Function
from gradvitals.frameworks.jax.inputs import Inputs, Root, named
from gradvitals.frameworks.jax.objective import Objective
from gradvitals.frameworks.problem import Array, Gradient
from gradvitals.frameworks.tree import short_names
from gradvitals.frameworks.user_code import positionals, user_code
from gradvitals.vocabulary.errors import InputError

#: How a hand-written gradient of W is called.
_NAMES = ("d{}", "grad_{}", "{}_grad", "{}")

_CONTRACT = "it is called as backward(dout), or as backward(dout, cache) when the forward pass returns (out, cache)"

_Pairs = list[tuple[int, Any]]


def matched(claim: Any, inputs: Inputs) -> dict[int, Any]:
    """Pair gradients with leaves, by their numbers; leaves that no gradient was given for are left out.

    Known are one gradient for each differentiable argument, or each argument, in their order; a dict by the
    arguments' names (``dx`` or ``x``) or the leaves' (``dW1`` for ``params["W1"]``); and the gradient of the first
    differentiable argument alone, as ``jax.grad`` gives it. Where several of these are possible, shapes decide.

    Raises
    ------
    InputError
        When none fits.

    """
    movable = set(inputs.movable)
    roots = [root for root in inputs.arguments if movable.intersection(root.numbers)]
    readings = [pairs for pairs in _readings(claim, roots, inputs) if pairs]
    for pairs in readings:
        if all(gradient is None or _fits(gradient, inputs.leaves[at].value) for at, gradient in pairs):
            return dict(pairs)
    if readings:
        return dict(readings[0])
    came = [f"{path or 'one'} {_shape(leaf)}" for path, leaf in named(claim)]
    raise InputError(
        "the gradients can't be matched with the inputs",
        f"gradients: {', '.join(came) or 'none'}; inputs: {', '.join(inputs.leaves[at].path for at in inputs.movable)}",
        "return one gradient per argument, each nested like the argument (None where there is none), or a dict by name",
    )


def _readings(claim: Any, roots: Sequence[Root], inputs: Inputs) -> Iterator[_Pairs]:
    if isinstance(claim, (tuple, list)):
        for candidates in (roots, inputs.arguments):
            if len(claim) == len(candidates):
                yield _all(list(zip(candidates, claim, strict=True)), inputs)
    if roots:
        yield _below(claim, roots[0], inputs) or []
    if isinstance(claim, Mapping):
        yield _by_name(claim, roots, inputs)
    if isinstance(claim, (tuple, list)) and len(claim) == len(inputs.movable):
        yield list(zip(inputs.movable, claim, strict=True))


def _all(each: Sequence[tuple[Root, Any]], inputs: Inputs) -> _Pairs:
    """The pairs of several arguments, empty where one doesn't fit."""
    found: _Pairs = []
    for root, claim in each:
        pairs = _below(claim, root, inputs)
        if pairs is None:
            return []
        found += pairs
    return found


def _below(claim: Any, root: Root, inputs: Inputs) -> _Pairs | None:
    """The pairs of one argument: by equal paths, or in their order where there are as many; None where nothing fits."""
    numbers = [at for at in root.numbers if at in set(inputs.movable)]
    if claim is None or not numbers:
        return [(at, None) for at in numbers]
    if root.relatives == ("",) and isinstance(claim, list) and not any(map(is_array, claim)):
        return [(numbers[0], claim)]  # a gradient written as a plain list
    given = dict(named(claim))
    found = [(at, given[inputs.leaves[at].relative]) for at in numbers if inputs.leaves[at].relative in given]
    if found:
        return found
    if isinstance(claim, Mapping):
        return None
    leaves = [leaf for leaf in given.values() if not _is_nothing(leaf)]
    return list(zip(numbers, leaves, strict=True)) if len(leaves) == len(numbers) else None


def _by_name(claim: Mapping[Any, Any], roots: Sequence[Root], inputs: Inputs) -> _Pairs:
    known = {str(key): value for key, value in claim.items()}
    found: _Pairs = []
    for root in roots:
        key = next((form.format(root.name) for form in _NAMES if form.format(root.name) in known), None)
        if key is not None:
            found += _below(known[key], root, inputs) or []
    if found:
        return found
    paths = [inputs.leaves[at].path for at in inputs.movable]
    shown = short_names(paths)
    for at, path in zip(inputs.movable, paths, strict=True):
        names = (shown[path], path, path.rpartition(".")[2])
        key = next((form.format(name) for name in names for form in _NAMES if form.format(name) in known), None)
        if key is not None:
            found.append((at, known[key]))
    return found


def claimed(function: Function, cotangent: Array, moved: Mapping[int, Array]) -> dict[int, Any]:
    """What ``grad=`` or ``vjp=`` gives at a point, by the numbers of the leaves."""
    case, views = function.case, function.at(moved)
    with function.context():
        claim = case.grad
        if callable(claim):
            with user_code(f"the gradient of {case.subject}"):
                claim = function.call(claim, views, function.copies())
        elif case.vjp is not None:
            backward: Any = case.vjp
            needed, taken = positionals(backward)
            with user_code(f"{case.subject}()"):
                value, cache = function.returned(views, function.copies())
            dout = handed_back(value, function.objective, function.split(cotangent))
            with user_code(f"the backward pass of {case.subject}", _CONTRACT):
                with_cache = needed >= 2 or (taken >= 2 and cache is not None)
                claim = backward(dout, cache) if with_cache else backward(dout)
        return matched(claim, function.inputs)


def handed_back(value: Any, objective: Objective, parts: Sequence[np.ndarray]) -> Any:
    """What a hand-written backward pass gets for its layer's output, nested like it; None for integers.

    ``parts`` is the cotangent of the objective as real views; a loss behind the layer is differentiated by JAX. JAX's
    cotangent of a complex output is the conjugate of the pair of its parts' own, which ``jax.vjp`` takes care of.
    """
    leaves, structure = jax.tree_util.tree_flatten(value)
    live = [at for at, leaf in enumerate(leaves) if is_inexact(leaf) or isinstance(leaf, (float, complex))]

    def through(arrays: list[Any]) -> list[Any]:
        filled = list(leaves)
        for at, array in zip(live, arrays, strict=True):
            filled[at] = array
        return [as_real(a) for a in objective.of(jax.tree_util.tree_unflatten(structure, filled))[0].values()]

    pull = jax.vjp(through, [jnp.asarray(leaves[at]) for at in live])[1]
    arrays = pull([jnp.asarray(part) for part in parts])[0]
    filled: list[Any] = [None] * len(leaves)
    for at, array in zip(live, arrays, strict=True):
        filled[at] = array
    return jax.tree_util.tree_unflatten(structure, filled)


def judgeable(claim: Any, path: str, value: Any, factor: float) -> Gradient:
    """A claimed gradient as the flat numbers to be judged, or its wrong shape.

    JAX's gradient of a real function of a complex number x + iy is ∂f/∂x − i ∂f/∂y: the conjugate of the pair.
    """
    if claim is None or _is_nothing(claim):
        return Gradient(None)
    shape, complex_leaf = np.shape(value), jnp.iscomplexobj(value)
    try:
        array = np.asarray(claim)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if not jnp.issubdtype(array.dtype, jnp.number) or (is_complex(array.dtype) and not complex_leaf):
        raise InputError(
            "a gradient is not an array of numbers of its input's kind",
            f"the gradient of {path} is {type(claim).__name__} of {array.dtype}",
            f"return a {'complex' if complex_leaf else 'real'} array of shape {shape}",
        )
    if array.shape != shape and not array.size == 1 == np.size(value):
        return Gradient(None, array.shape)
    if complex_leaf:
        wide = np.conj(array.astype(np.complex128)).reshape(-1) * factor
        return Gradient(np.stack([wide.real, wide.imag], axis=-1).reshape(-1))
    return Gradient(array.astype(np.float64).reshape(-1) * factor)


def _fits(gradient: Any, value: Any) -> bool:
    try:
        return bool(np.shape(gradient) == np.shape(value))
    except ValueError:  # rows of different lengths
        return False


def _is_nothing(leaf: Any) -> bool:
    """JAX's gradient of an integer."""
    return bool(getattr(leaf, "dtype", None) == jax.dtypes.float0)


def _shape(leaf: Any) -> str:
    return str(np.shape(leaf)) if hasattr(leaf, "shape") else type(leaf).__name__
