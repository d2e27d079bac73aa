"""Which calls of a trace hand their output to which, and which lie in residual branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradvitals.frameworks.torch.prediction.calls import Row
from gradvitals.frameworks.torch.prediction.operation import Step
from gradvitals.frameworks.torch.prediction.values import Node

_SUMS = frozenset({"aten::add", "aten::add_", "aten::sub", "aten::sub_"})


@dataclass(frozen=True, slots=True)
class Graph:
    """The calls of a trace as a graph.

    Parameters
    ----------
    depths : mapping of int to int
        By the key of a signal, the layers with weights on the longest way to it.
    sources : tuple of tuple of int
        By call, the calls whose outputs reach its input with no other call in between.
    streams : tuple of tuple of int
        By residual addition, the calls in its branch.

    """

    depths: dict[int, int]
    sources: tuple[tuple[int, ...], ...]
    streams: tuple[tuple[int, ...], ...]


def graph_of(steps: Sequence[Step], rows: Sequence[Row]) -> Graph:
    """Read the graph off the recorded steps; sets of calls and of signals are the bits of whole numbers."""
    rows_at: dict[int, list[int]] = {}
    for at, row in enumerate(rows):
        if isinstance(row.value, Node):
            rows_at.setdefault(row.value.key, []).append(at)
    heavy = {key for key, found in rows_at.items() if any(rows[at].has_weights for at in found)}
    inputs: dict[int, dict[int, None]] = {}
    names: dict[int, set[str]] = {}
    for step in steps:
        inputs.setdefault(step.output.key, {}).update(dict.fromkeys(node.key for node in step.inputs))
        names.setdefault(step.output.key, set()).add(step.name)
    bit = {key: 1 << at for at, key in enumerate(dict.fromkeys([*(k for i in inputs.values() for k in i), *inputs]))}

    depths: dict[int, int] = {}
    behind: dict[int, int] = {}  # signals that a signal is made of, itself among them
    calls_behind: dict[int, int] = {}
    handing: dict[int, int] = {}  # the nearest calls, itself where it is one
    sources: list[tuple[int, ...]] = [()] * len(rows)
    streams: list[tuple[int, ...]] = []
    for key in dict.fromkeys(step.output.key for step in steps):
        given = list(inputs[key])
        for at in given:  # what is there from the beginning
            behind.setdefault(at, bit[at])
        depths[key] = max((depths.get(at, 0) for at in given), default=0) + (key in heavy)
        behind[key] = bit[key]
        near = far = 0
        for at in given:
            behind[key] |= behind[at]
            near |= handing.get(at, 0)
            far |= calls_behind.get(at, 0)
        if names[key] & _SUMS:
            streams += [
                _members(calls_behind.get(branch, 0) & ~calls_behind.get(stream, 0))
                for stream in given
                for branch in given
                if branch != stream and behind[branch] & bit[stream]
            ]
        for at in rows_at.get(key, ()):
            sources[at] = _members(near)
            near = 1 << at
            far |= near
        handing[key], calls_behind[key] = near, far
    return Graph(depths, tuple(sources), tuple(branch for branch in streams if branch))


def _members(bits: int) -> tuple[int, ...]:
    found = []
    while bits:
        lowest = bits & -bits
        found.append(lowest.bit_length() - 1)
        bits ^= lowest
    return tuple(found)
