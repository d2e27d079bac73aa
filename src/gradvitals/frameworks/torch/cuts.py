"""See where a forward pass leaves the graph: detach(), .data, item(), no_grad() on what requires a gradient."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

#: Where code isn't the user's.
_NOT_THEIRS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]))
#: These take shape and type of a tensor, and nothing of its numbers; a leaf's own .grad is no way forwards.
_LIKE, _NEW, _ASIDE = "_like", "new_", frozenset({"grad"})


class Cuts(TorchFunctionMode):
    """While it is entered, notes the calls that take something with a gradient and give numbers without one.

    Examples
    --------
    >>> x = torch.ones(2, requires_grad=True)
    >>> with Cuts() as cuts:
    ...     y = x * x.mean().detach() + torch.zeros_like(x)
    >>> [cut.split(" ")[0] for cut in cuts.found]
    ['detach()']

    """

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[str, None] = {}

    @property
    def found(self) -> tuple[str, ...]:
        """Such as ``"detach() (model.py:12)"``, each once."""
        return tuple(self._found)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        result = func(*args, **given)
        name = _name(func)
        aside = name.endswith(_LIKE) or name.startswith(_NEW) or name in _ASIDE
        if not aside and any(part.requires_grad for part in _tensors((args, given))) and _is_cut_off(result):
            how = f"{name}()" if torch.is_grad_enabled() else "no_grad()"
            self._found[f"{'.data' if name == 'data' else how}{_where()}"] = None
        return result


def _name(func: Callable[..., Any]) -> str:
    """A property's getter is called as the property."""
    name = getattr(func, "__name__", "")
    return (
        str(getattr(getattr(func, "__self__", None), "__name__", name)) if name == "__get__" else str(name).strip("_")
    )


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _is_cut_off(result: Any) -> bool:
    """Whether these are numbers without a gradient, and none with one."""
    found = list(_tensors(result))
    if found:
        real = [part for part in found if part.is_floating_point() or part.is_complex()]
        return bool(real) and not any(part.requires_grad for part in found)
    while isinstance(result, (list, tuple)) and result:
        result = result[0]
    return isinstance(result, (float, complex))


def _where() -> str:
    """File and line in the user's code."""
    frame = sys._getframe(2)  # noqa: SLF001 - the way to one's caller
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_THEIRS):
        frame = frame.f_back  # type: ignore[assignment]
    return "" if frame is None else f" ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
