"""The verb ``probe``: does the signal survive the depth, forwards and backwards?"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

from gradvitals.frameworks import Case, as_case, framework_of
from gradvitals.frameworks.environment import environment
from gradvitals.frameworks.prediction import Prediction
from gradvitals.signals.against import apart_table, judge_apart
from gradvitals.signals.foresight import with_foresight
from gradvitals.signals.measure import signal
from gradvitals.signals.measure_spectrum import measure_spectrum, spectrum_table
from gradvitals.signals.measure_tables import tables
from gradvitals.signals.rules import judge
from gradvitals.signals.structure import measured
from gradvitals.vocabulary.errors import InputError, UsageError, unknown_keyword
from gradvitals.vocabulary.finding import Fact
from gradvitals.vocabulary.report import Report

_KEYWORDS = ("against", "spectrum", "loss", "kwargs", "seed", "name", "progress")


def probe(
    model: Any,
    *inputs: Any,
    against: Any = None,
    spectrum: bool = False,
    loss: Callable[[Any], Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **unknown: Any,
) -> Report:
    """Run a batch forwards and backwards once, and see layer by layer what becomes of the signal and of the gradient.

    Parameters
    ----------
    model : torch.nn.Module or Case
        In the mode that it is in; nothing of it is changed.
    *inputs : tensor, or any nesting of them
        Its positional inputs: one batch. Real data show more than noise.
    against : torch.nn.Module, torch.dtype or Case, optional
        Another model, or another way to run this one: a checkpoint, ``torch.compile(model)``, a copy in bfloat16, a
        dtype for autocast. Then the report says at which layer the two part first by more than rounding explains, in
        the table ``against``, and nothing else.
    spectrum : bool
        Also look at the singular values of the Jacobian, ∂output/∂input of each sample, of the whole model and stage by
        stage: the largest, the mean square, how alike they are (dynamical isometry), the condition number where the
        size allows it. It takes some 50 backward passes of a part of the batch, and as many again for the stages.
    loss : callable, optional
        Maps the output to a scalar. Without it a scalar ``output.loss`` is used, else a random gradient of unit RMS is
        sent back from the output; ``settings["objective"]`` says which.
    kwargs : mapping, optional
        Keyword inputs of the model.
    seed : int
        Of the random state during the pass (dropout), and of that random gradient.
    name : str, optional
        What the report calls the subject.
    progress : callable, optional
        Called with (steps done, steps in all).

    Returns
    -------
    Report
        With the tables ``gains`` (one row per direction of the main path, and of each loop over time, where four layers
        or steps follow one another), ``layers`` (one row per call), ``streams`` (one per residual addition), ``steps``
        (recurrent layers over time), ``parameters``, and with ``spectrum`` also ``spectrum`` (see
        :class:`gradvitals.maths.spectrum.Spectrum`). A gain is a ratio of RMS values per layer.

    Raises
    ------
    InputError
        When the model isn't a torch.nn.Module or has no layer that can be seen; when an input is empty or not finite,
        the loss isn't a scalar; with ``spectrum``, when the output doesn't depend differentiably on the input.
    ModelError
        When the model, the loss or the backward pass raises.
    UsageError
        On a misspelt keyword, or ``spectrum`` together with ``against``.

    Notes
    -----
    One batch shows one realisation of the weights: the scale of narrow networks scatters from seed to seed (a ReLU
    network of L layers of width n by about exp(√(5L/4n))), which the gain's interval covers.

    References
    ----------
    Glorot and Bengio (2010); He et al. (2015); Schoenholz et al. (2017); Brock, De and Smith (2021), signal propagation
    plots; Pennington, Schoenholz and Ganguli (2017) on the singular values. The thresholds' sources stand in
    ``gradvitals/signals/rules.py``.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> layers = [layer for _ in range(20) for layer in (torch.nn.Linear(32, 32), torch.nn.Sigmoid())]
    >>> report = probe(torch.nn.Sequential(*layers, torch.nn.Linear(32, 2)), torch.randn(64, 32))
    >>> report.verdict.value, [finding.name for finding in report.findings]
    ('fail', ['gradient-vanishing', 'inputs-collapsed'])

    """
    for keyword in unknown:
        raise unknown_keyword("probe", keyword, _KEYWORDS)
    started = time.perf_counter()
    case = as_case("probe", model, inputs, loss=loss, kwargs=kwargs, name=name)
    if framework_of(case) != "torch":
        raise InputError(
            "the layers of this model can't be seen",
            f"probe({case.subject}): got {type(case.model).__name__}",
            "pass a torch.nn.Module with torch tensors; for a NumPy function use gradvitals.check",
        )
    if against is not None and spectrum:
        raise UsageError(
            "a comparison of two runs has no spectrum",
            "probe(..., against=..., spectrum=True)",
            "leave one of the two out, and probe each model for its own spectrum",
        )
    if against is not None:
        return _compared(case, against, seed, progress, started)
    from gradvitals.frameworks.torch.capture import capture
    from gradvitals.frameworks.torch.notfinite import find_producer

    captured = capture(case, seed=seed)
    if not captured.calls:
        raise InputError(
            "no layer of this model could be seen",
            f"{case.subject} called none of its modules, and no activation",
            "pass the module itself, not a scripted or traced one; its layers are seen when it calls them",
        )
    seen = signal(captured)
    findings = judge(seen)
    if any(finding.code == "S211" for finding in findings):
        findings = judge(seen, find_producer(case, seed=seed))
    findings = with_foresight(findings, measured(seen), functools.partial(_with_weights, case, seed))
    stages = None
    if spectrum and not any(finding.code == "S211" for finding in findings):
        stages = measure_spectrum(case, seed=seed, progress=progress)
    elif progress is not None:
        progress(1, 1)
    settings: dict[str, Fact] = {
        "seed": seed,
        "objective": captured.objective,
        "mode": "train" if getattr(case.model, "training", False) else "eval",
    }
    if captured.compiled:
        settings["compiled"] = "eagerly"
    if captured.unseen:
        settings["unseen"] = captured.unseen
    cost: dict[str, Fact] = {"forwards": 1, "backwards": 1}
    shown = tables(captured, seen.gains)
    if stages is not None:
        settings |= {"jacobian": stages.jacobian, "jacobian_of": stages.source, "samples": stages.samples}
        cost["products"] = stages.products
        shown = (shown[0], spectrum_table(stages), *shown[1:])
    return Report(
        verb="probe",
        subject=case.subject,
        findings=findings,
        tables=shown,
        settings=settings,
        environment=environment(),
        cost={"seconds": round(time.perf_counter() - started, 4), **cost},
    )


def _with_weights(case: Case, seed: int, weights: Mapping[str, float]) -> Prediction:
    """What theory says of a model whose weights are of another size, where it has formulas: a probe is to be quick."""
    from gradvitals.frameworks.torch.prediction.predict import predict

    return predict(case, seed=seed, weight_rms=weights, draws=False)


def _compared(
    case: Case, against: Any, seed: int, progress: Callable[[int, int], None] | None, started: float
) -> Report:
    """Two runs beside one another, in place of a probe of one."""
    from gradvitals.frameworks.torch.comparison import compare

    other = against.subject if isinstance(against, Case) else against
    name = str(other).removeprefix("torch.") if not callable(other) else type(other).__name__
    places = compare(case, against, seed=seed)
    if progress is not None:
        progress(1, 1)
    return Report(
        verb="probe",
        subject=case.subject,
        findings=judge_apart(places),
        tables=(apart_table(places),),
        settings={"seed": seed, "against": name},
        environment=environment(),
        cost={"seconds": round(time.perf_counter() - started, 4), "forwards": 4, "backwards": 4},
    )
