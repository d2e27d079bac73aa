"""Train a model of the user's making for a few steps on one batch, and see how far each layer's output moves."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from gradvitals.frameworks.capture import Call
from gradvitals.frameworks.case import Case
from gradvitals.frameworks.coordinates import Coordinate
from gradvitals.frameworks.torch.inputs import named_inputs, validate
from gradvitals.frameworks.torch.objective import cotangents, output_tensors, scalar
from gradvitals.frameworks.torch.recorder import Recorder
from gradvitals.frameworks.torch.stance import run_eagerly
from gradvitals.frameworks.torch.state import preserved, seed_everything
from gradvitals.frameworks.user_code import user_code
from gradvitals.vocabulary.errors import InputError, UsageError

_Key = tuple[str, int]
#: Optimisers that have a name here, by what makes them of parameters and a learning rate.
_OPTIMISERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def coordinates(
    make: Callable[[], Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    what: str,
    loss: Callable[[Any], Any] | None,
    optimizer: Any,
    learning_rate: float,
    steps: int,
    seed: int,
) -> tuple[Coordinate, ...]:
    """Make one model and train it; the random state and the inputs are as before afterwards.

    Parameters
    ----------
    make : callable
        Makes the model.
    args, kwargs : tuple, mapping
        The model's inputs.
    what : str
        What makes the model, for messages: ``"make_model(width=64)"``.
    loss : callable, optional
        Maps the output to a scalar; without it as in a probe.
    optimizer : str or callable
        ``"sgd"``, ``"adam"``, ``"adamw"``, or a function that makes an optimiser of the model.
    learning_rate : float
        Of an optimiser by name.
    steps : int
    seed : int
        Of the random state in which the model is made, and of every pass.

    Raises
    ------
    InputError
        When it makes something that isn't a module; on inputs that can't be worked with.
    ModelError
        When making, running or training it raises.
    UsageError
        On an optimiser that isn't known.

    """
    with preserved(make, (args, kwargs)), torch.enable_grad():
        seed_everything(seed)
        with user_code(what, "call it by hand with this size; it must give a module"):
            model = make()
        if not isinstance(model, nn.Module):
            raise InputError(
                "what was made is no module",
                f"{what} gave {type(model).__name__}",
                "return a torch.nn.Module",
            )
        case = Case(model, args, kwargs, loss=loss)
        validate(case)
        return tuple(_trained(case, model, optimizer, learning_rate, steps, seed))


def _trained(
    case: Case, model: nn.Module, optimizer: Any, learning_rate: float, steps: int, seed: int
) -> Iterator[Coordinate]:
    stepping = _optimiser(optimizer, model, learning_rate) if steps else None
    start: dict[_Key, torch.Tensor] = {}
    for step in range(steps + 1):
        values, calls, gradients = _pass(case, model, seed, backward=step < steps or step == 0)
        for (path, number), value in values.items():
            call = calls.get((path, number))
            kind, weight = ("output", ()) if call is None else (call.kind, _weight(call, model))
            yield Coordinate(path, number, kind, "forward_rms", step, _rms(value), weight)
            if step and (path, number) in start and start[path, number].shape == value.shape:
                moved = _rms(value - start[path, number])
                yield Coordinate(path, number, kind, "update_rms", step, moved, weight)
            if not step and call is not None and call.gradient is not None:
                yield Coordinate(path, number, kind, "gradient_rms", step, call.gradient.rms, weight)
        if not step:
            start = values
            for name, parameter in model.named_parameters():
                if name in gradients:
                    yield Coordinate(name, 0, "parameter", "gradient_rms", 0, _rms(gradients[name]), _mixed(parameter))
        if stepping is not None and step < steps:
            with user_code("the optimiser"):
                stepping.step()


def _pass(
    case: Case, model: nn.Module, seed: int, *, backward: bool
) -> tuple[dict[_Key, torch.Tensor], dict[_Key, Call], dict[str, torch.Tensor]]:
    """What every call gave, the calls themselves, and the parameters' gradients, which stay in ``.grad``."""
    values: dict[_Key, torch.Tensor] = {}

    def keep(path: str, number: int, kind: str, tensor: torch.Tensor) -> None:
        if kind != "gradient":
            values[path, number] = tensor.detach().to(torch.float64, copy=True)

    inputs = [tensor for _, tensor in named_inputs(case)]
    seed_everything(seed)
    model.zero_grad(set_to_none=True)
    with contextlib.closing(Recorder(model, inputs, keep)) as recorder:
        with run_eagerly(), user_code("the model"), recorder.listening():
            output = model(*case.args, **case.keywords)
        value, _ = scalar(output, case.loss)
        outputs = [tensor for _, tensor in output_tensors(output) if tensor.requires_grad]
        last = next(reversed(values.values()), None)
        if outputs and not (last is not None and torch.equal(last, outputs[0].detach().double())):
            values["output", 0] = outputs[0].detach().to(torch.float64, copy=True)
        if backward:
            with user_code("the backward pass"):
                if value is not None and value.requires_grad:
                    value.backward()  # type: ignore[no-untyped-call]
                elif outputs:
                    torch.autograd.backward(outputs, [sent / len(sent) for sent in cotangents(outputs, seed)])
        calls = {(call.path, call.call): call for call in recorder.calls}
    gradients = {name: p.grad.detach() for name, p in model.named_parameters() if p.grad is not None}
    return values, calls, gradients


def _optimiser(optimizer: Any, model: nn.Module, learning_rate: float) -> torch.optim.Optimizer | None:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if callable(optimizer):
        with user_code(
            "the optimizer's factory", "it is called with the model: lambda model: Adam(model.parameters())"
        ):
            made = optimizer(model)
        if not hasattr(made, "step"):
            raise UsageError(
                "optimizer= makes no optimiser",
                f"it gave {type(made).__name__}",
                "return a torch.optim.Optimizer of the model: lambda model: torch.optim.Adam(model.parameters())",
            )
        return made  # type: ignore[no-any-return]
    if optimizer not in _OPTIMISERS:
        raise UsageError(
            f"no optimiser is called {optimizer!r}",
            f"scaling(..., optimizer={optimizer!r})",
            f"write one of {', '.join(_OPTIMISERS)}, or a function that makes an optimiser of the model",
        )
    return _OPTIMISERS[optimizer](trainable, lr=learning_rate) if trainable else None


def _weight(call: Call, model: nn.Module) -> tuple[int, ...]:
    """The shape of the first parameter of a call that mixes, as (outputs, inputs); an embedding's is a table."""
    named = dict(model.named_parameters(remove_duplicate=False))
    shapes = [_mixed(named[name]) for name in call.parameters if name in named]
    shape = next((shape for shape in shapes if shape), ())
    return (shape[1], shape[0]) if shape and call.kind.startswith("Embedding") else shape


def _mixed(parameter: torch.Tensor) -> tuple[int, ...]:
    return (parameter.shape[0], math.prod(parameter.shape[1:])) if parameter.ndim > 1 else ()


def _rms(tensor: torch.Tensor) -> float:
    values = tensor.detach().double()
    return math.sqrt(float(values.square().mean())) if values.numel() else 0.0
