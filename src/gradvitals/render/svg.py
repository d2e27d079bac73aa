"""A small line chart as inline SVG: one or several named series over a linear or logarithmic axis."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradvitals.render.phrases import clean

#: The drawing in its own units; the page scales it. So small that its text stays readable on a phone.
_WIDTH, _HEIGHT = 460, 270
_LEFT, _RIGHT, _BOTTOM = 52, 14, 44
#: The legend of several series stands above the drawing, in rows of this height.
_TOP_ALONE, _TOP_LEGEND, _LEGEND_ROW = 16, 34, 17
#: Below these a chart would blow up noise: decades of a logarithmic axis, the part of its size that a linear one spans.
_LEAST_DECADES, _LEAST_SPAN = 2.0, 0.05
#: Beyond so many points the dots (which carry the tooltips) would hide the line.
_MOST_DOTS = 240
#: Doubles end at 5e-324 and 1.8e308; closer to the ends the axis itself would underflow or overflow.
_SMALLEST, _LARGEST = 1e-300, 1e300
#: Lines whose dots are large: of many lines, the first.
_PROMINENT = frozenset({"main", "before", "after", "line-1"})
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Series:
    """A named line. A value that is None or not finite (or not positive, on a logarithmic axis) is a gap.

    ``role`` is the class that gives its colour: ``"main"``, ``"before"``, ``"after"``, or one of ``"line-1"`` to
    ``"line-8"`` where there are several; ``labels`` name the points.
    """

    name: str
    role: str
    xs: tuple[float, ...]
    ys: tuple[float | None, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Axis:
    """Maps values to places along a line of the drawing."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        position = math.log10(value) if self.log else value
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        return self.start + (position - low) / (high - low) * (self.end - self.start)


def line_chart(
    series: Sequence[Series], *, description: str, x_label: str, log: bool, bounds: tuple[float, float] | None = None
) -> str:
    """Draw a line chart.

    Parameters
    ----------
    series : sequence of Series
        All in the same unit: they share both axes.
    description : str
        What a screen reader says in place of the drawing.
    x_label : str
        What the horizontal axis counts.
    log : bool
        Whether the vertical axis is logarithmic.
    bounds : tuple of float, optional
        The least extent of the vertical axis, such as ``(0, 100)`` for percentages.

    Returns
    -------
    str
        An ``<svg>`` element with ``role="img"``; colours come from the page's style sheet.

    """
    xs = [x for line in series for x in line.xs]
    ys = [y for line in series for y in line.ys if y is not None and _can_be_drawn(y, log=log)]
    across = _Axis(*_x_range(xs), _LEFT, _WIDTH - _RIGHT)
    low, high = _log_range(ys) if log else _linear_range([*ys, *(bounds or ())])
    legend, rows = _legend(series)
    top = _TOP_LEGEND + (rows - 1) * _LEGEND_ROW if len(series) > 1 else _TOP_ALONE
    upwards = _Axis(low, high, _HEIGHT - _BOTTOM, top, log)
    parts = [*_vertical(upwards), *_horizontal(across, x_label, whole=all(x == int(x) for x in xs))]
    for line in series:
        parts.extend(_line(line, across, upwards))
    if len(series) > 1:
        parts.extend(legend)
    return (
        f'<svg class="gv-chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(description)}">'
        f"{''.join(parts)}</svg>"
    )


def escape(text: str) -> str:
    """Make a text harmless in HTML, in attributes as well."""
    return html.escape(clean(text), quote=True)


def gaps(series: Series, *, log: bool) -> int:
    """How many points hold a number that can't be drawn: NaN, infinity, zero on a logarithmic axis."""
    return sum(y is not None and not _can_be_drawn(y, log=log) for y in series.ys)


def _can_be_drawn(value: float, *, log: bool) -> bool:
    return abs(value) <= _LARGEST and (value >= _SMALLEST or not log)


def _x_range(xs: Sequence[float]) -> tuple[float, float]:
    low, high = (min(xs), max(xs)) if xs else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _log_range(ys: Sequence[float]) -> tuple[float, float]:
    """Whole decades around the values, at least two."""
    low, high = (math.log10(min(ys)), math.log10(max(ys))) if ys else (-1.0, 0.0)
    if high - low < _LEAST_DECADES:
        middle = (low + high) / 2
        low, high = min(low, middle - _LEAST_DECADES / 2), max(high, middle + _LEAST_DECADES / 2)
    return 10.0 ** math.floor(low + 1e-9), 10.0 ** math.ceil(high - 1e-9)


def _linear_range(ys: Sequence[float]) -> tuple[float, float]:
    """The values' own range, rounded outwards to ticks, from zero where that is near."""
    low, high = (min(ys), max(ys)) if ys else (0.0, 1.0)
    span = max(high - low, _LEAST_SPAN * max(abs(low), abs(high)), 1e-12)
    if 0 <= low < span:
        low = 0.0
    step = _step(span)
    return math.floor(low / step) * step, max(math.ceil(high / step), math.floor(low / step) + 1) * step


def _step(span: float, wanted: int = 5) -> float:
    """A step of 1, 2 or 5 times a power of ten that gives about ``wanted`` ticks."""
    raw = span / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))


def _vertical(axis: _Axis) -> list[str]:
    """Grid lines and the numbers left of them."""
    if axis.log:
        first, last = round(math.log10(axis.low)), round(math.log10(axis.high))
        every = math.ceil((last - first) / 6)
        ticks = [(10.0**power, f"10{str(power).translate(_SUPERSCRIPT)}") for power in range(first, last + 1, every)]
    else:
        step = _step(axis.high - axis.low)
        count = math.floor((axis.high - axis.low) / step + 1e-9)
        first = math.ceil(axis.low / step - 1e-9)
        ticks = [((first + at) * step, f"{(first + at) * step:.6g}") for at in range(count + 1)]
    parts = []
    for value, text in ticks:
        y = axis.place(value)
        parts.append(f'<line class="gv-grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="gv-tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    return parts


def _horizontal(axis: _Axis, label: str, *, whole: bool) -> list[str]:
    """The numbers below, and what they count."""
    step = _step(axis.high - axis.low)
    step = max(step, 1.0) if whole else step
    first = math.ceil(axis.low / step - 1e-9)
    count = math.floor((axis.high - first * step) / step + 1e-9)
    parts = []
    for at in range(count + 1):
        value = (first + at) * step
        x = axis.place(value)
        parts.append(
            f'<text class="gv-tick" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{value:.6g}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="gv-tick" x="{middle:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(label)}</text>'
    )
    return parts


def _line(series: Series, across: _Axis, upwards: _Axis) -> list[str]:
    """The line in unbroken runs, a dot with a tooltip at each point, a cross at the edge for what can't be drawn."""
    runs: list[list[str]] = [[]]
    dots = []
    labels = series.labels or tuple(f"{x:.6g}" for x in series.xs)
    for x, y, label in zip(series.xs, series.ys, labels, strict=True):
        told = f"<title>{escape(f'{series.name}: {label}: ' + ('–' if y is None else f'{y:.4g}'))}</title>"
        at = across.place(x)
        if y is None or not _can_be_drawn(y, log=upwards.log):
            runs.append([])
            if y is not None:
                edge = upwards.end + 5 if y == math.inf else upwards.start - 5
                dots.append(_cross(at, edge, series.role, told))
            continue
        place = upwards.place(y)
        runs[-1].append(f"{at:.1f},{place:.1f}")
        if len(series.xs) <= _MOST_DOTS:
            radius = 2.6 if len(series.xs) <= 80 and series.role in _PROMINENT else 1.6
            dots.append(f'<circle class="gv-{series.role}" cx="{at:.1f}" cy="{place:.1f}" r="{radius}">{told}</circle>')
    lines = [f'<polyline class="gv-{series.role}" points="{" ".join(run)}"/>' for run in runs if len(run) > 1]
    return [*lines, *dots]


def _cross(x: float, y: float, role: str, told: str) -> str:
    arms = f"M{x - 3:.1f},{y - 3:.1f}l6,6m0,-6l-6,6"
    return f'<path class="gv-{role} gv-cross" d="{arms}">{told}</path>'


def _legend(series: Sequence[Series]) -> tuple[list[str], int]:
    """Names with their line, above the drawing, and the rows that they take; Chinese characters are twice as wide."""
    parts: list[str] = []
    x, row = float(_LEFT), 0
    for line in series:
        name = clean(line.name)
        width = 54 + sum(8 if character.isascii() else 16 for character in name)
        if x > _LEFT and x + width - 24 > _WIDTH:
            x, row = float(_LEFT), row + 1
        y = 15 + row * _LEGEND_ROW
        parts.append(f'<line class="gv-{line.role}" x1="{x:.0f}" x2="{x + 24:.0f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="gv-name" x="{x + 30:.0f}" y="{y + 4}">{escape(name)}</text>')
        x += width
    return parts, row + 1
