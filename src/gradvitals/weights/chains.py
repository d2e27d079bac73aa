"""How long the chains are that a layer stands in, and how much of an image its outputs have seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradvitals.frameworks.capture import Call
from gradvitals.weights.neighbours import Neighbours, is_normalisation


@dataclass(frozen=True, slots=True)
class Chain:
    """Where in a chain of layers one stands. Normalisations and sums of several signals end a chain.

    Parameters
    ----------
    depth : int
        Activations, each fed by one layer, that a signal passes one after the other on the longest way through here.
    seen : float
        How much of the image reaches one position of the layer's *input*, as a share of its side; 1 is all of it.

    """

    depth: int = 1
    seen: float = 0.0


def chains(
    calls: Sequence[Call], around: Mapping[str, Neighbours], shapes: Mapping[str, Sequence[int]]
) -> Mapping[str, Chain]:
    """The chain of every call with weights, by the paths of its parameters.

    Parameters
    ----------
    calls : sequence of Call
    around : mapping of str to Neighbours
    shapes : mapping of str to sequence of int
        Of the parameters.

    """
    acts = [_feeds_activation(call, around) for call in calls]
    above, below = _above(calls, acts), _below(calls, acts)
    seen = _seen(calls, shapes)
    found: dict[str, Chain] = {}
    for index, call in enumerate(calls):
        if not call.has_weights:
            continue
        before = max((seen[source] for source in call.sources), default=0.0)
        for path in call.parameters:
            found.setdefault(path, Chain(max(1, above[index] + below[index] + acts[index]), before))
    return found


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
