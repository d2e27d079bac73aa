"""The verb ``predict``: what should become of signal and gradient, by theory?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from gradvitals.frameworks import as_case, framework_of
from gradvitals.frameworks.environment import environment
from gradvitals.frameworks.prediction import Prediction
from gradvitals.signals.foresight import with_foresight
from gradvitals.signals.measure import Signal, signal
from gradvitals.signals.measure_predicted import Comparison, compared, predicted_gains, tables
from gradvitals.signals.rules_predicted import judge
from gradvitals.signals.structure import foretold
from gradvitals.vocabulary.errors import InputError, UsageError, unknown_keyword
from gradvitals.vocabulary.report import Report

_KEYWORDS = ("loss", "against", "weight_rms", "kwargs", "seed", "name", "progress")


def predict(
    model: Any,
    *inputs: Any,
    loss: Callable[[Any], Any] | None = None,
    against: str | None = None,
    weight_rms: Mapping[str, float] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **unknown: Any,
) -> Report:
    """Say from the structure and the size of the weights what signal and gradient should be, layer by layer.

    The model runs once on tensors without values; every operation that PyTorch executes is answered with what it
    makes of the second moments. Neither memory for activations nor, on the meta device, for weights is needed.

    Parameters
    ----------
    model : torch.nn.Module or Case
        In the mode that it is in; nothing of it is changed.
    *inputs : tensor, or any nesting of them
        Its positional inputs: one batch. Of their values only the moments count: RMS, mean, how alike samples and
        positions are, which tokens are the same, what is masked. An input on the meta device counts as standard normal.
    loss : callable, optional
        Maps the output to a scalar; it is called with outputs drawn from their predicted moments. Without it a random
        gradient of unit RMS is sent back, or 1 at a scalar ``output.loss``; ``settings["objective"]`` says which.
    against : str, optional
        ``"probe"``: measure the same batch as well and compare, layer by layer (table ``agreement``, finding S210) and
        parameter by parameter (table ``parameter_agreement``). What the measurement shows by itself is found too:
        samples that became alike (S207), copied parameters (S208), NaN and infinity (S211).
    weight_rms : mapping of str to float, optional
        The RMS of parameters by name, in place of that of their values: what if they started like this? Of those on
        the meta device that aren't named, the start of their module is assumed.
    kwargs : mapping, optional
        Keyword inputs of the model.
    seed : int
        Of the outputs that are drawn for the loss; and of the probe.
    name : str, optional
        What the report calls the subject.
    progress : callable, optional
        Called with (steps done, steps in all).

    Returns
    -------
    Report
        With the tables ``gains``, ``layers`` (as of a probe, with the relative standard deviations
        ``forward_rms_error`` and ``gradient_rms_error`` of one draw of the weights) and ``parameters``, with the
        gradient of each.

    Raises
    ------
    InputError
        When the model isn't a torch.nn.Module, or its weights aren't finite.
    ModelError
        When the model or the loss raises.
    UsageError
        On a misspelt keyword, or something else than ``"probe"`` to compare with.

    Notes
    -----
    It holds for weights that are independent of one another and of the data, as at the start: width matters through
    the error bars. Where theory and measurement part, one of these is not so: tied or cloned weights, weights that
    were trained, data with a structure that the moments don't show.

    References
    ----------
    Poole et al. (2016); Schoenholz et al. (2017); Xiao et al. (2018) on convolutions; Yang et al. (2019) on batch
    normalisation; Hron et al. (2020) on attention; Hanin and Rolnick (2018) on finite width.

    Examples
    --------
    >>> import torch
    >>> layers = [layer for _ in range(20) for layer in (torch.nn.Linear(64, 64), torch.nn.Sigmoid())]
    >>> report = predict(torch.nn.Sequential(*layers, torch.nn.Linear(64, 2)), torch.randn(64, 64))
    >>> report.verdict.value, [finding.name for finding in report.findings]
    ('fail', ['gradient-vanishing'])

    """
    for keyword in unknown:
        raise unknown_keyword("predict", keyword, _KEYWORDS)
    if against not in (None, "probe"):
        raise UsageError(
            "predict compares with a probe only",
            f"predict(..., against={against!r})",
            'write against="probe", or leave it out',
        )
    started = time.perf_counter()
    case = as_case("predict", model, inputs, loss=loss, kwargs=kwargs, name=name)
    if framework_of(case) != "torch":
        raise InputError(
            "the layers of this model can't be seen",
            f"predict({case.subject}): got {type(case.model).__name__}",
            "pass a torch.nn.Module with torch tensors",
        )
    from gradvitals.frameworks.torch.prediction.predict import predict as predicted

    steps = 1 if against is None else 2
    prediction = predicted(case, seed=seed, weight_rms=weight_rms)
    if progress is not None:
        progress(1, steps)
    comparisons: tuple[Comparison, ...] = ()
    seen: Signal | None = None
    if against is not None:
        from gradvitals.frameworks.torch.capture import capture

        captured = capture(case, seed=seed)
        comparisons, seen = compared(prediction, captured), signal(captured)
        if progress is not None:
            progress(2, steps)
    gains = predicted_gains(prediction)
    structure = foretold(prediction)
    findings = judge(prediction, structure, gains, comparisons, seen)

    def with_weights(weights: Mapping[str, float]) -> Prediction:
        return predicted(case, seed=seed, weight_rms={**(weight_rms or {}), **weights})

    findings = with_foresight(findings, structure, with_weights)
    return Report(
        verb="predict",
        subject=case.subject,
        findings=findings,
        tables=tables(prediction, gains, comparisons),
        settings={
            "seed": seed,
            "objective": prediction.objective,
            "mode": "train" if getattr(case.model, "training", False) else "eval",
            "tensors": prediction.tensors,
            "assumed": len(prediction.assumed),
        },
        environment=environment(),
        cost={"seconds": round(time.perf_counter() - started, 4), "operations": prediction.operations},
    )
