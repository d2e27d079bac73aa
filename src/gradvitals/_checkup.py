"""The verb ``checkup``: the three questions at once, changing nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from gradvitals.frameworks import Case, as_case, framework_of
from gradvitals.frameworks.environment import environment
from gradvitals.gradients.verb import check
from gradvitals.signals.verb import probe
from gradvitals.vocabulary.errors import unknown_keyword
from gradvitals.vocabulary.report import Report
from gradvitals.weights.verb import plan_init

_KEYWORDS = ("loss", "grad", "vjp", "kwargs", "wrt", "sensitivity", "seed", "name", "progress")


def checkup(
    model: Any,
    *inputs: Any,
    loss: Callable[[Any], Any] | None = None,
    grad: Any = None,
    vjp: Callable[..., Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    wrt: Any = None,
    sensitivity: float | None = None,
    seed: int = 0,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **unknown: Any,
) -> Report:
    """Ask the three questions at once: is the backward pass right, does the signal survive the depth, do the weights
    start well?

    Nothing is changed: the weights are looked at, not drawn anew. NumPy functions have no layers to look into: of
    them the first question is asked.

    Parameters
    ----------
    model, *inputs, loss, grad, vjp, kwargs, wrt, sensitivity, seed, name, progress
        As for :func:`gradvitals.check`.

    Returns
    -------
    Report
        The findings of ``check``, ``probe`` and ``plan_init``, and all their tables.

    Raises
    ------
    InputError, ModelError, UsageError
        As for :func:`gradvitals.check`.

    """
    for keyword in unknown:
        raise unknown_keyword("checkup", keyword, _KEYWORDS)
    started = time.perf_counter()
    case = as_case("checkup", model, inputs, loss=loss, grad=grad, vjp=vjp, kwargs=kwargs, name=name)
    reports = [check(case, wrt=wrt, sensitivity=sensitivity, seed=seed, progress=progress)]
    skipped: tuple[str, ...] = ()
    if framework_of(case) == "torch" and _has_layers(case):
        reports += [probe(case, seed=seed), plan_init(case, seed=seed)]
    else:
        skipped = ("probe", "plan_init")
    findings = sorted((finding for report in reports for finding in report.findings), key=lambda f: -f.severity)
    settings = {key: value for report in reversed(reports) for key, value in report.settings.items()}
    if skipped:
        settings["skipped"] = skipped
    return Report(
        verb="checkup",
        subject=case.subject,
        findings=tuple(findings),
        tables=tuple(table for report in reports for table in report.tables),
        settings=settings,
        environment=environment(),
        cost={**reports[0].cost, "seconds": round(time.perf_counter() - started, 4)},
    )


def _has_layers(case: Case) -> bool:
    """Whether the model holds parameters in named layers; a bare operation has none to probe or initialise."""
    return any(True for _ in getattr(case.model, "parameters", tuple)())
