"""Functions whose backward pass is meant to differ from their slope: straight-through estimators, gradient reversal."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

#: Who takes the calls of surrogates; nobody outside of a check.
_HANDLER: contextvars.ContextVar[Handler | None] = contextvars.ContextVar("gradvitals_surrogates", default=None)


class Handler(Protocol):
    """What a check does with a call of a surrogate."""

    def __call__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...


class Surrogate:
    """A callable that is declared to be a surrogate; it does what its function does."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        with contextlib.suppress(AttributeError):
            functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        handler = _HANDLER.get()
        return self.function(*args, **kwargs) if handler is None else handler(self.function, args, kwargs)


def surrogate(function: Callable[..., Any]) -> Surrogate:
    """Declare that a function's backward pass is meant to differ from its slope.

    A check then takes its backward pass as its definition, and checks everything around it: the layers before and
    behind it, with the surrogate replaced by the straight line that its backward pass describes. Outside of a check
    nothing changes.

    Parameters
    ----------
    function : callable
        For example the ``apply`` of a straight-through estimator or of a gradient reversal.

    Returns
    -------
    callable
        The same function, marked.

    Raises
    ------
    UsageError
        When it isn't callable.

    Notes
    -----
    Inside a model, elementwise functions of one tensor can be replaced; what lies before any other kind is reported as
    not checked.

    References
    ----------
    Bengio, Léonard and Courville (2013), Estimating or propagating gradients through stochastic neurons; Ganin et al.
    (2016), Domain-adversarial training of neural networks.

    Examples
    --------
    >>> round_through = surrogate(round)
    >>> round_through(2.6)
    3

    """
    if not callable(function):
        from gradvitals.vocabulary.errors import UsageError

        raise UsageError(
            "a surrogate is a function",
            f"surrogate({type(function).__name__})",
            "pass the function itself, for example surrogate(RoundThrough.apply)",
        )
    return Surrogate(function)


@contextlib.contextmanager
def handled(handler: Handler | None) -> Iterator[None]:
    """Let a handler take the calls of surrogates for a while."""
    token = _HANDLER.set(handler)
    try:
        yield
    finally:
        _HANDLER.reset(token)
