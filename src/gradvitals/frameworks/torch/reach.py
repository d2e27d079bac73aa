"""Which leaves lie behind a place in autograd's graph, and which hand-written backward passes between two moments."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch


class Reach:
    """A walk through the graph of one pass.

    Parameters
    ----------
    names : mapping of id to name
        The leaves that matter.
    roots : iterable of torch.Tensor
        From where the graph is walked.

    Examples
    --------
    >>> a, b = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    >>> c = a * 2
    >>> reach = Reach({id(a): "a", id(b): "b"}, [c + b])
    >>> sorted(reach.names_behind(c.grad_fn)), sorted(reach.names_behind((c + b).grad_fn))
    (['a'], ['a', 'b'])

    """

    def __init__(self, names: Mapping[int, str], roots: Iterable[torch.Tensor] = ()) -> None:
        self._listed = list(dict.fromkeys(names.values()))
        numbers = {name: number for number, name in enumerate(self._listed)}
        self._bits = {at: 1 << numbers[name] for at, name in names.items()}
        #: Of each node a bit for every leaf behind it: sets would hold leaves times nodes.
        self._behind: dict[Any, int] = {}
        self.add(roots)

    def add(self, places: Iterable[Any]) -> None:
        """Walk from further places: tensors or nodes."""
        for place in places:
            self._walk(place.grad_fn if isinstance(place, torch.Tensor) else place)

    def names_behind(self, place: Any) -> frozenset[str]:
        """The names of the leaves that a gradient at this place, a node or a leaf, goes on to."""
        if isinstance(place, torch.Tensor) and place.grad_fn is None:
            bits = self._bits.get(id(place), 0)
        else:
            node = place.grad_fn if isinstance(place, torch.Tensor) else place
            self._walk(node)
            bits = self._behind.get(node, 0)
        return frozenset(name for number, name in enumerate(self._listed) if bits >> number & 1)

    def functions_within(self, spans: Sequence[tuple[int, int]]) -> list[tuple[str, ...]]:
        """For each span of sequence numbers, the autograd.Functions made in it and in no shorter span inside it."""
        found: list[dict[str, None]] = [{} for _ in spans]
        for node in self._behind:
            name = _written_by_hand(node)
            if name:
                number = node._sequence_nr()  # noqa: SLF001 - documented for the profiler
                inside = [at for at, (start, stop) in enumerate(spans) if start < number < stop]
                if inside:
                    found[min(inside, key=lambda at: spans[at][1] - spans[at][0])][name] = None
        return [tuple(names) for names in found]

    def _walk(self, start: Any) -> None:
        """Behind first: a node is settled when all nodes behind it are."""
        stack = [start]
        while stack:
            node = stack[-1]
            if node is None or node in self._behind:
                stack.pop()
                continue
            behind = [following for following, _ in node.next_functions if following is not None]
            waiting = [following for following in behind if following not in self._behind]
            if waiting:
                stack += waiting
                continue
            own = self._bits.get(id(getattr(node, "variable", None)), 0)
            self._behind[node] = functools.reduce(operator.or_, (self._behind[next_] for next_ in behind), own)
            stack.pop()


def _written_by_hand(node: Any) -> str:
    """The name of an autograd.Function of the user's or a library's, not one of torch's own."""
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        return ""
    written: Any = getattr(type(node), "_forward_cls", type(node))
    return "" if str(written.__module__).startswith("torch.") else str(written.__name__)
