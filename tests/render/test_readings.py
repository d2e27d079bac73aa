"""What a reader can't guess is said: what columns hold, how it was evaluated, and why numbers seem to disagree."""

from __future__ import annotations

import math

import pytest

from gradvitals.render import phrases, tables
from gradvitals.render.text import text
from gradvitals.vocabulary import Fact, Finding, Report, Severity, Site, Table
from gradvitals.vocabulary.words import LANGUAGES, describe

COLUMNS = ("path", "role", "shape", "dtype", "status", "relative_error", "resolution", "entry_resolution", "grade")


def table(*rows: tuple[Fact, ...]) -> Table:
    return Table("tensors", COLUMNS, ("",) * len(COLUMNS), rows)


def row(status: str, error: float, resolution: float, grade: str | None = None) -> tuple[Fact, ...]:
    return ("w", "parameter", (3,), "float32", status, error, resolution, 2 * resolution, grade)


def told(shown: Table) -> str:
    return " ".join(text(Report("check", "layer", (), (shown,))).split())


def test_the_columns_that_are_shown_are_explained() -> None:
    said = told(table(row("right", 1e-9, 1e-8, "exact")))
    assert "Per entry: the smallest error of one entry alone" in said
    assert "exact below 1e-07, acceptable below 1e-04, suspicious below 1e-02, then large" in said


def test_a_column_that_is_not_shown_is_not_explained() -> None:
    said = told(table(row("right", 1e-9, 1e-8)))
    assert "The grades are" not in said


def test_columns_are_explained_once_over_all_parts() -> None:
    part = Report("check", "part", (), (table(row("right", 1e-9, 1e-8, "exact")),))
    assert text(Report("demo", "all", (), (), parts=(part, part))).count("Per entry:") == 1


def test_a_right_gradient_with_an_error_above_the_resolution_is_explained() -> None:
    rounded = told(table(row("right", 2e-4, 1e-6, "suspicious")))
    assert "rounding in the tensor's own type makes the difference" in rounded
    assert "within what the measurement resolves" not in rounded
    assert "makes the difference" not in told(table(row("right", 2e-7, 1e-6, "acceptable")))
    assert "makes the difference" not in told(table(row("wrong", 2e-4, 1e-6, "suspicious")))


def test_what_could_not_be_measured_is_no_number() -> None:
    sheet = tables.sheet(table(row("unresolved", math.nan, math.inf)), "en")
    cells = {column.key: column.cells[0] for column in sheet.columns}
    assert (cells["relative_error"], cells["resolution"], cells["entry_resolution"]) == ("–", "∞", "∞")


def test_what_was_found_of_a_tensor_comes_before_what_it_is() -> None:
    sheet = tables.sheet(table(row("right", 1e-9, 1e-8, "exact")), "en")
    assert [column.key for column in sheet.columns][:2] == ["path", "status"]
    assert [column.key for column in sheet.columns][-3:] == ["role", "shape", "dtype"]


@pytest.mark.parametrize("calls", [(0, 0), (0, 1)])
def test_the_number_of_a_call_is_shown_where_a_layer_runs_several_times(calls: tuple[int, int]) -> None:
    modules = Table("modules", ("path", "call"), ("", ""), tuple(("layer", call) for call in calls))
    assert ("call" in [column.key for column in tables.sheet(modules, "en").columns]) == any(calls)


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("evaluation", "batched"),
        ("evaluation", "sequential"),
        ("evaluation", "sequential: custom-function"),
        ("evaluation", "sequential: reads-values"),
        ("evaluation", "sequential: shape-depends-on-values"),
        ("evaluation", "sequential: writes-in-place"),
        ("evaluation", "sequential: no-batching-rule"),
        ("evaluation", "sequential: vmap-failed"),
        ("evaluation", "sequential: values-differ"),
        ("evaluation", "sequential: compiled"),
        ("precision", "auto"),
        ("precision", "native"),
    ],
)
def test_settings_and_costs_are_said_in_words(key: str, value: str, lang: str) -> None:
    said = phrases.setting_value(key, value, lang)
    assert value not in said
    assert said.endswith((")", "）")) == (":" in value)
    assert not any(word in said for word in value.partition(": ")[2].split() if "-" in word)


def test_a_reason_without_a_word_stays_as_it_is() -> None:
    assert phrases.setting_value("evaluation", "sequential: TypeError", "en") == "point by point (TypeError)"
    assert phrases.setting_value("precision", "float64", "en") == "float64"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_wrong_entry_of_a_layer_at_fault_is_named_by_its_place_in_the_layer(lang: str) -> None:
    facts: dict[str, Fact] = {"tensors": ("0.weight",), "place": "1(x)[0, 2]", "numeric": 1.0, "analytic": 2.0}
    assert "1(x)[0, 2]" in describe(Finding("G101", Severity.ERROR, Site("1"), facts), lang).text
    without = {key: fact for key, fact in facts.items() if key != "place"}
    assert "w[3]" in describe(Finding("G101", Severity.ERROR, Site("w", (3,)), without), lang).text
