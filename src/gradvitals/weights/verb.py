"""The verbs ``plan_init`` (looks) and ``init_`` (does): do the weights start well?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradvitals.frameworks import as_case
from gradvitals.frameworks.environment import environment
from gradvitals.signals.measure import signal
from gradvitals.signals.measure_tables import layer_table
from gradvitals.signals.rules import judge as judge_signal
from gradvitals.vocabulary.errors import UsageError, unknown_keyword
from gradvitals.vocabulary.finding import Fact, Finding
from gradvitals.vocabulary.report import Report
from gradvitals.weights.arguments import as_patterns, as_seed, near_name, require_matches
from gradvitals.weights.balance_table import balance_table
from gradvitals.weights.learning_rate import advised
from gradvitals.weights.measure import Survey, module_of, survey
from gradvitals.weights.overwriting import warn_of_loss
from gradvitals.weights.plan import Plan, by_theory, plan_of, plan_table
from gradvitals.weights.recipes import DISTRIBUTIONS, METHODS
from gradvitals.weights.rules import by_severity, judge, judge_rate, trained_note
from gradvitals.weights.rules_filled import judge_filled
from gradvitals.weights.without_memory import has_no_memory, started_in_memory

_KEYWORDS = ("method", "seed", "only", "skip", "distribution", "kwargs", "loss", "name", "progress")


def plan_init(
    model: Any,
    *inputs: Any,
    method: str = "auto",
    seed: int = 0,
    only: str | Sequence[str] = (),
    skip: str | Sequence[str] = (),
    distribution: str = "normal",
    kwargs: Mapping[str, Any] | None = None,
    loss: Callable[[Any], Any] | None = None,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **unknown: Any,
) -> Report:
    """Say how the weights should start, and judge how they are now; changes nothing.

    Parameters
    ----------
    model : torch.nn.Module or Case
    *inputs : tensor, or any nesting of them
        One batch: the model is run on it once to see which activation follows which layer. Without inputs the order of
        its modules is assumed, and ``settings["order"]`` says so.
    method : str
        ``"auto"``, ``"analytic"``, ``"calibrated"``, ``"tailored"``, ``"critical"``, ``"scaled-residual"``; or a scheme
        for all layers as its paper gives it: ``"lecun"``, ``"xavier"``, ``"he"``, ``"orthogonal"``,
        ``"delta_orthogonal"``, ``"truncated_normal"``. See :func:`init_`.
    seed : int
        Of the numbers that would be drawn.
    only, skip : str or sequence of str
        Patterns (``"encoder.*"``) of the layers or parameters to fill, or to leave out.
    distribution : str
        ``"normal"``, ``"uniform"`` or ``"truncated"`` (at two standard deviations), where the scheme leaves it open.
    kwargs : mapping, optional
        Keyword inputs of the model.
    loss : callable, optional
        Maps the output to a scalar.
    name : str, optional
        What the report calls the subject.
    progress : callable, optional
        Called with (steps done, steps in all).

    Returns
    -------
    Report
        With the table ``plan``: one row per weight, those that stay as they are last; the standard deviation before and
        after, what becomes of the bias, and the reason.

    Raises
    ------
    InputError
        When the model isn't a torch.nn.Module or has no parameters, or the inputs can't be worked with.
    ModelError
        When the model raises.
    UsageError
        On a misspelt keyword, method or distribution, a seed that is no whole number, a pattern that names no weight.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    >>> report = plan_init(net, torch.randn(8, 64))
    >>> [(row["path"], row["scheme"], round(row["std_after"], 3)) for row in report.table("plan").records()]
    [('0.weight', 'he normal', 0.177), ('2.weight', 'lecun normal', 0.177)]

    """
    for keyword in unknown:
        raise unknown_keyword("plan_init", keyword, _KEYWORDS)
    asked = _asked("plan_init", method, distribution, seed, only, skip)
    started = time.perf_counter()
    case = as_case("plan_init", model, inputs, kwargs=kwargs, loss=loss, name=name)
    found = survey(case, seed=asked.seed)
    if progress is not None:
        progress(1, 1)
    plan = _plan(found, asked)
    return Report(
        verb="plan_init",
        subject=case.subject,
        findings=by_severity(*judge(found), *_unfilled(plan, asked)),
        tables=(plan_table(plan),),
        settings=_settings(plan, asked),
        environment=environment(),
        cost=_cost(started, forwards=int(found.order == "dataflow") + (found.between is not None)),
    )


def init_(
    model: Any,
    *inputs: Any,
    method: str = "auto",
    seed: int = 0,
    only: str | Sequence[str] = (),
    skip: str | Sequence[str] = (),
    distribution: str = "normal",
    kwargs: Mapping[str, Any] | None = None,
    loss: Callable[[Any], Any] | None = None,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **unknown: Any,
) -> Report:
    """Give a model's weights a good start, in place, and show the signal before and after.

    Nothing but weights and biases changes: mode, buffers, gradients, hooks and the random state stay. What is frozen,
    parametrised or of an unknown kind stays as well, and the table ``plan`` says so. When anything raises, the weights
    are as they were before.

    A model on the meta device gets memory first, where its inputs lie; its modules start what isn't a weight (buffers)
    by their own methods, and what none of them sets is a finding. Parameters that are sharded (FSDP2) get the same
    values as on one process; every process has to call ``init_`` with the same inputs.

    Parameters
    ----------
    model, *inputs, method, seed, only, skip, distribution, kwargs, loss, name, progress
        As for :func:`plan_init`.

    Returns
    -------
    Report
        With the tables ``plan``, ``before``, ``after`` and ``balance`` (all but the first need inputs); findings
        are on the state after.

    Raises
    ------
    InputError, ModelError, UsageError
        As for :func:`plan_init`.

    Warns
    -----
    TrainedWeightsWarning
        When weights that are about to be overwritten look trained: their spectra have values that no random matrix has.

    Notes
    -----
    ``"auto"`` chooses for the whole network, and ``settings["why"]`` says so: ``"tailored"`` for a deep chain that
    neither normalisations nor skip connections hold, ``"calibrated"`` for residual branches without a
    normalisation and where theory doesn't know how large signals are, ``"analytic"`` else.

    - ``"analytic"``: the variance from the structure. Before a ReLU or LeakyReLU He, normal; before any other
      activation orthogonal weights with that activation's own gain, computed by integration; behind a sigmoid or
      softplus the bias takes the mean away. Where no activation follows LeCun; right before a normalisation, which
      takes any scale, a third of LeCun's variance, as PyTorch has it. At the end of a residual branch divided by
      √(number of branches), also where the sum is normalised.
    - ``"calibrated"``: the same, every output brought to its planned size on the batch, in one forward pass.
    - ``"tailored"``: every activation at a working point at which the whole chain is as nonlinear as one moderate
      layer; units in pairs of opposite sign before ReLU, GELU, SiLU and softplus. docs/weights.md derives it.
    - ``"critical"``: orthogonal weights with gain 1/φ′(0); of convolutions in the middle of the kernel.
    - ``"scaled-residual"``: as ``"analytic"``; the weight of a normalisation that ends a branch starts small as well.
    - attention: Xavier, for query, key and value each. Recurrent layers: Xavier for the input weights, orthogonal
      hidden weights, gate by gate; the forget gate of an LSTM starts with a bias of 1. Embeddings: N(0, 1), or LeCun
      where the head shares them; the padding row stays zero. Normalisations: weight 1, bias 0. All other biases 0.

    A scheme is the paper's for layers and attention, without a gain of its own or centring.
    ``settings["learning_rate"]`` is where to start Adam: deep networks start well but are still deep.

    References
    ----------
    LeCun et al. (1998), sections 4.4 and 4.6; Glorot and Bengio (2010); Saxe et al. (2014); He et al. (2015);
    Jozefowicz et al. (2015); Pennington et al. (2017); Martens et al. (2021); Balduzzi et al. (2017).

    Examples
    --------
    >>> import torch
    >>> layers = [layer for _ in range(20) for layer in (torch.nn.Linear(64, 64), torch.nn.Sigmoid())]
    >>> net = torch.nn.Sequential(*layers, torch.nn.Linear(64, 10))
    >>> report = init_(net, torch.randn(256, 64))
    >>> first, last = (report.table("after").column("gradient_rms")[at] for at in (0, -3))
    >>> 0.3 < first / last < 3
    True

    """
    for keyword in unknown:
        raise unknown_keyword("init_", keyword, _KEYWORDS)
    asked = _asked("init_", method, distribution, seed, only, skip)
    seed = asked.seed
    started = time.perf_counter()
    case = as_case("init_", model, inputs, kwargs=kwargs, loss=loss, name=name)
    if has_no_memory(case):
        again: dict[str, Any] = {"method": method, "seed": seed, "only": asked.only, "skip": asked.skip}
        return started_in_memory(
            case, lambda: init_(case, distribution=distribution, progress=progress, **again), seed=seed
        )
    module = module_of(case)
    from gradvitals.frameworks.torch.capture import capture
    from gradvitals.frameworks.torch.fill import filled
    from gradvitals.frameworks.torch.fit import fits, write

    runs = bool(case.args or case.kwargs)
    before = capture(case, seed=seed) if runs else None
    found = survey(case, seed=seed, seen=before)
    plan = _plan(found, asked)
    fills = [fill for fill in (recipe.fill for recipe in plan.recipes) if fill]
    goals = [recipe.goal for recipe in plan.recipes if recipe.goal]
    settings = _settings(plan, asked)
    tables = [plan_table(plan)]
    findings: list[Finding] = [*trained_note(found), *_unfilled(plan, asked)]
    warn_of_loss(case.subject, plan.recipes, found.weights)
    with filled(module, fills, seed=seed, filled_one=_counter(progress, len(fills))):
        if goals:
            measured = fits(case, goals, seed=seed)
            write(module, (*measured, *by_theory(plan.recipes, measured)))
        after = capture(case, seed=seed) if runs else None
        findings += judge(survey(case, seed=seed, seen=after, like=found), fitted={goal.weight.path for goal in goals})
        if before is not None and after is not None:
            findings += judge_signal(signal(after))
            tables += [
                layer_table(before, "before"),
                layer_table(after, "after"),
                balance_table(before, after, plan.recipes),
            ]
            settings |= {"objective": after.objective, "mode": "train" if module.training else "eval"}
            rate = advised(after, {weight.path: weight for weight in found.weights})
            if rate is not None:
                settings["learning_rate"] = float(f"{rate:.1g}")
                findings += judge_rate(rate, plan.choice.depth)
        return Report(
            verb="init_",
            subject=case.subject,
            findings=by_severity(*findings),
            tables=tuple(tables),
            settings=settings,
            environment=environment(),
            cost=_cost(started, forwards=2 * runs + (found.between is not None) + bool(goals), backwards=2 * runs),
        )


def _counter(progress: Callable[[int, int], None] | None, total: int) -> Callable[[], None] | None:
    """Count the parameters for ``progress``."""
    if progress is None:
        return None
    done = 0

    def one_more() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    return one_more


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a user asked for, checked."""

    verb: str
    method: str
    distribution: str
    seed: int
    only: tuple[str, ...]
    skip: tuple[str, ...]


def _asked(verb: str, method: str, distribution: str, seed: Any, only: Any, skip: Any) -> _Asked:
    for keyword, value, known in (("method", method, METHODS), ("distribution", distribution, DISTRIBUTIONS)):
        if not isinstance(value, str) or value not in known:
            hint = near_name(value, known)
            raise UsageError(
                f"no {keyword} is called {value!r}",
                f"{verb}(..., {keyword}={value!r})",
                f"{hint}Known: {', '.join(known)}",
            )
    patterns = (as_patterns(verb, keyword, given) for keyword, given in (("only", only), ("skip", skip)))
    return _Asked(verb, method, distribution, as_seed(verb, seed), *patterns)


def _plan(found: Survey, asked: _Asked) -> Plan:
    paths = [weight.path for weight in found.weights]
    require_matches(asked.verb, "only", asked.only, paths)
    require_matches(asked.verb, "skip", asked.skip, paths)
    return plan_of(found, method=asked.method, distribution=asked.distribution, only=asked.only, skip=asked.skip)


def _unfilled(plan: Plan, asked: _Asked) -> tuple[Finding, ...]:
    return judge_filled(plan.recipes, asked_for=bool(asked.skip) and not asked.only)


def _settings(plan: Plan, asked: _Asked) -> dict[str, Fact]:
    settings: dict[str, Fact] = {
        "method": plan.choice.method,
        "why": plan.choice.reason,
        "distribution": asked.distribution,
        "seed": asked.seed,
        "order": plan.order,
    }
    if asked.only:
        settings["only"] = asked.only
    if asked.skip:
        settings["skip"] = asked.skip
    return settings


def _cost(started: float, *, forwards: int, backwards: int = 0) -> dict[str, Fact]:
    return {"seconds": round(time.perf_counter() - started, 4), "forwards": forwards, "backwards": backwards}
