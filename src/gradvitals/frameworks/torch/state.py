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

from gradvitals.frameworks.torch.behind import every_module, generators_behind, modules_behind
from gradvitals.frameworks.torch.objective import tensors_in
from gradvitals.frameworks.user_code import HostRandomState

#: Plain containers among a module's attributes (registries of parameters and hooks, caches): contents are kept too.
_CONTAINERS = (dict, collections.OrderedDict, list, set)
#: What most of its attributes are: these kinds, and nothing that could be a tensor or hold one.
_NO_TENSORS = frozenset({*_CONTAINERS, bool, int, float, str, type(None)})


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
    torch.manual_seed(seed if -(2**63) <= seed < 2**64 else seed % 2**64)
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
    modules = every_module(root for _, root in modules_behind(model, *also))
    generators = [(generator, generator.get_state()) for generator in generators_behind((model, *also), modules)]
    attributes = [_ModuleState.capture(module) for module in modules]
    given = [tensor for _, tensor in tensors_in(inputs, "input")]
    tensors = [_TensorState.capture(tensor) for tensor in (*_tensors_of(attributes), *given)]
    try:
        yield
    finally:
        for held in attributes:
            held.restore()
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


@dataclass(frozen=True, slots=True)
class _ModuleState:
    """A module's attributes, and what its plain containers held; of empty ones that is None."""

    module: torch.nn.Module
    training: bool
    attributes: dict[str, Any]
    contents: list[tuple[Any, Any]]

    @classmethod
    def capture(cls, module: torch.nn.Module) -> _ModuleState:
        attributes = dict(vars(module))
        contents = [(v, v.copy() if v else None) for v in attributes.values() if type(v) in _CONTAINERS]
        return cls(module, module.training, attributes, contents)

    def restore(self) -> None:
        """Put attributes back, and contents into the same container objects: handles of hooks refer to those."""
        now = vars(self.module)
        for name in now.keys() - self.attributes.keys():
            del now[name]
        now.update(self.attributes)
        for container, kept in self.contents:
            if container:
                container.clear()
            if kept and isinstance(container, list):
                container.extend(kept)
            elif kept:
                container.update(kept)
        self.module.training = self.training


def _tensors_of(modules: Sequence[_ModuleState]) -> list[torch.Tensor]:
    """Every tensor among the modules' attributes once: parameters, buffers, and plain ones."""
    found: dict[int, torch.Tensor] = {}
    for state in modules:
        candidates = [*state.module._parameters.values(), *state.module._buffers.values()]  # noqa: SLF001 - fastest so
        for value in state.attributes.values():
            if type(value) not in _NO_TENSORS:
                candidates.extend(value if isinstance(value, tuple) else (value,))
        for _, kept in state.contents:
            if kept:
                candidates.extend(kept.values() if isinstance(kept, dict) else kept)
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
