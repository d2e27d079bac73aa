"""``assert_gradients``: the gradient check as an assertion, for tests."""

from __future__ import annotations

import warnings
from typing import Any

from gradvitals.gradients.verb import check
from gradvitals.vocabulary.report import Report, Verdict


class UnresolvedGradientWarning(UserWarning):
    """A gradient could not be resolved as finely as is usual; nothing was found wrong with it."""


def assert_gradients(model: Any, *inputs: Any, sensitivity: float | None = None, **settings: Any) -> Report:
    """Assert that every gradient agrees with its measured slope.

    Parameters
    ----------
    model : torch.nn.Module, callable or Case
        As for :func:`gradvitals.check`.
    *inputs : tensor, array, number, or dict of them
        Its positional inputs.
    sensitivity : float, optional
        The relative error that must be resolved. Where it is given, a gradient that can't be resolved that finely
        fails the assertion; where it isn't, such a gradient makes a warning only.
    **settings
        All other settings of :func:`gradvitals.check`.

    Returns
    -------
    Report
        Of a check that didn't fail.

    Raises
    ------
    AssertionError
        When a gradient is wrong, or not resolved as finely as was asked for. The message shows what was found and a
        small table; ``report`` is the whole report.
    GradvitalsError
        As :func:`gradvitals.check`.

    Warns
    -----
    UnresolvedGradientWarning
        When a gradient isn't resolved and no sensitivity was asked for; with the resolution that was reached.

    Examples
    --------
    >>> import numpy as np
    >>> report = assert_gradients(lambda x: (x**2).sum(), np.ones(3), grad=lambda x: 2 * x)
    >>> report.verdict.value
    'pass'

    """
    __tracebackhide__ = True  # pytest then shows the caller's line
    report = check(model, *inputs, sensitivity=sensitivity, **settings)
    undecided = report.verdict is Verdict.INCONCLUSIVE
    if report.verdict is Verdict.FAIL or (undecided and sensitivity is not None):
        failure = AssertionError(report.render("brief"))
        failure.report = report  # type: ignore[attr-defined]
        raise failure
    if undecided:
        warnings.warn(report.render("brief"), UnresolvedGradientWarning, stacklevel=2)
    return report
