"""One examination of a case, from the problem to the report: slopes, structure, the layer at fault."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gradvitals.frameworks import opened
from gradvitals.frameworks.case import Case
from gradvitals.frameworks.environment import environment
from gradvitals.gradients.measure import measure
from gradvitals.gradients.measure_exhaustive import measure_exhaustively
from gradvitals.gradients.measure_inside import Inside, structure_inside
from gradvitals.gradients.measure_layers import LayersMeasured, layers_at_fault
from gradvitals.gradients.measure_structure import structure_of
from gradvitals.gradients.report_tables import entry_table, tensor_table
from gradvitals.gradients.rules_kinks import judge_kinks, with_kinks
from gradvitals.gradients.rules_layers import judge_layers, layer_table
from gradvitals.gradients.rules_structure import judge_structure_inside, with_statuses, with_structure
from gradvitals.gradients.rules_surrogate import as_meant, judge_inside
from gradvitals.gradients.terms import words_of
from gradvitals.vocabulary.finding import Fact
from gradvitals.vocabulary.report import Report

#: The relative error that must be resolved, by the unit roundoff of the coarsest dtype: float64, float32, 16-bit
#: formats.
SENSITIVITY = ((1e-12, 1e-4), (1e-6, 1e-3), (1.0, 1e-1))


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of a check; the fields are :func:`~gradvitals.gradients.verb.check`'s parameters."""

    wrt: Any = None
    outputs: Any = None
    order: int = 1
    sensitivity: float | None = None
    budget: int | None = None
    exhaustive: bool = False
    precision: str = "auto"
    expect: str | None = None
    burn_in: int = 0
    seed: int = 0


def examine(case: Case, asked: Asked, progress: Callable[[int, int], None] | None = None) -> Report:
    """Measure, judge and report one case.

    Parameters
    ----------
    case : Case
    asked : Asked
    progress : callable, optional
        Called with (evaluations done, evaluations expected).

    """
    started = time.perf_counter()
    patterns = [asked.wrt] if isinstance(asked.wrt, str) else asked.wrt
    with opened(case, patterns, outputs=asked.outputs, order=asked.order) as problem:
        tensors = problem.tensors
        coarsest = max(tensor.roundoff for tensor in tensors)
        wanted = asked.sensitivity or next(value for bound, value in SENSITIVITY if coarsest < bound)
        measured = measure(
            problem,
            sensitivity=wanted,
            seed=asked.seed,
            progress=progress,
            budget=asked.budget,
            precision=asked.precision,
            surrogate=asked.expect == "surrogate",
        )
        if asked.exhaustive:
            measured = measure_exhaustively(problem, measured, sensitivity=wanted, seed=asked.seed, progress=progress)
        left = None if asked.budget is None else asked.budget - measured.evaluations
        structure = structure_of(problem, measured, seed=asked.seed, left=left)
        lowered: Callable[[], tuple[str, ...]] = getattr(problem, "lowered_precision", tuple)
        left_out: tuple[str, ...] = getattr(problem, "left_out", ())
        surrogates = getattr(problem, "surrogates", None)
        hand_written = problem.hand_written()
        settings: dict[str, Fact] = {"seed": asked.seed, "sensitivity": wanted, "objective": problem.objective}
    layers = LayersMeasured()
    if asked.order == 1 and asked.expect is None:
        left = None if left is None else left - structure.forwards
        layers = layers_at_fault(
            case,
            patterns,
            tensors,
            measured,
            sensitivity=wanted,
            seed=asked.seed,
            precision=asked.precision,
            budget=left,
        )
    inside = tuple[Inside, ...]()
    if asked.order == 1 and hand_written and not structure.faults and not layers.rows:
        left = None if left is None else left - layers.evaluations
        inside = structure_inside(case, patterns, seed=asked.seed, left=left)
    slopes = [*judge_layers(tensors, measured, layers, wanted), *judge_kinks(tensors, measured, wanted)]
    findings = with_structure(slopes, tensors, measured, structure, wanted, lowered)
    findings = (*judge_structure_inside(inside), *findings)
    final = with_statuses(with_kinks(measured), structure)
    if asked.expect == "surrogate":
        findings, final = as_meant(findings, final)
    elif surrogates is not None:
        findings = (*findings, *judge_inside(surrogates.names, surrogates.unreplaced, surrogates.constants))
    structures = (structure, *(layer.structure for layer in inside))
    return Report(
        verb="check",
        subject=case.subject,
        findings=findings,
        tables=(
            tensor_table(tensors, final),
            entry_table(tensors, measured),
            *((layer_table(layers),) if layers.rows else ()),
        ),
        settings={
            **settings,
            "precision": asked.precision,
            **({"outputs": words_of(asked.outputs)} if asked.outputs is not None else {}),
            **({"left_out": left_out} if left_out else {}),
            **({"derivative": asked.order} if asked.order != 1 else {}),
            **({"burn_in": asked.burn_in} if asked.burn_in else {}),
            **({"exhaustive": True} if asked.exhaustive else {}),
            **({"budget": asked.budget} if asked.budget is not None else {}),
            **({"expect": asked.expect} if asked.expect else {}),
        },
        environment=environment(),
        cost={
            "seconds": round(time.perf_counter() - started, 4),
            "forwards": measured.evaluations + sum(s.forwards for s in structures) + layers.evaluations,
            "backwards": measured.backwards + layers.backwards,
            "cotangents": sum(s.backwards for s in structures),
            "evaluation": measured.evaluation,
        },
    )
