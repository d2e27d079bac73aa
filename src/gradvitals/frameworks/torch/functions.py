"""Torch functions on their way to being called, for whoever wants to see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

#: What ``tensor.requires_grad = True`` calls.
_ASKS = vars(torch._C.TensorBase)["requires_grad"].__set__  # noqa: SLF001 - typed as a plain flag


class Functions(TorchFunctionMode):
    """Hands every torch function with its arguments to ``record``, which calls it and gives back what it returns."""

    def __init__(self, record: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]) -> None:
        super().__init__()
        self._record = record

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func == _ASKS and args[1] and not args[0].is_leaf:  # what a gradient is asked of here already
            return None
        return self._record(func, args, dict(kwargs or {}))
