"""A report in a few lines, for the message of a failing test: the headline, each finding, and a small table."""

from __future__ import annotations

from collections.abc import Iterator

from gradvitals.render import layout, phrases, tables
from gradvitals.vocabulary.report import Report, Table
from gradvitals.vocabulary.words import describe, word

#: Columns of the small table, of those that the check's table has.
_COLUMNS = ("path", "status", "relative_error", "resolution", "likely")
_WIDTH, _MOST_ROWS = 100, 12


def brief(report: Report, *, lang: str = "en") -> str:
    """Say what was found, in a few lines.

    Parameters
    ----------
    report : Report
    lang : str

    Examples
    --------
    >>> print(brief(Report(verb="check", subject="layer")))
    check · layer: PASS  Every gradient that was checked agrees with its measured slope.

    """
    return "\n".join(_lines(report, lang))


def _lines(report: Report, lang: str) -> Iterator[str]:
    verdict = word(f"verdict.{report.verdict.value}", lang).upper()
    yield f"{report.verb} · {phrases.title(report)}: {verdict}  {phrases.headline(report, lang)}"
    for finding in phrases.ordered(report.findings):
        words = describe(finding, lang)
        yield from layout.wrap(f"{finding.code} {finding.name}: {words.text} → {words.remedy}", _WIDTH)
    for table in report.tables:
        if table.name == "tensors" and table.rows:
            yield from _grid(table, report, lang)


def _grid(table: Table, report: Report, lang: str) -> Iterator[str]:
    small = Table(
        table.name,
        tuple(name for name in _COLUMNS if name in table.columns),
        tuple("" for name in _COLUMNS if name in table.columns),
        tuple(tuple(row[name] for name in _COLUMNS if name in table.columns) for row in table.records()),
    )
    sheet = tables.sheet(small, lang)
    kept = tables.kept_rows(len(small.rows), _MOST_ROWS, tables.flagged_rows(table, report))
    shown = [row for row in kept if row is not None]
    texts = [[column.heading, *(column.cells[row] for row in shown)] for column in sheet.columns]
    widths = [max(map(layout.width, cells)) for cells in texts]
    lines = [[column.heading for column in sheet.columns]]
    lines += [["…" if row is None else column.cells[row] for column in sheet.columns] for row in kept]
    for line in lines:
        yield "  ".join(layout.pad(cell, width) for cell, width in zip(line, widths, strict=True)).rstrip()
