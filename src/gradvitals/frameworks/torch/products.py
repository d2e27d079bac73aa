"""See every product with a weight while a model runs, inside of modules and between them."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from gradvitals.frameworks.torch import layers

#: What makes another form of a weight, by function name without underscores: ``get`` is the property ``.T``.
_CONVERSIONS = frozenset({"to", "type", "type_as", "float", "double", "half", "bfloat16", "contiguous", "clone"})
_TRANSPOSED = frozenset({"t", "get", "transpose", "swapaxes", "adjoint"})
#: Products whose left factor has its units along the rows.
_MATRIX_PRODUCTS = frozenset({"matmul", "mm", "bmm"})
_DIVISIONS = frozenset({"div", "truediv", "true_divide", "divide"})
_SCALINGS = _DIVISIONS | {"mul", "rmul", "multiply"}


@dataclass(frozen=True, slots=True)
class Product:
    """One product with a weight.

    Parameters
    ----------
    path : str
        Of the weight.
    weight : torch.Tensor
        The parameter itself.
    signal : torch.Tensor or None
        What the weight is multiplied with.
    axis : int
        The axis of the output along which its units lie, negative.
    scale : float
        By what the parameter is multiplied before (as in equalised learning rates).

    """

    path: str
    weight: torch.Tensor
    signal: torch.Tensor | None
    axis: int
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class _Form:
    """A tensor that is a weight in another form; kept, for a freed one's id may be given to another."""

    tensor: torch.Tensor
    weight: torch.Tensor
    scale: float


class Products(TorchFunctionMode):
    """Says of a function call which weight it multiplies by.

    Parameters
    ----------
    model : torch.nn.Module
    wanted : container of str
        Paths of the weights to look for.

    """

    def __init__(self, model: nn.Module, wanted: Container[str]) -> None:
        super().__init__()
        self._wanted = wanted
        self._paths = {id(parameter): path for path, parameter in layers.parameters_by_path(model).items()}
        self._forms: dict[int, _Form] = {}
        self._met: list[torch.Tensor] = []  # kept, for a freed one's id may be given to a signal
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

    def path_of(self, tensor: Any) -> str | None:
        """The path of a weight that is looked for; None of every other thing."""
        path = self._paths.get(id(tensor))
        return path if path in self._wanted else None

    def product(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Product | None:
        """The product that a call is; None where it is another one."""
        name = name_of(func)
        if name not in layers.PRODUCTS:
            return None
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        weight = next((value for value in given if self.path_of(value) is not None), None)
        if weight is None:
            return None
        signal = next((value for value in given if id(value) not in self._paths), None)
        form = self._forms.get(id(weight), _Form(weight, weight, 1.0))
        axis = -2 if name in _MATRIX_PRODUCTS and given[0] is weight else layers.product_axis(name)
        return Product(self._paths[id(weight)], form.weight, signal, axis, form.scale)

    def follow(self, func: Callable[..., Any], args: tuple[Any, ...], output: torch.Tensor) -> None:
        """Recognise a weight in another form: converted, transposed, or multiplied by a number."""
        weight = next((value for value in args if self.path_of(value) is not None), None)
        if weight is None or output is weight:
            return
        name = name_of(func)
        others = [value for value in args if value is not weight]
        scale = 1.0
        if name in _SCALINGS and len(others) == 1 and isinstance(others[0], (int, float)):
            scale = 1 / others[0] if name in _DIVISIONS else float(others[0])
        elif not (name in _CONVERSIONS or (name in _TRANSPOSED and output.ndim == 2 == weight.ndim)):
            return
        known = self._forms.get(id(weight), _Form(weight, weight, 1.0))
        self._forms[id(output)] = _Form(output, known.weight, known.scale * scale)
        self._paths[id(output)] = self._paths[id(weight)]

    def _names(self, prefix: str) -> Callable[[nn.Module, Any], None]:
        def entered(module: nn.Module, _args: Any) -> None:
            for name, parameter in module.named_parameters(recurse=False):
                self._met.append(parameter)
                self._paths.setdefault(id(parameter), layers.written(f"{prefix}.{name}".lstrip(".")))

        return entered


def name_of(func: Callable[..., Any]) -> str:
    """A function's name without underscores at its ends."""
    return getattr(func, "__name__", "").strip("_")
