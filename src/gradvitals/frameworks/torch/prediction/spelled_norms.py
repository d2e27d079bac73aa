"""Norms over units as models spell them: a signal less its own mean, times the inverse root of its own mean square."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from gradvitals.frameworks.torch.prediction.operation import Operation
from gradvitals.frameworks.torch.prediction.values import Node
from gradvitals.maths.alignment import alike, spread_to
from gradvitals.maths.field import Role


def takes_difference(operation: Operation, a: Any, b: Any, sign_a: float, sign_b: float) -> bool:
    """Whether a sum is a signal less its own mean over units; if so, it is recorded as that."""
    if not isinstance(a, Node) or not isinstance(b, Node) or (sign_a, sign_b) != (1.0, -1.0):
        return False
    if b.source is not None or b.tags.get("unit-mean-of") != a.key or a.field.has_pixels:
        return False
    layout = a.field.layout
    gone = [d for d, (own, rest) in enumerate(zip(layout, b.field.layout, strict=False)) if own and not rest]
    if len(b.field.layout) != len(layout) or any(axis.role is not Role.UNIT for d in gone for axis in layout[d]):
        return False
    whole, mean = alike(a.field, spread_to(b.field, layout))
    made = replace(
        whole, mean=whole.mean - mean.mean, second=whole.second - mean.second, kernel=whole.kernel - mean.kernel
    )
    units = math.prod(axis.size for d in gone for axis in layout[d])
    node = Node(made.consistent(), tags={"centred-of": a.key})
    operation.emit(made, [a], lambda g: [g.scaled(1 - 1 / units)], node=node)
    return True


def identity_of(node: Node) -> object:
    """What a norm's mean square is of: a signal, also where its mean was taken off."""
    return node.tags.get("centred-of", node.key) if node.source is None else node.key


def divided_by_its_own(a: Any, b: Any) -> tuple[Node, Node] | None:
    """The signal and the function of its mean square that it is multiplied by."""
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Node) and isinstance(other, Node):
            of = other.root.tags.get("mean-square-of")
            if of is not None and of in (one.key, identity_of(one)):
                return one, other
    return None
