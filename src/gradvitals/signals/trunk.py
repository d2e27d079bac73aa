"""The main path through a model: layers and residual additions by their depth, without what lies in branches.

A node is a recorded call ``i`` or a residual addition ``-1 - k``, as in ``Call.parents``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gradvitals.frameworks.capture import Call, Capture, Stream
from gradvitals.frameworks.prediction import PredictedCall

#: A branch that holds more than this share of a model is not a branch but the model, with a skip around all of it.
_LARGEST_BRANCH = 0.5
#: One layer called at least so often, each time on what came of the time before, is a loop over time.
_LOOP = 4


@dataclass(frozen=True, slots=True)
class Trunk:
    """The main path.

    Parameters
    ----------
    levels : tuple of tuple of int
        Nodes by the number of layers on the longest way to them; those at one level lie side by side. Nodes behind
        which no other follows are left out: the scale of a head's output and of its gradient is set by the task.
    loops : mapping of str to tuple of int
        By path: the calls of a layer that is called again and again on what came of it.
    branches : frozenset of int
        Nodes that lie in residual branches.
    normalised_later : frozenset of int
        Nodes behind which a normalisation follows, at whatever distance.
    normalised_next : frozenset of int
        Nodes behind which a normalisation follows before any other layer with weights or addition does.
    last : frozenset of int
        All nodes that hand their output to an end of the main path with none in between: gates and skips among them.

    """

    levels: tuple[tuple[int, ...], ...]
    loops: Mapping[str, tuple[int, ...]]
    branches: frozenset[int]
    normalised_later: frozenset[int]
    normalised_next: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()


def is_normalisation(call: Call | PredictedCall) -> bool:
    """Whether a call normalises, by its class's or function's name: LayerNorm, BatchNorm2d, LlamaRMSNorm, layer_norm.

    >>> from gradvitals.frameworks.capture import Moments
    >>> moments = Moments(1, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    >>> is_normalisation(Call("n", 0, "LlamaRMSNorm", (1, 1), (), (), False, None, True, moments, 1))
    True
    """
    return not call.has_weights and call.activation is None and "norm" in call.kind.lower()


def node(capture: Capture, at: int) -> Call | Stream:
    """The call or addition that a number stands for."""
    return capture.calls[at] if at >= 0 else capture.streams[-1 - at]


def is_behind(capture: Capture, first: int, second: int) -> bool:
    """Whether the second node was computed from the first."""
    waiting, seen = [second], {second}
    while waiting:
        parents = set(node(capture, waiting.pop()).parents) - seen
        if first in parents:
            return True
        seen |= parents
        waiting += parents
    return False


def trunk(capture: Capture) -> Trunk:
    """Find the main path of what was recorded."""
    graph = _Graph(capture)
    loops = _loops(capture.calls, graph)
    looped = {at for chain in loops.values() for at in chain}
    branches = graph.branches()
    counted = [
        at
        for at in graph.order
        if at not in branches and at not in looped and (at < 0 or capture.calls[at].has_weights)
    ]
    levels, last = graph.levels(frozenset(counted))
    return Trunk(levels, loops, branches, graph.before_normalisations(), graph.just_before_normalisations(), last)


class _Graph:
    """Calls and additions in execution order, with everything behind each as the bits of a number."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self.order = _execution_order(capture)
        self._place = {at: place for place, at in enumerate(self.order)}
        self._behind: dict[int, int] = {}
        for at in self.order:
            self._behind[at] = self.closed(self.parents(at))

    def parents(self, at: int) -> tuple[int, ...]:
        return node(self._capture, at).parents

    def closed(self, nodes: Iterable[int]) -> int:
        """The nodes and all behind them."""
        bits = 0
        for at in nodes:
            bits |= 1 << self._place[at] | self._behind[at]
        return bits

    def is_behind(self, first: int, second: int) -> bool:
        """Whether the second was computed from the first."""
        return bool(self._behind[second] >> self._place[first] & 1)

    def branches(self) -> frozenset[int]:
        """All nodes that lie in a residual branch."""
        found = 0
        most = _LARGEST_BRANCH * len(self.order)
        for stream in self._capture.streams:
            main, branch = self.closed(stream.main), self.closed(stream.branch)
            sides = [branch & ~main, main & ~branch] if stream.has_shortcut else [branch & ~main]
            for side in sides:
                if side.bit_count() <= most:
                    found |= side
        return self._nodes(found)

    def levels(self, counted: frozenset[int]) -> tuple[tuple[tuple[int, ...], ...], frozenset[int]]:
        """Counted nodes by depth, without those that end a way; and all those right before an end."""
        depth: dict[int, int] = {}
        nearest: dict[int, frozenset[int]] = {}
        inner: set[int] = set()
        before_each: dict[int, frozenset[int]] = {}
        for at in self.order:
            parents = self.parents(at)
            depth[at] = max((depth[parent] for parent in parents), default=0) + (at in counted)
            before = frozenset().union(*(nearest[parent] for parent in parents))
            nearest[at] = frozenset({at}) if at in counted else before
            if at in counted:
                inner |= before
                before_each[at] = before
        last = frozenset().union(*(before for at, before in before_each.items() if at not in inner))
        found: dict[int, list[int]] = {}
        for at in self.order:
            if at in inner:
                found.setdefault(depth[at], []).append(at)
        return tuple(tuple(found[level]) for level in sorted(found)), last

    def before_normalisations(self) -> frozenset[int]:
        """Nodes from which a normalisation is reached."""
        calls = self._capture.calls
        return self._nodes(self._all_behind(at for at, call in enumerate(calls) if is_normalisation(call)))

    def just_before_normalisations(self) -> frozenset[int]:
        """Layers with weights and additions whose output reaches a normalisation with none of these in between."""
        calls = self._capture.calls
        found: set[int] = set()
        nearest: dict[int, frozenset[int]] = {}
        for at in self.order:
            before = frozenset().union(*(nearest[parent] for parent in self.parents(at)))
            if at >= 0 and is_normalisation(calls[at]):
                found |= before
            nearest[at] = frozenset({at}) if at < 0 or calls[at].has_weights else before
        return frozenset(found)

    def _all_behind(self, nodes: Iterable[int]) -> int:
        bits = 0
        for at in nodes:
            bits |= self._behind[at]
        return bits

    def _nodes(self, bits: int) -> frozenset[int]:
        return frozenset(at for place, at in enumerate(self.order) if bits >> place & 1)


def _execution_order(capture: Capture) -> list[int]:
    order: list[int] = []
    streams = iter([*enumerate(capture.streams), (len(capture.streams), None)])
    number, stream = next(streams)
    for at in range(len(capture.calls) + 1):
        while stream is not None and stream.after == at:
            order.append(-1 - number)
            number, stream = next(streams)
        if at < len(capture.calls):
            order.append(at)
    return order


def _loops(calls: Sequence[Call], graph: _Graph) -> dict[str, tuple[int, ...]]:
    """Layers that are called again and again, each time on what came of the time before."""
    by_path: dict[str, list[int]] = {}
    for at, call in enumerate(calls):
        if call.has_weights:
            by_path.setdefault(call.path, []).append(at)
    return {
        path: tuple(chain)
        for path, chain in by_path.items()
        if len(chain) >= _LOOP and all(graph.is_behind(a, b) for a, b in itertools.pairwise(chain))
    }
