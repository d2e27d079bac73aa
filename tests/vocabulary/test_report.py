"""Reports: a derived verdict, a lossless journey through JSON, files that appear whole or not at all."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradvitals.vocabulary import (
    NAMES,
    Estimate,
    Finding,
    InputError,
    Report,
    Severity,
    Site,
    Table,
    UsageError,
    Verdict,
    VerdictError,
)
from gradvitals.vocabulary.report import _TEXT_COLUMNS
from gradvitals.vocabulary.words import LANGUAGES

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "report.schema.json").read_text(encoding="utf-8"))

#: "nan", "inf" and "-inf" are how numbers travel: a text of that spelling comes back as a number, as the schema says.
texts = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda text: text not in {"nan", "inf", "-inf"})
#: Columns and facts of names (path, status, …) never hold numbers: a name "inf" stays a name there, tested below.
keys = texts.filter(lambda key: key not in _TEXT_COLUMNS)
numbers = st.floats(allow_nan=True, allow_infinity=True)
estimates = st.builds(Estimate, numbers, numbers, texts)
atoms = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | numbers | texts | estimates
facts = st.recursive(atoms, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)
mappings = st.dictionaries(keys, facts, max_size=3)
sites = st.builds(
    Site,
    texts,
    st.none() | st.lists(st.integers(0, 9), max_size=3).map(tuple),
    st.none() | st.integers(0, 10**9),
)
findings = st.builds(
    Finding, st.sampled_from(sorted(NAMES)), st.sampled_from(Severity), sites, mappings, st.floats(0, 1)
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    width = draw(st.integers(0, 3))
    columns = draw(st.lists(keys, min_size=width, max_size=width))
    row = st.tuples(*[facts] * width)
    return Table(
        draw(texts), tuple(columns), tuple(draw(texts) for _ in columns), tuple(draw(st.lists(row, max_size=3)))
    )


flat = st.builds(
    Report,
    texts,
    texts,
    st.lists(findings, max_size=2).map(tuple),
    st.lists(tables(), max_size=2).map(tuple),
    mappings,
    mappings,
    mappings,
)
reports = st.builds(
    lambda report, parts: Report(
        report.verb,
        report.subject,
        report.findings,
        report.tables,
        report.settings,
        report.environment,
        report.cost,
        tuple(parts),
    ),
    flat,
    st.lists(flat, max_size=1),
)


def same(a: Any, b: Any) -> bool:
    """Equality in which NaN equals NaN, and True is not 1."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if type(a) is not type(b):
        return False
    if isinstance(a, (dict, MappingProxyType)):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if is_dataclass(a):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))
    return bool(a == b)


@given(reports)
@settings(max_examples=150, deadline=None)
def test_a_report_comes_back_from_json_as_it_was(report: Report) -> None:
    text = report.to_json()
    again = Report.from_json(text)
    assert same(again, report)
    assert again.to_json() == text


@given(reports)
@settings(max_examples=60, deadline=None)
def test_what_is_written_follows_the_published_schema(report: Report) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(report.to_json(indent=None)))


def test_the_schema_itself_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_json_never_holds_a_bare_nan() -> None:
    table = Table("entries", ("path", "numeric"), ("", ""), (("inf", math.inf), ("nan", math.nan), ("a", -math.inf)))
    text = Report("check", "f", (), (table,)).to_json()

    def refuse(constant: str) -> None:
        pytest.fail(f"bare {constant} in JSON")

    assert json.loads(text, parse_constant=refuse)["tables"][0]["rows"] == [
        ["inf", "inf"],
        ["nan", "nan"],
        ["a", "-inf"],
    ]


def test_a_layer_that_is_called_inf_keeps_its_name() -> None:
    table = Table("entries", ("path", "numeric"), ("", ""), (("inf", math.inf),))
    again = Report.from_json(Report("check", "f", (), (table,)).to_json())
    assert again.table("entries").rows == (("inf", math.inf),)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_words_in_json_follow_the_language_and_facts_do_not(lang: str) -> None:
    report = Report("check", "f", (Finding("G102", Severity.ERROR, Site("w"), {"tensors": ("w",)}),))
    data = json.loads(report.to_json(lang=lang))
    assert data["findings"][0]["name"] == "gradient-missing"
    assert ("no gradient" in data["findings"][0]["text"]) == (lang == "en")
    assert same(Report.from_json(report.to_json(lang=lang)), report)


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "3", "[]", "{}", '"report"', '{"schema_version": 1}', "<html></html>", "[" * 100_000, "nan"],
    ids=lambda text: text[:12],
)
def test_what_is_no_report_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(InputError, match="do: "):
        Report.from_json(text)


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_a_report_of_another_schema_version_is_refused(version: object) -> None:
    data = json.loads(Report("check", "f").to_json()) | {"schema_version": version}
    with pytest.raises(InputError, match="another schema version"):
        Report.from_json(json.dumps(data))


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, child in children for place in _places(child, (*path, key)))]


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_report_is_read_or_refused_but_never_breaks(data: st.DataObject) -> None:
    whole = Report(
        "check",
        "f",
        (Finding("G104", Severity.UNRESOLVED, Site("w", (1,), 2), {"x": Estimate(1.0, 0.1)}),),
        (Table("entries", ("path", "index"), ("", ""), (("w", (1, 2)),)),),
        {"seed": 0},
        parts=(Report("probe", "g"),),
    )
    damaged = copy.deepcopy(json.loads(whole.to_json()))
    place = data.draw(st.sampled_from([path for path in _places(damaged) if path]))
    parent = damaged
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = data.draw(st.sampled_from([None, True, -1, 1.5, "x", "nan", [], [1], {}, {"value": 1}]))
    try:
        report = Report.from_json(json.dumps(damaged))
    except InputError:
        return
    assert str(report)
    assert report.render("html")


def test_the_verdict_is_the_worst_severity() -> None:
    def judged(*severities: Severity) -> Verdict:
        return Report("check", "f", tuple(Finding("G101", s, Site("w")) for s in severities)).verdict

    assert judged() is Verdict.PASS
    assert judged(Severity.INFO) is Verdict.PASS
    assert judged(Severity.WARNING, Severity.INFO) is Verdict.WARN
    assert judged(Severity.WARNING, Severity.UNRESOLVED) is Verdict.INCONCLUSIVE
    assert judged(Severity.UNRESOLVED, Severity.ERROR, Severity.INFO) is Verdict.FAIL


def test_a_part_does_not_enter_the_verdict() -> None:
    sick = Report("probe", "g", (Finding("S203", Severity.ERROR, Site("0")),))
    assert Report("demo", "f", parts=(sick,)).verdict is Verdict.PASS


def test_cannot_tell_is_not_ok() -> None:
    unresolved = Report("check", "f", (Finding("G104", Severity.UNRESOLVED, Site("w")),))
    assert not unresolved.ok
    with pytest.raises(VerdictError, match="could not be resolved"):
        unresolved.raise_for_verdict()


def test_a_warning_is_ok() -> None:
    report = Report("check", "f", (Finding("S206", Severity.WARNING, Site("w")),))
    assert report.ok
    assert report.raise_for_verdict() is report


def test_a_report_is_frozen() -> None:
    report = Report("check", "f", settings={"seed": 0})
    with pytest.raises(TypeError):
        report.settings["seed"] = 1  # type: ignore[index]
    with pytest.raises(AttributeError):
        report.verb = "probe"  # type: ignore[misc]


def test_a_table_whose_rows_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        Table("t", ("a", "b"), ("", ""), ((1,),))


def test_a_missing_table_names_those_there_are() -> None:
    report = Report("check", "f", (), (Table("tensors", (), (), ()),))
    with pytest.raises(KeyError, match=r"no table 'layers'.*tensors"):
        report.table("layers")


def test_a_table_gives_its_columns_and_records() -> None:
    table = Table("t", ("path", "n"), ("", ""), (("a", 1), ("b", 2)))
    assert table.column("n") == (1, 2)
    assert list(table.records()) == [{"path": "a", "n": 1}, {"path": "b", "n": 2}]
    assert len(table) == 2


@pytest.mark.parametrize(
    ("name", "start"), [("r.html", "<!doctype html>"), ("r.json", "{"), ("r.txt", "check"), ("R.HTML", "<!doctype")]
)
def test_the_ending_chooses_the_form(tmp_path: Path, name: str, start: str) -> None:
    saved = Report("check", "f").save(tmp_path / name)
    assert saved == tmp_path / name
    assert saved.read_text(encoding="utf-8").startswith(start)


def test_saving_replaces_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old", encoding="utf-8")
    Report("check", "new").save(str(path))
    assert Report.from_json(path.read_text(encoding="utf-8")).subject == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_while_writing_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.txt"
    path.write_text("old", encoding="utf-8")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InputError, match="disk full"):
        Report("check", "new").save(path)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_form_that_is_asked_for_overrides_the_ending(tmp_path: Path) -> None:
    path = Report("check", "f").save(tmp_path / "report.data", form="json")
    assert Report.from_json(path.read_text(encoding="utf-8")).subject == "f"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "linked.txt").write_text("old", encoding="utf-8")
    (tmp_path / "report.txt").symlink_to(tmp_path / "linked.txt")
    Report("check", "new").save(tmp_path / "report.txt")
    assert (tmp_path / "report.txt").is_symlink()
    assert "new" in (tmp_path / "linked.txt").read_text(encoding="utf-8")


def test_a_folder_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "report.txt").mkdir()
    with pytest.raises(InputError, match="can't be written"):
        Report("check", "new").save(tmp_path / "report.txt")


def test_a_device_is_written_to_and_not_replaced() -> None:
    Report("check", "new").save("/dev/null", form="json")
    assert Path("/dev/null").is_char_device()


def test_a_name_that_is_no_unicode_can_be_saved(tmp_path: Path) -> None:
    for name in ("r.json", "r.html", "r.txt"):
        assert Report("check", "caf\udce9").save(tmp_path / name).stat().st_size


@pytest.mark.parametrize("name", ["report", "report.pdf", "report.html.gz"])
def test_an_unknown_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"end the name in \.html, \.json or \.txt"):
        Report("check", "f").save(tmp_path / name)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the folder isn't there"):
        Report("check", "f").save(tmp_path / "no" / "r.json")


def test_an_unknown_form_or_language_is_refused() -> None:
    with pytest.raises(UsageError, match="no renderer"):
        Report("check", "f").render("pdf")
    with pytest.raises(UsageError, match="no such language"):
        Report("check", "f").render("text", lang="fr")
