"""Leaves of nested inputs (tuples, lists, dicts) with readable paths, and the same nest with other leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


def leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    """All leaves in order, each with its path: ``params.W1``, ``xs[0]``."""
    if isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, (tuple, list)):
        for at, item in enumerate(tree):
            yield from leaves(item, f"{path}[{at}]")
    else:
        yield path, tree


def rebuilt(tree: Any, path: str, leaf: Callable[[str, Any], Any]) -> Any:
    """The same nest of fresh containers, each leaf replaced by ``leaf(path, value)``."""
    if isinstance(tree, Mapping):
        items = {key: rebuilt(item, f"{path}.{key}" if path else str(key), leaf) for key, item in tree.items()}
        return items if type(tree) is dict else _same_mapping(tree, items)
    if isinstance(tree, (tuple, list)):
        sequence = [rebuilt(item, f"{path}[{at}]", leaf) for at, item in enumerate(tree)]
        if isinstance(tree, tuple) and hasattr(tree, "_fields"):  # a named tuple
            return type(tree)(*sequence)
        return type(tree)(sequence)
    return leaf(path, tree)


def _same_mapping(tree: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """A mapping of the same type where it can be built from a dict, else the dict."""
    try:
        return type(tree)(items)  # type: ignore[call-arg]
    except TypeError:
        return items


def short_names(paths: list[str]) -> dict[str, str]:
    """Paths without their common argument name where what is left is unique: ``params.W1`` becomes ``W1``.

    >>> short_names(["params.W1", "params.b1", "x"])
    {'params.W1': 'W1', 'params.b1': 'b1', 'x': 'x'}
    """
    short = {path: path.partition(".")[2] or path for path in paths}
    taken = [*short.values(), *paths]
    return {path: name if name == path or taken.count(name) == 1 else path for path, name in short.items()}
