"""A table as readers see it: headings, cells in words, what is empty left out, before and after side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gradvitals.render import phrases
from gradvitals.vocabulary import words
from gradvitals.vocabulary.finding import Estimate, Fact
from gradvitals.vocabulary.report import Report, Table

#: Columns whose texts are words of the locale; every other text is a name and stays as it is.
_WORDS = frozenset(
    {
        "role",
        "status",
        "grade",
        "likely",
        "direction",
        "what",
        "scheme",
        "bias",
        "reason",
        "harmless_grade",
        "term",
        "along",
        "quantity",
        "axis",
    }
)
#: Columns that are compared with one another digit by digit.
_COMPARED_BY_EYE = frozenset({"numeric", "analytic", "eager"})
#: Columns that say what a tensor is.
_DESCRIPTIVE = frozenset({"role", "shape", "dtype"})
#: Columns that tell something only where a layer runs several times.
_SILENT_AT_ZERO = frozenset({"call"})
#: What stands there where nothing could be measured.
_UNMEASURED = {"relative_error": "–", "resolution": "∞", "entry_resolution": "∞"}
#: The states that a page colours, by the severity they amount to.
_STATES = {"right": "pass", "wrong": "fail", "unresolved": "inconclusive", "surrogate": "pass"}
#: Columns in which an empty tuple means "nothing was found".
_DIAGNOSES = frozenset({"expected", "found", "found_after"})
#: What a comparison of two layers-like tables puts side by side.
COMPARED = ("forward_rms", "gradient_rms")


@dataclass(frozen=True, slots=True)
class Column:
    """One column as shown: its key, heading and cells.

    ``numeric`` ones are aligned to the right; ``states`` are the classes by which a page colours a status.
    """

    key: str
    heading: str
    cells: tuple[str, ...]
    numeric: bool
    states: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table as shown: its title, a sentence on how to read it, its columns, and remarks on some of them."""

    name: str
    title: str
    about: str
    columns: tuple[Column, ...]
    rows: int
    remarks: tuple[tuple[str, str], ...]


def sheet(table: Table, lang: str) -> Sheet:
    """Put a table into words; columns without any value are left out."""
    columns = []
    name = told_as(table)
    for key, unit in zip(table.columns, table.units, strict=True):
        values = table.column(key)
        if all(value is None or value == "" for value in values) or (key in _SILENT_AT_ZERO and not any(values)):
            continue
        cells = tuple(cell(value, key, unit, lang) for value in values)
        heading = phrases.column_heading(name, key, unit, lang)
        states = tuple(_STATES.get(str(value), "") for value in values) if key == "status" else ()
        columns.append(Column(key, heading, cells, _is_numeric(values), states))
    if table.name == "tensors":  # what a tensor is comes behind what was found of it: a narrow page cuts the end off
        columns.sort(key=lambda column: column.key in _DESCRIPTIVE)
    return Sheet(
        name=table.name,
        title=phrases.label("table", name, lang),
        about=phrases.lookup("table", f"{name}-about", lang) or "",
        columns=tuple(columns),
        rows=len(table),
        remarks=tuple(phrases.remarks(table, lang)),
    )


def told_as(table: Table) -> str:
    """Under which name a table's words are looked up: beside a reference, a check's tables read otherwise."""
    if table.name == "tensors" and "eager_error" in table.columns:
        return "reference"
    return "reference_entries" if table.name == "entries" and "eager" in table.columns else table.name


def cell(value: Fact, column: str = "", unit: str = "", lang: str = "en") -> str:
    """One value as people read it.

    >>> cell((64, 32), "shape"), cell((2, 3), "index"), cell(0.125, "zero_share"), cell(1.2345e-7), cell(None)
    ('64 × 32', '[2, 3]', '12 %', '1.23e-07', '–')
    """
    if value == () and column in _DIAGNOSES:
        return words.word("value.none", lang)
    if value == ():
        return words.word("value.scalar", lang) if column == "shape" else "–"
    if isinstance(value, tuple) and column == "shape":
        return " × ".join(words.say(item, lang) for item in value)
    if isinstance(value, tuple) and column == "index":
        return f"[{', '.join(words.say(item, lang) for item in value)}]"
    if isinstance(value, tuple):
        return ", ".join(cell(item, column, unit, lang) for item in value)
    if isinstance(value, str):
        known = phrases.lookup("value", value, lang) if column in _WORDS else None
        return known or phrases.clean(value) or "–"
    if isinstance(value, float) and column in _UNMEASURED and not math.isfinite(value):
        return _UNMEASURED[column]
    if isinstance(value, float) and column in _COMPARED_BY_EYE:
        return words.exact(value)
    if isinstance(value, float) and unit != "%" and column.endswith("share"):
        return words.fill("{share:%}", {"share": value}, lang)
    return phrases.clean(words.say(value, lang))


def _is_numeric(values: Iterable[Fact]) -> bool:
    known = [value for value in values if value is not None]
    return all(isinstance(value, (int, float, Estimate)) and not isinstance(value, bool) for value in known)


def number(value: Fact) -> float | None:
    """The number in a cell, None where it holds none."""
    if isinstance(value, Estimate):
        return value.value
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def is_layers(table: Table) -> bool:
    """Whether a table has a row per layer with the size of the signal or of the gradient."""
    return "path" in table.columns and bool(set(COMPARED) & set(table.columns)) and table.name != "parameters"


def shown_tables(report: Report) -> list[Table]:
    """The report's tables with anything in them; ``before`` and ``after`` as one comparison."""
    tables = {table.name: table for table in report.tables}
    pair = (tables.get("before"), tables.get("after"))
    compared = pair[0] is not None and pair[1] is not None and is_layers(pair[0]) and is_layers(pair[1])
    shown: list[Table] = []
    for table in report.tables:
        if compared and table.name == "before":
            continue
        if compared and table.name == "after" and pair[0] is not None:
            shown.append(comparison(pair[0], table))
        elif len(table):
            shown.append(table)
    return shown


def comparison(before: Table, after: Table) -> Table:
    """One row per layer of either table, the sizes of the signal and of the gradient side by side."""
    sizes = [name for name in COMPARED if name in before.columns or name in after.columns]
    old, new = _by_call(before), _by_call(after)
    rows = []
    for key in dict.fromkeys([*old, *new]):
        first, second = old.get(key, {}), new.get(key, {})
        known = first or second
        sides = [side.get(name) for name in sizes for side in (first, second)]
        rows.append((known["path"], known.get("kind"), *sides))
    headings = [f"{name}_{side}" for name in sizes for side in ("before", "after")]
    return Table("comparison", ("path", "kind", *headings), ("",) * (2 + len(headings)), tuple(rows))


def _by_call(table: Table) -> dict[tuple[Fact, Fact], dict[str, Fact]]:
    """Rows by layer and call: a module that is called twice has two rows of one path."""
    return {(record["path"], record.get("call")): record for record in table.records()}


def kept_rows(count: int, limit: int, flagged: Iterable[int] = ()) -> list[int | None]:
    """Which rows of a long table to show: both ends and the flagged ones; None stands for a gap.

    A gap of a single row is not worth its line: that row is shown.

    >>> kept_rows(9, 4), kept_rows(3, 4), kept_rows(9, 4, [5])
    ([0, 1, None, 7, 8], [0, 1, 2], [0, 1, None, 5, None, 8])
    """
    if count <= limit:
        return list(range(count))
    chosen = set(sorted(set(flagged))[: limit // 2])
    for row in (at for pair in zip(range(count), reversed(range(count)), strict=True) for at in pair):
        if len(chosen) >= limit:
            break
        chosen.add(row)
    kept: list[int | None] = []
    last = -1
    for row in sorted(chosen):
        if row - last == 2:
            kept.append(row - 1)
        elif row - last > 2:
            kept.append(None)
        kept.append(row)
        last = row
    if last == count - 2:
        kept.append(count - 1)
    elif last < count - 2:
        kept.append(None)
    return kept


def flagged_rows(table: Table, report: Report) -> list[int]:
    """Rows that a reader must not miss: what isn't right, and where a finding sits."""
    sites = {finding.site.path for finding in report.findings}
    flagged = []
    for at, record in enumerate(table.records()):
        if record.get("status", "right") != "right" or record.get("path") in sites or record.get("nonfinite"):
            flagged.append(at)
    return flagged
