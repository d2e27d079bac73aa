"""Send a gradient's moments back through the recorded steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gradvitals.frameworks.torch.prediction.operation import Step
from gradvitals.frameworks.torch.prediction.values import Node
from gradvitals.maths.alignment import alike, gathered_to
from gradvitals.maths.field import Field


def added(first: Field, second: Field) -> Field:
    """The sum of two independent gradients of the same tensor."""
    first, second = alike(first, second)
    total = max(first.mean_square + second.mean_square, 1e-300)
    share = first.mean_square / total, second.mean_square / total
    return replace(
        first,
        second=first.second + second.second,
        kernel=first.kernel + second.kernel,
        mean=first.mean + second.mean,
        inherited=share[0] ** 2 * first.inherited + share[1] ** 2 * second.inherited,
        own=None,
        blur=share[0] ** 2 * first.blur + share[1] ** 2 * second.blur,
        kurtosis=3 + share[0] ** 2 * (first.kurtosis - 3) + share[1] ** 2 * (second.kurtosis - 3),
    )


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
