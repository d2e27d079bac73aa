"""Plain lines for a terminal: display width, wrapping of Latin and Chinese text, bars, a sheet that fits."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gradvitals.render.tables import Column

#: A run of text with a role, which a terminal gives a style and plain text ignores.
Span: TypeAlias = tuple[str, str]
Line: TypeAlias = tuple[Span, ...]

_GUTTER = 2
#: A cell may take so much; where not all columns fit then, so little.
_WIDE_CELL, _NARROW_CELL = 40, 28
#: Where there are only so many rows, each may take several lines.
FEW_ROWS = 6
#: Chinese may break between any two characters, except before a closing mark and after an opening one.
_PIECES = re.compile(
    r"\s+|[（「『《“【]*[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef][、。，：；？！）」』》”】…]*|[^\s\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]+|."
)
_BLOCKS = " ▏▎▍▌▋▊▉█"
#: A bar spans at least this many decades, so that a flat row of values looks flat.
_LEAST_DECADES = 2.0


def width(text: str) -> int:
    """Columns that a text takes in a terminal: Chinese characters take two, combining marks none.

    >>> width("RMS"), width("梯度")
    (3, 4)
    """
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def wrap(text: str, limit: int) -> list[str]:
    """Break a text into lines of at most ``limit`` columns.

    >>> wrap("the gradient vanishes", 12)
    ['the gradient', 'vanishes']
    >>> wrap("梯度消失。", 8)
    ['梯度消', '失。']
    """
    lines = [""]
    for piece in _PIECES.findall(text):
        room = limit - width(lines[-1])
        if width(piece.rstrip()) <= room:
            lines[-1] += piece
            continue
        rest = piece.lstrip()
        while width(rest) > limit:  # a word longer than a line, such as a path
            head = shorten_to(rest, limit)
            at = head.rfind(".") + 1  # between two modules, where a line doesn't get short by that
            head = head[:at] if 2 * at > limit else head
            lines.append(head)
            rest = rest[len(head) :]
        lines.append(rest)
    return [line.rstrip() for line in lines if line.strip()] or [""]


def shorten_to(text: str, limit: int) -> str:
    """The longest beginning of a text that fits, at least one character."""
    taken = 0
    for at, character in enumerate(text):
        taken += width(character)
        if taken > limit:
            return text[: max(at, 1)]
    return text


def shorten(text: str, limit: int) -> str:
    """Shorten a name in its middle, where its module and its parameter both tell something, and a sentence at its end.

    >>> shorten("encoder.layers.11.attention.weight", 20), shorten("one, two and three", 10)
    ('encoder.l…ion.weight', 'one, two…')
    """
    if width(text) <= limit:
        return text
    if " " in text:
        return f"{shorten_to(text, limit - 1).rstrip(', ')}…"
    tail = limit // 2
    while width(text[-tail:]) > limit // 2:
        tail -= 1
    return f"{shorten_to(text, limit - 1 - width(text[-tail:]))}…{text[-tail:]}"


def pad(text: str, to: int, *, right: bool = False) -> str:
    """Fill a text up to a width, on its left where it is to stand at the right."""
    space = " " * (to - width(text))
    return space + text if right else text + space


def bars(values: Sequence[float | None], cells: int) -> tuple[str, ...]:
    """Bars of eighths of a block on a logarithmic scale; the largest value fills ``cells``, what is missing has none.

    >>> bars([1.0, 0.1, 0.01, 0.0], 4)
    ('████', '██▎', '▌', '')
    """
    finite = [value for value in values if value is not None and math.isfinite(value) and value > 0]
    if not finite:
        return ("",) * len(values)
    top = math.log10(max(finite))
    span = max(top - math.log10(min(finite)), _LEAST_DECADES) * 1.125  # the least value keeps a visible stub
    return tuple(_bar(value, top, span, cells) for value in values)


def _bar(value: float | None, top: float, span: float, cells: int) -> str:
    if value is None or math.isnan(value) or value <= 0:
        return ""
    if math.isinf(value):
        return "█" * (cells - 1) + "▶"
    eighths = max(1, round((1 - (top - math.log10(value)) / span) * cells * 8))
    return "█" * (eighths // 8) + _BLOCKS[eighths % 8].strip()


@dataclass(frozen=True, slots=True)
class Grid:
    """A sheet cut to fit: its columns and their widths. ``tall`` rows may take several lines for their sentences."""

    columns: tuple[Column, ...]
    widths: tuple[int, ...]
    tall: bool

    @property
    def header(self) -> str:
        """The headings, aligned as the cells below them."""
        return self._join([shorten(column.heading, size) for column, size in self._sized()])

    def row(self, at: int) -> list[str]:
        """The lines of one row."""
        cells = [
            wrap(column.cells[at], size) if self.tall and _is_sentence(column) else [shorten(column.cells[at], size)]
            for column, size in self._sized()
        ]
        return [
            self._join([lines[line] if line < len(lines) else "" for lines in cells])
            for line in range(max(map(len, cells), default=0))
        ]

    def _sized(self) -> zip[tuple[Column, int]]:
        return zip(self.columns, self.widths, strict=True)

    def _join(self, cells: list[str]) -> str:
        parts = [
            pad(text, size, right=column.numeric) for text, (column, size) in zip(cells, self._sized(), strict=True)
        ]
        return (" " * _GUTTER).join(parts).rstrip()


def fit(
    columns: Sequence[Column], rows: Sequence[int], limit: int, important: Sequence[str], few: int = FEW_ROWS
) -> Grid:
    """Choose the columns that fit into ``limit``: the important ones first, then in order; one stays in any case.

    Up to ``few`` rows may take several lines each.
    """
    tall = len(rows) <= few
    size = {column.key: _size(column, rows, _WIDE_CELL, tall=False) for column in columns}
    if sum(size.values()) + _GUTTER * (len(columns) - 1) > limit:
        size = {column.key: _size(column, rows, _NARROW_CELL, tall=tall) for column in columns}
    rank = {key: at for at, key in enumerate(important)}
    kept: set[str] = set()
    taken = -_GUTTER
    for column in sorted(columns, key=lambda column: rank.get(column.key, len(rank))):
        if kept and taken + _GUTTER + size[column.key] > limit:
            continue
        taken += _GUTTER + size[column.key]
        kept.add(column.key)
    chosen = tuple(column for column in columns if column.key in kept)
    return Grid(chosen, tuple(min(size[column.key], limit) for column in chosen), tall)


def _size(column: Column, rows: Sequence[int], most: int, *, tall: bool) -> int:
    cells = [column.cells[row] for row in rows]
    lines = [line for cell in cells for line in (wrap(cell, most) if tall and _is_sentence(column) else [cell])]
    return max(width(column.heading), min(max(map(width, lines), default=0), most))


def _is_sentence(column: Column) -> bool:
    """Whether a column's cells may be broken between words: sentences and lists, not numbers with their units."""
    return not column.numeric
