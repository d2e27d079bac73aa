"""Which convolutions needn't mix the positions of an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gradvitals.frameworks.capture import Call


def mixed_calls(calls: Sequence[Call], shapes: Mapping[str, Sequence[int]]) -> frozenset[int]:
    """Calls whose inputs have seen the whole image, or whose positions a flat layer behind reads all at once.

    Parameters
    ----------
    calls : sequence of Call
    shapes : mapping of str to sequence of int
        Of the parameters.

    """
    seen = _seen(calls, shapes)
    whole = {at for at, call in enumerate(calls) if max((seen[source] for source in call.sources), default=0.0) >= 1}
    return frozenset(whole | read_at_once(calls, shapes))


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


def read_at_once(calls: Sequence[Call], shapes: Mapping[str, Sequence[int]]) -> set[int]:
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
    return found


def _same_image(index: int, found: set[int], calls: Sequence[Call]) -> bool:
    """Whether a call with an image's shape reads on into one that was found, of the same height and width."""
    return any(index in calls[at].sources and calls[at].shape[2:] == calls[index].shape[2:] for at in found)
