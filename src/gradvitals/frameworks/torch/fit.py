"""Fit the scale of layers to a batch: measure in one forward pass, in the order of execution, then write.

During the pass no weight changes. A layer's *output* is replaced by what it will be, so that the layers behind see the
signal that they are going to see, and the factors are written when all are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch import layers, shards
from gradvitals.frameworks.torch.fill import matrices
from gradvitals.frameworks.torch.inputs import validate
from gradvitals.frameworks.torch.shards import resharded, whole
from gradvitals.frameworks.torch.stance import run_eagerly
from gradvitals.frameworks.torch.state import preserved, seed_everything
from gradvitals.frameworks.weights import Fit, Goal, Weight
from gradvitals.vocabulary.errors import ModelError

#: What makes another form of a weight, by function name without underscores: ``get`` is the property ``.T``.
_CONVERSIONS = frozenset({"to", "type", "type_as", "float", "double", "half", "bfloat16", "contiguous", "clone"})
_TRANSPOSED = frozenset({"t", "get", "transpose", "swapaxes", "adjoint"})
_DIVISIONS = frozenset({"div", "truediv", "true_divide", "divide"})
_SCALINGS = _DIVISIONS | {"mul", "rmul", "multiply"}
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
                shards.write(bias, shift.reshape(bias.shape))


@dataclass(frozen=True, slots=True)
class _Form:
    """A tensor that is a weight in another form; kept, for a freed one's id may be given to another."""

    tensor: torch.Tensor
    weight: torch.Tensor
    scale: float


class _Fitter(TorchFunctionMode):
    """Sees every product with a weight, inside of modules and between them."""

    def __init__(self, model: nn.Module, goals: Mapping[str, Goal]) -> None:
        super().__init__()
        self._goals = goals
        self.found: dict[str, Fit] = {}
        self._paths = {id(parameter): path for path, parameter in layers.parameters_by_path(model).items()}
        self._forms: dict[int, _Form] = {}
        # wrappers such as FSDP put other tensors in place of the parameters while a module runs
        self._handles = [
            module.register_forward_pre_hook(self._names(prefix))
            for prefix, module in model.named_modules()
            if not isinstance(module, torch.jit.ScriptModule) and any(True for _ in module.parameters(recurse=False))
        ]

    def close(self) -> None:
        """Remove every hook."""
        for handle in self._handles:
            handle.remove()

    def _names(self, prefix: str) -> Callable[[nn.Module, Any], None]:
        def entered(module: nn.Module, _args: Any) -> None:
            for name, parameter in module.named_parameters(recurse=False):
                self._paths.setdefault(id(parameter), layers.written(f"{prefix}.{name}".lstrip(".")))

        return entered

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").strip("_")
        if name == _ATTENTION:
            return self._attended(output, args, dict(kwargs or {}))
        if not isinstance(output, torch.Tensor):
            return output
        if name not in layers.PRODUCTS:
            self._follow(name, args, output)
            return output
        given = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, torch.Tensor)]
        weight = next((value for value in given if self._paths.get(id(value)) in self._goals), None)
        if weight is None:
            return output
        signal = next((value for value in given if id(value) not in self._paths), None)
        return self._reached(weight, output, signal, layers.product_axis(name))

    def _follow(self, name: str, args: tuple[Any, ...], output: torch.Tensor) -> None:
        """Recognise a weight in another form: converted, transposed, or multiplied by a number."""
        weight = next((value for value in args if self._paths.get(id(value)) in self._goals), None)
        if weight is None or output is weight:
            return
        others = [value for value in args if value is not weight]
        scale = 1.0
        if name in _SCALINGS and len(others) == 1 and isinstance(others[0], (int, float)):
            scale = 1 / others[0] if name in _DIVISIONS else float(others[0])
        elif not (name in _CONVERSIONS or (name in _TRANSPOSED and output.ndim == 2 == weight.ndim)):
            return
        known = self._forms.get(id(weight), _Form(weight, weight, 1.0))
        self._forms[id(output)] = _Form(output, known.weight, known.scale * scale)
        self._paths[id(output)] = self._paths[id(weight)]

    def _attended(self, output: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Packed attention is linear in its last projection, the only weight whose effect can be told from outside."""
        weight = args[_OUT_PROJECTION] if len(args) > _OUT_PROJECTION else kwargs.get("out_proj_weight")
        if weight is None or self._paths.get(id(weight)) not in self._goals or not isinstance(output, tuple):
            return output
        return (self._reached(weight, output[0], None, -1), *output[1:])

    def _reached(
        self, weight: torch.Tensor, output: torch.Tensor, signal: torch.Tensor | None, axis: int
    ) -> torch.Tensor:
        """What comes out once the goal is reached."""
        path = self._paths[id(weight)]
        goal = self._goals[path]
        form = self._forms.get(id(weight), _Form(weight, weight, 1.0))
        with torch._C.DisableTorchFunction():  # noqa: SLF001
            centre = _mean(signal) if goal.centred and len(goal.weight.biases) == 1 and signal is not None else 0.0
            sums = None
            if goal.weight.biases:
                sums = _along(form.scale * _row_sums(form.weight, goal.weight), output, axis)
            if path not in self.found:
                size = _rms(output if sums is None else output - centre * sums)
                if size <= _ROUNDINGS * torch.finfo(output.dtype).eps * _rms(output):  # rounding, not a signal
                    centre, size = 0.0, _rms(output)
                if not 0 < size < math.inf:
                    return output
                self.found[path] = Fit(goal, goal.std / size, centre, form.scale)
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


def _along(per_unit: torch.Tensor, output: torch.Tensor, axis: int) -> torch.Tensor:
    """Numbers by unit, to be broadcast over an output whose units lie along a negative axis."""
    shape = [1] * output.ndim
    shape[axis] = -1
    return per_unit.reshape(shape).to(output)
