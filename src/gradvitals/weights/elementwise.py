"""Put what a model does elementwise between two layers in the place of the calls that it is written with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from gradvitals.frameworks.between import Between
from gradvitals.frameworks.capture import Call
from gradvitals.maths.activations import Activation, activation
from gradvitals.maths.tabulated import alike, from_table
from gradvitals.signals.measure import consumers
from gradvitals.weights.neighbours import activation_of, is_normalisation

_IDENTITY = activation("identity")


def with_functions(
    calls: Sequence[Call], own: Mapping[str, Activation], found: Iterable[Between]
) -> tuple[tuple[Call, ...], Mapping[str, Activation]]:
    """Calls in which one activation stands wherever several functions, or one that isn't recorded, make one.

    What reads the layer's output must be that activation alone, with one or more layers behind it: a signal that goes
    another way as well stays as it was recorded.

    Parameters
    ----------
    calls : sequence of Call
    own : mapping of str to Activation
        Activations known by no name, by the path of their calls.
    found : iterable of Between

    Returns
    -------
    calls : tuple of Call
    own : mapping of str to Activation
        With the new ones.

    """
    index_of = {(path, call.call): at for at, call in enumerate(calls) for path in call.parameters}
    functions = _functions(found, index_of)
    readers = consumers(calls)
    removed: set[int] = set()
    added: dict[int, Activation] = {}
    for giver in sorted({giver for giver, _ in functions}):
        inner, takers = _region(giver, calls, readers)
        phi = _shared(giver, takers, functions)
        if phi is None or not _is_closed(inner, takers, {giver, *inner}, calls):
            continue
        if not _is_known(phi, inner, calls, own):
            removed |= inner
            added[giver] = phi
    return _rewritten(calls, own, removed, added)


def _functions(
    found: Iterable[Between], index_of: Mapping[tuple[str, int], int]
) -> Mapping[tuple[int, int], Activation]:
    """By the calls that give and take; those that are alike share one function."""
    known: list[Activation] = [_IDENTITY]
    functions: dict[tuple[int, int], Activation] = {}
    for between in found:
        giver = index_of.get((between.path, between.call))
        taker = index_of.get((between.next_path, between.next_call))
        if giver is None or taker is None:
            continue
        phi = from_table(between.inputs, between.values, precision=between.precision) or _IDENTITY
        same = next((one for one in known if alike(one, phi)), None)
        if same is None:
            known.append(phi)
        functions[giver, taker] = same or phi
    return functions


def _region(giver: int, calls: Sequence[Call], readers: Mapping[int, Sequence[int]]) -> tuple[set[int], set[int]]:
    """The calls behind a layer up to the next layers, and those layers."""
    inner: set[int] = set()
    takers: set[int] = set()
    waiting = list(readers[giver])
    while waiting:
        at = waiting.pop()
        if calls[at].has_weights:
            takers.add(at)
        elif at not in inner:
            inner.add(at)
            waiting += readers[at]
    return inner, takers


def _shared(giver: int, takers: Iterable[int], functions: Mapping[tuple[int, int], Activation]) -> Activation | None:
    """The function, where all layers behind take the same one."""
    phis = {id(phi): phi for phi in (functions.get((giver, taker)) for taker in takers)}
    return next(iter(phis.values())) if len(phis) == 1 else None


def _is_closed(inner: Iterable[int], takers: Iterable[int], inside: set[int], calls: Sequence[Call]) -> bool:
    """Whether nothing else comes in, and nothing on the way is more than a function."""
    plain = all(not is_normalisation(calls[at]) and not calls[at].parameters for at in inner)
    return plain and all(set(calls[at].sources) <= inside for at in (*inner, *takers))


def _is_known(phi: Activation, inner: Iterable[int], calls: Sequence[Call], own: Mapping[str, Activation]) -> bool:
    """Whether the calls say the same: one activation, or none where it is straight."""
    acting = [at for at in inner if calls[at].activation or calls[at].path in own]
    if len(acting) != 1:
        return not acting and phi is _IDENTITY
    recorded = own.get(calls[acting[0]].path) or activation_of(calls[acting[0]])
    return recorded is not None and alike(recorded, phi)


def _rewritten(
    calls: Sequence[Call], own: Mapping[str, Activation], removed: set[int], added: Mapping[int, Activation]
) -> tuple[tuple[Call, ...], Mapping[str, Activation]]:
    """The calls without those that are removed, and an activation behind each layer that gets one."""
    if not added:
        return tuple(calls), own
    place: dict[int, int] = {}
    written: list[Call] = []
    functions = dict(own)
    passed_by: dict[int, int] = {}
    for at, call in enumerate(calls):
        if at in removed:
            passed_by[at] = passed_by[call.sources[0]] if call.sources[0] in passed_by else call.sources[0]
            continue
        sources = dict.fromkeys(place[passed_by.get(source, source)] for source in call.sources)
        written.append(replace(call, sources=tuple(sources)))
        place[at] = len(written) - 1
        if at in added and added[at] is not _IDENTITY:
            path = f"{call.path}.{added[at].name}"
            functions[path] = added[at]
            written.append(_acting(call, path, added[at].name, place[at]))
            place[at] = len(written) - 1
    return tuple(written), functions


def _acting(call: Call, path: str, name: str, source: int) -> Call:
    """An activation's call, on the outputs of another one."""
    return replace(
        call, path=path, kind=name, sources=(source,), parameters=(), has_weights=False, activation=None, options={}
    )
