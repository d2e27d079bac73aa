"""How long the chains are that a layer stands in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradvitals.frameworks.capture import Call
from gradvitals.frameworks.weights import UNMIRRORED, Mirror, Weight
from gradvitals.maths.tailoring import ZETA
from gradvitals.weights.images import mixed_calls
from gradvitals.weights.merging import has_neighbours, merged_behind
from gradvitals.weights.mirrors import in_paired_chains, mirrors
from gradvitals.weights.neighbours import Neighbours, is_normalisation
from gradvitals.weights.prices import prices


@dataclass(frozen=True, slots=True)
class Chain:
    """Where in a chain of layers one stands. Normalisations and sums of several signals end a chain.

    Parameters
    ----------
    depth : int
        Activations, each fed by one layer, that a signal passes one after the other on the longest way through here.
    depth_before : int
        The same of the layer before.
    mixed : bool
        Of a convolution: whether positions needn't be mixed here, for either each has seen the whole image before, or a
        layer behind reads all of them at once.
    averaged : bool
        Whether the layer has many positions, of which the next activation sees the sum or the average.
    compares : bool
        Of a convolution before an average: whether most of its positions have neighbours.
    zeta, zeta_before : float
        What the nonlinearity of the whole chain may cost, here and at the layer before.
    mirror : Mirror
        Which of the layer's sides can come in halves of opposite sign.
    paired : bool
        Whether other layers of the chain come so.

    """

    depth: int = 1
    depth_before: int = 1
    mixed: bool = False
    averaged: bool = False
    compares: bool = False
    zeta: float = ZETA
    zeta_before: float = ZETA
    mirror: Mirror = UNMIRRORED
    paired: bool = False


def chains(calls: Sequence[Call], around: Mapping[str, Neighbours], weights: Sequence[Weight]) -> Mapping[str, Chain]:
    """The chain of every call with weights, by the paths of its parameters."""
    shapes = {weight.path: weight.shape for weight in weights}
    mixed = mixed_calls(calls, shapes)
    biased = {weight.path for weight in weights if len(weight.biases) == 1}
    acts = [_feeds_activation(call, around) for call in calls]
    last = {at for at in merged_behind(calls, shapes, acts) if biased.issuperset(calls[at].parameters[:1])}
    bent = {path for index in last for path in calls[index].parameters}
    mirror_of = mirrors(calls, around, weights, bent)
    paired = in_paired_chains(calls, mirror_of)
    depths = _through(calls, acts)
    zetas = prices(calls, acts, _ends)
    found: dict[str, Chain] = {}
    for index, call in enumerate(calls):
        if not call.has_weights:
            continue
        before = _layer_before(index, calls, depths)
        for path in call.parameters:
            mirror = mirror_of.get(path, UNMIRRORED)
            own = Chain(
                depths[index],
                depths[before],
                mixed=index in mixed,
                averaged=index in last,
                compares=index in last and has_neighbours(call, shapes),
                zeta=zetas[index],
                zeta_before=zetas[before],
                mirror=mirror,
                paired=path in paired,
            )
            found.setdefault(path, own)
    return found


def _layer_before(index: int, calls: Sequence[Call], depths: Sequence[int]) -> int:
    """The nearest layer upstream, the deepest where there are several; itself where there is none."""
    at = index
    while calls[at].sources:
        at = max(calls[at].sources, key=lambda source: depths[source])
        if calls[at].has_weights:
            return at
    return index


def _through(calls: Sequence[Call], acts: Sequence[int]) -> list[int]:
    """How many there are on the longest way through each call, at least 1."""
    above, below = _above(calls, acts), _below(calls, acts)
    return [max(1, sum(counts)) for counts in zip(above, below, acts, strict=True)]


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
