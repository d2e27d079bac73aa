"""An objective in two terms, each checked by itself: a large regularisation would drown the loss on the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gradvitals.vocabulary.finding import Fact, Finding
from gradvitals.vocabulary.report import Report, Table

#: What a row or a finding belongs to.
DATA, REGULARISATION = "data", "regularisation"


def in_one(data: Report, regularisation: Report, settings: Mapping[str, Fact]) -> Report:
    """One report of the checks of both terms, its rows and findings marked with their ``term``.

    Parameters
    ----------
    data, regularisation : Report
        With the same tables.
    settings : mapping
        More of them.

    Returns
    -------
    Report
        With the settings of ``data``; costs are added up. That a parameter isn't regularised is no finding.

    """
    found = [finding for finding in regularisation.findings if finding.evidence.get("likely") != "unused"]
    findings = [*_marked(data.findings, DATA), *_marked(found, REGULARISATION)]
    pairs = zip(data.tables, regularisation.tables, strict=True)
    return dataclasses.replace(
        data,
        findings=tuple(sorted(findings, key=lambda finding: -finding.severity)),
        tables=tuple(_joined(one, other) for one, other in pairs),
        settings={**data.settings, **settings},
        cost={key: _sum(value, regularisation.cost.get(key)) for key, value in data.cost.items()},
    )


def parameters_of(report: Report, wrt: Any) -> Any:
    """What of ``wrt`` a term without inputs can be differentiated by: parameters, by name or as given in modules."""
    if wrt is not None and not isinstance(wrt, str):
        if isinstance(wrt, Mapping) or not isinstance(wrt, (list, tuple)):
            return wrt
        modules = [item for item in wrt if not isinstance(item, str)]
        if modules:
            return modules
    paths = [str(row[0]) for row in report.table("tensors").rows if row[1] == "parameter"]
    return paths or None


def words_of(outputs: Any) -> tuple[str, ...]:
    """Chosen outputs as they were named."""
    return (str(outputs),) if isinstance(outputs, (str, int)) else tuple(str(item) for item in outputs)


def _marked(findings: Sequence[Finding], term: str) -> list[Finding]:
    return [dataclasses.replace(finding, evidence={**finding.evidence, "term": term}) for finding in findings]


def _joined(one: Table, other: Table) -> Table:
    rows: list[tuple[Fact, ...]] = [(*row, DATA) for row in one.rows]
    rows += [(*row, REGULARISATION) for row in other.rows]
    return Table(one.name, (*one.columns, "term"), (*one.units, ""), tuple(rows))


def _sum(one: Fact, other: Fact) -> Fact:
    """Of what can't be added up, the first."""
    numbers = [value for value in (one, other) if isinstance(value, (int, float))]
    return numbers[0] + numbers[1] if len(numbers) == 2 else one
