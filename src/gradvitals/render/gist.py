"""What a reader of a start's report wants to know first: what was chosen and why, and what it changed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from gradvitals.render import phrases, tables
from gradvitals.vocabulary.report import Report, Table

#: Reasons of a plan by which a network is no plain chain: in branches and before normalisations sizes may differ.
_HELD = frozenset({"normalised", "residual", "attention", "norm", "recurrent"})


def gist(report: Report, lang: str) -> list[str]:
    """Sentences for under the verdict; none where a verb has its findings only."""
    if report.verb not in {"plan_init", "init_"}:
        return []
    return [*_chosen(report, lang), *_changed(report, lang), *_rate(report, lang)]


def _chosen(report: Report, lang: str) -> Iterator[str]:
    why = report.settings.get("why")
    if phrases.lookup("ui", f"chosen_{why}", lang):
        yield phrases.phrase(f"chosen_{why}", lang, method=report.settings.get("method"))


def _changed(report: Report, lang: str) -> Iterator[str]:
    """How far the layers of a plain network lie apart, before and after; its last layer has a scale of its own."""
    found = {table.name: table for table in report.tables}
    if not {"plan", "before", "after"} <= set(found):
        return
    plan = found["plan"]
    if _HELD & set(plan.column("reason")):
        return
    owners = {str(path).rpartition(".")[0] for path in plan.column("path")}
    for size in ("gradient_rms", "forward_std"):
        before, after = (_values(found[side], size, owners) for side in ("before", "after"))
        if len(before) > 1 and len(after) > 1:
            facts = {"layers": len(after), "before": _range(before), "after": _range(after)}
            yield phrases.phrase(f"range_{size}", lang, **facts)


def _values(table: Table, size: str, owners: set[str]) -> list[float]:
    if size not in table.columns:
        return []
    numbers = [tables.number(row[size]) for row in table.records() if row["path"] in owners]
    return [number for number in numbers if number is not None][:-1]


def _range(values: Sequence[float]) -> float:
    """Largest to smallest; infinite where anything is zero or not finite."""
    sound = all(math.isfinite(value) and value > 0 for value in values)
    return max(values) / min(values) if sound else math.inf


def _rate(report: Report, lang: str) -> Iterator[str]:
    rate = report.settings.get("learning_rate")
    if isinstance(rate, float) and all(finding.code != "W306" for finding in report.findings):
        yield phrases.phrase("start_at_rate", lang, rate=rate)
