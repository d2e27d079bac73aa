"""What stands behind a callable: the modules and generators that it is bound to, closes over, or names."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch

_Kind = TypeVar("_Kind")
#: How far to follow: a wrapper around a wrapper around a closure.
_DEPTH = 3


def modules_behind(*functions: Any) -> list[tuple[str, torch.nn.Module]]:
    """The modules behind callables (themselves; what they are bound to, close over, or name as globals), each once.

    Each with the name that the code has for it, empty for the callable itself and for what it is bound to.

    >>> critic = torch.nn.Linear(2, 1)
    >>> [name for name, _ in modules_behind(lambda x: critic(x))]
    ['critic']
    """
    found = {id(module): (name, module) for name, module in _behind(functions, torch.nn.Module)}
    return list(found.values())


def every_module(roots: Iterable[torch.nn.Module]) -> list[torch.nn.Module]:
    """Some modules and all that they hold, each once."""
    return list({id(module): module for root in roots for module in root.modules()}.values())


def generators_behind(functions: tuple[Any, ...], modules: Iterable[torch.nn.Module]) -> list[torch.Generator]:
    """The random generators that callables, or some modules themselves, hold."""
    held = [value for module in modules for value in vars(module).values()]
    found = [*(generator for _, generator in _behind(functions, torch.Generator)), *held]
    # isinstance() asks torch.Generator's metaclass, in Python, which is slow for every attribute of every module.
    kinds = {kind for kind in set(map(type, found)) if torch.Generator in kind.__mro__}
    return list({id(item): item for item in found if type(item) in kinds}.values()) if kinds else []


def _behind(functions: tuple[Any, ...], kind: type[_Kind]) -> Iterator[tuple[str, _Kind]]:
    """In the order found; of one that is met several times, the last name wins."""
    for function in functions:
        yield from _walk("", function, kind, _DEPTH)


def _walk(name: str, value: Any, kind: type[_Kind], depth: int) -> Iterator[tuple[str, _Kind]]:
    if isinstance(value, kind):
        yield name, value
    elif isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            if isinstance(item, kind):
                yield (f"{name}.{key}" if isinstance(value, dict) else f"{name}[{key}]"), item
    elif depth > 0 and callable(value) and not isinstance(value, torch.nn.Module):
        for part_name, part in _parts(value):
            yield from _walk(part_name, part, kind, depth - 1)


def _parts(function: Any) -> Iterator[tuple[str, Any]]:
    yield "", getattr(function, "__self__", None)
    yield "", getattr(function, "__wrapped__", None)
    if isinstance(function, functools.partial):
        yield "", function.func
        yield from ((f"input{at}", value) for at, value in enumerate(function.args))
        yield from function.keywords.items()
    if inspect.isfunction(function):
        code = function.__code__
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        yield from ((name, cell.cell_contents) for name, cell in cells if _is_filled(cell))
        named = [name for name in code.co_names if name in function.__globals__]
        yield from ((name, function.__globals__[name]) for name in named)
    elif not inspect.isroutine(function) and not inspect.isclass(function):
        yield from getattr(function, "__dict__", {}).items()


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that the enclosing function hasn't assigned yet
        return False
