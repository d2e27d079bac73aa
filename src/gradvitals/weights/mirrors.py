"""Which layers can be mirrored: units in pairs of opposite sign, and whoever reads them knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from gradvitals.frameworks.capture import Call
from gradvitals.frameworks.weights import Mirror, Weight
from gradvitals.maths.balance import is_homogeneous
from gradvitals.weights.neighbours import Neighbours, is_normalisation


def mirrors(
    calls: Sequence[Call], around: Mapping[str, Neighbours], weights: Iterable[Weight], bent: AbstractSet[str]
) -> Mapping[str, Mirror]:
    """By a weight's path: which of its sides can come in halves of opposite sign.

    A layer's units can, where they reach one activation and behind it only layers that read nothing else. Grouped
    convolutions, odd widths, weights used several times, and what stays as it is can't; those that have to bend
    (``bent``) don't, for in pairs they might not. In pairs and alone, an
    activation works at inputs of different size, unless it is a ReLU or its like; so of all others either all layers of
    a chain are mirrored or none.
    """
    able = {weight.path: weight for weight in weights if weight.role == "mixing" and weight.obstacle is None}
    layer_of = {index: path for index, call in enumerate(calls) if (path := _only_weight(call, able))}
    uses = Counter(layer_of.values())
    readers = _readers(calls)
    pairs: dict[str, list[str]] = {}
    for index, path in layer_of.items():
        reading = readers.get(index, [])
        alone = bool(reading) and all(at in layer_of and _feeders(at, calls) == {index} for at in reading)
        known = alone and around[path].feeds and uses[path] == 1 and path not in bent
        followers = [able[layer_of[at]] for at in reading] if known else []
        if known and _pairs(able[path], 0) and all(_reads(follower, around, path) for follower in followers):
            pairs[path] = [follower.path for follower in followers]
    for path in _in_broken_chains(calls, readers, around, pairs.keys() | bent):
        pairs.pop(path, None)
    inputs = {follower for followers in pairs.values() for follower in followers}
    return {path: Mirror(path in pairs, path in inputs) for path in able}


def in_paired_chains(calls: Sequence[Call], mirror_of: Mapping[str, Mirror]) -> set[str]:
    """Layers in whose chain the units of some are mirrored."""
    chain = _chain_of(calls, _readers(calls))
    paired = {
        chain[index]
        for index, call in enumerate(calls)
        if any(path in mirror_of and mirror_of[path].units for path in call.parameters)
    }
    return {path for index, call in enumerate(calls) if chain[index] in paired for path in call.parameters}


def _readers(calls: Sequence[Call]) -> Mapping[int, Sequence[int]]:
    """By call: those that it feeds."""
    found: dict[int, list[int]] = {}
    for index in range(len(calls)):
        for feeder in _feeders(index, calls):
            found.setdefault(feeder, []).append(index)
    return found


def _in_broken_chains(
    calls: Sequence[Call],
    readers: Mapping[int, Sequence[int]],
    around: Mapping[str, Neighbours],
    fine: AbstractSet[str],
) -> set[str]:
    """Layers before a bending activation in whose chain another one like it can't be mirrored."""
    chain = _chain_of(calls, readers)
    bending: dict[tuple[int, str], list[int]] = {}
    for index, call in enumerate(calls):
        near = next((around[path] for path in call.parameters if path in around), None) if call.has_weights else None
        if near is not None and near.feeds and near.after is not None and not is_homogeneous(near.after):
            bending.setdefault((chain[index], near.after_name), []).append(index)
    return {
        path
        for members in bending.values()
        if any(not fine & set(calls[index].parameters) for index in members)
        for index in members
        for path in calls[index].parameters
    }


def _chain_of(calls: Sequence[Call], readers: Mapping[int, Sequence[int]]) -> list[int]:
    """By call: the first one of the layers that it is connected with."""
    chain = list(range(len(calls)))

    def first(at: int) -> int:
        while chain[at] != at:
            chain[at] = chain[chain[at]]
            at = chain[at]
        return at

    for index, call in enumerate(calls):
        for reader in readers.get(index, ()) if call.has_weights else ():
            if calls[reader].has_weights:
                low, high = sorted((first(index), first(reader)))
                chain[high] = low
    return [first(at) for at in range(len(calls))]


def _only_weight(call: Call, able: Mapping[str, Weight]) -> str | None:
    found = [path for path in call.parameters if path in able] if call.has_weights else []
    return found[0] if len(found) == 1 else None


def _feeders(index: int, calls: Sequence[Call]) -> set[int]:
    """The nearest calls upstream that do more than pass a signal on; those of an end are what it shows."""
    if not (calls[index].has_weights or is_normalisation(calls[index])) and calls[index].sources:
        return set()
    found: set[int] = set()
    waiting, seen = list(calls[index].sources), set()
    while waiting:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        call = calls[at]
        if call.has_weights or is_normalisation(call) or not call.sources:
            found.add(at)
        else:
            waiting += call.sources
    return found


def _reads(follower: Weight, around: Mapping[str, Neighbours], path: str) -> bool:
    """Whether a layer gets what the activation behind another one made, and can take it in pairs."""
    return _pairs(follower, 1) and around[follower.path].before == around[path].after


def _pairs(weight: Weight, side: int) -> bool:
    """Whether the units (0) or the inputs (1) of a weight can be paired."""
    if weight.layout.blocks != 1 or len(weight.shape) < 2:
        return False
    axis = side if not weight.layout.transposed else 1 - side
    return weight.shape[axis] % 2 == 0
