"""The verb ``compare_init``: which start trains this model best? Evidence, not opinion."""

from __future__ import annotations

import math
import numbers
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gradvitals.frameworks import as_case
from gradvitals.frameworks.case import Case
from gradvitals.frameworks.environment import environment
from gradvitals.vocabulary.errors import UsageError, unknown_keyword
from gradvitals.vocabulary.finding import Fact, Finding
from gradvitals.vocabulary.report import Report
from gradvitals.weights.arguments import as_seed
from gradvitals.weights.measure import module_of
from gradvitals.weights.overwriting import TrainedWeightsWarning
from gradvitals.weights.recipes import METHODS
from gradvitals.weights.rules_filled import NOTHING_FILLED
from gradvitals.weights.rules_starts import judge_starts
from gradvitals.weights.trials import Trial, curves_table, outcomes, starts_table
from gradvitals.weights.verb import init_

#: Starts that are no method of ``init_``: the weights that the model came with, and those of its modules' own.
UNTREATED = ("built", "default")
STARTS = (*UNTREATED, "xavier", "he", "orthogonal", "auto")
RATES = (1e-3, 3e-4, 1e-4)
_KEYWORDS = (
    *("methods", "steps", "rates", "seeds", "seed", "batches", "patience", "kwargs", "loss", "name", "progress"),
)


def compare_init(
    model: Any,
    *inputs: Any,
    methods: Sequence[str] = STARTS,
    steps: int = 200,
    rates: Sequence[float] = RATES,
    seeds: int = 3,
    seed: int = 0,
    batches: Iterable[Any] | None = None,
    patience: int | None = None,
    kwargs: Mapping[str, Any] | None = None,
    loss: Callable[..., Any] | None = None,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **unknown: Any,
) -> Report:
    """Train copies of a model from several starts, and show how their losses fall; the model itself isn't changed.

    Each start is trained with several seeds and learning rates: Adam, gradients clipped to norm 1, in training mode.
    With the same seed every start sees the same batches. The rate that ends lowest, over the seeds, stands for a start.

    Parameters
    ----------
    model : torch.nn.Module or Case
    *inputs : tensor, or any nesting of them
        One batch; also what ``init_`` looks at.
    methods : sequence of str
        Methods of :func:`init_`, ``"built"`` (the weights as they are now) and ``"default"`` (what the modules' own
        ``reset_parameters`` give). A model on the meta device has no ``"built"`` one.
    steps : int
        Of each run.
    rates : sequence of float
        Learning rates.
    seeds : int
        How many starts are drawn for each method.
    seed : int
        The first of them.
    batches : iterable, optional
        What is trained on, such as a DataLoader: tuples whose last item is the second argument of ``loss``, or mappings
        of keyword inputs for a model that computes its own loss. Without it the case's own batch is learnt by heart.
    patience : int, optional
        End a run when its loss hasn't fallen for so many steps.
    kwargs : mapping, optional
        Keyword inputs of the model.
    loss : callable
        Maps the output to a scalar; with ``batches`` the output and a batch's last item. Not needed where the output
        has a scalar ``loss``.
    name : str, optional
        What the report calls the subject.
    progress : callable, optional
        Called with (runs done, runs in all).

    Returns
    -------
    Report
        With the tables ``starts`` (the best first: rate, first and last loss with its standard deviation over seeds,
        runs that left the finite numbers) and ``curves``; findings say which start is ahead by more than seeds differ,
        which stand still and which diverge at every rate. After Ctrl-C, with what was finished, and
        ``settings["interrupted"]``.

    Raises
    ------
    InputError
        When the model isn't a torch.nn.Module or has no parameters, there is no loss, or the inputs can't be worked
        with.
    ModelError
        When the model raises.
    UsageError
        On a misspelt keyword or method, or a number of steps or seeds below one.

    Notes
    -----
    A loss that falls fast on one batch is a start that can be trained, and nothing more: it says nothing of data that
    the model hasn't seen. Give ``batches`` to come closer to the real training.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> x = torch.randn(32, 8)
    >>> def loss(y):
    ...     return (y[:, 0] - x[:, 0]).square().mean()
    >>> report = compare_init(net, x, loss=loss, methods=["built", "auto"], steps=5, seeds=1, rates=[1e-2])
    >>> sorted(report.table("starts").column("method")), len(report.table("curves"))
    (['auto', 'built'], 10)

    """
    for keyword in unknown:
        raise unknown_keyword("compare_init", keyword, _KEYWORDS)
    _require_sensible(methods, steps, rates, seeds)
    seed = as_seed("compare_init", seed)
    started = time.perf_counter()
    case = as_case("compare_init", model, inputs, kwargs=kwargs, loss=loss, name=name)
    module_of(case)
    from gradvitals.frameworks.torch.trials import Course, Trainee

    course = Course(steps, case.batches if batches is None else batches, patience)
    trainee = Trainee(case)
    methods = [method for method in methods if trainee.has_weights or method != "built"]
    _require_sensible(methods, steps, rates, seeds)
    total, done, interrupted = len(methods) * seeds * len(rates), [], False
    findings: dict[str, Finding] = {}
    try:
        with trainee.kept():
            for drawn in range(seed, seed + seeds):
                for method in methods:
                    how = method if method in UNTREATED else _starter(method, drawn, findings)
                    start = trainee.start(how, seed=drawn)
                    for rate in rates:
                        losses = trainee.train(start, course, rate=rate, seed=drawn)
                        done.append(Trial(method, drawn, rate, losses, steps))
                        if progress is not None:
                            progress(len(done), total)
    except KeyboardInterrupt:
        if not done:
            raise
        interrupted = True
    found = outcomes(done)
    settings: dict[str, Fact] = {"steps": steps, "rates": tuple(rates), "seeds": seeds, "seed": seed}
    settings |= {"batches": "given" if course.batches is not None else "inputs"}
    settings |= {"interrupted": True} if interrupted else {}
    return Report(
        verb="compare_init",
        subject=case.subject,
        findings=(*findings.values(), *judge_starts(found)),
        tables=(starts_table(found), curves_table(found)),
        settings=settings,
        environment=environment(),
        cost={"seconds": round(time.perf_counter() - started, 4), "runs": len(done)},
    )


def _starter(method: str, seed: int, findings: dict[str, Finding]) -> Callable[[Case], None]:
    """A start by ``init_``, and in ``findings`` that it filled nothing: then it is the one that was built."""

    def start(case: Case) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrainedWeightsWarning)  # it is a copy, of which nothing is kept
            report = init_(case, method=method, seed=seed)
        findings.update({found.code: found for found in report.findings if found.code == NOTHING_FILLED.code})

    return start


def _require_sensible(methods: Sequence[str], steps: int, rates: Sequence[float], seeds: int) -> None:
    known = (*UNTREATED, *METHODS)
    for method in [methods] if isinstance(methods, str) else methods:
        if isinstance(methods, str) or method not in known:
            raise UsageError(
                "methods is not a list of starts that are known",
                f"compare_init(..., methods={methods!r})",
                f"give a list of some of: {', '.join(known)}",
            )
    if not isinstance(rates, Sequence) or not all(isinstance(r, numbers.Real) and 0 < r < math.inf for r in rates):
        raise UsageError(
            "rates is not a list of learning rates",
            f"compare_init(..., rates={rates!r})",
            "give a list of positive numbers, such as rates=[1e-3]",
        )
    for keyword, value in (("steps", steps), ("seeds", seeds), ("methods", len(methods)), ("rates", len(rates))):
        if not isinstance(value, numbers.Integral) or value < 1:
            raise UsageError(
                "there is nothing to train",
                f"compare_init(..., {keyword}={value!r})",
                "give at least one of each, in whole numbers",
            )
