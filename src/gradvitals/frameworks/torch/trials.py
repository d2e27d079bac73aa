"""Train copies of a model for a short while, to see how well each start serves it."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.inputs import named_inputs, validate
from gradvitals.frameworks.torch.materialise import device_of, is_on_meta, materialised, reset
from gradvitals.frameworks.torch.objective import scalar
from gradvitals.frameworks.torch.state import preserved, seed_everything
from gradvitals.frameworks.tree import rebuilt
from gradvitals.frameworks.user_code import user_code
from gradvitals.vocabulary.errors import InputError

#: The norm that gradients are clipped to: Pascanu, Mikolov and Bengio (2013); 1 is what most trainers have.
CLIP = 1.0
#: A loss that falls by less than this share counts as not falling.
_FALLS = 1e-3


@dataclass(frozen=True, slots=True)
class Course:
    """How a run is trained.

    Parameters
    ----------
    steps : int
    batches : iterable, optional
        What is trained on, over and over; the case's own inputs when not given. A batch is a tuple whose last item is
        the loss's second argument, or a mapping of keyword inputs for a model that computes its own loss.
    patience : int, optional
        A run ends where its loss hasn't fallen for so many steps.

    """

    steps: int
    batches: Iterable[Any] | None = None
    patience: int | None = None


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


class Trainee:
    """A copy of a case's model, which can be started and trained again and again.

    Parameters
    ----------
    case : Case
        Its model is a module, and there is a loss; it is never changed. On the meta device the copy gets memory.

    Raises
    ------
    InputError
        When the model can't be worked with.
    ModelError
        When it can't be copied.

    """

    _loss: Callable[..., Any] | None

    def __init__(self, case: Case) -> None:
        validate(case, valueless=True)
        if not trainable(case.model):
            raise InputError(
                "the model has no parameter that can be trained",
                f"all {sum(1 for _ in case.model.parameters())} parameters of {case.subject} are frozen",
                "let those require gradients that are to be trained: parameter.requires_grad_()",
            )
        with user_code("copying the model", "make it one that copy.deepcopy can copy"):
            model = copy.deepcopy(getattr(case.model, "_orig_mod", case.model))
        self.has_weights = not is_on_meta(model)
        if not self.has_weights:
            with materialised(model, device_of(tensor for _, tensor in named_inputs(case))):
                pass  # it keeps its memory
        validate(Case(model, case.args, case.kwargs))
        self._loss = case.loss
        self._original = case.model
        self._fresh = copy.deepcopy(model.state_dict())
        self.case = Case(model, case.args, case.kwargs, loss=case.loss, name=case.subject)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """The surroundings (random generators, the original, which a copy may share with) are as before afterwards."""
        with preserved(self._original, (self.case.args, self.case.keywords), also=[self._loss]), torch.enable_grad():
            yield

    def start(self, how: Callable[[Case], object] | str, *, seed: int) -> Mapping[str, torch.Tensor]:
        """Give the copy its start: ``"built"``, ``"default"`` (its modules' own), or what ``how`` does; returns it."""
        model: nn.Module = self.case.model
        model.load_state_dict(self._fresh)
        model.zero_grad(set_to_none=True)
        if how == "default":
            with torch.no_grad():
                reset(model, seed)
        elif callable(how):
            how(replace(self.case, loss=None))  # which may want a batch's last item; no start depends on it
        if not self.has_weights:
            self._require_values()
        return copy.deepcopy(model.state_dict())

    def _require_values(self) -> None:
        for path, tensor in self.case.model.named_parameters():
            if tensor.isnan().any():
                raise InputError(
                    "a parameter of the meta device has no values to start from",
                    f"{path!r} of {self.case.subject}: none of its modules sets it",
                    "set it in its module's reset_parameters()",
                )

    def train(self, start: Mapping[str, torch.Tensor], course: Course, *, rate: float, seed: int) -> tuple[float, ...]:
        """The loss before each step of Adam; a run ends where it isn't finite any more.

        Raises
        ------
        InputError
            Without a scalar loss, or without batches.
        ModelError
            When the model or the loss raises.

        """
        model: nn.Module = self.case.model
        model.load_state_dict(dict(start))
        model.train()
        parameters = trainable(model)
        optimizer = torch.optim.Adam(parameters, lr=rate)
        seed_everything(seed)
        batches = self._batches(course)
        losses: list[float] = []
        best, since = math.inf, 0
        for step in range(course.steps):
            optimizer.zero_grad()
            loss = self._lost(next(batches), step)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                break
            with user_code(f"the backward pass of {self.case.subject} in training step {step}"):
                loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            since = 0 if losses[-1] < best * (1 - _FALLS) else since + 1
            best = min(best, losses[-1])
            if course.patience is not None and since >= course.patience:
                break
        return tuple(losses)

    def _batches(self, course: Course) -> Iterator[Any]:
        """The case's own inputs (None) for ever, or one batch after another, from the start again at the end."""
        while course.batches is None:
            yield None
        while True:
            empty = True
            for batch in course.batches:
                empty = False
                yield batch
            if empty:
                raise InputError(
                    "there are no batches",
                    f"batches={type(course.batches).__name__} gave nothing, or nothing when asked again",
                    "give something that can be gone through again and again, such as a DataLoader or a list",
                )

    def _lost(self, batch: Any, step: int) -> torch.Tensor:
        args, kwargs, loss = self.case.args, self.case.keywords, self._loss
        if isinstance(batch, Mapping):
            args, kwargs = (), dict(batch)
        elif batch is not None:
            *inputs, target = batch if isinstance(batch, (tuple, list)) and len(batch) > 1 else (batch, None)
            args = tuple(inputs)
            given = self._loss
            loss = (lambda output: given(output, target)) if given is not None and target is not None else given
        args, kwargs = rebuilt(args, "", _copied), rebuilt(kwargs, "", _copied)
        with user_code(f"{self.case.subject}() in training step {step}"):
            output = self.case.model(*args, **kwargs)
        value, _ = scalar(output, loss)
        if value is None:
            raise InputError(
                "training needs a loss",
                f"{self.case.subject}() returned none, and no loss= was given",
                "let the factory return (model, inputs, loss), or give loss=, a function of the output (and of a "
                "batch's last item, where there are batches)",
            )
        if not value.requires_grad:
            raise InputError(
                "the loss passes no gradient back",
                f"the loss of {self.case.subject} was made by what has no slope: argmax, rounding, .item(), no_grad",
                "give a loss that can be differentiated, such as torch.nn.functional.cross_entropy",
            )
        return value


def _copied(_: str, value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value
