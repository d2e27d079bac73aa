"""The verb ``check``: is the backward pass right?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gradvitals.frameworks import as_case, opened
from gradvitals.frameworks.environment import environment
from gradvitals.frameworks.problem import Tensor
from gradvitals.gradients.grades import grade
from gradvitals.gradients.measure import Measurement, Outcome, measure
from gradvitals.gradients.rules import judge
from gradvitals.vocabulary.errors import InputError, UsageError, unknown_keyword
from gradvitals.vocabulary.finding import Fact
from gradvitals.vocabulary.report import Report, Table

#: The relative error that must be resolved, by the unit roundoff of the coarsest dtype: float64, float32, 16-bit
#: formats.
SENSITIVITY = ((1e-12, 1e-4), (1e-6, 1e-3), (1.0, 1e-1))
#: Entries shown of each tensor, worst first.
_SHOWN_ENTRIES = 3
#: What slopes may be measured in.
PRECISIONS = ("auto", "native", "float64")
_KEYWORDS = ("loss", "grad", "vjp", "kwargs", "wrt", "sensitivity", "budget", "precision", "seed", "name", "progress")


def check(
    model: Any,
    *inputs: Any,
    loss: Callable[[Any], Any] | None = None,
    grad: Any = None,
    vjp: Callable[..., Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    wrt: str | Sequence[str] | None = None,
    sensitivity: float | None = None,
    budget: int | None = None,
    precision: str = "auto",
    seed: int = 0,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **unknown: Any,
) -> Report:
    """Check a gradient against measured slopes, each with its error bar.

    Parameters
    ----------
    model : torch.nn.Module, callable or Case
        What is differentiated. Torch: autograd's gradient is checked. NumPy: give ``grad`` or ``vjp``.
    *inputs : tensor, array, number, or dict of them
        Its positional inputs. Every floating-point one is checked, besides every parameter that requires a gradient.
    loss : callable, optional
        Torch: maps the output to a scalar. Without it a scalar ``output.loss`` is used, else random cotangents.
    grad : callable, mapping, array or tuple, optional
        NumPy: the gradient of a scalar function, as a function of the same inputs or as computed values. In a
        mapping, ``"dW1"`` belongs to ``"W1"``.
    vjp : callable, optional
        NumPy: a layer's backward pass, ``backward(dout)`` or ``backward(dout, cache)`` when the forward pass returns
        ``(out, cache)``.
    kwargs : mapping, optional
        Keyword inputs of the model.
    wrt : str or sequence of str, optional
        Names or patterns (``"encoder.*"``) of the tensors to check.
    sensitivity : float, optional
        The relative error that must be resolved; coarser is *unresolved*, never a pass. 1e-4 in float64, 1e-3 in
        float32, 1e-1 in 16-bit formats.
    budget : int, optional
        The most evaluations of the model; what isn't settled then is unresolved.
    precision : {"auto", "native", "float64"}
        What slopes are measured in: the model's own dtype; float64 at the very same point, where the model can and
        computes the same there; or (``"auto"``) natively first, and what that leaves unresolved in float64.
    seed : int
        Of directions, cotangents and the choice of entries.
    name : str, optional
        What the report calls the subject.
    progress : callable, optional
        Called with (evaluations done, evaluations expected).

    Returns
    -------
    Report
        With the tables ``tensors`` and ``entries``.

    Raises
    ------
    InputError
        When there is nothing to differentiate, or the inputs hold NaN or are empty.
    ModelError
        When the model, the loss or the backward pass raises.
    UsageError
        On a misspelt keyword, or arguments that contradict each other.

    Notes
    -----
    A gradient check is a development tool: don't call it inside training. The model, its gradients, buffers, modes
    and the random state are restored afterwards, also after an exception. Dropout may stay on: each evaluation starts
    from the same random state.

    References
    ----------
    Ridders (1982); Moré and Wild (2011), Estimating computational noise; the relative error and its grades are those
    of Stanford's CS231n.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([1.0, 2.0, 3.0])
    >>> check(lambda x: (x**2).sum(), x, grad=lambda x: 2 * x).verdict.value
    'pass'
    >>> report = check(lambda x: (x**2).sum(), x, grad=lambda x: x)
    >>> report.verdict.value, report.findings[0].evidence["likely"], report.findings[0].evidence["name"]
    ('fail', 'factor-missing', '2')

    """
    for keyword in unknown:
        raise unknown_keyword("check", keyword, _KEYWORDS)
    if sensitivity is not None and not 0 < sensitivity < 1:
        raise InputError(
            "the sensitivity is not a relative error",
            f"sensitivity={sensitivity}",
            "give a number between 0 and 1, such as 1e-3",
        )
    if not 0 <= seed < 2**32:
        raise InputError("the seed is out of range", f"seed={seed}", "give a whole number from 0 to 4294967295")
    if precision not in PRECISIONS:
        raise UsageError(
            "there is no such precision", f"precision={precision!r}", f"choose one of {', '.join(PRECISIONS)}"
        )
    if budget is not None and budget < 1:
        raise InputError("the budget is not a number of evaluations", f"budget={budget}", "give 60 or more, or None")
    started = time.perf_counter()
    case = as_case("check", model, inputs, loss=loss, grad=grad, vjp=vjp, kwargs=kwargs, name=name)
    patterns = [wrt] if isinstance(wrt, str) else wrt
    with opened(case, patterns) as problem:
        coarsest = max(tensor.roundoff for tensor in problem.tensors)
        wanted = sensitivity or next(value for bound, value in SENSITIVITY if coarsest < bound)
        measured = measure(
            problem, sensitivity=wanted, seed=seed, progress=progress, budget=budget, precision=precision
        )
        tensors, objective = problem.tensors, problem.objective
    return Report(
        verb="check",
        subject=case.subject,
        findings=judge(tensors, measured, wanted),
        tables=(_tensor_table(tensors, measured), _entry_table(tensors, measured)),
        settings={"seed": seed, "sensitivity": wanted, "objective": objective, "precision": precision},
        environment=environment(),
        cost={
            "seconds": round(time.perf_counter() - started, 4),
            "forwards": measured.evaluations,
            "backwards": measured.backwards,
        },
    )


def _tensor_table(tensors: Sequence[Tensor], measured: Measurement) -> Table:
    identity = ("path", "role", "shape", "dtype")
    columns = (*identity, "status", "relative_error", "resolution", "entry_resolution", "grade", "likely")
    rows = tuple(_tensor_row(tensor, outcome) for tensor, outcome in zip(tensors, measured.outcomes, strict=True))
    return Table("tensors", columns, ("",) * len(columns), rows)


def _tensor_row(tensor: Tensor, outcome: Outcome) -> tuple[Fact, ...]:
    return (
        tensor.path,
        tensor.role,
        tensor.shape,
        tensor.dtype,
        outcome.status,
        outcome.relative_error,
        outcome.resolution,
        outcome.entry_resolution,
        grade(outcome.relative_error, outcome.numeric_error),
        outcome.mistake.likely if outcome.mistake else None,
    )


def _entry_table(tensors: Sequence[Tensor], measured: Measurement) -> Table:
    rows: list[tuple[Fact, ...]] = []
    for tensor, outcome in zip(tensors, measured.outcomes, strict=True):
        worst = sorted(outcome.entries, key=lambda e: (-e.wrong, -abs(e.numeric - e.analytic)))[:_SHOWN_ENTRIES]
        for entry in worst:
            index = tuple(int(i) for i in np.unravel_index(entry.index, tensor.shape)) if tensor.shape else ()
            rows.append((tensor.path, index, entry.numeric, entry.error, entry.analytic))
    return Table("entries", ("path", "index", "numeric", "error", "analytic"), ("",) * 5, tuple(rows))
