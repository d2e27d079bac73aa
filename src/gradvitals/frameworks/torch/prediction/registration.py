"""Rules that users add for operations of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gradvitals.frameworks.torch.prediction.elementwise import composed
from gradvitals.frameworks.torch.prediction.operation import Operation, rule
from gradvitals.maths.field import Field


def register(name: str, elementwise: Callable[..., Any] | None, forward: Any, backward: Any) -> None:
    """Add a rule: an elementwise function of the first argument, or factors on its mean square and its gradient's."""

    def apply(operation: Operation) -> None:
        x = operation.node(operation.args[0])
        more = operation.args[1:]
        if elementwise is not None:
            function = elementwise

            def call(z: torch.Tensor) -> torch.Tensor:
                result = function(z, *more)
                return torch.as_tensor(result, device="cpu")

            composed(operation, x, call)
            return
        there = float(forward(*more)) if callable(forward) else float(forward)
        chosen = backward if backward is not None else there
        back = float(chosen(*more)) if callable(chosen) else float(chosen)

        def pullback(gradient: Field) -> Sequence[Field]:
            return [gradient.scaled(back)]

        operation.emit(x.field.scaled(there), [x], pullback)

    rule(name)(apply)
