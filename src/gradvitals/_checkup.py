"""The verb ``checkup``: the three questions at once, changing nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradvitals.frameworks import Case, as_case, framework_of
from gradvitals.frameworks.environment import environment
from gradvitals.gradients.verb import check
from gradvitals.signals.verb import probe
from gradvitals.vocabulary.errors import unknown_keyword
from gradvitals.vocabulary.finding import Fact
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

    Nothing is changed: the weights are looked at, not drawn anew. A bare function, of NumPy or torch, has no layers to
    look into: of it the first question alone is asked, and ``settings["skipped"]`` says so.

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

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> report = checkup(model, torch.randn(32, 8), loss=lambda output: output.square().mean())
    >>> report.ok, [len(report.table(name)) for name in ("tensors", "layers", "plan")]
    (True, [5, 3, 2])

    """
    for keyword in unknown:
        raise unknown_keyword("checkup", keyword, _KEYWORDS)
    started = time.perf_counter()
    case = as_case("checkup", model, inputs, loss=loss, grad=grad, vjp=vjp, kwargs=kwargs, name=name)
    reports = [check(case, wrt=wrt, sensitivity=sensitivity, seed=seed, progress=progress)]
    left_out: dict[str, Fact] = {}
    if framework_of(case) == "torch" and _has_layers(case):
        reports += [probe(case, seed=seed), plan_init(case, seed=seed)]
    else:
        left_out = {"skipped": ("probe", "plan_init"), "reason": "no-layers"}
    # A cause before its effects: weights that are NaN, then the signal that they spoil, then its gradient.
    findings = [finding for report in reversed(reports) for finding in report.findings]
    return Report(
        verb="checkup",
        subject=case.subject,
        findings=tuple(sorted(findings, key=lambda finding: -finding.severity)),
        tables=tuple(table for report in reports for table in report.tables),
        settings={key: value for report in reversed(reports) for key, value in report.settings.items()} | left_out,
        environment=environment(),
        cost={"seconds": round(time.perf_counter() - started, 4), **_passes(reports)},
    )


def _passes(reports: Sequence[Report]) -> dict[str, Fact]:
    """The passes of all verbs together."""
    return {key: sum(int(str(report.cost[key])) for report in reports) for key in ("forwards", "backwards")}


def _has_layers(case: Case) -> bool:
    """Whether the model is a module with parameters; a bare operation has no layers to probe or initialise."""
    return hasattr(case.model, "named_modules") and any(True for _ in case.model.parameters())
