"""A report as one HTML page that loads nothing, and as a fragment for notebooks.

Every drawing has a name for those who don't see it and its table behind it; whatever comes from the user is escaped.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Iterator, Mapping

from gradvitals.render import alike, phrases, tables
from gradvitals.render.charts import Chart, charts
from gradvitals.render.gist import gist
from gradvitals.render.svg import escape
from gradvitals.vocabulary import words
from gradvitals.vocabulary.finding import Fact, Finding
from gradvitals.vocabulary.report import Report, Table

#: A table with more rows is folded away.
_OPEN_ROWS = 12
#: Beyond so many rows a page gets slow; both ends and what needs a look stay.
_MOST_ROWS = 600

#: A cell of so many characters holds words in a row, which need room.
_SENTENCE = 24
#: A name that is shorter stays in one line.
_SHORT = ' class="gv-short"'

#: The line of a pulse: the mark of the tool.
_MARK = (
    '<svg class="gv-mark" viewBox="0 0 48 20" aria-hidden="true"><path d="M1 11h11l3-5 4 11 5-16 5 15 3-5h15"/></svg>'
)


def html(report: Report, *, lang: str = "en") -> str:
    """Render as a complete page.

    Parameters
    ----------
    report : Report
    lang : str
        ``"en"``, ``"zh-Hans"`` or ``"zh-Hant"``.

    Returns
    -------
    str
        An HTML document with its style and drawings inside: no script, and no request leaves it.

    Examples
    --------
    >>> from gradvitals.vocabulary import Report
    >>> html(Report("check", "sin"))[:15]
    '<!doctype html>'

    """
    title = f"{escape(phrases.title(report))} · gradvitals {escape(report.verb)}"
    return (
        f'<!doctype html>\n<html lang="{lang}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{title}</title>\n<link rel="icon" href="data:,">\n<style>{_style()}</style>\n</head>\n'
        f'<body class="gv-page">\n<main class="gv">\n{_header(report, lang)}{_body(report, lang, 2)}'
        f"{_footer(report, lang)}</main>\n</body>\n</html>\n"
    )


def fragment(report: Report, *, lang: str = "en") -> str:
    """Render without a page around it, for notebooks: the style applies inside this fragment only.

    Parameters
    ----------
    report : Report
    lang : str

    Returns
    -------
    str
        A ``<div>`` with its own style.

    """
    inside = f"{_header(report, lang)}{_body(report, lang, 2)}"
    return f'<div class="gv gv-fragment" lang="{lang}">\n<style>{_style()}</style>\n{inside}</div>\n'


@functools.cache
def _style() -> str:
    return (importlib.resources.files("gradvitals.render") / "templates" / "report.css").read_text(encoding="utf-8")


def _header(report: Report, lang: str) -> str:
    question = phrases.question(report, lang)
    asked = f'<p class="gv-question">{escape(question)}</p>' if question else ""
    return (
        f'<header class="gv-head">\n<p class="gv-brand">{_MARK} gradvitals <span>{escape(report.verb)}</span></p>\n'
        f"<h1>{escape(phrases.title(report))}</h1>\n{asked}\n{_outcome(report, lang)}</header>\n"
    )


def _outcome(report: Report, lang: str) -> str:
    """The verdict as a badge, in one sentence, and what matters most."""
    verdict = report.verdict.value
    badge = f'<span class="gv-badge gv-{verdict}">{escape(words.word(f"verdict.{verdict}", lang))}</span>'
    told = "".join(f"<li>{escape(sentence)}</li>" for sentence in gist(report, lang))
    listed = f'<ul class="gv-gist">{told}</ul>\n' if told else ""
    return f'<p class="gv-outcome">{badge} <span>{escape(phrases.headline(report, lang))}</span></p>\n{listed}'


def _body(report: Report, lang: str, level: int) -> str:
    """Findings, tables with their drawings, parts, and the small print; ``level`` is that of its headings."""
    parts = "".join(_part(part, at, lang, level) for at, part in enumerate(report.parts, start=1))
    examinations = f"<h{level}>{phrases.phrase('examinations', lang)}</h{level}>\n{parts}" if parts else ""
    shown = "".join(_table(table, report, lang, level) for table in tables.shown_tables(report))
    return f"{_findings(report, lang, level)}{shown}{examinations}{_small_print(report, lang, is_part=level > 2)}"


def _part(part: Report, number: int, lang: str, level: int) -> str:
    story = phrases.story(part, lang)
    told = f'<p class="gv-story">{escape(story)}</p>\n' if story else ""
    verb = f'<span class="gv-verb">{number} · {escape(part.verb)}</span>'
    return (
        f'<section class="gv-part">\n<h{level + 1}>{verb} {escape(phrases.title(part))}</h{level + 1}>\n'
        f"{told}{_outcome(part, lang)}{_body(part, lang, min(level + 2, 5))}</section>\n"
    )


def _findings(report: Report, lang: str, level: int) -> str:
    if not report.findings:
        return ""
    cards = "".join(_finding(finding, lang, level) for finding in phrases.ordered(report.findings))
    heading = f"<h{level}>{phrases.phrase('findings', lang)}</h{level}>\n"
    return f'<section class="gv-findings">\n{heading}{cards}</section>\n'


def _finding(finding: Finding, lang: str, level: int) -> str:
    said = words.describe(finding, lang)
    severity = finding.severity.label
    sure = phrases.confidence(finding, lang)
    chips = [f"{finding.code} {finding.name}", *([sure] if sure else [])]
    rows = [("why", said.why), ("do", said.remedy), ("like", said.like)]
    told = "".join(
        f'<div class="gv-{key}"><dt>{phrases.phrase(key, lang)}</dt><dd>{escape(sentence)}</dd></div>'
        for key, sentence in rows
    )
    return (
        f'<article class="gv-card gv-{severity}">\n<h{level + 1}>'
        f'<span class="gv-badge gv-{severity}">{escape(words.word(f"severity.{severity}", lang))}</span> '
        f"{escape(said.title)}</h{level + 1}>\n"
        f'<p class="gv-chips">{"".join(f"<code>{escape(chip)}</code>" for chip in chips)}</p>\n'
        f'<p class="gv-seen">{escape(said.text)}</p>\n<dl class="gv-told">{told}</dl>\n'
        f'<div class="gv-more">\n{_facts(finding, lang)}{_references(said.references, lang)}</div>\n</article>\n'
    )


def _facts(finding: Finding, lang: str) -> str:
    pairs = [
        (phrases.label("column", key, lang), tables.cell(value, key, "", lang))
        for key, value in finding.evidence.items()
        if value not in (None, "", ())
    ]
    return _folded(phrases.phrase("facts", lang), _pairs(pairs)) if pairs else ""


def _references(references: tuple[str, ...], lang: str) -> str:
    items = "".join(f'<li lang="en">{escape(reference)}</li>' for reference in references)
    return _folded(phrases.phrase("references", lang), f"<ul>{items}</ul>") if items else ""


def _table(table: Table, report: Report, lang: str, level: int) -> str:
    sheet = tables.sheet(table, lang)
    drawn = charts(table, lang)
    remarks = [sentence for _, sentence in sheet.remarks]
    about = "".join(f'<p class="gv-about">{escape(line)}</p>\n' for line in (sheet.about, *remarks) if line)
    few = sheet.rows <= _OPEN_ROWS
    grid = _grid(sheet, tables.flagged_rows(table, report), lang, few=few)
    if drawn or not few:
        grid = _folded(phrases.phrase("show_rows", lang, count=sheet.rows), grid)
    short = alike.grouped(table) if table.name == "plan" else table
    if len(short) < len(table):
        grid = _grid(tables.sheet(short, lang), [], lang, few=len(short) <= _OPEN_ROWS) + grid
    figures = f'<div class="gv-figures">\n{"".join(map(_figure, drawn))}</div>\n' if drawn else ""
    heading = f"<h{level}>{escape(sheet.title)}</h{level}>\n"
    return f'<section class="gv-table">\n{heading}{about}{figures}{grid}</section>\n'


def _figure(chart: Chart) -> str:
    note = f'<p class="gv-note">{escape(chart.note)}</p>\n' if chart.note else ""
    return f"<figure>\n<figcaption>{escape(chart.title)}</figcaption>\n{chart.drawing}\n{note}</figure>\n"


def _grid(sheet: tables.Sheet, flagged: list[int], lang: str, *, few: bool) -> str:
    """The table itself; its frame scrolls sideways on a narrow screen and can be reached by the keyboard."""
    heads = "".join(f'<th scope="col"{_align(column)}>{escape(column.heading)}</th>' for column in sheet.columns)
    rows = "".join(_rows(sheet, flagged, lang))
    name = escape(sheet.title)
    return (
        f'<div class="gv-scroll" tabindex="0" role="region" aria-label="{name}">\n'
        f'<table class="{"gv-few" if few else "gv-many"}">\n'
        f'<caption class="gv-hidden">{name}</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n'
        "</table>\n</div>\n"
    )


def _rows(sheet: tables.Sheet, flagged: list[int], lang: str) -> Iterator[str]:
    kept = tables.kept_rows(sheet.rows, _MOST_ROWS, flagged)
    last = -1
    for row, following in zip(kept, [*kept[1:], None], strict=True):
        if row is None:
            hidden = (sheet.rows if following is None else following) - last - 1
            told = phrases.phrase("hidden_rows", lang, count=hidden)
            yield f'<tr class="gv-gap"><td colspan="{len(sheet.columns)}">{told}</td></tr>\n'
            continue
        cells = "".join(_cell(column, row, is_first=at == 0) for at, column in enumerate(sheet.columns))
        yield f"<tr>{cells}</tr>\n"
        last = row


def _cell(column: tables.Column, row: int, *, is_first: bool) -> str:
    text = escape(column.cells[row])
    if is_first:
        is_short = not column.numeric and len(column.cells[row]) < _SENTENCE
        return f'<th scope="row"{_SHORT if is_short else _align(column)}>{text}</th>'
    state = column.states[row] if column.states else ""
    if state:
        text = f'<span class="gv-state gv-{state}">{text}</span>'
    is_sentence = not column.numeric and len(column.cells[row]) >= _SENTENCE
    attribute = ' class="gv-sentence"' if is_sentence else _align(column)
    return f"<td{attribute}>{text}</td>"


def _align(column: tables.Column) -> str:
    return ' class="gv-number"' if column.numeric else ""


def _small_print(report: Report, lang: str, *, is_part: bool) -> str:
    settings, explained = phrases.setting_pairs(report.settings, lang)
    lines = [*explained, *settings]
    cost = phrases.cost_line(report.cost, lang)
    if cost:
        lines.append((phrases.phrase("cost", lang), cost))
    if report.environment and not is_part:
        lines.append((phrases.phrase("environment", lang), phrases.environment_line(report.environment, lang)))
    return f'<section class="gv-small">\n{_pairs(lines)}</section>\n' if lines else ""


def _pairs(pairs: list[tuple[str, str]]) -> str:
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="gv-pairs">{items}</dl>\n'


def _folded(summary: str, inside: str) -> str:
    return f"<details>\n<summary>{escape(summary)}</summary>\n{inside}</details>\n"


def _footer(report: Report, lang: str) -> str:
    version: Mapping[str, Fact] = {"version": report.environment.get("gradvitals")}
    key = "made_by" if version["version"] else "made_by_unknown"
    return f'<footer class="gv-foot"><p>{escape(phrases.phrase(key, lang, **version))}</p></footer>\n'
