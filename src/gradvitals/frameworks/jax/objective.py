"""What is differentiated: how the output of a JAX function becomes arrays, or one scalar."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradvitals.frameworks.jax.arrays import is_array, is_complex, is_inexact
from gradvitals.frameworks.jax.inputs import relative_path
from gradvitals.vocabulary.errors import GradvitalsError, InputError, ModelError, UsageError


class Objective:
    """What of an output is differentiated.

    Parameters
    ----------
    loss : callable, optional
        Maps the output to a scalar.
    outputs : str, int, or sequence of them, optional
        Paths or patterns of arrays in the output (``"logits"``, ``"states[0]"``, ``"states"`` for all in it), or the
        places of items in a tuple. All floating-point and complex arrays when not given, or the output's own scalar
        ``loss``.
    claim : str
        ``"grad"`` where a gradient of the value, which must be a scalar, was given; ``"vjp"`` where a backward pass
        was, which takes any cotangent; else ``""``.

    Examples
    --------
    >>> output = {"logits": jnp.ones(2), "states": (jnp.zeros(1), jnp.array([1.0, 2.0, 3.0]))}
    >>> Objective(outputs="states[1]").of(output)
    ({'states[1]': Array([1., 2., 3.], dtype=float32)}, 'random')

    """

    def __init__(
        self, loss: Callable[[Any], Any] | None = None, outputs: Any = None, claim: str = "", call: str = "the function"
    ) -> None:
        if outputs is not None and (loss is not None or claim):
            raise UsageError(
                "outputs= and what else was given both say what is differentiated",
                f"outputs={outputs!r} with {f'{claim}=' if claim else 'a loss'}",
                "leave one out: a loss picks from the output what it needs",
            )
        self._loss = loss
        self._wanted = None if outputs is None else [outputs] if isinstance(outputs, (str, int)) else list(outputs)
        self._claim = claim
        self._call = call
        #: Paths of outputs that are left out, because no gradient can come back from them.
        self.left_out: tuple[str, ...] = ()

    def of(self, output: Any) -> tuple[dict[str, Any], str]:
        """The arrays to differentiate by their paths, and how they came to be.

        ``"loss"``; ``"scalar"`` with ``grad=``; ``"output-loss"`` for the output's own ``loss`` (attribute or key), or
        an output that is a scalar; ``"random"`` for several numbers, which a random cotangent is sent back to.
        """
        if self._loss is not None:
            return {"loss": required_scalar(self._of_loss(output, self._loss), "the loss")}, "loss"
        if self._claim == "grad":
            return {"value": required_scalar(output, f"the value of {self._call}")}, "scalar"
        found = {path: jnp.asarray(leaf) for path, leaf in differentiable(output)}
        if self._wanted is not None:
            found = self._chosen(output, found, self._wanted)
            (first, *more) = found.values()
            if not more and is_real_scalar(first):
                return {path: jnp.reshape(first, ()) for path in found}, "output-loss"
            return found, "random"
        own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        for candidate in (own, output) if not self._claim else ():
            if is_real_scalar(candidate):
                return {"loss": jnp.reshape(jnp.asarray(candidate), ())}, "output-loss"
        found = {path: array for path, array in found.items() if path not in self.left_out}
        if not found:
            raise InputError(
                "the output holds no floating-point array",
                f"{self._call} returned {describe(output)}",
                "return floating-point arrays, or give a loss= that makes a scalar of it; counts have no slope",
            )
        return found, "random"

    def _of_loss(self, output: Any, loss: Callable[[Any], Any]) -> Any:
        try:
            return loss(output)
        except GradvitalsError:
            raise
        except Exception as error:
            raise ModelError(
                "the loss raised",
                f"{type(error).__name__}: {error}",
                f"it is called with the function's output, here {describe(output)}; call it by hand to see it fail",
            ) from error

    def _chosen(self, output: Any, found: Mapping[str, Any], wanted: Sequence[str | int]) -> dict[str, Any]:
        chosen: set[str] = set()
        for item in wanted:
            fits = [path for path in found if _fits(path, item, output)]
            if not fits:
                names = ", ".join(path or "the output itself (leave outputs= out)" for path in found)
                raise UsageError(
                    f"no output is called {item!r}",
                    f"{self._call} returned {describe(output)}",
                    f"there are: {names}" if names else "it holds no floating-point array",
                )
            chosen.update(fits)
        return {path: array for path, array in found.items() if path in chosen}


def _fits(path: str, wanted: str | int, output: Any) -> bool:
    """Whether a path is the one wanted, lies in it, or fits it as a pattern."""
    if isinstance(wanted, int):
        if not isinstance(output, (tuple, list)) or not -len(output) <= wanted < len(output):
            return False
        fields: tuple[str, ...] | None = getattr(output, "_fields", None)
        wanted = fields[wanted] if fields else f"[{wanted % len(output)}]"
    if path == wanted or (path.startswith(wanted) and path[len(wanted) : len(wanted) + 1] in {".", "["}):
        return True
    return fnmatch.fnmatchcase(path, wanted.replace("[", "[[]"))  # brackets are places, not sets of letters


def required_scalar(value: Any, what: str) -> jax.Array:
    """A real scalar as an array of shape (); InputError for anything else."""
    if is_real_scalar(value):
        return jnp.reshape(jnp.asarray(value), ())
    if is_array(value) and is_inexact(value) and not is_complex(value.dtype):
        raise InputError(
            f"{what} is not a scalar", f"it is {describe(value)}", "reduce it to one number: .mean() or .sum()"
        )
    raise InputError(
        f"{what} is not a real number",
        f"it is {describe(value)}",
        "return a floating-point scalar; counts, classes and complex numbers have no slope to go down",
    )


def is_real_scalar(value: Any) -> bool:
    """Whether a value is a single floating-point number."""
    if isinstance(value, float):
        return True
    return is_inexact(value) and not is_complex(value.dtype) and np.size(value) == 1


def differentiable(output: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every floating-point and complex number of an output with its path; also in dataclasses that aren't registered
    as pytrees.
    """
    for keys, leaf in jax.tree_util.tree_leaves_with_path(output):
        here = path + relative_path(keys)
        if is_inexact(leaf) or isinstance(leaf, (float, complex)):
            yield here.removeprefix("."), leaf
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            for field in dataclasses.fields(leaf):
                yield from differentiable(getattr(leaf, field.name, None), f"{here}.{field.name}")


def describe(value: Any) -> str:
    """A value's type, and an array's shape and dtype."""
    if is_array(value):
        return f"an array of shape {tuple(value.shape)}, {value.dtype}"
    return f"{type(value).__name__}"
