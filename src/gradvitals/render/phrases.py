"""What every renderer says in the same words: the headline, the order of findings, settings, cost, headings."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gradvitals.vocabulary import words
from gradvitals.vocabulary.finding import Fact, Finding, Severity
from gradvitals.vocabulary.report import Report, Table

#: Characters that would break a terminal or a page: controls (an escape sequence starts with one), lone surrogates, and
#: the marks that turn the reading direction, by which a name can pass for another.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u2028-\u202e\u2066-\u2069]")

#: Settings whose texts are words of the locale.
_WORDS = frozenset({"mode", "order", "distribution", "why"})
#: The status and grade that seem to differ, and the sentence that says why they don't.
_GRADED = (
    ("grade_lenient", {("right", "suspicious"), ("right", "large")}),
    ("grade_strict", {("wrong", "exact"), ("wrong", "acceptable")}),
)
#: Settings that a renderer shows elsewhere, or that only it reads.
_TOLD_ELSEWHERE = frozenset({"story", "title"})


def clean(text: str) -> str:
    r"""Replace what a terminal or a page can't show by �; a line break becomes a space.

    >>> clean("layer\x1b[31m")
    'layer�[31m'
    """
    return _UNPRINTABLE.sub("�", text.replace("\r\n", " ").replace("\n", " ").replace("\t", " "))


def lookup(section: str, key: str, lang: str) -> str | None:
    """A word of the locale, or None where there isn't one: reports written later may hold unknown keys."""
    found = words.locale(lang).get(section, {}).get(key)
    return found if isinstance(found, str) else None


def phrase(key: str, lang: str, **facts: Fact) -> str:
    """A sentence of the locale's ``[ui]`` section with its facts."""
    return words.fill(lookup("ui", key, lang) or key, facts, lang)


def label(section: str, key: str, lang: str) -> str:
    """The heading of a table, column or setting; the key itself where the locale has none."""
    return lookup(section, key, lang) or clean(key)


def column_heading(table: str, column: str, unit: str, lang: str) -> str:
    """A column's heading with its unit, a table's own one first."""
    heading = lookup("column", f"{table}-{column}", lang) or label("column", column, lang)
    if unit in {"", "share", "ratio"}:
        return heading
    return f"{heading} ({lookup('unit', unit, lang) or clean(unit)})"


def subject(report: Report) -> str:
    """What was examined, fit to be shown."""
    return clean(str(report.subject)) or "–"


def title(report: Report) -> str:
    """The heading of a report: the setting ``title`` where the demo gave one, else what was examined."""
    given = report.settings.get("title")
    return clean(given) if isinstance(given, str) and given else subject(report)


def question(report: Report, lang: str) -> str:
    """The question that the report's verb answers; empty for an unknown verb."""
    return lookup("ui", f"question_{_asked(report)}", lang) or ""


def story(report: Report, lang: str) -> str:
    """The demo's introduction that the setting ``story`` names; empty without one."""
    key = report.settings.get("story")
    told = lookup("demo", key, lang) if isinstance(key, str) else None
    return words.fill(told, report.settings, lang) if told else ""


def ordered(findings: tuple[Finding, ...]) -> list[Finding]:
    """Worst first, then the surest."""
    return sorted(findings, key=lambda finding: (-finding.severity, -finding.confidence))


def headline(report: Report, lang: str) -> str:
    """The outcome in one sentence: the worst finding's title and how many more there are, or what a pass means here."""
    findings = ordered(report.findings)
    ahead = next((finding for finding in findings if finding.code == "W307"), None)
    if ahead is not None and report.verb == "compare_init":
        others = [words.describe(finding, lang).title for finding in findings if finding.severity > Severity.INFO]
        return _joined(_ahead(ahead, lang), _stopped(others[0], lang) if others else "", lang)
    if not findings or findings[0].severity == Severity.INFO:
        asked = "probe_forward" if _went_forwards_only(report) else _asked(report)
        passed = lookup("ui", f"pass_{asked}", lang) or phrase("pass", lang)
        return _joined(passed, _further(len(findings), lang), lang)
    title = words.describe(findings[0], lang).title
    return _joined(_stopped(title, lang), _further(len(findings) - 1, lang), lang)


def _ahead(finding: Finding, lang: str) -> str:
    """Which start won."""
    likely = finding.evidence.get("likely")
    return phrase(f"ahead_{likely}" if likely else "ahead", lang, **finding.evidence)


def _stopped(title: str, lang: str) -> str:
    return f"{title}{'。' if lang.startswith('zh') else '.'}"


def _went_forwards_only(report: Report) -> bool:
    """Whether a probe's layers have no gradient, for the loss passes none back."""
    layers = next((table for table in report.tables if table.name == "layers" and len(table)), None)
    if _asked(report) != "probe" or layers is None or "gradient_rms" not in layers.columns:
        return False
    return all(size is None for size in layers.column("gradient_rms"))


def _asked(report: Report) -> str:
    """The verb whose question was answered: a check-up of what has no layers is a check."""
    if report.verb == "check" and report.settings.get("reference"):
        return "reference"
    if report.verb == "probe" and report.settings.get("against"):
        return "probe_against"
    return "check" if report.verb == "checkup" and report.settings.get("skipped") else report.verb.rstrip("_")


def _joined(first: str, second: str, lang: str) -> str:
    """Two sentences; Chinese ones have no space between them."""
    return f"{first}{'' if lang.startswith('zh') else ' '}{second}".strip()


def _further(count: int, lang: str) -> str:
    return phrase("further", lang, count=count) if count else ""


def confidence(finding: Finding, lang: str) -> str:
    """How sure the rule is of its explanation; empty where it is certain."""
    return "" if finding.confidence >= 1 else phrase("confidence", lang, confidence=finding.confidence)


def setting_pairs(settings: Mapping[str, Fact], lang: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The settings as label and value; apart from them those that a sentence of the locale explains (the objective)."""
    plain: list[tuple[str, str]] = []
    explained: list[tuple[str, str]] = []
    for key, value in settings.items():
        if key in _TOLD_ELSEWHERE or value is None or value == ():
            continue
        name = label("setting", key, lang)
        sentence = lookup("ui", f"{key}_{value}", lang) if isinstance(value, str) else None
        if sentence:
            explained.append((name, sentence))
        else:
            plain.append((name, setting_value(key, value, lang)))
    return plain, explained


def setting_value(key: str, value: Fact, lang: str) -> str:
    """What was set or done, in words where the locale has them.

    >>> setting_value("evaluation", "sequential: writes-in-place", "en")
    'point by point (the model writes in place, for example running statistics)'
    """
    plain, _, reason = str(value).partition(": ") if key == "evaluation" else (str(value), "", "")
    known = lookup("value", f"{key}-{plain}", lang) or (lookup("value", plain, lang) if key in _WORDS else None)
    if not known:
        return clean(words.say(value, lang))
    return phrase("because", lang, what=known, reason=label("value", reason, lang)) if reason else known


def pair(name: str, value: str, lang: str) -> str:
    """A name and its value, with the colon of the language."""
    return phrase("pair", lang, name=name, value=value)


def cost_line(cost: Mapping[str, Fact], lang: str) -> str:
    """What it took, in one line."""
    parts = []
    for key, value in cost.items():
        if isinstance(value, float) and key == "seconds":
            parts.append(f"{value:.2g} s" if value < 10 else f"{value:.0f} s")
        elif value is not None:
            parts.append(f"{label('setting', key, lang)} {setting_value(key, value, lang)}")
    return " · ".join(parts)


def environment_line(environment: Mapping[str, Fact], lang: str) -> str:
    """Versions of what it ran on, in one line."""
    return " · ".join(f"{clean(key)} {clean(words.say(value, lang))}" for key, value in environment.items() if value)


def remarks(table: Table, lang: str) -> list[tuple[str, str]]:
    """What is to be known of single columns: a column and a sentence.

    One for what is measured in it, and one for each kind of seeming contradiction that there is: why a grade and a
    status that seem to differ don't, and how a right gradient can be off by more than the resolution.
    """
    if table.name == "gains":
        return [("gain", gain_sentence(row, lang)) for row in table.records() if row.get("left") is not None]
    if table.name == "spectrum":
        return [
            ("sigma_max", phrase("spectrum", lang, **row))
            for row in [*table.records()][:1]
            if row["sigma_max"] is not None
        ]
    if table.name != "tensors" or not {"status", "grade"} <= set(table.columns) or "eager_error" in table.columns:
        return []
    told = ("entry_resolution", "grade")
    shown = [key for key in told if key in table.columns and any(table.column(key))]
    said = [(key, phrase(f"column_{key}", lang)) for key in shown]
    pairs = set(zip(table.column("status"), table.column("grade"), strict=True))
    imprecise = any(_is_imprecise(row) for row in table.records())
    if imprecise:
        said.append(("relative_error", phrase("error_of_rounding", lang)))
    return said + [
        ("grade", phrase(key, lang))
        for key, contradicting in _GRADED
        if pairs & contradicting and not (imprecise and key == "grade_lenient")
    ]


def gain_sentence(row: Mapping[str, Fact], lang: str) -> str:
    """What a gain per layer comes to: "× 0.90 per layer: 12 % is left after 20 layers"."""
    left = row.get("left")
    grown = "grown" if isinstance(left, float) and left > 1 else "left"
    time = "_time" if row.get("along") == "time" and row.get("path") else ""
    return phrase(f"gain_{grown}{time}", lang, **row)


def _is_imprecise(row: Mapping[str, Fact]) -> bool:
    error, resolution = row.get("relative_error"), row.get("resolution")
    numbers = isinstance(error, float) and isinstance(resolution, float)
    return numbers and row.get("status") == "right" and error > resolution  # type: ignore[operator]
