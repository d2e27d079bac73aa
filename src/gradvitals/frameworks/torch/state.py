"""Leave no trace: what a model and its surroundings were before, they are again afterwards."""

from __future__ import annotations

import collections
import contextlib
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gradvitals.frameworks.torch.behind import generators_behind, modules_behind
from gradvitals.frameworks.torch.objective import tensors_in
from gradvitals.frameworks.user_code import HostRandomState

#: Plain containers among a module's attributes (registries of parameters and hooks, caches): contents are kept too.
_CONTAINERS = (dict, collections.OrderedDict, list, set)


@dataclass(frozen=True, slots=True)
class RandomState:
    """The state of every global random generator that a model may draw from.

    Examples
    --------
    >>> import torch
    >>> state = RandomState.capture()
    >>> first = torch.rand(3)
    >>> state.restore()
    >>> bool((torch.rand(3) == first).all())
    True

    """

    torch_cpu: torch.Tensor
    torch_cuda: tuple[torch.Tensor, ...]
    host: HostRandomState

    @classmethod
    def capture(cls) -> RandomState:
        """Read the generators of torch (CUDA only where it is in use already), NumPy and Python."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        return cls(torch.get_rng_state(), tuple(cuda), HostRandomState.capture())

    def restore(self) -> None:
        """Put the generators back where they were."""
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda:
            torch.cuda.set_rng_state_all(list(self.torch_cuda))
        self.host.restore()


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch, NumPy and Python; only inside :func:`preserved`."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


@contextlib.contextmanager
def preserved(model: Any, inputs: Any = (), *, also: Sequence[Any] = ()) -> Iterator[None]:
    """Restore everything on leaving, also after an exception or an interrupt.

    Kept are: every attribute of every module (mode, hooks, counters, which tensor is which buffer), the values,
    ``requires_grad`` and ``.grad`` of every tensor among them (the same tensor objects, changed back in place), the
    random generators (global ones and the modules' own), the grad mode and the default dtype. What autocast has cast
    is forgotten, for it may have been cast from other values.

    Parameters
    ----------
    model : torch.nn.Module or callable
        Of a function, the modules are those that it is bound to, closes over, or names as globals.
    inputs : any
        Tensors in any nesting that are kept as well: a model may change its inputs in place.
    also : sequence of torch.nn.Module or callable
        More to be kept as ``model`` is.

    """
    surroundings = (torch.is_grad_enabled(), torch.get_default_dtype(), RandomState.capture())
    generators = [(generator, generator.get_state()) for generator in generators_behind(model, *also)]
    modules = {id(module): module for _, root in modules_behind(model, *also) for module in root.modules()}
    attributes = [(module, module.training, _attributes(module)) for module in modules.values()]
    given = [tensor for _, tensor in tensors_in(inputs, "input")]
    tensors = [_TensorState.capture(tensor) for tensor in (*_tensors_of(attributes), *given)]
    try:
        yield
    finally:
        for module, training, saved in attributes:
            _restore_attributes(module, saved)
            module.training = training
        for state in tensors:
            state.restore()
        grad_enabled, dtype, randomness = surroundings
        torch.set_grad_enabled(grad_enabled)
        torch.set_default_dtype(dtype)
        randomness.restore()
        for generator, position in generators:
            generator.set_state(position)
        torch.clear_autocast_cache()


@contextlib.contextmanager
def without_our_noise() -> Iterator[None]:
    """Silence what libraries warn of only because of how we evaluate: without recording gradients, or forward mode.

    What is compiled meanwhile is made so that it can run backwards more than once.
    """
    settings: Any = sys.modules.get("torch._functorch.config")
    reusable = settings.patch(donated_buffer=False) if settings else contextlib.nullcontext()
    with reusable, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad=True")  # checkpoints
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.script", category=DeprecationWarning)
        yield


#: An attribute's value and, of a plain container, a copy of its contents.
_Saved = dict[str, tuple[Any, Any]]


def _attributes(module: torch.nn.Module) -> _Saved:
    return {name: (value, value.copy() if type(value) in _CONTAINERS else None) for name, value in vars(module).items()}


def _restore_attributes(module: torch.nn.Module, saved: _Saved) -> None:
    """Put attributes back, and contents into the same container objects: handles of hooks refer to those."""
    for name in [name for name in vars(module) if name not in saved]:
        del vars(module)[name]
    for name, (value, contents) in saved.items():
        vars(module)[name] = value
        if contents is None or not (value or contents):
            continue
        value.clear()
        if isinstance(value, list):
            value.extend(contents)
        else:
            value.update(contents)


def _tensors_of(attributes: list[tuple[torch.nn.Module, bool, _Saved]]) -> list[torch.Tensor]:
    """Every tensor among the modules' attributes once: parameters, buffers, and plain ones."""
    found: dict[int, torch.Tensor] = {}
    for module, _, saved in attributes:
        candidates: list[Any] = []
        if isinstance(module, torch.jit.ScriptModule):  # others have them among their attributes
            candidates += [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        for value, contents in saved.values():
            if contents:
                candidates.extend(contents.values() if isinstance(contents, dict) else contents)
            elif isinstance(value, tuple):
                candidates.extend(value)
            elif contents is None:
                candidates.append(value)
        found.update({id(item): item for item in candidates if isinstance(item, torch.Tensor)})
    return [tensor for tensor in found.values() if not torch.nn.parameter.is_lazy(tensor)]


@dataclass(frozen=True, slots=True)
class _TensorState:
    """One tensor's values, ``requires_grad`` and gradient."""

    tensor: torch.Tensor
    values: torch.Tensor
    requires_grad: bool
    grad: torch.Tensor | None
    grad_values: torch.Tensor | None

    @classmethod
    def capture(cls, tensor: torch.Tensor) -> _TensorState:
        grad = tensor.grad if tensor.is_leaf else None  # asking a non-leaf warns
        grad_values = None if grad is None else grad.detach().clone()
        return cls(tensor, tensor.detach().clone(), tensor.requires_grad, grad, grad_values)

    def restore(self) -> None:
        _write_back(self.tensor, self.values)
        if not self.tensor.is_leaf:
            return
        if self.tensor.requires_grad != self.requires_grad:
            self.tensor.requires_grad_(self.requires_grad)
        if self.tensor.grad is not self.grad:
            self.tensor.grad = self.grad
        if self.grad is not None and self.grad_values is not None:
            _write_back(self.grad, self.grad_values)


def _write_back(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Change values back in place, behind the version counter: a graph that the user holds stays usable."""
    if tensor.is_meta:
        return
    current = tensor.data
    if current.layout != torch.strided:
        with torch.no_grad():
            tensor.copy_(values)  # a sparse tensor's .data has indices of its own
    elif current.shape != values.shape:
        tensor.data = values
    elif not torch.equal(current, values):
        current.copy_(values)
