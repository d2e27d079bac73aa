"""What ``check`` does with ``reference=``: a kernel beside its reference."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.environment import environment
from gradvitals.frameworks.rivals import Rivals, opened_rivals
from gradvitals.gradients.explain_reference import Explanation
from gradvitals.gradients.measure_cotangents import cotangent_faults, with_faults
from gradvitals.gradients.measure_layouts import layout_faults
from gradvitals.gradients.measure_reference import Compared, Comparison, compare
from gradvitals.gradients.rules_reference import VALUE_WRONG, entry_resolution, judge_comparison, resolution
from gradvitals.vocabulary.errors import InputError, UsageError
from gradvitals.vocabulary.finding import Fact
from gradvitals.vocabulary.report import Report, Table

#: How many times the eager version's error is allowed by default.
RATIO = VALUE_WRONG["ratio"]
#: Entries shown of each tensor that isn't right, worst first.
_SHOWN_ENTRIES = 3
_COLUMNS = (
    "path",
    "role",
    "shape",
    "dtype",
    "status",
    "relative_error",
    "eager_error",
    "ratio",
    "local_ratio",
    "conditioning",
    "resolution",
    "entry_resolution",
    "grade",
    "likely",
)


def check_reference(
    case: Case,
    reference: Callable[..., Any] | None,
    *,
    ratio: float | None = None,
    wrt: Any = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    others: Mapping[str, Any] | None = None,
) -> Report:
    """Compare a kernel with its reference.

    Parameters
    ----------
    case : Case
        The kernel with its inputs.
    reference : callable
        The same function in plain operations; a module has parameters of the same names.
    ratio : float, optional
        How many times the error of the reference in the kernel's precision is allowed.
    wrt : optional
        What is differentiated.
    seed : int
        Of cotangents and neighbouring points.
    progress : callable, optional
    others : mapping, optional
        Keywords of ``check`` that say something else; None where they weren't given.

    Raises
    ------
    InputError
        On a ratio below 1; when kernel and reference can't be compared.
    UsageError
        When the reference can't be called, or isn't PyTorch code; on keywords that don't go with a reference.

    """
    reference = _sound(case, reference, ratio, others or {})
    allowed = RATIO if ratio is None else float(ratio)
    started = time.perf_counter()
    with opened_rivals(case, reference, wrt) as rivals:
        if any(mismatch.kind == "shape" for mismatch in rivals.mismatches):
            compared = Compared((), (), 0, 0)
        else:
            compared = compare(rivals, ratio=allowed, seed=seed, progress=progress)
        faults = cotangent_faults(rivals, compared.gradients, seed) if compared.gradients else []
        faults += layout_faults(rivals, compared.gradients, seed) if compared.gradients else []
        compared = with_faults(compared, faults)
        findings, explained = judge_comparison(compared, rivals.mismatches, rivals.sample_sizes, allowed, faults)
        tables = (
            (_tensor_table(compared, explained, allowed), _entry_table(compared))
            if compared.outputs
            else (_shape_table(rivals),)
        )
        objective = rivals.objective
    return Report(
        verb="check",
        subject=case.subject,
        findings=findings,
        tables=tables,
        settings={"seed": seed, "reference": Case(reference).subject, "ratio": allowed, "objective": objective},
        environment=environment(),
        cost={
            "seconds": round(time.perf_counter() - started, 4),
            "trials": compared.trials,
            "forwards": compared.passes,
            "backwards": compared.passes,
        },
    )


def _sound(case: Case, reference: Any, ratio: Any, others: Mapping[str, Any]) -> Callable[..., Any]:
    """The reference, if the call makes sense."""
    if reference is None:
        raise UsageError(
            "a ratio compares with a reference",
            f"check({case.subject}, ..., ratio={ratio!r}) without reference=",
            "give reference=, the same function in plain operations; or leave ratio= out",
        )
    if not callable(reference):
        raise UsageError(
            "the reference can't be called",
            f"check({case.subject}, ..., reference={type(reference).__name__})",
            "give a function or module that takes the same inputs as the kernel",
        )
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise UsageError(
            f"{', '.join(f'{name}=' for name in given)} can't be combined with reference=",
            f"check({case.subject}, ..., reference=..., {', '.join(f'{name}=...' for name in given)})",
            "leave it out: with a reference the error is judged by ratio=; a second check without one does the rest",
        )
    if ratio is not None and not (isinstance(ratio, (int, float)) and 1 <= ratio < math.inf):
        raise InputError(
            "the ratio is not a multiple of the reference's error",
            f"ratio={ratio!r}",
            "give a number from 1 on; 2 is usual",
        )
    found: Callable[..., Any] = reference
    return found


def _tensor_table(compared: Compared, explained: dict[str, Explanation], ratio: float) -> Table:
    rows = tuple(_tensor_row(c, explained.get(c.tensor.path), ratio) for c in (*compared.outputs, *compared.gradients))
    return Table("tensors", _COLUMNS, ("",) * len(_COLUMNS), rows)


def _tensor_row(c: Comparison, explanation: Explanation | None, ratio: float) -> tuple[Fact, ...]:
    tensor, tally = c.tensor, c.tally
    identity = (tensor.path, tensor.role, tensor.shown_shape, tensor.dtype, c.status)
    if c.got_shape is not None or c.missing or c.reason == "stopped":
        likely = "shape" if c.got_shape is not None else "only-in-reference" if c.status == "wrong" else None
        return (*identity, *(None,) * (len(_COLUMNS) - len(identity) - 1), likely)
    if c.broken_count:
        return (*identity, math.inf, tally.eager_error, math.inf, *(None,) * 5, "kernel-not-finite")
    if tally.least > 0:  # zero by design: nothing is relative to it
        return (*identity, None, None, tally.ratio, c.local, *(None,) * 4, c.reason or None)
    return (
        *identity,
        tally.kernel_error,
        tally.eager_error,
        tally.ratio,
        c.local,
        c.conditioning,
        resolution(c, ratio),
        entry_resolution(c, ratio),
        None,
        explanation.likely if explanation else c.reason or None,
    )


def _shape_table(rivals: Rivals) -> Table:
    """Outputs of different shapes: nothing was compared."""
    off = {m.path for m in rivals.mismatches if m.kind == "shape"}
    rows = tuple(
        (t.path, t.role, t.shown_shape, t.dtype, "wrong" if t.path in off else "unresolved")
        for t in (*rivals.outputs, *rivals.tensors)
    )
    return Table("tensors", _COLUMNS, ("",) * len(_COLUMNS), tuple((*r, *(None,) * (len(_COLUMNS) - 5)) for r in rows))


def _entry_table(compared: Compared) -> Table:
    """The entries of the first trial that are farthest from the truth, of what isn't right."""
    rows: list[tuple[Fact, ...]] = []
    for c in (*compared.outputs, *compared.gradients):
        if c.status != "right" and not c.missing and c.got_shape is None:
            kernel, eager, truth = c.tally.first[0]
            for at in _worst(c):
                index = tuple(int(i) for i in np.unravel_index(at, c.tensor.shape)) if c.tensor.shape else ()
                mine = math.nan if c.tally.broken is not None and c.tally.broken[at] else float(kernel[at])
                rows.append((c.tensor.path, index, float(truth[at]), None, mine, float(eager[at])))
    return Table("entries", ("path", "index", "numeric", "error", "analytic", "eager"), ("",) * 6, tuple(rows))


def _worst(c: Comparison) -> Sequence[int]:
    kernel, _, truth = c.tally.first[0]
    off = np.abs(kernel - truth)
    if c.tally.broken is not None:
        off = np.where(c.tally.broken, math.inf, off)
    return [int(at) for at in np.argsort(-off, kind="stable")[:_SHOWN_ENTRIES]]
