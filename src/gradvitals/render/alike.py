"""A plan as people read it: layers that get the same start in one row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from gradvitals.render.tables import number
from gradvitals.vocabulary.finding import Fact
from gradvitals.vocabulary.report import Table

#: What has to be the same for layers to share a row, besides the new standard deviation.
_SAME = ("kind", "shape", "activation", "scheme", "bias", "reason")
#: What is told of a group, as far as the table has it; the rest is to be read row by row.
_TOLD = ("scheme", "std_before", "std_after", "activation", "reason", "bias", "kind")
#: Fewer rows are told one by one.
_FEW = 4
#: Digits of a standard deviation that are compared.
_DIGITS = 3


def grouped(table: Table) -> Table:
    """Rows that differ in their path and their present spread only, as one; the table itself where that saves little.

    >>> rows = tuple((f"{at}.weight", "relu", 0.1, 0.2) for at in range(0, 10, 2))
    >>> grouped(Table("plan", ("path", "activation", "std_before", "std_after"), ("",) * 4, rows)).rows
    (('0…8.weight', 5, 0.1, 0.2, 'relu'),)
    """
    groups: dict[tuple[Fact, ...], list[dict[str, Fact]]] = {}
    for row in table.records():
        after = number(row.get("std_after"))
        key = tuple(row.get(name) for name in _SAME)
        groups.setdefault((*key, None if after is None else float(f"{after:.{_DIGITS}g}")), []).append(row)
    if len(table) <= _FEW or 2 * len(groups) > len(table):
        return table
    first, others = table.columns[0], [name for name in _TOLD if name in table.columns]
    rows = tuple(
        (_joint([str(row[first]) for row in rows]), len(rows), *(_value(rows, name) for name in others))
        for rows in groups.values()
    )
    return Table(table.name, (first, "layers", *others), ("",) * (2 + len(others)), rows)


def _value(rows: Sequence[dict[str, Fact]], name: str) -> Fact:
    """What the rows have in common, or the mean of their numbers."""
    values = [number(row[name]) for row in rows]
    known = [value for value in values if value is not None]
    if name == "std_before" and len(known) == len(rows) and all(map(math.isfinite, known)):
        return statistics.fmean(known)
    return rows[0][name]


def _joint(paths: Sequence[str]) -> str:
    """One name for several paths: where their parts differ, the first and the last.

    >>> (
    ...     _joint(["blocks.0.up.weight", "blocks.1.up.weight", "blocks.2.up.weight"]),
    ...     _joint(["stem.weight", "a.b.weight"]),
    ... )
    ('blocks.0…2.up.weight', 'stem.weight … a.b.weight')
    """
    parts = [path.split(".") for path in paths]
    if len(paths) == 1 or len({len(one) for one in parts}) > 1:
        return paths[0] if len(paths) == 1 else f"{paths[0]} … {paths[-1]}"
    columns = [list(dict.fromkeys(column)) for column in zip(*parts, strict=True)]
    if sum(len(column) > 1 for column in columns) > 1:
        return f"{paths[0]} … {paths[-1]}"
    return ".".join(column[0] if len(column) == 1 else f"{column[0]}…{column[-1]}" for column in columns)
