"""Torch functions on their way to being called, for whoever wants to see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.overrides import TorchFunctionMode


class Functions(TorchFunctionMode):
    """Hands every torch function with its arguments to ``record``, which calls it and gives back what it returns."""

    def __init__(self, record: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]) -> None:
        super().__init__()
        self._record = record

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self._record(func, args, dict(kwargs or {}))
