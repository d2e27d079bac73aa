"""How long the chains are that a layer stands in, and how much of an image its outputs have seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradvitals.frameworks.capture import Call
from gradvitals.frameworks.weights import UNMIRRORED, Mirror, Weight
from gradvitals.weights.mirrors import mirrors
from gradvitals.weights.neighbours import Neighbours, is_normalisation


@dataclass(frozen=True, slots=True)
class Chain:
    """Where in a chain of layers one stands. Normalisations and sums of several signals end a chain.

    Parameters
    ----------
    depth : int
        Activations, each fed by one layer, that a signal passes one after the other on the longest way through here.
    mixed : bool
        Of a convolution: whether positions needn't be mixed here, for either each has seen the whole image before, or a
        layer behind reads all of them at once.
    depth_before : int
        The depth of the chain of the layer before.
    mirror : Mirror
        Which of the layer's sides can come in halves of opposite sign.

    """

    depth: int = 1
    mixed: bool = False
    depth_before: int = 1
    mirror: Mirror = UNMIRRORED


def chains(calls: Sequence[Call], around: Mapping[str, Neighbours], weights: Sequence[Weight]) -> Mapping[str, Chain]:
    """The chain of every call with weights, by the paths of its parameters."""
    shapes = {weight.path: weight.shape for weight in weights}
    mirror_of = mirrors(calls, around, weights)
    acts = [_feeds_activation(call, around) for call in calls]
    above, below = _above(calls, acts), _below(calls, acts)
    seen, read = _seen(calls, shapes), _read_at_once(calls, shapes)
    depths = [max(1, above[index] + below[index] + acts[index]) for index in range(len(calls))]
    found: dict[str, Chain] = {}
    for index, call in enumerate(calls):
        if not call.has_weights:
            continue
        mixed = index in read or max((seen[source] for source in call.sources), default=0.0) >= 1
        for path in call.parameters:
            mirror = mirror_of.get(path, UNMIRRORED)
            found.setdefault(path, Chain(depths[index], mixed, _depth_before(index, calls, depths), mirror))
    return found


def _depth_before(index: int, calls: Sequence[Call], depths: Sequence[int]) -> int:
    at = index
    while calls[at].sources:
        at = max(calls[at].sources, key=lambda source: depths[source])
        if calls[at].has_weights:
            return depths[at]
    return depths[index]


def _feeds_activation(call: Call, around: Mapping[str, Neighbours]) -> int:
    near = next((around[path] for path in call.parameters if path in around), None) if call.has_weights else None
    return int(near is not None and near.feeds)


def _ends(call: Call) -> bool:
    return is_normalisation(call) or len(call.sources) > 1


def _above(calls: Sequence[Call], acts: Sequence[int]) -> list[int]:
    """How many there are before each call."""
    counts: list[int] = []
    for call in calls:
        before = [counts[source] + acts[source] for source in call.sources]
        counts.append(0 if _ends(call) else max(before, default=0))
    return counts


def _below(calls: Sequence[Call], acts: Sequence[int]) -> list[int]:
    """How many there are behind each call."""
    counts = [0] * len(calls)
    for index in range(len(calls) - 1, -1, -1):
        call = calls[index]
        if _ends(call):
            continue
        for source in call.sources:
            counts[source] = max(counts[source], counts[index] + acts[index])
    return counts


def _seen(calls: Sequence[Call], shapes: Mapping[str, Sequence[int]]) -> list[float]:
    """By call: how much of the image reaches one position of its output. Pooling isn't counted."""
    found: list[float] = []
    for call in calls:
        before = max((found[source] for source in call.sources), default=0.0)
        kernel = next((shapes[path][2:] for path in call.parameters if len(shapes.get(path, ())) > 2), ())
        if not call.has_weights or not kernel or len(call.shape) < len(kernel) + 1:
            found.append(before)
            continue
        sides = [max(calls[at].shape[-n] for at in (*call.sources, len(found)) if len(calls[at].shape) >= n)
                 for n in range(len(kernel), 0, -1)]  # fmt: skip
        found.append(before + min((length - 1) / side for length, side in zip(kernel, sides, strict=True)))
    return found


def _read_at_once(calls: Sequence[Call], shapes: Mapping[str, Sequence[int]]) -> frozenset[int]:
    """Calls whose positions a flat layer behind reads each by weights of its own, with none merged in between."""
    found: set[int] = set()
    for call in calls:
        columns = next((shapes[path][1] for path in call.parameters if len(shapes.get(path, ())) == 2), 0)
        waiting = list(call.sources) if call.has_weights else []
        while waiting:
            at = waiting.pop()
            shape = calls[at].shape
            if at in found or len(shape) < 2 or (calls[at].has_weights and len(shape) == 2):
                continue
            if len(shape) > 2 and math.prod(shape[2:]) * shape[1] != columns and not _same_image(at, found, calls):
                continue
            found.add(at)
            waiting += calls[at].sources
    return frozenset(found)


def _same_image(index: int, found: set[int], calls: Sequence[Call]) -> bool:
    """Whether a call with an image's shape reads on into one that was found, of the same height and width."""
    return any(index in calls[at].sources and calls[at].shape[2:] == calls[index].shape[2:] for at in found)
