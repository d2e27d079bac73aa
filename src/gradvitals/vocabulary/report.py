"""A report: findings and tables, a verdict derived from them, and the JSON round trip."""

from __future__ import annotations

import enum
import importlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gradvitals.vocabulary import words
from gradvitals.vocabulary.errors import InputError, UsageError, VerdictError
from gradvitals.vocabulary.finding import Estimate, Fact, Finding, Severity, Site

SCHEMA_VERSION = 1

#: Tables whose cells are names, never numbers: there the text "inf" stays a text.
_TEXT_COLUMNS = frozenset({"path", "role", "dtype", "status", "grade", "likely", "kind", "patient", "scheme", "reason"})


class Verdict(enum.Enum):
    """The outcome of a report: the worst of its findings' severities, never assigned."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    WARN = "warn"
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"


_VERDICT_OF = {
    Severity.INFO: Verdict.PASS,
    Severity.WARNING: Verdict.WARN,
    Severity.UNRESOLVED: Verdict.INCONCLUSIVE,
    Severity.ERROR: Verdict.FAIL,
}


@dataclass(frozen=True, slots=True)
class Table:
    """Plain rows under named columns; summaries only, tensors never enter a report.

    Parameters
    ----------
    name : str
        A stable name such as ``"layers"``.
    columns : tuple of str
    units : tuple of str
        One per column; ``""`` where there is none.
    rows : tuple of tuples of Fact

    Raises
    ------
    ValueError
        When a row's or the units' length is not that of the columns.

    """

    name: str
    columns: tuple[str, ...]
    units: tuple[str, ...]
    rows: tuple[tuple[Fact, ...], ...]

    def __post_init__(self) -> None:
        lengths = {len(self.columns), len(self.units), *(len(row) for row in self.rows)}
        if len(lengths) > 1:
            raise ValueError(f"table {self.name!r}: columns, units and rows differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> tuple[Fact, ...]:
        """All values of one column."""
        at = self.columns.index(name)
        return tuple(row[at] for row in self.rows)

    def records(self) -> Iterator[dict[str, Fact]]:
        """The rows as dictionaries."""
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)


@dataclass(frozen=True, slots=True)
class Report:
    """What a verb found, as frozen data.

    Parameters
    ----------
    verb : str
        ``"check"``, ``"probe"``, …
    subject : str
        What was examined, by name.
    findings : tuple of Finding
    tables : tuple of Table
    settings : mapping
        What was asked: seed, sensitivity, …
    environment : mapping
        Versions of what it ran on.
    cost : mapping
        What it took: seconds, evaluations.
    parts : tuple of Report
        Reports that this one shows (the demo's examinations); they don't enter the verdict.

    """

    verb: str
    subject: str
    findings: tuple[Finding, ...] = ()
    tables: tuple[Table, ...] = ()
    settings: Mapping[str, Fact] = field(default_factory=dict)
    environment: Mapping[str, Fact] = field(default_factory=dict)
    cost: Mapping[str, Fact] = field(default_factory=dict)
    parts: tuple[Report, ...] = ()

    def __post_init__(self) -> None:
        for name in ("settings", "environment", "cost"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings' severities; PASS without findings."""
        return _VERDICT_OF[max((finding.severity for finding in self.findings), default=Severity.INFO)]

    @property
    def ok(self) -> bool:
        """PASS or WARN. *Inconclusive* is not ok: cannot tell never turns into a pass."""
        return self.verdict in (Verdict.PASS, Verdict.WARN)

    def table(self, name: str) -> Table:
        """The table of that name; KeyError naming the ones there are."""
        for table in self.tables:
            if table.name == name:
                return table
        raise KeyError(f"no table {name!r} in this {self.verb} report; there are: {[t.name for t in self.tables]}")

    def raise_for_verdict(self) -> Report:
        """Return the report when it is ok, else raise a VerdictError that shows the findings."""
        if self.ok:
            return self
        raise VerdictError(f"{self.verb} of {self.subject}: {self.verdict.value}", str(self), "see the remedy above")

    def __str__(self) -> str:
        return self.render("text")

    def _repr_html_(self) -> str:
        return self.render("fragment")

    def render(self, form: str, *, lang: str = "en") -> str:
        """Render as ``"text"``, ``"brief"`` (a few lines of it), ``"html"``, ``"fragment"`` (HTML without a page around
        it) or ``"json"``.
        """
        if form == "json":
            return self.to_json(lang=lang)
        module = {"text": "text", "brief": "brief", "html": "html", "fragment": "html"}.get(form)
        if module is None:
            raise UsageError(f"no renderer {form!r}", f"render({form!r})", "use text, brief, html, fragment or json")
        # The one late binding of the house: renderers read reports, so a report can only find them by name.
        renderer = importlib.import_module(f"gradvitals.render.{module}")
        return str(getattr(renderer, form)(self, lang=lang))

    def save(self, path: str | os.PathLike[str], *, form: str | None = None, lang: str = "en") -> Path:
        """Write the report; the ending chooses the form: ``.html``, ``.json`` or ``.txt``.

        The file appears whole or not at all.

        Parameters
        ----------
        path : str or path
        form : str, optional
            ``"html"``, ``"json"`` or ``"text"``, whatever the ending.
        lang : str

        Returns
        -------
        pathlib.Path

        Raises
        ------
        InputError
            On another ending without a form, a folder that isn't there, or a place that can't be written to.

        """
        target = Path(path)
        form = form or {".html": "html", ".htm": "html", ".json": "json", ".txt": "text"}.get(target.suffix.lower())
        if form is None:
            raise InputError(
                "can't tell the format from the file's name",
                f"save({str(path)!r})",
                "end the name in .html, .json or .txt",
            )
        if not target.parent.is_dir():
            raise InputError("the folder isn't there", f"save({str(path)!r})", f"make the folder {target.parent} first")
        content = self.render(form, lang=lang)
        try:
            _write_whole(target.resolve(), content)
        except OSError as error:
            raise InputError(
                "the file can't be written",
                f"save({str(path)!r}): {error.strerror or error}",
                "choose another place for it",
            ) from error
        return target

    def to_json(self, *, lang: str = "en", indent: int | None = 2) -> str:
        """Write as JSON (``docs/report.schema.json``); non-finite numbers are ``"nan"``, ``"inf"``, ``"-inf"``."""
        return json.dumps(_report_data(self, lang), ensure_ascii=False, indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what :meth:`to_json` wrote. Raises InputError on anything else."""
        try:
            data = json.loads(text)
            version = data["schema_version"]
            if version != SCHEMA_VERSION:
                raise InputError(
                    "a report of another schema version",
                    f"schema_version is {version!r}, this gradvitals reads {SCHEMA_VERSION}",
                    "read it with the gradvitals that wrote it",
                )
            return _report_from(data)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                "not a gradvitals report",
                f"{type(error).__name__}: {error}",
                "pass the text that Report.to_json() or --json wrote",
            ) from error


def _write_whole(target: Path, content: str) -> None:
    """Write beside the target, then put it in its place at once; a device or a pipe can only be written to."""
    import tempfile

    if target.exists() and not target.is_file() and not target.is_dir():
        target.write_text(content, encoding="utf-8", errors="replace")
        return
    scratch: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="replace", dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            scratch = Path(file.name)
            file.write(content)
        scratch.chmod(0o644)
        scratch.replace(target)
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)


def _plain(value: Fact) -> Any:
    """A fact as JSON data."""
    if isinstance(value, Estimate):
        return {"value": _plain(value.value), "error": _plain(value.error), "unit": value.unit}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _fact(data: Any, *, is_text: bool = False) -> Fact:
    """JSON data as a fact."""
    if isinstance(data, dict):
        return Estimate(_number(data["value"]), _number(data["error"]), _text(data["unit"]))
    if isinstance(data, list):
        return tuple(_fact(item, is_text=is_text) for item in data)
    if isinstance(data, str) and not is_text:
        return _NON_FINITE.get(data, data)
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    raise TypeError(f"unexpected value {data!r}")


def _number(data: Any) -> float:
    return _NON_FINITE[data] if isinstance(data, str) else float(data)


def _text(data: Any) -> str:
    if not isinstance(data, str):
        raise TypeError(f"a text was expected, not {data!r}")
    return data


def _list(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise TypeError(f"a list was expected, not {data!r}")
    return data


def _mapping(data: Mapping[str, Any]) -> dict[str, Fact]:
    return {key: _fact(value, is_text=key in _TEXT_COLUMNS) for key, value in data.items()}


def _report_data(report: Report, lang: str) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "verb": report.verb,
        "subject": report.subject,
        "verdict": report.verdict.value,
        "findings": [_finding_data(finding, lang) for finding in report.findings],
        "tables": [
            {
                "name": table.name,
                "columns": list(table.columns),
                "units": list(table.units),
                "rows": [[_plain(cell) for cell in row] for row in table.rows],
            }
            for table in report.tables
        ],
        "settings": {key: _plain(value) for key, value in report.settings.items()},
        "environment": {key: _plain(value) for key, value in report.environment.items()},
        "cost": {key: _plain(value) for key, value in report.cost.items()},
        "parts": [_report_data(part, lang) for part in report.parts],
    }


def _finding_data(finding: Finding, lang: str) -> dict[str, Any]:
    said = words.describe(finding, lang)
    return {
        "code": finding.code,
        "name": finding.name,
        "severity": finding.severity.label,
        "site": {
            "path": finding.site.path,
            "index": None if finding.site.index is None else list(finding.site.index),
            "step": finding.site.step,
        },
        "evidence": {key: _plain(value) for key, value in finding.evidence.items()},
        "confidence": finding.confidence,
        "text": said.text,
        "remedy": said.remedy,
    }


def _report_from(data: Mapping[str, Any]) -> Report:
    return Report(
        verb=_text(data["verb"]),
        subject=_text(data["subject"]),
        findings=tuple(_finding_from(item) for item in _list(data["findings"])),
        tables=tuple(_table_from(item) for item in _list(data["tables"])),
        settings=_mapping(data["settings"]),
        environment=_mapping(data["environment"]),
        cost=_mapping(data["cost"]),
        parts=tuple(_report_from(item) for item in _list(data["parts"])),
    )


def _finding_from(data: Mapping[str, Any]) -> Finding:
    site = data["site"]
    index = None if site["index"] is None else tuple(int(i) for i in _list(site["index"]))
    step = None if site["step"] is None else int(site["step"])
    return Finding(
        code=data["code"],
        severity=Severity[data["severity"].upper()],
        site=Site(_text(site["path"]), index, step),
        evidence=_mapping(data["evidence"]),
        confidence=float(data["confidence"]),
    )


def _table_from(data: Mapping[str, Any]) -> Table:
    is_text = [column in _TEXT_COLUMNS for column in data["columns"]]
    return Table(
        name=_text(data["name"]),
        columns=tuple(map(_text, _list(data["columns"]))),
        units=tuple(map(_text, _list(data["units"]))),
        rows=tuple(
            tuple(_fact(cell, is_text=text) for cell, text in zip(row, is_text, strict=True))
            for row in _list(data["rows"])
        ),
    )
