"""Exceptions: *we could not do the work*. A problem of the user's model is a finding, never one of these.

::

    GradvitalsError
    ├── UsageError (TypeError)          the call itself is off: a misspelt keyword, arguments that contradict each other
    ├── InputError (ValueError)         what was given can't be worked with: empty batch, NaN, no floating-point tensor
    ├── LoadError                       FILE.py:FACTORY can't be loaded, or the factory raised
    ├── ModelError                      the user's own code raised while we ran it; that exception is ``__cause__``
    ├── MissingDependencyError (ImportError)   an extra isn't installed
    └── VerdictError (AssertionError)   ``Report.raise_for_verdict()`` on a report that is not ok
"""

from __future__ import annotations

from collections.abc import Iterable


class GradvitalsError(Exception):
    """Base of all errors raised on purpose, with a message in three parts.

    Parameters
    ----------
    what : str
        What happened.
    where : str
        Where it happened, with the actual values.
    remedy : str
        What to do about it.

    Examples
    --------
    >>> print(GradvitalsError("the batch is empty", "input 'x' has shape (0, 64)", "pass at least one sample"))
    the batch is empty
      where: input 'x' has shape (0, 64)
      do:    pass at least one sample

    """

    def __init__(self, what: str, where: str, remedy: str) -> None:
        super().__init__(what, where, remedy)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}\n  where: {self.where}\n  do:    {self.remedy}"


class UsageError(GradvitalsError, TypeError):
    """The call itself is off."""


class InputError(GradvitalsError, ValueError):
    """What was given can't be worked with."""


class LoadError(GradvitalsError):
    """A file, or the factory in it, can't be loaded."""


class ModelError(GradvitalsError):
    """The user's own code raised; its exception is the ``__cause__``."""


class MissingDependencyError(GradvitalsError, ImportError):
    """An optional dependency isn't installed."""


class VerdictError(GradvitalsError, AssertionError):
    """A report's verdict is not ok."""


def unknown_keyword(verb: str, keyword: str, known: Iterable[str]) -> UsageError:
    """Build the error for a misspelt keyword, naming the nearest known one.

    >>> print(unknown_keyword("check", "los", ["loss", "grad", "vjp"]))
    check() has no keyword 'los'
      where: check(..., los=...)
      do:    did you mean 'loss'? Known: grad, loss, vjp. The model's own keywords go in kwargs={...}
    """
    import difflib

    names = sorted(known)
    near = difflib.get_close_matches(keyword, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(
        f"{verb}() has no keyword {keyword!r}",
        f"{verb}(..., {keyword}=...)",
        f"{hint}Known: {', '.join(names)}. The model's own keywords go in kwargs={{...}}",
    )
