"""Which additions join a branch with the stream that it was computed from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gradvitals.frameworks.torch.dataflow import Origin


@dataclass(frozen=True, slots=True)
class Join:
    """The two sides of a residual addition, by their nodes; ``first_is_main`` says which operand is the stream."""

    main: frozenset[int]
    branch: frozenset[int]
    first_is_main: bool
    has_shortcut: bool


class Ancestry:
    """Knows of every node (a call ``i``, an addition ``-1 - k``) which nodes lie behind it, as the bits of a number."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._behind: dict[int, int] = {}
        self._depth: dict[int, int] = {}
        self._inputs: dict[int, frozenset[int]] = {}

    def add(self, node: int, origin: Origin) -> None:
        """Note a new node, and where what it was given came from."""
        parents = origin.nodes
        self._depth[node] = 1 + self._deepest(parents)
        self._inputs[node] = self._inputs_of(origin)
        self._places[node] = len(self._places)
        self._behind[node] = self._closed(parents)

    def join(self, first: Origin, second: Origin) -> Join | None:
        """How two summands belong together; None where neither was computed from the other nor both from one signal."""
        if first.nodes == second.nodes:
            return None
        if self._is_behind(first, second):
            return Join(first.nodes, second.nodes, first_is_main=True, has_shortcut=False)
        if self._is_behind(second, first):
            return Join(second.nodes, first.nodes, first_is_main=False, has_shortcut=False)
        if not first.nodes or not second.nodes:
            return None
        in_common = self._closed(first.nodes) & self._closed(second.nodes)
        if not in_common and not self._inputs_of(first) & self._inputs_of(second):
            return None
        depths = self._deepest(first.nodes), self._deepest(second.nodes)
        if depths[0] == depths[1]:
            return None  # layers side by side: neither passes the other by
        shorter = depths[0] < depths[1]
        main, branch = (first, second) if shorter else (second, first)
        return Join(main.nodes, branch.nodes, first_is_main=shorter, has_shortcut=True)

    def _deepest(self, nodes: Iterable[int]) -> int:
        """Nodes on the longest way to here."""
        return max((self._depth[node] for node in nodes), default=0)

    def _inputs_of(self, origin: Origin) -> frozenset[int]:
        """All inputs of the case that lie behind."""
        return origin.inputs.union(*(self._inputs[node] for node in origin.nodes))

    def _is_behind(self, stream: Origin, branch: Origin) -> bool:
        if not stream.nodes:
            return bool(stream.inputs & self._inputs_of(branch) and branch.nodes)
        needed = self._bits(stream.nodes)
        return needed & self._closed(branch.nodes) == needed

    def _bits(self, nodes: Iterable[int]) -> int:
        bits = 0
        for node in nodes:
            bits |= 1 << self._places[node]
        return bits

    def _closed(self, nodes: Iterable[int]) -> int:
        """The nodes themselves and all behind them."""
        bits = 0
        for node in nodes:
            bits |= 1 << self._places[node] | self._behind[node]
        return bits
