"""NumPy functions with a hand-written gradient, and NumPy layers with a hand-written backward pass, as a Problem."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.numpy_pullback import LAYOUTS, NumpyPullback, judgeable, laid_out, split
from gradvitals.frameworks.problem import Array, Gradient, Tensor, agree, matching, values_one_by_one
from gradvitals.frameworks.tree import leaves, rebuilt, short_names
from gradvitals.frameworks.user_code import HostRandomState, argument_names, positionals, user_code
from gradvitals.vocabulary.errors import InputError, ModelError, UsageError

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "longdouble": 2.0**-53}

_CONTRACT = "it is called as backward(dout), or as backward(dout, cache) when the forward pass returns (out, cache)"


class NumpyProblem:
    """A NumPy function with ``grad=``, or a NumPy layer with ``vjp=``.

    Every evaluation gets fresh copies of the inputs, so that code that works in place does no harm. A layer's forward
    is run again at the base point before each backward, because hand-written layers keep what they need between the
    two.

    Parameters
    ----------
    case : Case
        ``model`` is the function or forward pass and ``args`` its inputs: arrays, numbers, or dicts of them.
    wrt : sequence of str, optional
        Names or patterns of the inputs to differentiate; all that have a gradient when not given.

    Raises
    ------
    InputError
        Without a floating-point input, with NaN in one, on a value that isn't scalar where ``grad=`` was given, and
        when gradients can't be matched with inputs.
    UsageError
        When both or neither of ``grad=`` and ``vjp=`` are given.

    """

    layouts = LAYOUTS
    #: The caller hands each backward pass a cotangent of its own.
    shares_cotangents = False

    def __init__(self, case: Case, wrt: Sequence[str] | None = None) -> None:
        if (case.grad is None) == (case.vjp is None):
            both = case.grad is not None
            raise UsageError(
                "give either grad= or vjp=" if both else "there is no gradient to check",
                f"check({case.subject}, ...) with {'both' if both else 'neither'}",
                "a scalar function takes grad= (a function or the computed values), a layer takes vjp=backward",
            )
        self._case = case
        self._function: Callable[..., Any] = case.model
        self._random = HostRandomState.capture()
        names, keywords = argument_names(case.model, case.args, case.keywords)
        self._roots = [*zip(names, case.args, strict=True), *((keywords[k], v) for k, v in case.keywords.items())]
        self._count = len(case.args)
        needed, taken = positionals(case.vjp) if case.vjp is not None else (0, 0)
        self._needs_cache, self._takes_cache = needed >= 2, taken >= 2
        self._output_roundoff: Array | None = None
        self._outputs: list[NDArray[Any]] = []
        self.wide = False
        everything = {path: value for root, tree in self._roots for path, value in leaves(tree, root)}
        _require_sound(everything)
        # Where there is no float at all, whole numbers are meant as real ones (theta = 3); else they are labels,
        # sizes, flags.
        movable = {path: value for path, value in everything.items() if _is_floating(value)} or {
            path: value for path, value in everything.items() if _is_number(value)
        }
        self._base = {path: _promoted(value) for path, value in movable.items()}
        self._full_paths = list(self._base)
        found = self._claimed({}) if case.vjp is None else self._pulled_back(np.ones(self.value({}).size), {})
        self._base |= {path: _promoted(everything[path]) for path in found}
        shown = short_names(list(found))
        chosen = set(matching(list(shown.values()), wrt))
        self._full_paths = [path for path in found if shown[path] in chosen]
        self.tensors = tuple(_tensor(shown[path], path, self._base[path]) for path in self._full_paths)
        self.sample_sizes = _sample_sizes(list(everything.values()))
        self.objective = "scalar" if case.grad is not None else "random"
        self.roundoff = max(tensor.roundoff for tensor in self.tensors)
        self.evaluation = "sequential"
        self._size = self.value({}).size
        #: A gradient that is no backward pass takes no cotangent.
        self.pullback = None if case.vjp is None else self._ready

    def shadow(self, within: Array | None = None) -> NumpyProblem | None:
        if self.roundoff <= _ROUNDOFF["float64"]:
            return None
        native = self.value({})
        shadow = copy.copy(self)
        shadow.wide = True
        if not shadow.gives(native, self.roundoff, within):
            return None
        shadow.roundoff = _ROUNDOFF["float64"]
        return shadow

    def gives(self, native: Array, roundoff: float, within: Array | None = None) -> bool:
        """Whether evaluations are in float64 throughout and give the value that was computed natively."""
        try:
            same = agree(self.value({}), native, roundoff, within)
        except (ModelError, InputError):
            return False
        return same and all(output.dtype == np.float64 for output in self._outputs)

    def point(self, tensor: int) -> Array:
        return self._base[self._full_paths[tensor]].astype(np.float64).reshape(-1)

    def rounded(self, tensor: int, values: Array) -> Array:
        return values if self.wide else values.astype(self._base[self._full_paths[tensor]].dtype).astype(np.float64)

    def value(self, moved: Mapping[int, Array]) -> Array:
        outputs, _ = self._forward(moved, wide=self.wide)
        self._outputs = outputs
        flat = [np.asarray(out, dtype=np.float64).reshape(-1) for out in outputs]
        self._output_roundoff = np.concatenate(
            [np.full(out.size, _ROUNDOFF.get(out.dtype.name, 2.0**-53)) for out in outputs]
        )
        if self._case.grad is not None and sum(out.size for out in flat) != 1:
            raise InputError(
                "the function's value is not a scalar",
                f"{self._case.subject}(...) has shape {outputs[0].shape}",
                "grad= goes with a scalar function; sum or average the value, or give a layer's backward as vjp=",
            )
        return np.concatenate(flat)

    def values(self, points: Sequence[Mapping[int, Array]]) -> Array:
        return values_one_by_one(self, points, self._size)

    @property
    def output_roundoff(self) -> Array:
        if self._output_roundoff is None:
            self.value({})
        return np.asarray(self._output_roundoff)

    @property
    def output_sizes(self) -> tuple[int, ...]:
        return tuple(output.size for output in self._outputs)

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(output.shape for output in self._outputs)

    @property
    def input_shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        values = [(path, value) for root, tree in self._roots for path, value in leaves(tree, root)]
        names = short_names([path for path, _ in values])
        return tuple((names[path], value.shape) for path, value in values if isinstance(value, np.ndarray))

    def cuts(self) -> tuple[str, ...]:
        return ()

    def hand_written(self) -> None:
        return None

    def representable(self, cotangent: Array) -> Array:
        outputs, _ = self._forward({})  # in the user's precision, in which the cotangent arrives
        return np.concatenate([part.astype(np.float64).reshape(-1) for part in split(cotangent, outputs)])

    def gradient(self, cotangent: Array, moved: Mapping[int, Array] | None = None) -> tuple[Gradient, ...]:
        moved = moved or {}
        if self._case.vjp is None:
            found = self._claimed(moved)
            factor = float(cotangent[0])
        else:
            found = self._pulled_back(cotangent, moved)
            factor = 1.0
        return self._judgeable(found, factor)

    def wide_gradient(self, cotangent: Array, moved: Mapping[int, Array] | None = None) -> tuple[Gradient, ...] | None:
        if not self.wide or (self._case.vjp is None and not callable(self._case.grad)):
            return None
        try:
            by_hand, there = self._case.vjp is not None, dict(moved or {})
            found = self._pulled_back(cotangent, there, wide=True) if by_hand else self._claimed(there, wide=True)
        except (ModelError, InputError):
            return None
        return self._judgeable(found, 1.0 if by_hand else float(cotangent[0]))

    def tangent(self, direction: Mapping[int, Array]) -> Array | None:
        del direction
        return None  # NumPy has no forward mode

    def _judgeable(self, found: Mapping[str, Any], factor: float = 1.0) -> tuple[Gradient, ...]:
        return tuple(
            judgeable(found.get(path), tensor, factor)
            for path, tensor in zip(self._full_paths, self.tensors, strict=True)
        )

    def _ready(
        self,
        moved: Mapping[int, Array] | None = None,
        *,
        layout: str = "plain",
        shared: Sequence[tuple[int, int]] = (),  # noqa: ARG002 - see NumpyPullback.own_backward
        only: Sequence[int] | None = None,  # noqa: ARG002 - there is nothing that could be spared
    ) -> NumpyPullback:
        outputs, cache = self._forward(moved or {}, layout=layout)

        def back(parts: list[NDArray[Any]]) -> tuple[Gradient, ...]:
            if cache is None:
                self._forward(moved or {}, layout=layout)
            return self._judgeable(self._back(parts, cache))

        return NumpyPullback(outputs, back, runs_anew=cache is None)

    def _arguments(
        self, moved: Mapping[int, Array], *, wide: bool = False, layout: str = "plain"
    ) -> tuple[list[Any], dict[str, Any]]:
        elsewhere = {self._full_paths[at]: values for at, values in moved.items()}

        def leaf(path: str, value: Any) -> Any:
            if path not in self._base:
                return (
                    np.asarray(value, dtype=np.float64)
                    if wide and isinstance(value, np.ndarray) and _is_floating(value)
                    else copy.deepcopy(value)
                )
            base = self._base[path]
            dtype = np.dtype(np.float64) if wide else base.dtype
            out = (elsewhere[path].reshape(base.shape) if path in elsewhere else base).astype(dtype)
            return laid_out(out, layout) if isinstance(value, np.ndarray) else out[()]

        made = [rebuilt(tree, root, leaf) for root, tree in self._roots]
        keywords = [root for root, _ in self._roots[self._count :]]
        return made[: self._count], dict(zip(keywords, made[self._count :], strict=True))

    def _forward(
        self, moved: Mapping[int, Array], *, wide: bool = False, layout: str = "plain"
    ) -> tuple[list[NDArray[Any]], Any]:
        """Outputs as arrays, and the cache (None where there is none)."""
        args, keywords = self._arguments(moved, wide=wide, layout=layout)
        self._random.restore()
        # A step may leave the function's domain: the NaN that it gives there says so, a warning would only puzzle.
        with user_code(f"{self._case.subject}()"), np.errstate(all="ignore"):
            result = self._function(*args, **keywords)
        values, cache = self._parted(result)
        outputs = [np.asarray(item) for item in values]
        for out in outputs:
            if out.dtype.kind not in "fiub":
                raise InputError(
                    "the function's value is not a real number",
                    f"{self._case.subject}(...) returned {type(result).__name__} of dtype {out.dtype}",
                    "return a real array or number, or (value, cache)",
                )
        return [out if out.dtype.kind == "f" else out.astype(np.float64) for out in outputs], cache

    def _parted(self, result: Any) -> tuple[tuple[Any, ...], Any]:
        """Values and cache of what a function returned: value, (cost, cache), (out, cache), or several outputs."""
        if not isinstance(result, tuple) or not result:
            return (result,), None
        if self._case.grad is not None:
            return result[:1], None
        if len(result) > 1 and (self._needs_cache or not _is_floating(result[-1])):
            return result[:-1], result[-1]
        return result, None

    def _pulled_back(self, cotangent: Array, moved: Mapping[int, Array], *, wide: bool = False) -> dict[str, Any]:
        outputs, cache = self._forward(moved, wide=wide)
        return self._back(split(cotangent, outputs), cache)

    def _back(self, parts: list[NDArray[Any]], cache: Any) -> dict[str, Any]:
        backward: Any = self._case.vjp
        dout: Any = parts[0] if len(parts) == 1 else tuple(parts)
        if isinstance(dout, np.ndarray) and dout.ndim == 0:
            dout = dout[()]
        with user_code(f"the backward pass of {self._case.subject}", _CONTRACT), np.errstate(all="ignore"):
            with_cache = self._needs_cache or (self._takes_cache and cache is not None)
            result = backward(dout, cache) if with_cache else backward(dout)
        return dict(self._match(result))

    def _claimed(self, moved: Mapping[int, Array], *, wide: bool = False) -> dict[str, Any]:
        grad = self._case.grad
        if callable(grad):
            args, keywords = self._arguments(moved, wide=wide)
            self._random.restore()
            with user_code(f"the gradient of {self._case.subject}"), np.errstate(all="ignore"):
                grad = grad(*args, **keywords)
        return dict(self._match(grad))

    def _match(self, result: Any) -> Iterator[tuple[str, Any]]:
        """Pair gradients with inputs: by name for a dict, by position otherwise."""
        floating = [root for root, tree in self._roots if _is_floating(tree)]
        if isinstance(result, Mapping):
            yield from self._match_by_name(result)
            return
        given = list(result) if isinstance(result, (tuple, list)) else [result]
        numbers = [root for root, tree in self._roots if _is_number(tree)]
        everything = [root for root, _ in self._roots]
        candidates = next((names for names in (floating, numbers, everything) if len(names) == len(given)), None)
        if candidates is None and isinstance(result, list) and len(floating or numbers) == 1:
            candidates, given = floating or numbers, [result]  # a gradient written as a plain list
        if candidates is None:
            raise InputError(
                f"{len(given)} gradient(s) came for {len(floating)} floating-point input(s)",
                f"inputs: {', '.join(f'{name} ({_kind(tree)})' for name, tree in self._roots) or 'none'}",
                "return one gradient per floating-point input, in their order (None where there is none), or a dict",
            )
        trees = dict(self._roots)
        for root, gradient in zip(candidates, given, strict=True):
            if isinstance(gradient, Mapping) and isinstance(trees[root], Mapping):
                yield from self._match_by_name(gradient)
            elif _is_number(trees[root]) and (gradient is not None or root in floating):
                yield root, gradient

    def _match_by_name(self, result: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
        paths = [path for root, tree in self._roots for path, value in leaves(tree, root) if _is_number(value)]
        shown = short_names(paths)
        known = {str(key): value for key, value in result.items()}
        matched = []
        for path in paths:
            names = (shown[path], path, path.rpartition(".")[2])
            key = next(
                (k for name in names for k in (f"d{name}", f"grad_{name}", f"{name}_grad", name) if k in known), None
            )
            if key is not None:
                matched.append((path, known[key]))
        if not matched:
            raise InputError(
                "no gradient's name fits an input",
                f"gradients: {', '.join(known) or 'none'}; inputs: {', '.join(shown.values()) or 'none'}",
                "name the gradient of W1 'dW1' (or 'W1')",
            )
        yield from matched


def _is_floating(value: Any) -> bool:
    return isinstance(value, (float, np.floating)) or (isinstance(value, np.ndarray) and value.dtype.kind == "f")


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, float, np.number)) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiu")


def _kind(tree: Any) -> str:
    return f"{tree.dtype} {tree.shape}" if isinstance(tree, np.ndarray) else type(tree).__name__


def _promoted(value: Any) -> NDArray[Any]:
    """Numbers and integer arrays as float64, floating-point arrays as they are; a copy in any case."""
    array = np.array(value)
    return array if array.dtype.kind == "f" and array.dtype.name in _ROUNDOFF else array.astype(np.float64)


def _tensor(shown: str, path: str, base: NDArray[Any]) -> Tensor:
    # Only a dict of named arrays is what courses call parameters; plain arguments are inputs.
    role = "parameter" if "." in path else "input"
    name = base.dtype.name
    return Tensor(shown, role, base.shape, name, _ROUNDOFF.get(name, 2.0**-53))


def _sample_sizes(values: list[Any]) -> tuple[int, ...]:
    """How many samples there are, for the N of a mean: rows, or columns where a row vector (1, m) stands beside a
    matrix (n, m) as in some courses.
    """
    shapes = [value.shape for value in values if isinstance(value, np.ndarray) and value.ndim]
    matrices = [shape for shape in shapes if len(shape) >= 2]
    columns = [s[1] for s in matrices if len(s) == 2 and s[0] == 1 and sum(o[-1] == s[1] for o in matrices) > 1]
    return tuple(columns[:1]) or tuple(shape[0] for shape in (matrices or shapes)[:1])


def _require_sound(everything: Mapping[str, Any]) -> None:
    """Refuse what no slope can be measured from."""
    numbers = {name: value for name, value in everything.items() if _is_number(value)}
    if not numbers:
        raise InputError(
            "there is no floating-point tensor to differentiate",
            f"inputs: {', '.join(f'{name} ({_kind(value)})' for name, value in everything.items()) or 'none'}",
            "pass at least one floating-point array",
        )
    for name, value in numbers.items():
        if np.size(value) == 0:
            raise InputError("an input is empty", f"{name} has shape {np.shape(value)}", "pass at least one sample")
        finite = np.isfinite(value)
        if not finite.all():
            raise InputError(
                "an input is not finite",
                f"{name} has {int(np.size(value) - finite.sum())} NaN or infinite entries of {np.size(value)}",
                "clean the input first: no slope can be measured from it",
            )
