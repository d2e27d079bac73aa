"""What layers of PyTorch take for a constant, by their documentation, though it follows from a parameter: the padding
row of an embedding, the singular vectors of spectral normalisation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm


class Constant(Protocol):
    """Something that is kept as it is at the point while the model is evaluated elsewhere."""

    @property
    def name(self) -> str:
        """What it is called, empty where the run at the point didn't come by it."""
        ...

    def record(self) -> contextlib.AbstractContextManager[None]:
        """Around the run at the point."""
        ...

    def hold(self) -> contextlib.AbstractContextManager[None]:
        """Around a run elsewhere."""
        ...


def constants_of(modules: Iterable[nn.Module]) -> tuple[Constant, ...]:
    """The constants of some modules themselves.

    >>> [type(constant).__name__ for constant in constants_of([nn.Embedding(3, 2, padding_idx=0), nn.Linear(2, 2)])]
    ['Padding']
    """
    found: list[Constant] = []
    for module in modules:
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            found.append(Padding(module))
        elif isinstance(module, _SpectralNorm) and hasattr(module, "_u"):
            found.append(Vectors(module, module.__dict__, lambda module=module: (module._u, module._v)))  # type: ignore[misc]  # noqa: SLF001
        for hook in module._forward_pre_hooks.values():  # noqa: SLF001 - the older form has no module of its own
            if isinstance(hook, SpectralNorm):
                names = (f"{hook.name}_u", f"{hook.name}_v")
                found.append(Vectors(module, vars(hook), _getter(module, names)))
    return tuple(found)


def _getter(module: nn.Module, names: tuple[str, str]) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    return lambda: (getattr(module, names[0]), getattr(module, names[1]))


@dataclass(slots=True, eq=False)
class Padding:
    """The row of an embedding whose gradient is left out; elsewhere it gives what it gave at the point."""

    module: nn.Embedding
    row: torch.Tensor = field(init=False)
    met: bool = False

    def __post_init__(self) -> None:
        self.row = self.module.weight.detach()[self.module.padding_idx].clone()

    @property
    def name(self) -> str:
        return f"Embedding(padding_idx={self.module.padding_idx})" if self.met else ""

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        with self._hooked(self._see):
            yield

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        with self._hooked(self._give) if self.met else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def _hooked(self, hook: Callable[[nn.Module, Any, Any], Any]) -> Iterator[None]:
        handle = self.module.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def _see(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        del module, output
        self.met |= bool((args[0] == self.module.padding_idx).any()) if args else False

    def _give(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        del module
        return torch.where((args[0] == self.module.padding_idx)[..., None], self.row.to(output), output)


@dataclass(slots=True, eq=False)
class Vectors:
    """The singular vectors that the power iteration found at the point, which the gradient takes for constants."""

    module: nn.Module
    settings: dict[str, Any] | Mapping[str, Any]
    vectors: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    found: tuple[torch.Tensor, ...] = ()

    @property
    def name(self) -> str:
        return "spectral_norm" if self.module.training else ""

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        yield
        self.found = tuple(vector.detach().clone() for vector in self.vectors())

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        if not (self.found and self.module.training):
            yield
            return
        settings: Any = self.settings
        iterations = settings["n_power_iterations"]
        for vector, found in zip(self.vectors(), self.found, strict=True):
            vector.detach().copy_(found)
        settings["n_power_iterations"] = 0
        try:
            yield
        finally:
            settings["n_power_iterations"] = iterations
