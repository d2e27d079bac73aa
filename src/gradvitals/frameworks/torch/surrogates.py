"""Surrogates inside a torch model: at the point they are what they are, away from it the straight line that their
backward pass describes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradvitals.frameworks.surrogate import handled
from gradvitals.frameworks.torch.constants import constants_of

#: An elementwise backward pass gives the same slope whatever comes in, within this (relative).
_SAME_SLOPE = 1e-5


@dataclass(frozen=True, slots=True)
class _Call:
    """One call at the point: its name, input, output and slope; no slope where it isn't elementwise."""

    name: str
    x: torch.Tensor | None
    y: Any
    slope: torch.Tensor | None


class Surrogates:
    """The surrogates that a model calls, in the order of their calls, and what its layers take for constants.

    Parameters
    ----------
    modules : sequence of torch.nn.Module
        Where such layers are looked for.

    """

    def __init__(self, modules: Sequence[torch.nn.Module] = ()) -> None:
        self._constants = constants_of(modules)
        self._calls: list[_Call] = []
        self._at = 0
        self._is_recorded = False

    @property
    def names(self) -> tuple[str, ...]:
        """The surrogates that were called at the point, once each."""
        return tuple(dict.fromkeys(call.name for call in self._calls))

    @property
    def constants(self) -> tuple[str, ...]:
        """What was met of the things that layers take for constants, once each."""
        return tuple(dict.fromkeys(constant.name for constant in self._constants if constant.name))

    @property
    def unreplaced(self) -> tuple[str, ...]:
        """Those that are not elementwise: held still where the model is evaluated elsewhere."""
        return tuple(dict.fromkeys(call.name for call in self._calls if call.slope is None))

    def at_work(self, *, differentiating: bool) -> contextlib.AbstractContextManager[None]:
        """A run of the model: the first one, at the point, is remembered; elsewhere surrogates are straight lines.

        Where the run is differentiated, they are what they are.
        """
        none_met = self._is_recorded and not self._calls and not self._constants
        return contextlib.nullcontext() if differentiating or none_met else self._evaluating()

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        if self._is_recorded:
            self._at = 0
            with handled(self._line if self._calls else None), contextlib.ExitStack() as held:
                for constant in self._constants:
                    held.enter_context(constant.hold())
                yield
        else:
            with handled(self._record), contextlib.ExitStack() as seen:
                for constant in self._constants:
                    seen.enter_context(constant.record())
                yield
            self._is_recorded = True

    def _record(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        y = function(*args, **kwargs)
        owner = getattr(function, "__self__", None)  # the apply of an autograd.Function tells nothing, its class does
        known = owner if isinstance(owner, type) else function
        name = getattr(known, "__qualname__", None) or type(function).__name__
        tensors = [
            arg for arg in (*args, *kwargs.values()) if isinstance(arg, torch.Tensor) and arg.is_floating_point()
        ]
        x = args[0] if len(tensors) == 1 and args and args[0] is tensors[0] else None
        slope = None
        if x is not None and isinstance(y, torch.Tensor) and y.shape == x.shape:
            slope = _elementwise_slope(function, x, args, kwargs)
        kept = y.detach().clone() if isinstance(y, torch.Tensor) else y
        self._calls.append(_Call(str(name), None if x is None else x.detach().clone(), kept, slope))
        return y

    def _line(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._at >= len(self._calls):
            return function(*args, **kwargs)
        call = self._calls[self._at]
        self._at += 1
        if call.slope is None or call.x is None:
            return call.y
        x = args[0]
        return call.y.to(x.dtype) + call.slope.to(x.dtype) * (x - call.x.to(x.dtype))


def _elementwise_slope(
    function: Callable[..., Any], x: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> torch.Tensor | None:
    """What the backward pass multiplies each entry by; None where it mixes entries or none comes."""
    with torch.enable_grad():
        inside = x.detach().clone().requires_grad_()
        y = function(inside, *args[1:], **kwargs)
        if not y.requires_grad:
            return torch.zeros_like(x)
        probe = 1.0 + torch.arange(y.numel(), device=y.device).reshape(y.shape).remainder(7).to(y.dtype) / 8
        (one,) = torch.autograd.grad(y, inside, torch.ones_like(y), retain_graph=True)
        (other,) = torch.autograd.grad(y, inside, probe)
    if not torch.allclose(other, probe * one, rtol=_SAME_SLOPE, atol=0.0):
        return None
    return one.detach()
