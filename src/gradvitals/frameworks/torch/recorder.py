"""Watch one forward and backward pass of an unmodified module.

Modules are seen by hooks. A TorchFunctionMode sees the functions between them: activations and products with a weight
become calls of their own, and through all the others it follows which call's output reaches which call's input.
Gradients are read by hooks on the output tensors: full backward hooks of modules crash on in-place code.
"""

from __future__ import annotations

import contextlib
import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from gradvitals.frameworks.capture import Call, Moments
from gradvitals.frameworks.torch import layers
from gradvitals.frameworks.torch.dataflow import NOWHERE, Dataflow, Origin
from gradvitals.frameworks.torch.moments import Health, dead_share, health, is_readable, moments, sample_cosine
from gradvitals.frameworks.torch.objective import output_tensors


@dataclass(frozen=True, slots=True)
class _Frame:
    """A module that is being called, and what went in."""

    module: nn.Module
    path: str
    leaf: bool
    origin: Origin
    health: Health


@dataclass(frozen=True, slots=True)
class _Layer:
    """What is known of a call beside its tensors."""

    path: str
    kind: str
    origin: Origin
    health: Health
    parameters: tuple[str, ...] = ()
    has_weights: bool = False
    activation: layers.ActivationKind | None = None
    axis: int | None = None


class Recorder:
    """Records the calls of a forward pass inside :meth:`listening`, then the gradients until :meth:`close`.

    Parameters
    ----------
    model : torch.nn.Module
    inputs : list of torch.Tensor
        The case's input tensors.

    """

    def __init__(self, model: nn.Module, inputs: list[torch.Tensor]) -> None:
        self._model = model
        self._paths = {module: path for path, module in model.named_modules()}
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._batch = next((len(tensor) for tensor in inputs if tensor.ndim), 0)
        self._dataflow = Dataflow()
        self._dataflow.follow(inputs, Origin(inputs=True))
        for name, parameter in model.named_parameters():
            self._dataflow.follow(parameter, Origin(parameters=frozenset({name})))
        self._calls: list[Call] = []
        self._axes: list[int] = []
        self._by_path: dict[str, list[int]] = defaultdict(list)
        self._gradients: dict[int, dict[int, Moments]] = defaultdict(dict)
        self._frames: list[_Frame] = []
        self._running = model
        self._handles: list[Any] = []
        self._is_forward = False

    @property
    def calls(self) -> tuple[Call, ...]:
        """What was recorded; of several outputs the first that a gradient reached stands for the gradient."""
        gradients = {index: found[min(found)] for index, found in self._gradients.items()}
        return tuple(replace(call, gradient=gradients.get(index)) for index, call in enumerate(self._calls))

    @property
    def innermost(self) -> str:
        """The module that was running when the model raised."""
        path = self._paths.get(self._running, "")
        return f"{path} ({layers.kind_of(self._running)})" if path else "the model itself"

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Record the forward pass that runs inside."""
        for module in self._paths:
            self._handles.append(module.register_forward_pre_hook(self._entered, with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._left, always_call=True))
        self._is_forward = True
        try:
            with _Functions(self._function):
                yield
        finally:
            self._is_forward = False

    def close(self) -> None:
        """Remove every hook."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _entered(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._is_forward:
            return
        leaf = layers.is_leaf(module) and not (module is self._model and layers.is_own_network(module))
        origin, state = NOWHERE, Health.FINITE
        if leaf and not self._inside_leaf():
            with _unseen():
                origin, state = self._dataflow.of((args, kwargs)), health((args, kwargs))
        self._frames.append(_Frame(module, self._paths[module], leaf, origin, state))
        self._running = module

    def _left(self, module: nn.Module, _args: Any, output: Any) -> None:
        if not self._is_forward:
            self._recomputed(module, output)
            return
        if not self._frames or self._frames[-1].module is not module:
            return  # a pre-hook of the user's raised before ours was reached
        frame = self._frames.pop()
        if output is None:  # it raised (or returned nothing); the model may catch that and go on
            return
        self._running = self._frames[-1].module if self._frames else module
        if not frame.leaf or self._inside_leaf():
            return
        kind = layers.kind_of(module)
        with _unseen():
            self._record(
                output,
                _Layer(
                    path=frame.path or kind,
                    kind=kind,
                    origin=frame.origin,
                    health=frame.health,
                    parameters=tuple(self._names[id(parameter)] for parameter in module.parameters()),
                    has_weights=layers.mixes(module),
                    activation=layers.activation_of_module(module),
                    axis=layers.unit_axis(module),
                ),
            )

    def _function(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function that is called between the modules, and record it or pass its inputs' origin on."""
        if self._inside_leaf():
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "").strip("_")
        given = (args, kwargs)
        origin, before = self._dataflow.of(given), Health.FINITE
        weights = self._dataflow.weights(given) if name in layers.PRODUCTS and origin.is_signal else []
        activation = layers.activation_of_function(name, args, kwargs) if origin.is_signal else None
        if origin.is_signal:
            before = health(given)  # now: it may change its inputs in place
        output = func(*args, **kwargs)
        if weights:
            path = min(self._dataflow.of(weights[0]).parameters)
        elif activation or (origin.is_signal and name != "get" and health(output) > before):
            path = f"{self._frames[-1].path if self._frames else ''}.{name}()".lstrip(".")
        else:
            self._dataflow.follow(output, origin)
            if _changes_in_place(func) and args:
                self._dataflow.follow(args[0], origin)
            return output
        layer = _Layer(
            path,
            name,
            origin,
            before,
            parameters=tuple(sorted(self._dataflow.of(weights).parameters)),
            has_weights=bool(weights),
            activation=activation,
            axis=layers.product_axis(name) if weights else None,
        )
        self._record(output, layer)
        return output

    def _record(self, output: Any, layer: _Layer) -> None:
        """Add a call; an output without a real tensor (a shape, token ids) only passes its origin on."""
        tensors = [tensor for _, tensor in output_tensors(output)]
        values = next((tensor.detach() for tensor in tensors if is_readable(tensor)), None)
        if values is None or values.numel() == 0:
            self._dataflow.follow(output, layer.origin)
            return
        axis = self._axis(values, layer)
        activation = layer.activation
        rectifies = activation is not None and activation.name in layers.RECTIFYING
        index = len(self._calls)
        self._calls.append(
            Call(
                path=layer.path,
                call=len(self._by_path[layer.path]),
                kind=layer.kind,
                shape=tuple(values.shape),
                sources=tuple(sorted(layer.origin.calls)),
                parameters=layer.parameters,
                has_weights=layer.has_weights,
                activation=activation.name if activation else None,
                options=activation.options if activation else {},
                inputs_finite=layer.health < Health.BROKEN,
                forward=moments(values),
                units=values.shape[axis] if values.ndim else 1,
                dead_share=dead_share(values, axis) if rectifies else None,
                saturated_share=layers.saturated_share(activation, values) if activation else None,
                sample_cosine=sample_cosine(values) if values.ndim > 1 and len(values) == self._batch else None,
            )
        )
        self._axes.append(axis)
        self._by_path[layer.path].append(index)
        self._dataflow.follow(output, Origin(calls=frozenset({index})))
        self._watch(index, tensors)

    def _axis(self, output: torch.Tensor, layer: _Layer) -> int:
        """The axis of the units, that of a source where the layer has none of its own."""
        inherited = (self._axes[i] for i in sorted(layer.origin.calls) if len(self._calls[i].shape) == output.ndim)
        axis = next(inherited, None) if layer.axis is None else layer.axis
        if axis is None:
            axis = 1 - output.ndim if output.ndim > 3 else -1
        return axis if -axis <= output.ndim else -1

    def _inside_leaf(self) -> bool:
        return any(frame.leaf for frame in self._frames)

    def _watch(self, index: int, tensors: list[torch.Tensor]) -> None:
        for position, tensor in enumerate(tensors):
            if tensor.requires_grad:
                hook = functools.partial(self._arrived, index, position)
                self._handles.append(tensor.register_hook(hook))  # type: ignore[no-untyped-call]

    def _arrived(self, index: int, position: int, gradient: torch.Tensor) -> None:
        self._gradients[index][position] = moments(gradient)

    def _recomputed(self, module: nn.Module, output: Any) -> None:
        """A checkpointed module runs again in the backward pass: only now may its outputs have a gradient."""
        indices = self._by_path.get(self._paths[module], [])
        if len(indices) == 1 and indices[0] not in self._gradients:
            self._watch(indices[0], [tensor for _, tensor in output_tensors(output)])


class _Functions(TorchFunctionMode):
    """Hands every torch function to a recorder."""

    def __init__(self, record: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]) -> None:
        super().__init__()
        self._record = record

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self._record(func, args, dict(kwargs or {}))


def _unseen() -> contextlib.AbstractContextManager[None]:
    """Our own arithmetic, behind the mode's back."""
    return torch._C.DisableTorchFunction()  # noqa: SLF001


def _changes_in_place(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
