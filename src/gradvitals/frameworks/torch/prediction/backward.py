"""Send a gradient's moments back through the recorded steps."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

from gradvitals.frameworks.torch.prediction.draws import Arrived, Drawing, added_draws, measured_draws
from gradvitals.frameworks.torch.prediction.operation import Step
from gradvitals.frameworks.torch.prediction.values import Node
from gradvitals.maths.alignment import alike, gathered_to
from gradvitals.maths.field import Field, Role
from gradvitals.maths.scatter import COPIED_BACKWARDS, Scatter, new_cause, summed_scatter


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
    inherited = summed_scatter(first.scatter, second.scatter, share[0], COPIED_BACKWARDS) + Scatter.of(cross)
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


def sent_back(
    steps: list[Step],
    roots: Mapping[Node, Field],
    drawing: Drawing | None = None,
    *,
    asked: Collection[int] | None = None,
) -> tuple[dict[int, Field], list[tuple[str, str]]]:
    """The gradient at every signal, by its key, and what went wrong on the way.

    A gradient that is only shown (it went past the signal inside a function of an earlier one) is added to what is
    reported there, not to what is carried on. Of what is drawn only the gradients that are asked for, by their keys,
    are measured.
    """
    flowing: dict[int, Field] = {}
    shown: dict[int, Field] = {}
    troubles: list[tuple[str, str]] = []
    drawn = _Drawn(drawing or Drawing(), asked)
    for node, root in roots.items():
        _add(flowing, node, root)
    for step in reversed(steps):
        try:
            drawn.passed(step.output, flowing, shown)
        except (ValueError, RuntimeError, NotImplementedError) as error:
            troubles.append((step.name, str(error)))
        if step.output.is_drawn:
            continue
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
    drawn.left(flowing)
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


class _Drawn:
    """Gradients that are drawn, on their way through operations that are run on draws."""

    def __init__(self, drawing: Drawing, asked: Collection[int] | None) -> None:
        self._drawing = drawing
        self._asked = asked
        self._arrived: dict[int, Arrived] = {}
        self._nodes: dict[int, Node] = {}
        self._done: set[int] = set()

    def passed(self, node: Node, flowing: dict[int, Field], shown: dict[int, Field]) -> None:
        """Send on what arrived at a signal: to what it was made of, or as moments where that has a formula."""
        arrived = self._arrived.pop(node.key, None)
        if node.is_drawn:
            if node.key in self._done:
                return
            self._done.add(node.key)
            carried = flowing.get(node.key)
            if arrived is not None and carried is not None:
                arrived = added_draws(arrived, self._draws(carried))
            elif carried is not None:
                arrived = self._draws(carried)
            if arrived is None:
                return
            if self._asked is None or node.key in self._asked:
                flowing[node.key] = self._measured(node, arrived)
        elif arrived is None:
            return
        elif node.call is not None:
            if self._asked is None or node.key in self._asked:
                field = self._measured(node, arrived)
                shown[node.key] = _sum(shown.get(node.key), field) or field
        else:
            _add(flowing, node, self._measured(node, arrived))
            return
        if node.call is not None:
            for given, part in node.call.back(node.at, arrived, self._drawing):
                self._nodes[given.key] = given
                self._arrived[given.key] = added_draws(self._arrived.get(given.key), part)

    def left(self, flowing: dict[int, Field]) -> None:
        """What arrived at signals that no operation made."""
        for key in list(self._arrived):
            arrived = self._arrived.pop(key)
            _add(flowing, self._nodes[key], self._measured(self._nodes[key], arrived))

    def _draws(self, field: Field) -> Arrived:
        return self._drawing.gaussian(field.without_mean()), field.inherited  # its own units are drawn

    def _measured(self, node: Node, arrived: Arrived) -> Field:
        draws, scatter = arrived
        field = measured_draws(draws, node.layout)
        return replace(field.without_mean(), inherited=scatter)
