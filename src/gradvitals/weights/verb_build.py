"""Does everything that a model is built with have a value? ``find_uninitialised`` builds it and looks."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable
from typing import Any

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.environment import environment
from gradvitals.frameworks.weights import Unset
from gradvitals.vocabulary.errors import UsageError
from gradvitals.vocabulary.finding import Fact
from gradvitals.vocabulary.report import Report, Table
from gradvitals.weights.arguments import as_seed
from gradvitals.weights.rules_uninitialised import judge_unset

_COLUMNS = ("path", "kind", "shape", "unset_count", "derived_count", "first_unset")


def find_uninitialised(factory: Callable[[], Any], *, seed: int = 0, name: str | None = None) -> Report:
    """Say which parameters and buffers of a newly built model were never given a value.

    ``torch.empty`` and ``Module.to_empty`` hand out memory as it is. It mostly holds zeros in a small test, and
    anything in a long run: such a model works until it doesn't. The model is built twice over different contents of
    memory, with the same random numbers; entries that follow the content were never set. A third build tells what was
    computed from such entries from what is random in its own way.

    Parameters
    ----------
    factory : callable
        Takes no arguments and returns a new torch.nn.Module, a Case, or a tuple that begins with the module.
    seed : int
        Of the global random generators, which are put back afterwards.
    name : str, optional
        What the report calls the subject.

    Returns
    -------
    Report
        With the table ``unset``: one row per tensor; the index of the first entry. Finding W305 where there are any.

    Raises
    ------
    InputError
        When what is built isn't a torch.nn.Module.
    UsageError
        When the factory can't be called.

    Notes
    -----
    Memory that a library written in C++ hands out without telling PyTorch isn't seen.

    Examples
    --------
    >>> import torch
    >>> class Scale(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = torch.nn.Parameter(torch.empty(3))
    >>> [(row["path"], row["unset_count"]) for row in find_uninitialised(Scale).table("unset").records()]
    [('factor', 3)]

    """
    torch: Any = sys.modules.get("torch")
    is_built = isinstance(factory, Case) or (torch is not None and isinstance(factory, torch.nn.Module))
    if not callable(factory) or is_built:
        raise UsageError(
            "a model that is built already can't be built again",
            f"find_uninitialised({type(factory).__name__})",
            "pass the function that builds it: find_uninitialised(lambda: Net(width=64))",
        )
    _require_no_arguments(factory)
    from gradvitals.frameworks.torch.unset import unset_entries

    seed = as_seed("find_uninitialised", seed)
    started = time.perf_counter()
    found, builds = unset_entries(lambda: _model_of(factory()), seed=seed)
    return Report(
        verb="find_uninitialised",
        subject=name or str(getattr(factory, "__name__", type(factory).__name__)),
        findings=judge_unset(found),
        tables=(unset_table(found),) if found else (),
        settings={"seed": seed},
        environment=environment(),
        cost={"seconds": round(time.perf_counter() - started, 4), "builds": builds},
    )


def _require_no_arguments(factory: Callable[[], Any]) -> None:
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise UsageError(
            "the factory can't be called without arguments",
            f"{getattr(factory, '__name__', type(factory).__name__)}: {error}",
            "pass a function that takes none: find_uninitialised(lambda: Net(width=64))",
        ) from None
    except ValueError:  # a builtin without a signature
        pass


def unset_table(found: tuple[Unset, ...]) -> Table:
    """One row per tensor with entries that nothing has set."""
    rows: list[tuple[Fact, ...]] = [(u.path, u.kind, u.shape, u.entries, u.derived, u.first) for u in found]
    return Table("unset", _COLUMNS, ("",) * len(_COLUMNS), tuple(rows))


def _model_of(made: Any) -> Any:
    return made.model if isinstance(made, Case) else made[0] if isinstance(made, tuple) and made else made
