"""What convolutions have to do with the positions of an image: which needn't mix them, and which are averaged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gradvitals.frameworks.capture import Call

#: Shortest side of an image whose neighbouring positions are compared: of a shorter one more than a quarter of the
#: positions lie at a border, and have no neighbour on that side. Measured (digits, 40 ReLU convolutions whose last
#: images are 2 × 2, average pool, three seeds): 96.2 % without comparing, 93.2 % with it.
_SHORTEST_SIDE = 4
#: Pooling that chooses among positions, and averages none.
_CHOOSING = "maxpool"


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


def averaged_calls(calls: Sequence[Call], shapes: Mapping[str, Sequence[int]]) -> frozenset[int]:
    """Convolutions behind which all positions become one number per channel, before anything else is learned.

    Parameters
    ----------
    calls : sequence of Call
    shapes : mapping of str to sequence of int
        Of the parameters.

    """
    readers: dict[int, list[int]] = {at: [] for at in range(len(calls))}
    for at, call in enumerate(calls):
        for source in call.sources:
            readers[source].append(at)
    return frozenset(at for at in readers if _is_image(calls[at], shapes) and _averages(at, readers, calls, shapes))


def _is_image(call: Call, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Whether it is a convolution that mixes positions, and gives an image in which most of them have neighbours."""
    kernels = [shapes[path][2:] for path in call.parameters if len(shapes.get(path, ())) > 2]
    sides = call.shape[2:]
    if not call.has_weights or not kernels or len(kernels[0]) != len(sides):
        return False
    return any(length > 1 and side >= _SHORTEST_SIDE for length, side in zip(kernels[0], sides, strict=True))


def _averages(
    index: int, readers: Mapping[int, Sequence[int]], calls: Sequence[Call], shapes: Mapping[str, Sequence[int]]
) -> bool:
    """Whether every layer that is reached next reads as many numbers as there are channels."""
    waiting, seen, reached = list(readers[index]), set[int](), 0
    while waiting:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        call = calls[at]
        if call.has_weights:
            columns = [shapes[path][1] for path in call.parameters if len(shapes.get(path, ())) == 2]
            if columns != [calls[index].shape[1]]:
                return False
            reached += 1
        elif _CHOOSING in call.kind.lower().replace("_", ""):
            return False
        else:
            waiting += readers[at]
    return reached > 0


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
