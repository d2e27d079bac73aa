"""Running the user's own code: what it raises comes back as one ModelError that names the line."""

from __future__ import annotations

import contextlib
import inspect
import random
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from gradvitals.vocabulary.errors import GradvitalsError, ModelError

#: The folder of this package: its own frames are no news to the user.
_OURS = str(Path(__file__).resolve().parents[1])
#: A function with *args takes more than anybody gives.
_ANY_NUMBER = 1000


class user_code:  # noqa: N801 - a context manager; as a generator it takes as long to enter as a small function runs
    """Turn an exception of the user's code into a ModelError; our own errors and KeyboardInterrupt pass."""

    __slots__ = ("_remedy", "_what")

    def __init__(
        self,
        what: str,
        remedy: str = "run it by hand on the same inputs; it must work before its gradients can be examined",
    ) -> None:
        self._what = what
        self._remedy = remedy

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if not isinstance(error, Exception) or isinstance(error, GradvitalsError):
            return
        theirs = [f for f in traceback.extract_tb(trace) if not f.filename.startswith(_OURS)]
        own = [f for f in theirs if "site-packages" not in f.filename] or theirs  # a library's line tells less
        place = f"{own[-1].filename}:{own[-1].lineno} in {own[-1].name}: " if own else ""  # empty: the call didn't fit
        raise ModelError(
            f"{self._what} raised {type(error).__name__}",
            f"{place}{error}",
            self._remedy,
        ) from error


@dataclass(frozen=True, slots=True)
class HostRandomState:
    """The random state of NumPy's and Python's global generators."""

    numpy: Mapping[str, Any]
    python: tuple[Any, ...]

    @classmethod
    def capture(cls) -> HostRandomState:
        """Remember the state as it is now."""
        return cls(dict(np.random.get_state(legacy=False)), random.getstate())  # noqa: NPY002 - a copy of its own

    def restore(self) -> None:
        """Put the remembered state back."""
        np.random.set_state(dict(self.numpy))  # noqa: NPY002
        random.setstate(self.python)


def argument_names(
    function: Callable[..., Any], args: Sequence[Any], keywords: Mapping[str, Any]
) -> tuple[list[str], dict[str, str]]:
    """The names under which a function receives its arguments, ``input0``, ``input1``, … where they can't be read.

    Returns
    -------
    positional : list of str
        One per entry of ``args``.
    keyword : dict
        Each keyword's own name.

    """
    names = [f"input{at}" for at in range(len(args))]
    with contextlib.suppress(TypeError, ValueError):
        owner = getattr(function, "__self__", None)
        if inspect.isclass(owner) and hasattr(owner, "forward") and getattr(function, "__name__", "") == "apply":
            parameters = list(inspect.signature(owner.forward).parameters.values())
            if not hasattr(owner, "setup_context") or (parameters[:1] and parameters[0].name == "ctx"):
                parameters = parameters[1:]  # an autograd.Function's forward takes ctx first
        else:
            parameters = list(inspect.signature(function).parameters.values())
        plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        for at in range(len(args)):
            if at < len(plain):
                names[at] = plain[at].name
            elif rest is not None:
                names[at] = f"{rest}[{at - len(plain)}]"
    return names, {key: key for key in keywords}


def positionals(function: Callable[..., Any]) -> tuple[int, int]:
    """How many positional arguments a function needs, and how many it takes; (1, 1) where that can't be read."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return 1, 1
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return sum(p.default is p.empty for p in plain), _ANY_NUMBER if any_number else len(plain)
