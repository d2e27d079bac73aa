"""Which layer's call a signal is the output of, in the terms of a measured probe."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gradvitals.frameworks.torch import layers
from gradvitals.frameworks.torch.functions import Functions
from gradvitals.frameworks.torch.objective import output_tensors
from gradvitals.frameworks.torch.prediction import recurrent
from gradvitals.frameworks.torch.prediction.knowledge import Trace
from gradvitals.frameworks.torch.prediction.values import Constant, Node, Weight, nested_tensors


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One call, and what was known of its output when it returned: of the first, and of the ``others``."""

    path: str
    call: int
    kind: str
    shape: tuple[int, ...]
    has_weights: bool
    activation: layers.ActivationKind | None
    parameters: tuple[str, ...]
    value: Any
    others: tuple[Node, ...] = ()

    @property
    def outputs(self) -> tuple[Node, ...]:
        """All signals among its outputs."""
        return (self.value, *self.others) if isinstance(self.value, Node) else self.others


class Calls:
    """Records the calls of a forward pass inside :meth:`listening`."""

    def __init__(self, model: nn.Module, trace: Trace) -> None:
        self.rows: list[Row] = []
        self._model = model
        self._trace = trace
        self._paths = {module: path for path, module in model.named_modules()}
        self._names = {id(parameter): layers.written(name) for name, parameter in model.named_parameters()}
        self._counts: Counter[str] = Counter()
        self._frames: list[tuple[nn.Module, bool]] = []

    @property
    def innermost(self) -> str:
        """The path of the module that is running."""
        return self._paths[self._frames[-1][0]] if self._frames else ""

    @property
    def layer(self) -> nn.Module | None:
        """The module that is running."""
        return self._frames[-1][0] if self._frames else None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Record the forward pass that runs inside."""
        handles = []
        try:
            for module in self._paths:
                handles.append(module.register_forward_pre_hook(self._entered))
                handles.append(module.register_forward_hook(self._left, always_call=True))
            with Functions(self._function):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _entered(self, module: nn.Module, _args: Any) -> None:
        leaf = layers.is_leaf(module) and not (module is self._model and layers.is_own_network(module))
        self._frames.append((module, leaf))

    def _left(self, module: nn.Module, _args: Any, output: Any) -> None:
        if not self._frames or self._frames[-1][0] is not module:
            return
        _, leaf = self._frames.pop()
        if output is None or not leaf or self._inside_leaf():
            return
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - what is asked here is nothing that the model does
            kind = layers.kind_of(module)
            activation = layers.activation_of_module(module)
            own = tuple(self._names[id(p)] for p in module.parameters() if id(p) in self._names)
            self._add(output, self._paths[module] or kind, kind, layers.mixes(module), activation, own)

    def _inside_leaf(self) -> bool:
        return any(leaf for _, leaf in self._frames)

    def _function(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = getattr(func, "__name__", "").strip("_")
        output = None if kwargs else recurrent.followed(self._trace, name, args)
        if output is None:
            output = func(*args, **kwargs)
        if self._inside_leaf():
            return output
        activation = layers.activation_of_function(name, args, kwargs)
        product = name in layers.PRODUCTS
        if not activation and not product and name not in layers.FUNCTIONAL:
            return output
        given = [self._trace.values.get(id(t)) for t in nested_tensors((args, kwargs))]
        if not any(_is_signal(v) for v in given):
            return output
        path = f"{self.innermost}.{name}()".lstrip(".")
        own: tuple[str, ...] = ()
        if product:
            weights = [v for v in given if isinstance(v, (Constant, Weight)) and v.name and _is_matrix(v)]
            named = [v.name for v in weights if not isinstance(v, Constant) or v.learned]
            if not named:
                return output
            path = min(filter(None, named))
            own = tuple(layers.written(v.name) for v in given if isinstance(v, (Constant, Weight)) and v.name)
        self._add(output, path, name, product, activation, own)
        return output

    def _add(
        self,
        output: Any,
        path: str,
        kind: str,
        has_weights: bool,
        activation: layers.ActivationKind | None,
        parameters: tuple[str, ...],
    ) -> None:
        tensors = [tensor for _, tensor in output_tensors(output)]
        if not tensors or tensors[0].numel() == 0:
            return
        value = self._trace.value(tensors[0])
        value = getattr(value, "shown", value)  # attention's weights have a signal for the report
        shape = tuple(tensors[0].shape)
        others = tuple(node for node in map(self._trace.value, tensors[1:]) if isinstance(node, Node))
        row = Row(path, self._counts[path], kind, shape, has_weights, activation, parameters, value, others)
        self.rows.append(row)
        self._counts[path] += 1


def _is_signal(value: Any) -> bool:
    """Whether something of the model's input is in it: a signal, scores, an input itself, or what isn't known."""
    from_input = isinstance(value, Constant) and value.data
    return value is None or isinstance(value, Node) or hasattr(value, "shown") or from_input


def _is_matrix(value: Constant | Weight) -> bool:
    shape = value.shape if isinstance(value, Weight) else value.held.shape
    return len(shape) > 1
