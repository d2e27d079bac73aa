"""What users name and number: patterns of weights, seeds."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from gradvitals.vocabulary.errors import UsageError

#: Names that are shown where none is near.
_SHOWN = 8
#: What schemes are called elsewhere.
_OTHER_NAMES = {"kaiming": "he", "msra": "he", "glorot": "xavier"}


def near_name(given: Any, known: Iterable[str]) -> str:
    """A hint at what was meant, or nothing.

    >>> near_name("Kaiming", ["he", "lecun"]), near_name("xavir", ["xavier"]), near_name(3, ["he"])
    ("did you mean 'he'? ", "did you mean 'xavier'? ", '')
    """
    lower = str(given[0] if isinstance(given, (list, tuple)) and given else given).lower()
    meant = _OTHER_NAMES.get(lower.partition("_")[0], lower)
    near = difflib.get_close_matches(meant, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""


def as_seed(verb: str, seed: Any) -> int:
    """A seed as a plain integer: any of Python's, NumPy's or torch's, of any size and sign.

    Raises
    ------
    UsageError
        When it isn't a whole number.

    """
    try:
        return operator.index(seed)
    except TypeError:
        raise UsageError(
            "a seed is a whole number", f"{verb}(..., seed={seed!r})", "pass an integer such as seed=0"
        ) from None


def as_patterns(verb: str, keyword: str, given: Any) -> tuple[str, ...]:
    """One pattern or several as a tuple.

    Raises
    ------
    UsageError
        When they aren't strings.

    """
    several = (given,) if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
    wrong = next((type(one).__name__ for one in several if not isinstance(one, str)), None)
    if wrong:
        raise UsageError(
            f"{keyword} takes names of layers or parameters, or patterns of them",
            f"{verb}(..., {keyword}=...) got {wrong}",
            f'pass strings as in model.named_parameters(): {keyword}="encoder.*", or a list of them',
        )
    return several


def require_matches(verb: str, keyword: str, patterns: Sequence[str], paths: Sequence[str]) -> None:
    """Make sure that every pattern names something: a misspelt one would fill what it was to spare.

    Raises
    ------
    UsageError
        When one names nothing.

    """
    for pattern in patterns:
        if any(matches(path, (pattern,)) for path in paths):
            continue
        names = list(dict.fromkeys(name for path in paths for name in _around(path)))
        near = difflib.get_close_matches(pattern.rstrip(".*"), names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = list(dict.fromkeys(path.rpartition(".")[0] or path for path in paths))
        more = f", and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
        raise UsageError(
            "a pattern names no weight of this model",
            f"{verb}(..., {keyword}={pattern!r})",
            f"{hint}It has weights in: {', '.join(known[:_SHOWN])}{more}",
        )


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a parameter's path, or that of a module around it, matches one of the patterns."""
    return any(fnmatchcase(candidate, pattern) for pattern in patterns for candidate in _around(path))


def _around(path: str) -> list[str]:
    """A path, and those of the modules around it."""
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
