"""What a model's code keeps outside of the model: results of functions under ``functools.lru_cache``.

Tables of positions are kept so. Those that were made without values must not be found by the next call of the model.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

from torch import nn

_CACHED = type(functools.lru_cache(lambda: None))


@contextlib.contextmanager
def caches_emptied(model: nn.Module) -> Iterator[None]:
    """Empty those caches behind a model's code that something was put into meanwhile."""
    before = [(cache, cache.cache_info().misses) for cache in _caches(model)]
    try:
        yield
    finally:
        for cache, misses in before:
            if cache.cache_info().misses != misses:
                cache.cache_clear()


def _caches(model: nn.Module) -> list[Any]:
    """The caches of the methods of its layers, and of the functions beside them."""
    classes = {base for module in model.modules() for base in type(module).__mro__ if _is_of_others(base.__module__)}
    places: list[Mapping[str, Any]] = [vars(base) for base in classes]
    places += [vars(sys.modules[name]) for name in {base.__module__ for base in classes} if name in sys.modules]
    found: dict[int, Any] = {}
    for place in places:
        for item in list(place.values()):
            for cache in _within(item):
                found[id(cache)] = cache
    return list(found.values())


def _is_of_others(module: str) -> bool:
    return module.split(".", maxsplit=1)[0] not in {"builtins", "torch"}


def _within(item: Any) -> list[Any]:
    """The cache that a function is, or that it stands before."""
    if isinstance(item, _CACHED):
        return [item]
    if isinstance(item, (staticmethod, classmethod)):
        return _within(item.__func__)
    if not isinstance(item, FunctionType) or not hasattr(item, "__wrapped__"):
        return []
    inside = [cell.cell_contents for cell in item.__closure__ or () if _is_filled(cell)]
    return [one for one in inside if isinstance(one, _CACHED)]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - it raises where there is nothing yet
    except ValueError:
        return False
    return True
