"""Fit the scale of layers to a batch: measure in one forward pass, in the order of execution, then write.

During the pass no weight changes. A layer's *output* is replaced by what it will be, so that the layers behind see the
signal that they are going to see, and the factors are written when all are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch import layers, shards
from gradvitals.frameworks.torch.fill import matrices
from gradvitals.frameworks.torch.inputs import validate
from gradvitals.frameworks.torch.products import Product, Products, name_of
from gradvitals.frameworks.torch.shards import resharded, whole
from gradvitals.frameworks.torch.stance import run_eagerly
from gradvitals.frameworks.torch.state import preserved, seed_everything
from gradvitals.frameworks.weights import Fit, Goal, Weight
from gradvitals.vocabulary.errors import ModelError

#: What is left of an output without its input's mean is rounding where it is smaller than so many of its roundings.
_ROUNDINGS = 16
#: Where the packed attention function takes the weight of its last projection.
_ATTENTION, _OUT_PROJECTION = "multi_head_attention_forward", 11


def fits(case: Case, goals: Iterable[Goal], *, seed: int = 0) -> tuple[Fit, ...]:
    """Find what every layer needs to reach its goal, by one forward pass; nothing is changed.

    Every layer is met in the state that those before it will be in. A layer that is called several times is fitted at
    its first call. Left out is what isn't called, what runs where Python can't look (scripted code), and a layer whose
    outputs are all zero or not finite.

    Parameters
    ----------
    case : Case
        With inputs; of its model every layer with a goal has zero biases.
    goals : iterable of Goal
    seed : int
        Of the random generators for the pass (dropout).

    Raises
    ------
    InputError
        On inputs that can't be worked with.
    ModelError
        When the model raises.

    """
    validate(case)
    model: nn.Module = getattr(case.model, "_orig_mod", case.model)
    wanted = {goal.weight.path: goal for goal in goals}
    with preserved(model, (case.args, case.keywords)), torch.enable_grad():
        seed_everything(seed)
        fitter = _Fitter(model, wanted)
        try:
            with run_eagerly(), resharded(model), fitter:
                model(*case.args, **case.keywords)
        except Exception as error:
            raise ModelError(
                "the model raised while its weights were being fitted",
                f"{type(error).__name__}: {error}",
                "call it by hand with these inputs to see it fail; method='analytic' doesn't run it in between",
            ) from error
        finally:
            fitter.close()
        return tuple(fitter.found.values())


def write(model: nn.Module, found: Iterable[Fit]) -> None:
    """Put fits into the weights and biases, in place."""
    parameters = layers.parameters_by_path(model)
    with torch.no_grad():
        for fit in found:
            weight = fit.goal.weight
            target = parameters[weight.path]
            target.mul_(fit.factor)
            if len(weight.biases) == 1:
                bias = parameters[weight.biases[0]]
                shift = fit.goal.mean - fit.centre * fit.scale * _row_sums(whole(target), weight)
                if shift.numel() == bias.numel():  # attention packs the biases of three weights in one
                    shards.write(bias, shift.reshape(bias.shape))


class _Fitter(Products):
    """Brings the output of every product with a goal there."""

    def __init__(self, model: nn.Module, goals: Mapping[str, Goal]) -> None:
        super().__init__(model, goals)
        self._goals = goals
        self.found: dict[str, Fit] = {}

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if name_of(func) == _ATTENTION:
            return self._attended(output, args, dict(kwargs or {}))
        if not isinstance(output, torch.Tensor):
            return output
        found = self.product(func, args, kwargs or {})
        if found is None:
            self.follow(func, args, output)
            return output
        return self._reached(found, output)

    def _attended(self, output: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Packed attention is linear in its last projection, the only weight whose effect can be told from outside."""
        weight = args[_OUT_PROJECTION] if len(args) > _OUT_PROJECTION else kwargs.get("out_proj_weight")
        path = self.path_of(weight)
        if weight is None or path is None or not isinstance(output, tuple):
            return output
        return (self._reached(Product(path, weight, None, -1), output[0]), *output[1:])

    def _reached(self, product: Product, output: torch.Tensor) -> torch.Tensor:
        """What comes out once the goal is reached."""
        path, signal = product.path, product.signal
        goal = self._goals[path]
        with torch._C.DisableTorchFunction():  # noqa: SLF001
            centre = _mean(signal) if goal.centred and len(goal.weight.biases) == 1 and signal is not None else 0.0
            sums = _sums(product, goal.weight, output) if goal.weight.biases else None
            if path not in self.found:
                size = _rms(output if sums is None else output - centre * sums)
                if size <= _ROUNDINGS * torch.finfo(output.dtype).eps * _rms(output):  # rounding, not a signal
                    centre, size = 0.0, _rms(output)
                if not 0 < size < math.inf:
                    return output
                self.found[path] = Fit(goal, goal.std / size, centre, product.scale)
            fit = self.found[path]
            if len(goal.weight.biases) != 1 or sums is None:
                return output * fit.factor
            return output * fit.factor + (goal.mean - fit.centre * fit.factor * sums)


def _rms(values: torch.Tensor) -> float:
    return float(values.detach().double().square().mean().sqrt()) if values.numel() else 0.0


def _mean(signal: torch.Tensor) -> float:
    return float(signal.detach().double().mean())


def _row_sums(weight: torch.Tensor, described: Weight) -> torch.Tensor:
    """What every unit makes of an input that is 1 everywhere."""
    return matrices(weight.detach(), described.layout).sum(dim=2).flatten() / described.layout.overlap


def _sums(product: Product, described: Weight, output: torch.Tensor) -> torch.Tensor | None:
    """Those, to be broadcast over an output; None of one whose units lie along no axis of their own."""
    per_unit = product.scale * _row_sums(product.weight, described)
    if -product.axis > output.ndim or len(per_unit) != output.shape[product.axis]:
        return None
    shape = [1] * output.ndim
    shape[product.axis] = -1
    return per_unit.reshape(shape).to(output)
