"""Compute in float64 what was written for less: casts to lower precision inside a model are left out.

Losses and norms often cast to float32 inside, and back. In float64 such a cast would bring back the rounding that the
evaluation is to be free of.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from gradvitals.frameworks.torch.entries import wider

_aten = torch.ops.aten
#: Their numbers depend on the dtype that they are drawn in: they are drawn natively, and then widened.
_DRAWN = frozenset({_aten.rand, _aten.randn, _aten.rand_like, _aten.randn_like})
_DRAWN_FROM = frozenset({_aten.normal, _aten.bernoulli})
_DRAWN_IN_PLACE = frozenset(
    {_aten.normal_, _aten.uniform_, _aten.exponential_, _aten.log_normal_, _aten.cauchy_, _aten.bernoulli_}
)


@contextlib.contextmanager
def in_float64(native: torch.dtype) -> Iterator[None]:
    """Everything that is computed inside is computed in float64, compiled code runs uncompiled.

    Parameters
    ----------
    native : torch.dtype
        The model's own precision, in which its random numbers are drawn.

    Examples
    --------
    >>> with in_float64(torch.float32):
    ...     torch.ones(2, dtype=torch.float64).float().dtype, torch.zeros(2, dtype=torch.float16).dtype
    (torch.float64, torch.float64)

    """
    before = torch.get_default_dtype()
    with uncompiled(), _Widening(native):
        torch.set_default_dtype(torch.float64)  # of what a model makes by itself: an initial state, a mask
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Run what torch.compile has made as it was written."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


class _Widening(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Below autograd, so that casts in library code and in backward passes are seen as well."""

    def __init__(self, native: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._native = native

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        kind = function.overloadpacket
        if kind in _DRAWN:
            return _wide(function(*args, **{**kwargs, "dtype": kwargs.get("dtype") or self._native}))
        if kind in _DRAWN_FROM:
            return _wide(function(*[self._narrow(a) for a in args], **{k: self._narrow(a) for k, a in kwargs.items()}))
        if kind in _DRAWN_IN_PLACE and args[0].is_floating_point():
            rest = [self._narrow(a) for a in args[1:]]
            return args[0].copy_(function(torch.empty_like(args[0], dtype=self._native), *rest, **kwargs))
        if kind is _aten.native_dropout:  # of a GPU; it gives the mask as well
            x, p, train = args
            _, mask = function(torch.ones_like(x, dtype=self._native), p, train)
            return x * mask * (1 / (1 - p) if train is not False and p < 1 else 1), mask
        kwargs = {k: wider(a) if isinstance(a, torch.dtype) else a for k, a in kwargs.items()}
        try:
            return function(*args, **kwargs)
        except RuntimeError:
            # A constant of lower precision that the model holds doesn't mix with float64.
            again, keywords = tree_map(_wide, args), tree_map(_wide, kwargs)
            if all(a is b for a, b in zip(tree_leaves((args, kwargs)), tree_leaves((again, keywords)), strict=True)):
                raise
            return function(*again, **keywords)

    def _narrow(self, value: Any) -> Any:
        return value.to(self._native) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _wide(value: Any) -> Any:
    return (
        value.to(wider(value.dtype)) if isinstance(value, torch.Tensor) and wider(value.dtype) != value.dtype else value
    )
