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
        A table that both have has the same columns in both.
    settings : mapping
        More of them.

    Returns
    -------
    Report
        With the settings of ``data``; costs are added up. That a parameter isn't regularised is no finding.

    """
    terms = ((data, DATA), (regularisation, REGULARISATION))
    found = [finding for finding in regularisation.findings if finding.evidence.get("likely") != "unused"]
    findings = [*_marked(data.findings, DATA), *_marked(found, REGULARISATION)]
    names = dict.fromkeys(table.name for table in (*data.tables, *regularisation.tables))
    tables = [
        _marked_rows([(table, term) for report, term in terms for table in report.tables if table.name == name])
        for name in names
    ]
    return dataclasses.replace(
        data,
        findings=tuple(sorted(findings, key=lambda finding: -finding.severity)),
        tables=tuple(tables),
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


def _marked_rows(parts: Sequence[tuple[Table, str]]) -> Table:
    """Tables of one name in one, each row marked with its term."""
    first = parts[0][0]
    rows = [(*row, term) for table, term in parts for row in table.rows]
    return Table(first.name, (*first.columns, "term"), (*first.units, ""), tuple(rows))


def _sum(one: Fact, other: Fact) -> Fact:
    """Of what can't be added up, the first."""
    numbers = [value for value in (one, other) if isinstance(value, (int, float))]
    return numbers[0] + numbers[1] if len(numbers) == 2 else one
