"""What calls what in a model on the meta device: the structure of a pass, without any values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from gradvitals.frameworks.capture import Call
from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.dataflow import Origin
from gradvitals.frameworks.torch.inputs import validate
from gradvitals.frameworks.torch.objective import output_tensors
from gradvitals.frameworks.torch.observation import Layer
from gradvitals.frameworks.torch.order import UNSEEN
from gradvitals.frameworks.torch.recorder import Recorder
from gradvitals.frameworks.torch.stance import run_eagerly
from gradvitals.frameworks.torch.state import RandomState
from gradvitals.frameworks.torch.structures import with_tensors
from gradvitals.vocabulary.errors import ModelError


def calls_without_values(case: Case) -> tuple[Call, ...]:
    """Run a model on the meta device, where nothing is computed, and record its calls.

    Raises
    ------
    InputError
        On inputs that can't be worked with.
    ModelError
        When the model raises, as it does where its code looks at values.

    """
    model: nn.Module = getattr(case.model, "_orig_mod", case.model)
    validate(case, valueless=True)
    inputs: list[torch.Tensor] = []

    def moved(_path: str, tensor: torch.Tensor) -> torch.Tensor:
        inputs.append(tensor.to("meta"))
        return inputs[-1]

    args, kwargs = with_tensors(case.args, "args", moved), with_tensors(case.keywords, "kwargs", moved)
    with _kept(model), torch.no_grad(), contextlib.closing(_Structure(model, inputs)) as recorder:
        try:
            with run_eagerly(), recorder.listening():
                model(*args, **kwargs)
        except Exception as error:
            raise ModelError(
                "the model raised on the meta device",
                f"in {recorder.innermost}: {type(error).__name__}: {error}",
                "on the meta device no code may look at values: leave the inputs out, or build the model with memory",
            ) from error
        return recorder.calls


class _Structure(Recorder):
    """Records calls without what there is to be seen of their tensors."""

    def _record(self, output: Any, layer: Layer) -> None:
        shapes = [tuple(tensor.shape) for _, tensor in output_tensors(output)]
        if not shapes:
            self._dataflow.follow(output, layer.origin)
            return
        index = len(self._calls)
        self._calls.append(
            Call(
                path=layer.path,
                call=len(self._by_path[layer.path]),
                kind=layer.kind,
                shape=shapes[0],
                sources=tuple(sorted(layer.origin.calls)),
                parameters=layer.parameters,
                has_weights=layer.has_weights,
                activation=layer.activation.name if layer.activation else None,
                options=layer.activation.options if layer.activation else {},
                inputs_finite=True,
                forward=UNSEEN,
                units=0,
            )
        )
        self._by_path[layer.path].append(index)
        self._dataflow.follow(output, Origin(calls=frozenset({index}), nodes=frozenset({index})))


@contextlib.contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """Modules are as they were afterwards; tensors on meta can't change."""
    state = RandomState.capture()
    modules = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]  # noqa: SLF001
    try:
        yield
    finally:
        for module, attributes, buffers in modules:
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.clear()  # noqa: SLF001
            module._buffers.update(buffers)  # noqa: SLF001
        state.restore()
