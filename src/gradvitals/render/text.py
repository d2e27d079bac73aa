"""A report as plain text, and in colour on a terminal: the same lines, to which only the second gives a style."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gradvitals.render import alike, layout, phrases, tables
from gradvitals.render.gist import gist
from gradvitals.render.layout import Line
from gradvitals.vocabulary import words
from gradvitals.vocabulary.finding import Finding, Severity
from gradvitals.vocabulary.report import Report, Table, Verdict

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100
_NARROWEST, _WIDEST = 48, 120
#: Rows of a table that are shown; of a part's table fewer, for a demo shows many.
_ROWS, _PART_ROWS = 24, 8
_BAR_CELLS = 16
#: Groups of layers whose reasons are told in full.
_GROUPS = 12
#: A label of the small print, or a verb, of which later reports may hold unknown ones.
_LABEL_LIMIT = 20

#: Tables that only a drawing makes readable; a page has it, and another table its gist.
_DRAWN_ONLY = frozenset({"curves"})
#: The columns that a narrow terminal keeps.
_IMPORTANT = {
    "starts": ("method", "loss_last", "loss_spread", "curve", "rate", "loss_first"),
    "tensors": ("path", "status", "relative_error", "likely", "resolution", "grade", "role", "shape"),
    "reference": ("path", "status", "relative_error", "eager_error", "resolution", "ratio", "likely", "conditioning"),
    "reference_entries": ("path", "index", "numeric", "analytic", "eager"),
    "entries": ("path", "index", "numeric", "error", "analytic"),
    "layers": ("path", "kind", "forward_rms", "gradient_rms", "gradient_rms_bar", "zero_share", "dead_share", "shape"),
    "before": ("path", "kind", "forward_rms", "gradient_rms", "gradient_rms_bar"),
    "after": ("path", "kind", "forward_rms", "gradient_rms", "gradient_rms_bar"),
    "comparison": (
        "path",
        "gradient_rms_before",
        "gradient_rms_before_bar",
        "gradient_rms_after",
        "gradient_rms_after_bar",
        "forward_rms_before",
        "forward_rms_after",
        "kind",
    ),
    "gains": ("direction", "gain", "low", "high", "left", "layers", "first", "last", "along"),
    "spectrum": ("path", "sigma_max", "mean_square", "square_variance", "condition", "sigma_max_error", "first"),
    "scaling": ("path", "quantity", "axis", "step", "exponent", "exponent_error", "role", "smallest", "largest"),
    "streams": ("path", "forward_rms", "branch_ratio", "gradient_rms", "branch_rms"),
    "against": ("path", "parted", "forward_distance", "forward_noise", "gradient_distance", "gradient_noise", "kind"),
    "parameters": ("path", "weight_rms", "gradient_rms", "gradient_to_weight", "adam_step", "underflow_fp16"),
    "patients": ("patient", "expected", "found", "accuracy_before", "accuracy_after", "found_after"),
    "plan": ("path", "scheme", "reason", "std_after", "layers", "std_before", "activation"),
    "balance": (
        "path",
        "gradient_ratio_before",
        "gradient_ratio_after",
        "variance_ratio_before",
        "variance_ratio_after",
        "gradient_ratio_expected",
        "variance_ratio_expected",
    ),
}
#: Columns of a layers table that say nothing where they are all alike.
_SILENT_ALIKE = frozenset(
    {"call", "nonfinite", "zero_share", "dead_share", "saturated_share", "underflow_fp16", "underflow_bf16"}
)

_MARK = {Severity.ERROR: "✗", Severity.UNRESOLVED: "?", Severity.WARNING: "!", Severity.INFO: "·"}
_STYLES = {
    "title": "bold",
    "strong": "bold",
    "head": "dim",
    "quiet": "dim",
    "bar": "cyan",
    "error": "bold red",
    "unresolved": "bold magenta",
    "warning": "bold yellow",
    "info": "bold blue",
    Verdict.PASS.value: "bold green",
    Verdict.WARN.value: "bold yellow",
    Verdict.INCONCLUSIVE.value: "bold magenta",
    Verdict.FAIL.value: "bold red",
}


@dataclass(frozen=True, slots=True)
class _Manner:
    """How to tell: the language, the width, how many rows of a table, and what has been explained already.

    A code's why and a table's reading are said once, over all parts.
    """

    lang: str
    limit: int
    rows: int = _ROWS
    explained: set[str] = field(default_factory=set)

    def is_new(self, name: str) -> bool:
        """Whether this is told for the first time; remembers it."""
        known = name in self.explained
        self.explained.add(name)
        return not known


def text(report: Report, *, lang: str = "en") -> str:
    """Render as plain text, 100 columns wide, without any escape sequence.

    Parameters
    ----------
    report : Report
    lang : str
        ``"en"``, ``"zh-Hans"`` or ``"zh-Hant"``.

    Returns
    -------
    str

    Examples
    --------
    >>> from gradvitals.vocabulary import Report
    >>> print(text(Report("check", "sin")))
    check · sin
    Is the backward pass right?
    PASS  Every gradient that was checked agrees with its measured slope.

    """
    return "\n".join("".join(part for part, _ in line).rstrip() for line in _report(report, _Manner(lang, WIDTH)))


def print_report(report: Report, *, lang: str = "en", console: Console | None = None) -> None:
    """Print to the terminal, in colour where it is one and NO_COLOR isn't set.

    Parameters
    ----------
    report : Report
    lang : str
    console : rich.console.Console, optional
        Where to print; standard output by default.

    """
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    limit = max(_NARROWEST, min(console.width, _WIDEST)) if console.is_terminal else WIDTH
    encoding = console.encoding or "utf-8"
    for line in _report(report, _Manner(lang, limit)):
        # An old Windows code page has no ✗ and no blocks: a question mark is better than an exception.
        spans = [(part.encode(encoding, "replace").decode(encoding), _STYLES.get(role, "")) for part, role in line]
        console.print(Text.assemble(*spans), soft_wrap=True, highlight=False)


def _report(report: Report, how: _Manner, number: str = "") -> Iterator[Line]:
    """Header, findings, tables, parts, and in small print the settings, the cost and the environment."""
    yield from _header(report, how, number)
    for finding in phrases.ordered(report.findings):
        yield ()
        yield from _finding(finding, how)
    for table in tables.shown_tables(report):
        if table.name in _DRAWN_ONLY:
            continue
        yield ()
        yield from _table(table, report, how)
    for at, part in enumerate(report.parts, start=1):
        yield ()
        yield (("─" * how.limit, "quiet"),)
        yield from _report(part, replace(how, rows=_PART_ROWS), f"{number}{at}. ")
    yield from _small_print(report, how, is_part=bool(number))


def _header(report: Report, how: _Manner, number: str) -> Iterator[Line]:
    verb = f"{number}{layout.shorten(phrases.clean(report.verb), _LABEL_LIMIT)} · "
    yield ((verb, "quiet"), (layout.shorten(phrases.title(report), how.limit - layout.width(verb)), "title"))
    opening = phrases.story(report, how.lang) if number else phrases.question(report, how.lang)
    if opening:
        yield from _paragraph(opening, "", how.limit)
    verdict = words.word(f"verdict.{report.verdict.value}", how.lang).upper()
    column = layout.width(verdict)
    for at, line in enumerate(layout.wrap(phrases.headline(report, how.lang), how.limit - column - 2)):
        yield ((layout.pad(verdict if at == 0 else "", column), report.verdict.value), (f"  {line}", ""))
    for sentence in gist(report, how.lang):
        yield from _paragraph(sentence, " " * (column + 2), how.limit)


def _finding(finding: Finding, how: _Manner) -> Iterator[Line]:
    said = words.describe(finding, how.lang)
    role = finding.severity.label
    sure = phrases.confidence(finding, how.lang)
    title = f"{said.title} · {sure}" if sure else said.title
    mark = f"{_MARK[finding.severity]} {words.word(f'severity.{role}', how.lang)}  "
    name = f"{finding.code} {finding.name}"
    beside = layout.width(f"{mark}{name}  {title}") <= how.limit
    yield ((mark, role), (name, "strong"), (f"  {title}" if beside else "", ""))
    if not beside:
        yield from _paragraph(title, "  ", how.limit)
    yield from _paragraph(phrases.clean(said.text), "  ", how.limit)
    is_new = how.is_new(finding.code)
    sides = [("why", said.why), ("do", phrases.clean(said.remedy)), ("like", said.like)]
    told = [(phrases.phrase(key, how.lang), sentence) for key, sentence in sides if is_new or key == "do"]
    column = max(layout.width(name) for name, _ in told)
    for name, sentence in told:
        for at, line in enumerate(layout.wrap(sentence, how.limit - column - 6)):
            yield ((f"    {layout.pad(name if at == 0 else '', column)}  ", "quiet"), (line, ""))


def _table(table: Table, report: Report, how: _Manner) -> Iterator[Line]:
    if table.name == "plan":
        table = alike.grouped(table)
    sheet = tables.sheet(_speaking(table), how.lang)
    yield ((layout.shorten(sheet.title, how.limit), "strong"),)
    rows = tables.kept_rows(sheet.rows, how.rows, tables.flagged_rows(table, report))
    columns = _with_bars(table, sheet.columns, how.lang)
    visible = [row for row in rows if row is not None]
    important = _IMPORTANT.get(tables.told_as(table), ())
    few = _GROUPS if table.name == "plan" and "layers" in table.columns else layout.FEW_ROWS
    grid = layout.fit(columns, visible, how.limit - 2, important, few)
    about = [sheet.about] if sheet.about and how.is_new(tables.told_as(table)) else []
    kept = {column.key for column in grid.columns}
    remarks = [sentence for column, sentence in sheet.remarks if column in kept and how.is_new(sentence)]
    for sentence in (*about, *remarks):
        for line in layout.wrap(sentence, how.limit - 2):
            yield ((f"  {line}", "quiet"),)
    yield ((f"  {grid.header}", "head"),)
    last = -1
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        if row is not None:
            yield from (((f"  {line}", ""),) for line in grid.row(row))
            last = row
            continue
        until = sheet.rows if following is None else following
        yield ((f"  {phrases.phrase('hidden_rows', how.lang, count=until - last - 1)}", "quiet"),)


def _speaking(table: Table) -> Table:
    """Leave out the columns that say nothing new: alike in every layer, or expected where that was found."""
    silent: set[str] = set()
    if tables.is_layers(table):
        silent = {
            key
            for key in _SILENT_ALIKE & set(table.columns)
            if len({repr(value) for value in table.column(key) if value is not None}) <= 1
        }
    elif table.name == "patients" and all(row.get("expected") == row.get("found") for row in table.records()):
        silent = {"expected"}
    if not silent:
        return table
    kept = [at for at, key in enumerate(table.columns) if key not in silent]
    return Table(
        table.name,
        tuple(table.columns[at] for at in kept),
        tuple(table.units[at] for at in kept),
        tuple(tuple(row[at] for at in kept) for row in table.rows),
    )


def _with_bars(table: Table, columns: tuple[tables.Column, ...], lang: str) -> list[tables.Column]:
    """Add a bar beside each gradient column; a comparison's bars share one scale."""
    drawn = [key for key in table.columns if key.startswith("gradient_rms") and not key.endswith("_error")]
    if not tables.is_layers(table) and table.name != "comparison":
        return list(columns)
    values = [[tables.number(value) for value in table.column(key)] for key in drawn]
    cells = _BAR_CELLS if len(drawn) == 1 else _BAR_CELLS // 2
    flat = layout.bars([value for column in values for value in column], cells)
    shown: list[tables.Column] = []
    for column in columns:
        shown.append(column)
        if column.key in drawn:
            at = drawn.index(column.key) * len(table)
            heading = phrases.label("column", "gradient_bar", lang) if len(drawn) == 1 else ""
            shown.append(tables.Column(f"{column.key}_bar", heading, flat[at : at + len(table)], numeric=False))
    return shown


def _small_print(report: Report, how: _Manner, *, is_part: bool) -> Iterator[Line]:
    lang = how.lang
    settings, explained = phrases.setting_pairs(report.settings, lang)
    environment = "" if is_part else phrases.environment_line(report.environment, lang)
    small = [
        *explained,
        (phrases.phrase("settings", lang), " · ".join(phrases.pair(name, value, lang) for name, value in settings)),
        (phrases.phrase("cost", lang), phrases.cost_line(report.cost, lang)),
        (phrases.phrase("environment", lang), environment),
    ]
    told = [(layout.shorten(name, _LABEL_LIMIT), line) for name, line in small if line]
    if not told:
        return
    yield ()
    column = max(layout.width(name) for name, _ in told)
    for name, line in told:
        for at, part in enumerate(layout.wrap(line, how.limit - column - 2)):
            yield ((f"{layout.pad(name if at == 0 else '', column)}  {part}", "quiet"),)


def _paragraph(sentence: str, indent: str, limit: int) -> Iterator[Line]:
    for line in layout.wrap(sentence, limit - len(indent)):
        yield ((f"{indent}{line}", ""),)
