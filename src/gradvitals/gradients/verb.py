"""The verb ``check``: is the backward pass right?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gradvitals.frameworks import as_case, burnt_in, opened, penalty
from gradvitals.frameworks.environment import environment
from gradvitals.frameworks.problem import Tensor
from gradvitals.gradients.grades import grade
from gradvitals.gradients.measure import measure
from gradvitals.gradients.measure_exhaustive import measure_exhaustively
from gradvitals.gradients.measure_layers import LayersMeasured, layers_at_fault
from gradvitals.gradients.measure_structure import structure_of
from gradvitals.gradients.outcome import Measurement, Outcome
from gradvitals.gradients.rules_kinks import judge_kinks, with_kinks
from gradvitals.gradients.rules_layers import judge_layers, layer_table
from gradvitals.gradients.rules_structure import with_statuses, with_structure
from gradvitals.gradients.terms import in_one, parameters_of, words_of
from gradvitals.gradients.verb_reference import check_reference
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
_MORE_KEYWORDS = ("exhaustive", "outputs", "order", "regularisation", "burn_in", "optimizer", "reference", "ratio")


def check(
    model: Any,
    *inputs: Any,
    loss: Callable[[Any], Any] | None = None,
    grad: Any = None,
    vjp: Callable[..., Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    wrt: Any = None,
    outputs: Any = None,
    order: int = 1,
    regularisation: Callable[..., Any] | None = None,
    burn_in: int = 0,
    optimizer: Callable[..., Any] | None = None,
    reference: Callable[..., Any] | None = None,
    ratio: float | None = None,
    sensitivity: float | None = None,
    budget: int | None = None,
    exhaustive: bool = False,
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
        What is differentiated. Torch: autograd's gradient is checked. NumPy: give ``grad`` or ``vjp``. JAX: ``jax.vjp``
        is checked, or what ``grad`` or ``vjp`` give; a module that is a pytree has its leaves checked.
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
    wrt : str, module, parameter, sequence of these, or mapping of names to modules, optional
        Names or patterns (``"encoder.*"``) of the tensors to check; modules stand for their parameters, also those
        that a plain function uses: ``check(step, x, wrt=[G, D])``.
    outputs : str, int, or sequence of them, optional
        What of the output is differentiated: ``"logits"``, ``"states[0]"``, ``1``.
    order : int
        2: the second derivative, as ``create_graph=True`` gives it, is checked against slopes of the gradient.
    regularisation : callable, optional
        A second term of the objective, a scalar function of the model: checked by itself.
    burn_in : int
        Training steps on a copy of the model, before it is checked.
    optimizer : callable, optional
        For these: makes an optimizer of parameters. Plain gradient descent when not given.
    reference : callable, optional
        Torch: the same function in plain operations, or a module with parameters of the same names. Values and
        gradients are then compared with those of the reference in float64, and judged by the error that the reference
        itself has in the kernel's precision.
    ratio : float, optional
        With a reference: how many times its error is allowed, 2 by default.
    sensitivity : float, optional
        The relative error that must be resolved; coarser is *unresolved*, never a pass. 1e-4 in float64, 1e-3 in
        float32, 1e-1 in 16-bit formats.
    budget : int, optional
        The most evaluations of the model; what isn't settled then is unresolved.
    exhaustive : bool
        Every entry of every tensor is measured as well (two evaluations each, many at once), and what deviates is
        measured closely.
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
        With the tables ``tensors`` and ``entries``; where a gradient is wrong, ``modules`` with the layers that were
        examined alone.

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
        raise unknown_keyword("check", keyword, (*_KEYWORDS, *_MORE_KEYWORDS))
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
    _require_sound(order, burn_in, optimizer)
    if burn_in:
        case, wrt = burnt_in(case, wrt, burn_in, optimizer)
    if reference is not None or ratio is not None:
        others = {"regularisation": regularisation, "outputs": outputs, "sensitivity": sensitivity, "budget": budget}
        others |= {"order": None if order == 1 else order, "exhaustive": exhaustive or None}
        others |= {"precision": None if precision == "auto" else precision}
        return check_reference(case, reference, ratio=ratio, wrt=wrt, seed=seed, progress=progress, others=others)
    if regularisation is not None:
        given: dict[str, Any] = {"sensitivity": sensitivity, "budget": budget, "precision": precision, "seed": seed}
        given |= {"progress": progress, "order": order, "exhaustive": exhaustive}
        penalised = penalty(case, regularisation)
        data = check(case, wrt=wrt, outputs=outputs, **given)
        term = check(penalised, wrt=parameters_of(data, wrt), **given)
        return in_one(data, term, {"burn_in": burn_in} if burn_in else {})
    patterns = [wrt] if isinstance(wrt, str) else wrt
    with opened(case, patterns, outputs=outputs, order=order) as problem:
        coarsest = max(tensor.roundoff for tensor in problem.tensors)
        wanted = sensitivity or next(value for bound, value in SENSITIVITY if coarsest < bound)
        measured = measure(
            problem, sensitivity=wanted, seed=seed, progress=progress, budget=budget, precision=precision
        )
        if exhaustive:
            measured = measure_exhaustively(problem, measured, sensitivity=wanted, seed=seed, progress=progress)
        left = None if budget is None else budget - measured.evaluations
        structure = structure_of(problem, measured, seed=seed, left=left)
        lowered: tuple[str, ...] = getattr(problem, "lowered_precision", tuple)()
        tensors, objective = problem.tensors, problem.objective
        left_out: tuple[str, ...] = getattr(problem, "left_out", ())
    layers = LayersMeasured()
    if order == 1:
        asked: dict[str, Any] = {"sensitivity": wanted, "seed": seed, "precision": precision}
        left = None if left is None else left - structure.forwards
        layers = layers_at_fault(case, patterns, tensors, measured, **asked, budget=left)
    return Report(
        verb="check",
        subject=case.subject,
        findings=with_structure(
            [*judge_layers(tensors, measured, layers, wanted), *judge_kinks(tensors, measured, wanted)],
            tensors,
            measured,
            structure,
            wanted,
            lowered,
        ),
        tables=(
            _tensor_table(tensors, with_statuses(with_kinks(measured), structure)),
            _entry_table(tensors, measured),
            *((layer_table(layers),) if layers.rows else ()),
        ),
        settings={
            "seed": seed,
            "sensitivity": wanted,
            "objective": objective,
            "precision": precision,
            **({"outputs": words_of(outputs)} if outputs is not None else {}),
            **({"left_out": left_out} if left_out else {}),
            **({"derivative": order} if order != 1 else {}),
            **({"burn_in": burn_in} if burn_in else {}),
            **({"exhaustive": True} if exhaustive else {}),
        },
        environment=environment(),
        cost={
            "seconds": round(time.perf_counter() - started, 4),
            "forwards": measured.evaluations + structure.forwards + layers.evaluations,
            "backwards": measured.backwards + layers.backwards,
            "cotangents": structure.backwards,
        },
    )


def _require_sound(order: int, burn_in: int, optimizer: Any) -> None:
    if order not in {1, 2}:
        raise UsageError("only first and second derivatives are checked", f"order={order}", "give order=1 or order=2")
    if burn_in < 0 or burn_in != int(burn_in):
        raise InputError("burn_in is not a number of steps", f"burn_in={burn_in}", "give a whole number, such as 10")
    if optimizer is not None and not burn_in:
        raise UsageError("an optimizer trains nothing without steps", "optimizer= without burn_in", "give burn_in=10")


def _tensor_table(tensors: Sequence[Tensor], measured: Measurement) -> Table:
    identity = ("path", "role", "shape", "dtype")
    columns = (*identity, "status", "relative_error", "resolution", "entry_resolution", "grade", "likely")
    rows = tuple(_tensor_row(tensor, outcome) for tensor, outcome in zip(tensors, measured.outcomes, strict=True))
    return Table("tensors", columns, ("",) * len(columns), rows)


def _tensor_row(tensor: Tensor, outcome: Outcome) -> tuple[Fact, ...]:
    return (
        tensor.path,
        tensor.role,
        tensor.shown_shape,
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
