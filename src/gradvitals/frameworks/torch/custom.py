"""Which parts of a backward pass are not PyTorch's own: custom autograd Functions, and hooks on parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

#: Nodes of C++ extensions go by this name; those of Python have a class of their own.
_CPP_FUNCTION = "CppFunction"


def custom_functions(graph: Iterable[Any], leaves: Mapping[Any, torch.Tensor]) -> tuple[str, ...]:
    """The names of custom autograd Functions among the nodes of a graph, and of hooks on leaves.

    Where there are none, every formula of the backward pass is PyTorch's own, and what is missing was cut off.

    >>> x = torch.ones(2, requires_grad=True)
    >>> custom_functions(nodes([torch.tanh(x)]), {})
    ()
    """
    found = dict.fromkeys(type(node).__name__.removesuffix("Backward") for node in graph if is_own(node))
    for leaf in leaves.values():
        for hook in (leaf._backward_hooks or {}).values():  # noqa: SLF001 - torch has no public name for them
            found[getattr(hook, "__qualname__", type(hook).__name__)] = None
    return tuple(found)


def is_own(node: Any) -> bool:
    """Whether a node of the graph is a custom Function's, written in Python or in C++."""
    return isinstance(node, torch.autograd.function.BackwardCFunction) or type(node).__name__ == _CPP_FUNCTION


def operations(graph: Iterable[Any]) -> tuple[str, ...]:
    """The names of the nodes of a graph, each once; a custom one is a ``"Function"``.

    >>> x = torch.ones(2, requires_grad=True)
    >>> operations(nodes([torch.tanh(x)]))
    ('TanhBackward0', 'AccumulateGrad')
    """
    return tuple(dict.fromkeys("Function" if is_own(node) else type(node).__name__ for node in graph))


def nodes(outputs: Iterable[torch.Tensor]) -> Iterator[Any]:
    """Every node of the graph behind some outputs."""
    waiting = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        for further, _ in node.next_functions:
            if further is not None and further not in seen:
                seen.add(further)
                waiting.append(further)
