"""Which tables become drawings: layer by layer, before and after, and a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradvitals.render import phrases, svg, tables
from gradvitals.render.svg import Series
from gradvitals.vocabulary.finding import Fact
from gradvitals.vocabulary.report import Table

_SIDES = ("before", "after")
#: Theory beside them, in a colour of its own.
_EXPECTED = "expected"
#: A linear axis turns logarithmic where its positive values span more than this factor.
_LOG_FROM = 200.0
#: Lines that can be told apart by their colour (report.css).
_COLOURS = 8


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with its caption, and a note on what it couldn't draw."""

    title: str
    drawing: str
    note: str


def charts(table: Table, lang: str) -> list[Chart]:
    """The drawings of a table; none for a table that is only to be read."""
    if len(table) < 2:
        return []
    if table.name.startswith("training"):
        return _training(table, lang)
    if table.name == "points":
        return _growth(table, lang)
    if table.name == "curves":
        return _curves(table, lang)
    if table.name == "balance":
        return _layers(table, lang, ("variance_ratio", "gradient_ratio"))
    if table.name == "comparison" or tables.is_layers(table):
        return _layers(table, lang, tables.COMPARED)
    return []


def _layers(table: Table, lang: str, sizes: Sequence[str]) -> list[Chart]:
    """The size of the signal and of the gradient, a point per row: the x axis counts the rows."""
    names = [phrases.clean(tables.cell(path, "path", "", lang)) for path in table.column("path")]
    counted = tuple(f"{at}. {name}" for at, name in enumerate(names, start=1))
    xs = tuple(float(at) for at in range(1, len(table) + 1))
    drawn = []
    for size in sizes:
        lines = _sides(table, size, xs, counted, lang)
        if lines:
            drawn.append(_chart(size, lines, phrases.phrase("axis_layers", lang), lang, log=True))
    return drawn


def _growth(table: Table, lang: str) -> list[Chart]:
    """A drawing per axis and quantity after its last step: the layers that grow most and least, and the output."""
    lines: dict[tuple[Fact, Fact, Fact], dict[str, list[tuple[float, float]]]] = {}
    for row in table.records():
        size, value = tables.number(row["size"]), tables.number(row["value"])
        if size and value and math.isfinite(value):
            of_kind = lines.setdefault((row["axis"], row["quantity"], row["step"]), {})
            of_kind.setdefault(phrases.clean(str(row["path"])), []).append((math.log2(size), value))
    last = {(axis, quantity): step for axis, quantity, step in lines}
    drawn = []
    for (axis, quantity), step in last.items():
        found = {path: sorted(points) for path, points in lines[axis, quantity, step].items() if len(points) > 1}
        order = sorted(found, key=lambda path: found[path][-1][1] / found[path][0][1])
        wanted = dict(
            zip(("after", "before", "main"), dict.fromkeys([*order[-1:], *order[:1], "output"]), strict=False)
        )
        series = [Series(path, role, *zip(*found[path], strict=True)) for role, path in wanted.items() if path in found]
        if series:
            title = phrases.phrase(f"chart_{quantity}_of_{axis}", lang, step=step)
            told = "; ".join(_in_words(line, lang) for line in series)
            description = phrases.phrase("chart_label", lang, title=title, series=told)
            label = phrases.phrase(f"axis_{axis}", lang)
            drawn.append(Chart(title, svg.line_chart(series, description=description, x_label=label, log=True), ""))
    return drawn


def _training(table: Table, lang: str) -> list[Chart]:
    """One drawing per quantity, over the steps."""
    if "step" not in table.columns:
        return []
    steps = [tables.number(value) for value in table.column("step")]
    xs = tuple(step for step in steps if step is not None and math.isfinite(step))
    if len(xs) < len(steps):
        return []
    drawn = []
    for quantity in dict.fromkeys(_quantity(name) for name in table.columns if name != "step"):
        lines = _sides(table, quantity, xs, (), lang)
        if not lines:
            continue
        unit = next(u for name, u in zip(table.columns, table.units, strict=True) if _quantity(name) == quantity)
        log = unit != "%" and _spans_much(lines)
        bounds = (0.0, 100.0) if unit == "%" else None
        drawn.append(_chart(quantity, lines, phrases.phrase("axis_step", lang), lang, log=log, bounds=bounds))
    return drawn


def _curves(table: Table, lang: str) -> list[Chart]:
    """One line per method: how its loss falls."""
    points: dict[Fact, list[tuple[float, float | None]]] = {}
    for row in table.records():
        step = tables.number(row["step"])
        if step is not None:
            points.setdefault(row["method"], []).append((step, tables.number(row["loss"])))
    lines = [
        Series(
            tables.cell(method, "method", "", lang),
            f"line-{at % _COLOURS + 1}",
            tuple(step for step, _ in line),
            tuple(loss for _, loss in line),
        )
        for at, (method, line) in enumerate(points.items())
    ]
    return [_chart("loss", lines, phrases.phrase("axis_step", lang), lang, log=_spans_much(lines))]


def _quantity(column: str) -> str:
    stem, _, side = column.rpartition("_")
    return stem if side in _SIDES and stem else column


def _sides(table: Table, quantity: str, xs: tuple[float, ...], labels: tuple[str, ...], lang: str) -> list[Series]:
    """A quantity's own column, or its two columns before and after, as far as they hold numbers."""
    lines = []
    roles = (("before", "before"), (_EXPECTED, "line-3"), ("after", "after"))  # what is drawn last lies on top
    for column, role in ((quantity, "main"), *((f"{quantity}_{side}", role) for side, role in roles)):
        if column not in table.columns:
            continue
        ys = tuple(tables.number(value) for value in table.column(column))
        if any(y is not None for y in ys):
            side = column.rpartition("_")[2]
            is_side = side in {*_SIDES, _EXPECTED}
            name = phrases.phrase(side, lang) if is_side else phrases.label("column", quantity, lang)
            lines.append(Series(name, role, xs, ys, labels))
    return lines


def _spans_much(lines: Sequence[Series]) -> bool:
    values = [y for line in lines for y in line.ys if y is not None and math.isfinite(y)]
    return bool(values) and min(values) > 0 and max(values) / min(values) > _LOG_FROM


def _chart(
    quantity: str,
    lines: list[Series],
    x_label: str,
    lang: str,
    *,
    log: bool,
    bounds: tuple[float, float] | None = None,
) -> Chart:
    title = phrases.lookup("ui", f"chart_{quantity}", lang) or phrases.label("column", quantity, lang)
    told = [_in_words(line, lang) for line in lines]
    description = phrases.phrase("chart_label", lang, title=title, series="; ".join(told))
    missing = sum(svg.gaps(line, log=log) for line in lines)
    note = phrases.phrase("gap", lang, count=missing) if missing else ""
    return Chart(title, svg.line_chart(lines, description=description, x_label=x_label, log=log, bounds=bounds), note)


def _in_words(line: Series, lang: str) -> str:
    """From the first to the last value, for those who don't see the drawing."""
    values: list[Fact] = [y for y in line.ys if y is not None]
    return phrases.phrase("chart_series", lang, name=line.name, first=values[0], last=values[-1])
