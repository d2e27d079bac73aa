"""A few training steps before a check, on a copy: a fresh network is a special point, and the user's stays as it is."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.inputs import validate
from gradvitals.frameworks.torch.objective import scalar
from gradvitals.frameworks.torch.state import preserved
from gradvitals.frameworks.tree import rebuilt
from gradvitals.frameworks.user_code import user_code
from gradvitals.vocabulary.errors import InputError, ModelError, UsageError

#: Learning rate of plain gradient descent: small enough for a loss of usual size (CS231n's examples train with it).
LEARNING_RATE = 1e-2


def burnt_in(
    case: Case, wrt: Any, steps: int, optimizer: Callable[[Any], torch.optim.Optimizer] | None = None
) -> tuple[Case, Any]:
    """Train a deep copy of a case's module for some steps on the case's own inputs.

    Parameters
    ----------
    case : Case
        Its model is a module, and there is a loss.
    wrt : any
        As given to the check.
    steps : int
    optimizer : callable, optional
        Makes an optimizer of parameters, as ``torch.optim.Adam`` does; plain gradient descent when not given.

    Returns
    -------
    case : Case
        With the copy.
    wrt : any
        With the copy's modules and parameters in the places of the originals.

    Raises
    ------
    InputError
        Without a module, or without a scalar loss.
    ModelError
        When the model can't be copied, or training raises or leaves the finite numbers.
    UsageError
        When the optimizer isn't made of parameters.

    """
    if not isinstance(case.model, torch.nn.Module):
        raise InputError(
            "only a module can be trained before it is checked",
            f"burn_in={steps} with {type(case.model).__name__} {case.subject!r}",
            "pass the torch.nn.Module itself, or leave burn_in out",
        )
    validate(case)
    # Everything random in training is undone at the end; the original is kept as well, for a copy may share with it.
    with preserved(case.model, (case.args, case.keywords), also=[case.loss]), torch.enable_grad():
        copies: dict[int, Any] = {}
        with user_code("copying the model", "make it one that copy.deepcopy can copy, or leave burn_in out"):
            model = copy.deepcopy(case.model, copies)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        _train(model, case, steps, _made(optimizer, parameters))
    for parameter in parameters:
        parameter.grad = None
    return dataclasses.replace(case, model=model, name=case.subject), _translated(wrt, copies)


def _train(model: torch.nn.Module, case: Case, steps: int, optimizer: torch.optim.Optimizer) -> None:
    for step in range(steps):
        args = rebuilt(case.args, "", _copied)
        keywords = rebuilt(case.keywords, "", _copied)
        with user_code(f"{case.subject}() in training step {step}"):
            output = model(*args, **keywords)
        loss, _ = scalar(output, case.loss)
        if loss is None:
            raise InputError(
                "training needs a loss",
                f"burn_in={steps} without a loss=, and {case.subject}() returned none",
                "give loss=, a function of the output, or leave burn_in out",
            )
        if not math.isfinite(float(loss.detach())):
            raise ModelError(
                "the loss left the finite numbers before the check",
                f"it is {float(loss.detach())} in training step {step} of {steps}",
                "take fewer steps, or an optimizer= of a smaller learning rate",
            )
        with user_code(f"the backward pass of {case.subject} in training step {step}"):
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def _made(
    optimizer: Callable[[Any], torch.optim.Optimizer] | None, parameters: list[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    if optimizer is None:
        return torch.optim.SGD(parameters, lr=LEARNING_RATE)
    if isinstance(optimizer, torch.optim.Optimizer) or not callable(optimizer):
        raise UsageError(
            "the optimizer holds parameters already",
            f"optimizer={type(optimizer).__name__}; a copy of the model is trained, which it doesn't know",
            "give a function that makes one: optimizer=lambda p: torch.optim.Adam(p, lr=1e-3)",
        )
    with user_code("making the optimizer"):
        return optimizer(parameters)


def _copied(_: str, value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def _translated(wrt: Any, copies: dict[int, Any]) -> Any:
    if isinstance(wrt, (torch.nn.Module, torch.Tensor)):
        return copies.get(id(wrt), wrt)
    if isinstance(wrt, dict):
        return {name: copies.get(id(item), item) for name, item in wrt.items()}
    return [copies.get(id(item), item) for item in wrt] if isinstance(wrt, (list, tuple)) else wrt
