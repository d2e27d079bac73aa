"""The calls that a model would make if it called its modules in the order in which they stand."""

from __future__ import annotations

import math

from torch import nn

from gradvitals.frameworks.capture import Call, Moments
from gradvitals.frameworks.torch import layers

#: Of a call that was not made.
UNSEEN = Moments(0, 0, 0, *(math.nan,) * 5, zero_share=0.0)


def calls_in_module_order(model: nn.Module) -> tuple[Call, ...]:
    """One call per leaf module, each fed by the one before it: what can be assumed without inputs to run on."""
    names = {id(parameter): name for name, parameter in layers.parameters_by_path(model).items()}
    calls: list[Call] = []
    inside: set[nn.Module] = set()
    for path, module in model.named_modules():
        if module in inside or not layers.is_leaf(module):
            continue
        inside.update(module.modules())
        activation = layers.activation_of_module(module)
        calls.append(
            Call(
                path=layers.written(path) or layers.kind_of(module),
                call=0,
                kind=layers.kind_of(module),
                shape=(),
                sources=(len(calls) - 1,) if calls else (),
                parameters=tuple(names[id(parameter)] for parameter in module.parameters()),
                has_weights=layers.mixes(module),
                activation=activation.name if activation else None,
                options=activation.options if activation else {},
                inputs_finite=True,
                forward=UNSEEN,
                units=0,
            )
        )
    return tuple(calls)
