"""Which entries of a model nothing ever set: build it over different contents of memory, and see what follows them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradvitals.frameworks.torch.layers import kind_of, written
from gradvitals.frameworks.torch.state import RandomState, seed_everything
from gradvitals.frameworks.weights import Unset
from gradvitals.vocabulary.errors import InputError

_aten = torch.ops.aten
#: What hands out memory as it is. ``Module.to_empty`` and ``skip_init`` come here as well.
_EMPTY = frozenset(
    {
        *(_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.empty_permuted),
        *(_aten.new_empty, _aten.new_empty_strided),
    }
)
#: Two contents of memory: exact in every type of floating point number, and of an integer of any size.
_FILLS: tuple[Mapping[str, Any], Mapping[str, Any]] = (
    {"float": 0.6875, "int": 85, "bool": True},
    {"float": -1.375, "int": 42, "bool": False},
)


def unset_entries(build: Callable[[], nn.Module], *, seed: int = 0) -> tuple[tuple[Unset, ...], int]:
    """Build a model over different contents of memory; also how many times it was built.

    Parameters
    ----------
    build : callable
        Gives the model anew at each call.
    seed : int
        Of the global random generators before each build; they are put back afterwards.

    Returns
    -------
    tuple of Unset
        One per parameter or buffer with entries that nothing has set.
    int
        2, or 3 where something differed that has not just stayed as it was: what a third build over the first
        content repeats depends on memory, and what it doesn't is random.

    Raises
    ------
    InputError
        When what is built isn't a torch.nn.Module.

    """
    first, second = (_built(build, which, seed) for which in (0, 1))
    same = {path for path, tensor in first.items() if path in second and _alike(tensor, second[path])}
    stayed = {path: _stayed(first[path], second[path]) for path in same}
    made = {path: _differs(first[path], second[path]) & ~stayed[path] for path in same}
    builds = 2
    if any(bool(mask.any()) for mask in made.values()):
        third, builds = _built(build, 0, seed), 3
        for path, mask in made.items():
            repeats = path in third and _alike(first[path], third[path])
            made[path] = mask & ~_differs(first[path], third[path]) if repeats else torch.zeros_like(mask)
    kinds = first.kinds
    found = [Unset(path, kinds[path], shape, math.prod(shape), 0, (0,) * len(shape)) for path, shape in first.bare]
    for path in first:
        if path not in same:
            continue
        left = stayed[path] | made[path]
        if bool(left.any()):
            where = tuple(int(at) for at in left.nonzero()[0])
            tensor = first[path]
            found.append(Unset(path, kinds[path], tuple(tensor.shape), int(left.sum()), int(made[path].sum()), where))
    return tuple(found), builds


class _Tensors(dict[str, torch.Tensor]):
    """Parameters and buffers by path, outside any graph, and the classes of the modules that own them."""

    kinds: Mapping[str, str]
    #: Those without memory, and their shapes.
    bare: Sequence[tuple[str, tuple[int, ...]]]


def _built(build: Callable[[], nn.Module], which: int, seed: int) -> _Tensors:
    state = RandomState.capture()
    try:
        seed_everything(seed)
        with _Filled(which):
            model = build()
    finally:
        state.restore()
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, nn.Module):
        raise InputError(
            "what the factory builds is not a torch.nn.Module",
            f"it returned {type(model).__name__}",
            "pass a function that takes no arguments and returns the module",
        )
    named = [*model.named_parameters(), *model.named_buffers()]
    readable = [(path, tensor) for path, tensor in named if not tensor.is_meta and tensor.layout == torch.strided]
    found = _Tensors((written(path), tensor.detach().clone()) for path, tensor in readable)
    found.bare = [(written(path), tuple(tensor.shape)) for path, tensor in named if tensor.is_meta and tensor.numel()]
    found.kinds = {written(path): kind_of(model.get_submodule(path.rpartition(".")[0])) for path, _ in named}
    return found


class _Filled(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Memory that is handed out as it is holds one of the two contents."""

    def __init__(self, which: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._which = which

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        given = func(*args, **(kwargs or {}))
        if func.overloadpacket in _EMPTY and not given.is_meta and given.layout == torch.strided:
            given.fill_(_content(given, self._which))
        return given


def _content(tensor: torch.Tensor, which: int) -> Any:
    fill = _FILLS[which]
    if tensor.dtype == torch.bool:
        return fill["bool"]
    return fill["float" if tensor.is_floating_point() or tensor.is_complex() else "int"]


def _alike(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype


def _stayed(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Entries that hold what memory held, in both builds."""
    return torch.eq(first, _content(first, 0)) & torch.eq(second, _content(second, 1))


def _differs(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    both_nan = first.isnan() & second.isnan()
    return torch.ne(first, second) & ~both_nan
