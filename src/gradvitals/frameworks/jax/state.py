"""What a callable object keeps for itself is put back: a traced function leaves tracers there, which nobody can use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from gradvitals.frameworks.case import Case


@contextlib.contextmanager
def attributes_kept(case: Case) -> Iterator[None]:
    """On leaving, the objects that a case calls have the attributes that they had, also after an exception."""
    called = [case.model, case.loss, case.grad, case.vjp]
    owners = [*called, *(getattr(function, "__self__", None) for function in called)]
    before = [(owner, dict(vars(owner))) for owner in owners if _has_attributes(owner)]
    try:
        yield
    finally:
        for owner, attributes in before:
            now: dict[str, Any] = vars(owner)
            if now.keys() != attributes.keys() or any(now[name] is not value for name, value in attributes.items()):
                now.clear()
                now.update(attributes)


def _has_attributes(owner: Any) -> bool:
    return isinstance(getattr(owner, "__dict__", None), dict) and not isinstance(owner, (type, ModuleType))
