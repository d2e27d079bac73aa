"""What stands before and behind each layer with weights: read off the dataflow of a capture."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from gradvitals.frameworks.capture import Call
from gradvitals.maths import activations
from gradvitals.maths.activations import Activation
from gradvitals.signals.measure import consumers

#: Activations that start like another one: learned slopes by their present mean, and a bound that is never reached.
_LIKE = {"prelu": "leaky_relu", "relu6": "relu"}
#: Calls that choose among their inputs: the mean of what they pass on is another one.
_CHOOSING = "maxpool"
#: Dropout that puts a value in place of what it drops which is small beside a signal of variance 1 only (Klambauer et
#: al., 2017).
_PRESUMING = frozenset({"alphadropout", "featurealphadropout"})
_NONE: Mapping[str, Activation] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What the nearest calls around a layer are.

    Parameters
    ----------
    before : Activation or None
        The activation whose output the layer mixes; None where it mixes data, a normalised or a summed signal.
    after : Activation or None
        The activation that follows; None where there is none.
    unknown : bool
        The layer mixes what a GLU, a softmax or another function has made of which theory has no activation.
    after_name : str
        Its name as it was recorded, ``""`` where there is none.
    normalised : bool
        Everything that follows is a normalisation.
    scale_free : bool
        They see this layer's output and nothing else: any scale of its weights gives the same.
    followers : tuple of str
        Weights of the next layers.
    feeds : bool
        The activation that follows sees this layer's output and nothing else, and nothing else sees it.
    presumed, presumed_before : bool
        AlphaDropout follows the activation behind the layer (before it): it presumes a signal of variance 1.
    branches : int
        Where the layer ends a residual branch: how many branches of the model end like this. Else 1.
    values : bool
        It is the last layer, and what is asked of it are values, not classes.

    """

    before: Activation | None = None
    after: Activation | None = None
    after_name: str = ""
    normalised: bool = False
    scale_free: bool = False
    followers: tuple[str, ...] = ()
    feeds: bool = False
    presumed: bool = False
    presumed_before: bool = False
    branches: int = 1
    values: bool = False
    unknown: bool = False

    @property
    def is_last(self) -> bool:
        """Neither an activation nor another layer with weights follows."""
        return self.after is None and not self.followers


def neighbours(calls: Sequence[Call], own: Mapping[str, Activation] = _NONE) -> Mapping[str, Neighbours]:
    """The neighbours of every parameter of a call with weights, by the parameter's path.

    A layer that is called several times has those of its first call. ``own`` are activations known by no name, by the
    path of their calls.
    """
    functions = [own.get(call.path) or activation_of(call) for call in calls]
    users = consumers(calls)
    ends = _branch_ends(calls, users)
    layers = sum(calls[end].has_weights for end in ends)
    found: dict[str, Neighbours] = {}
    for index, call in enumerate(calls):
        branches = 1
        if index in ends:
            branches = layers if call.has_weights else len(ends) - layers
        if call.has_weights or call.kind.startswith("Embedding") or branches > 1:
            around = replace(_around(index, calls, users, functions), branches=branches)
            for path in call.parameters:
                found.setdefault(path, around)
    return found


def is_normalisation(call: Call) -> bool:
    """Whether a call normalises, by its class's name: LayerNorm, BatchNorm2d, LlamaRMSNorm."""
    return not call.has_weights and call.activation is None and "norm" in call.kind.lower()


def activation_of(call: Call) -> Activation | None:
    """The activation of a call as a function; None for softmax, GLU and what isn't an activation."""
    name = _LIKE.get(call.activation or "", call.activation or "")
    return activations.activation(name, **call.options) if name in activations.NAMES else None


def _around(
    index: int, calls: Sequence[Call], users: Mapping[int, Sequence[int]], functions: Sequence[Activation | None]
) -> Neighbours:
    sources = {at: call.sources for at, call in enumerate(calls)}
    behind = _nearest(index, users, lambda at: functions[at] is None and _passes_on(calls[at]))
    following = [calls[at] for at in behind]
    feeding = _nearest(index, sources, lambda at: functions[at] is None and _keeps_mean(calls[at]))
    layers = _nearest(index, users, lambda at: not calls[at].has_weights)
    acting = next((at for at in behind if functions[at] is not None), None)
    before = {functions[at] for at in feeding}
    normalised = bool(following) and all(is_normalisation(call) for call in following)
    return Neighbours(
        before=before.pop() if len(before) == 1 else None,
        unknown=any(calls[at].activation is not None and functions[at] is None for at in feeding),
        after=None if acting is None else functions[acting],
        after_name="" if acting is None else calls[acting].activation or calls[acting].kind,
        normalised=normalised,
        scale_free=normalised and _is_alone(index, behind, calls),
        feeds=acting is not None and len({functions[at] for at in behind}) == 1 and _is_alone(index, behind, calls),
        presumed=acting is not None and any(_presumes(calls[at]) for at in users[acting]),
        presumed_before=any(_presumes(calls[at]) for at in calls[index].sources),
        followers=tuple(dict.fromkeys(path for at in layers for path in calls[at].parameters)),
    )


def _is_alone(index: int, behind: Sequence[int], calls: Sequence[Call]) -> bool:
    """Whether nothing joins a layer's output on its way to the calls behind it."""
    waiting = [at for at in behind if at != index]
    while waiting:
        sources = calls[waiting.pop()].sources
        if len(sources) != 1:
            return False
        waiting += [source for source in sources if source != index]
    return True


def _branch_ends(calls: Sequence[Call], users: Mapping[int, Sequence[int]]) -> frozenset[int]:
    """Layers and normalisations whose output, activated or not, is joined only with what it was computed from.

    Concatenations look the same in the dataflow, and elementwise products: they too carry the input past the layer.
    """
    upstream: list[int] = []  # as bits: sets of thousands of calls would grow large
    for call in calls:
        upstream.append(functools.reduce(lambda bits, source: bits | 1 << source | upstream[source], call.sources, 0))
    ends = []
    for index, call in enumerate(calls):
        at = index
        while len(users[at]) == 1 and calls[users[at][0]].sources == (at,):
            following = calls[users[at][0]]
            if following.has_weights or is_normalisation(following):
                break
            at = users[at][0]
        joined = [set(calls[user].sources) - {at} for user in users[at]]
        if (
            (call.has_weights or is_normalisation(call))
            and joined
            and all(any(upstream[index] >> s & 1 for s in others) for others in joined)
        ):
            ends.append(index)
    return frozenset(ends)


def _passes_on(call: Call) -> bool:
    """Dropout, pooling, reshaping: neither weights nor an activation nor a normalisation of its own."""
    return not (call.has_weights or call.activation or is_normalisation(call) or call.kind.startswith("Embedding"))


def _presumes(call: Call) -> bool:
    return call.kind.lower().replace("_", "") in _PRESUMING


def _keeps_mean(call: Call) -> bool:
    return _passes_on(call) and _CHOOSING not in call.kind.lower()


def _nearest(start: int, edges: Mapping[int, Sequence[int]], passes: Callable[[int], bool]) -> list[int]:
    """The first calls along the edges that don't just pass the signal on."""
    found: list[int] = []
    seen: set[int] = set()
    waiting = list(edges[start])
    while waiting:
        at = waiting.pop(0)
        if at in seen:
            continue
        seen.add(at)
        if passes(at):
            waiting += edges[at]
        else:
            found.append(at)
    return found
