"""The verb ``check``: is the backward pass right?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

from gradvitals.frameworks import as_case, burnt_in, penalty
from gradvitals.frameworks.surrogate import Surrogate
from gradvitals.gradients.examination import Asked, examine
from gradvitals.gradients.terms import in_one, parameters_of
from gradvitals.gradients.verb_reference import check_reference
from gradvitals.vocabulary.errors import InputError, UsageError, unknown_keyword
from gradvitals.vocabulary.report import Report

#: What slopes may be measured in.
PRECISIONS = ("auto", "native", "float64")
#: What ``torch.autograd.gradcheck`` and others ask for.
_TOLERANCES = frozenset({"eps", "atol", "rtol", "tol", "tolerance", "epsilon", "h", "nondet_tol"})
#: What some of the arguments must be.
_KINDS: Mapping[str, tuple[type, str]] = {
    "sensitivity": (Real, "a number"),
    "ratio": (Real, "a number"),
    "budget": (Integral, "a whole number"),
    "seed": (Integral, "a whole number"),
    "burn_in": (Integral, "a whole number"),
    "kwargs": (Mapping, "a mapping of names to values"),
}


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
    expect: str | None = None,
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
    expect : {"surrogate"}, optional
        The gradient is meant to differ from the slope (a straight-through estimator, gradient reversal): where it does,
        that is noted and not reported as wrong. Functions inside a model are declared by ``gradvitals.surrogate``.
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
        if keyword in _TOLERANCES:
            raise UsageError(
                "a check has no steps or tolerances to be set",
                f"check(..., {keyword}=...)",
                "leave it out: steps and error bars are found; sensitivity= is the relative error to be resolved",
            )
        raise unknown_keyword("check", keyword, tuple(inspect.signature(check).parameters)[2:-1])
    _require_kinds(sensitivity=sensitivity, budget=budget, seed=seed, burn_in=burn_in, ratio=ratio, kwargs=kwargs)
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
        raise InputError(
            "the budget is not a number of evaluations",
            f"budget={budget}",
            "give 1 or more (a sound check takes 15 to 60), or None",
        )
    if expect not in {None, "surrogate"}:
        raise UsageError("that can't be expected", f"expect={expect!r}", "give expect='surrogate', or leave it out")
    if isinstance(model, Surrogate):
        model, expect = model.function, "surrogate"
    case = as_case("check", model, inputs, loss=loss, grad=grad, vjp=vjp, kwargs=kwargs, name=name)
    _require_sound(order, burn_in, optimizer)
    if burn_in:
        case, wrt = burnt_in(case, wrt, burn_in, optimizer)
    if reference is not None or ratio is not None:
        others = {"regularisation": regularisation, "outputs": outputs, "sensitivity": sensitivity, "budget": budget}
        others |= {"order": None if order == 1 else order, "exhaustive": exhaustive or None}
        others |= {"precision": None if precision == "auto" else precision}
        return check_reference(case, reference, ratio=ratio, wrt=wrt, seed=seed, progress=progress, others=others)
    asked = Asked(
        wrt=wrt,
        outputs=outputs,
        order=order,
        sensitivity=sensitivity,
        budget=budget,
        exhaustive=exhaustive,
        precision=precision,
        expect=expect,
        burn_in=burn_in,
        seed=seed,
    )
    if regularisation is None:
        return examine(case, asked, progress)
    penalised = penalty(case, regularisation)
    data = examine(case, asked, progress)
    term = examine(penalised, replace(asked, outputs=None, wrt=parameters_of(data, wrt)), progress)
    return in_one(data, term, {"burn_in": burn_in} if burn_in else {})


def _require_kinds(**given: Any) -> None:
    """Numbers are numbers, whole ones are whole, and a mapping is one."""
    for name, value in given.items():
        kind, wanted = _KINDS[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
            raise InputError(f"{name} is not {wanted}", f"{name}={value!r}", f"give {wanted}, or leave {name}= out")


def _require_sound(order: int, burn_in: int, optimizer: Any) -> None:
    if order not in {1, 2}:
        raise UsageError("only first and second derivatives are checked", f"order={order}", "give order=1 or order=2")
    if burn_in < 0 or burn_in != int(burn_in):
        raise InputError("burn_in is not a number of steps", f"burn_in={burn_in}", "give a whole number, such as 10")
    if optimizer is not None and not burn_in:
        raise UsageError("an optimizer trains nothing without steps", "optimizer= without burn_in", "give burn_in=10")
