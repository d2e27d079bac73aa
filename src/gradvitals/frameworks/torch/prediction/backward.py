"""Send a gradient's moments back through the recorded steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from gradvitals.frameworks.torch.prediction.operation import Step
from gradvitals.frameworks.torch.prediction.values import Node
from gradvitals.maths.alignment import alike, gathered_to
from gradvitals.maths.field import Field, Role
from gradvitals.maths.scatter import Scatter, new_cause


def added(first: Field, second: Field) -> Field:
    """The sum of two gradients of the same tensor that came through different weights.

    What both inherited (the sizes of the gradient at a residual addition, of which one went past the branch and the
    other through it) they keep in common; their product has the mean zero, and departs as much as its units are few.
    """
    first, second = alike(first, second)
    total = max(first.mean_square + second.mean_square, 1e-300)
    share = first.mean_square / total, second.mean_square / total
    # Places that are alike by chance in one of them are so in the other, as far as they share their origin.
    common = max(min(first.blur, second.shared_blur), min(second.blur, first.shared_blur))
    cross = 4 * share[0] * share[1] * min(_agreement(first, second) + common, 1.0) / max(first.units, 1)
    inherited = first.scatter.times(share[0]) + second.scatter.times(share[1]) + Scatter.of(cross)
    both = 2 * share[0] * share[1] * (common + 1 / max(first.units, 1))
    return replace(
        first,
        second=first.second + second.second,
        kernel=first.kernel + second.kernel,
        mean=first.mean + second.mean,
        inherited=inherited,
        own=0.0,
        cause=new_cause(),
        excess=1 / max(share[0] / first.excess + share[1] / second.excess, 1e-300),
        blur=share[0] ** 2 * first.blur + share[1] ** 2 * second.blur + both,
        shared_blur=share[0] ** 2 * first.shared_blur + share[1] ** 2 * second.shared_blur + both,
        kurtosis=3 + share[0] ** 2 * (first.kurtosis - 3) + share[1] ** 2 * (second.kurtosis - 3),
    )


def _agreement(first: Field, second: Field) -> float:
    """The mean product of two fields' correlations between places."""
    total = first.mean_square * second.mean_square
    if total <= 0:
        return 0.0
    n = math.prod(first.kernel.shape[: first.places])
    one, two = first.kernel.reshape(n, n), second.kernel.reshape(n, n)
    places = math.prod(axis.size for axis in first.axes if axis.role is Role.PLACE)
    pixels = math.prod(axis.size for axis in first.axes if axis.role is Role.PIXEL)
    own = (float((first.second * second.second).mean()) - float((one.diagonal() * two.diagonal()).mean())) / pixels
    inside = float((one.diagonal() * two.diagonal()).mean()) + own
    off = (float((one * two).sum()) - float((one.diagonal() * two.diagonal()).sum())) / max(n * (n - 1), 1)
    return max(inside / places + (1 - 1 / places) * off, 0.0) / total


def sent_back(steps: list[Step], roots: Mapping[Node, Field]) -> tuple[dict[int, Field], list[tuple[str, str]]]:
    """The gradient at every signal, by its key, and what went wrong on the way.

    A gradient that is only shown (it went past the signal inside a function of an earlier one) is added to what is
    reported there, not to what is carried on.
    """
    flowing: dict[int, Field] = {}
    shown: dict[int, Field] = {}
    troubles: list[tuple[str, str]] = []
    for node, root in roots.items():
        _add(flowing, node, root)
    for step in reversed(steps):
        carried = flowing.get(step.output.key)
        everything = _sum(carried, shown.get(step.output.key))
        gradient = everything if step.shown else carried
        if gradient is None:
            continue
        try:
            for node, part in zip(step.inputs, step.pullback(gradient), strict=True):
                if part is not None:
                    _add(shown if step.shown else flowing, node, part)
        except (ValueError, IndexError, NotImplementedError) as error:  # reported as S209
            troubles.append((step.name, str(error)))
    for key, seen in shown.items():
        flowing[key] = _sum(flowing.get(key), seen) or seen
    return flowing, troubles


def _sum(first: Field | None, second: Field | None) -> Field | None:
    if first is None or second is None:
        return first if second is None else second
    return added(first, second)


def _add(found: dict[int, Field], node: Node, gradient: Field) -> None:
    gradient = gathered_to(gradient, node.field.layout)
    known = found.get(node.key)
    found[node.key] = gradient if known is None else added(known, gradient)
