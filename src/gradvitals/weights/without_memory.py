"""Start a model that was built on the meta device: give it memory, then weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.weights import Unset
from gradvitals.vocabulary.report import Report
from gradvitals.weights.measure import module_of
from gradvitals.weights.rules_uninitialised import judge_unset
from gradvitals.weights.verb_build import unset_table


def has_no_memory(case: Case) -> bool:
    """Whether parts of a case's model are on the meta device."""
    module = module_of(case)
    from gradvitals.frameworks.torch.materialise import is_on_meta

    return is_on_meta(module)


def started_in_memory(case: Case, start: Callable[[], Report], *, seed: int) -> Report:
    """Give the model memory where its inputs lie, let its modules start themselves, then call ``start``.

    What neither the modules nor ``start`` have set is a finding of the report. When anything raises, the model is on
    the meta device again.
    """
    module = module_of(case)
    from gradvitals.frameworks.torch.inputs import named_inputs
    from gradvitals.frameworks.torch.materialise import device_of, materialised, still_unset

    with materialised(module, device_of(tensor for _, tensor in named_inputs(case)), seed=seed) as unset:
        report = start()
        left = still_unset(module, unset)
        found = tuple(Unset(path, kind, shape, math.prod(shape), 0, (0,) * len(shape)) for path, kind, shape in left)
        findings = sorted((*judge_unset(found), *report.findings), key=lambda finding: -finding.severity)
        tables = (*report.tables, *((unset_table(found),) if found else ()))
        return replace(report, findings=tuple(findings), tables=tables)
