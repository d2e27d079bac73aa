"""Signals that are made of the same one: a token and its neighbour, a signal and what a gate leaves of it.

The moments of each say nothing of what they have in common, so that their sum and product are left to draws. Products
with weights, norms and sums of two signals start anew; so do a part of the units, to which others are strangers, and
the largest entries.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradvitals.frameworks.torch.prediction.values import Node
from gradvitals.maths.field import Role

#: The square of a mean relative to the mean square up to which a signal has none.
_NO_MEAN = 1e-3


@dataclass(frozen=True, slots=True)
class Kin:
    """The signals, by their keys, that one is made of unit by unit.

    It is ``shifted`` where on the way it was moved along places of which only the average is known.
    """

    origins: frozenset[int]
    shifted: bool = False


def kin_of(node: Node) -> Kin:
    """What a signal is made of."""
    if node.kin is None:
        call = node.call
        if call is None or Role.UNIT in call.moves or (call.chooses and node.at == 0):
            node.kin = Kin(frozenset({node.key}))
        else:
            above = [kin_of(given) for given in call.nodes]
            shifted = Role.PIXEL in call.moves or any(kin.shifted for kin in above)
            node.kin = Kin(frozenset[int]().union(*(kin.origins for kin in above)), shifted)
    return node.kin


def share_in_sum(a: Any, b: Any) -> bool:
    """Whether two signals are more alike, entry by entry, than their means tell."""
    if not share_in_product(a, b):
        return False
    known: dict[int, frozenset[int]] = {}
    return _needed(a, known) <= kin_of(b).origins and _needed(b, known) <= kin_of(a).origins


def share_in_product(a: Any, b: Any) -> bool:
    """Whether two signals are made of the same one, so that their squares may vary together."""
    return isinstance(a, Node) and isinstance(b, Node) and not kin_of(a).origins.isdisjoint(kin_of(b).origins)


def are_neighbours(nodes: Sequence[Node]) -> bool:
    """Whether two of them are made of the same one, of which another place is meant in one of them."""
    shifted = any(kin_of(node).shifted for node in nodes)
    return shifted and any(share_in_product(a, b) for a, b in itertools.combinations(nodes, 2))


def _needed(node: Node, known: dict[int, frozenset[int]]) -> frozenset[int]:
    """Signals of mean zero without which it would be zero on average: what has none of them is a stranger to it."""
    if node.key not in known:
        known[node.key] = _without_memory(node, known)
    return known[node.key]


def _without_memory(node: Node, known: dict[int, frozenset[int]]) -> frozenset[int]:
    call = node.call
    if call is None or Role.UNIT in call.moves:
        return frozenset() if _has_mean(node) else frozenset({node.key})
    above = [_needed(given, known) for given in call.nodes]
    if len(above) == 1:
        return frozenset() if _has_mean(node) else above[0]
    if call.joins == "product":
        return frozenset[int]().union(*above)
    return above[0].intersection(*above[1:])


def _has_mean(node: Node) -> bool:
    field = node.field
    return float((field.mean**2).mean()) > _NO_MEAN * field.mean_square
