"""A report on the terminal."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest
from rich.console import Console
from tests.render.conftest import KINDS, demo, layers, treated, vanishing, wrong

from gradvitals.render.layout import width
from gradvitals.render.text import WIDTH, print_report, text
from gradvitals.vocabulary import Finding, Report, Severity, Site, Table
from gradvitals.vocabulary.words import LANGUAGES, word


def lines_with(report: Report, needle: str) -> list[str]:
    return [line for line in text(report).splitlines() if needle in line]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_line_fits_and_holds_no_escape_sequence(report: Report, lang: str) -> None:
    for line in text(report, lang=lang).splitlines():
        assert width(line) <= WIDTH, line
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202e\ud800-\udfff]", line)


def test_the_first_lines_name_the_subject_and_the_outcome() -> None:
    first = text(vanishing()).splitlines()[:3]
    assert first == [
        "probe · SigmoidNet",
        "Does the signal survive the depth?",
        "FAIL  The gradient vanishes on its way back. Further findings: 1.",
    ]


def test_str_of_a_report_is_its_text() -> None:
    assert str(wrong()) == text(wrong())


def test_findings_are_told_worst_first_with_reason_remedy_and_comparison() -> None:
    told = text(vanishing())
    assert told.index("✗ problem  S203 gradient-vanishing") < told.index("! warning  S206 units-saturated")
    assert "    why   The first layers hardly move" in told
    assert "    do    Start the weights with gradvitals.init_(model, x)" in told
    assert "    like  A message whispered down a line" in told
    assert "confidence 95 %" in told


def test_why_and_like_are_said_once_per_code() -> None:
    findings = tuple(Finding("S205", Severity.WARNING, Site(f"{at}"), {"share": 0.5, "units": 4}) for at in range(3))
    told = text(Report("probe", "net", findings))
    assert told.count("50 % of the 4 units") == 3
    assert told.count("    do ") == 3
    assert told.count("    like ") == told.count("    why ") == 1


def test_a_long_table_is_shortened_in_its_middle() -> None:
    told = text(Report("probe", "net", (), (layers("layers", gain=1.0, forward_gain=1.0, depth=19),)))
    assert "  … 14 more rows …" in told.splitlines()
    assert lines_with(Report("probe", "net", (), (layers("layers", gain=1.0, forward_gain=1.0, depth=19),)), "37  ")


def test_a_wrong_tensor_in_the_middle_of_many_is_never_hidden() -> None:
    rows = tuple((f"w{at}", "wrong" if at == 50 else "right") for at in range(100))
    report = Report("check", "net", (), (Table("tensors", ("path", "status"), ("", ""), rows),))
    assert lines_with(report, "w50     wrong")
    assert not lines_with(report, "w49 ")


def test_the_layer_of_a_finding_is_never_hidden() -> None:
    finding = Finding("S205", Severity.WARNING, Site("31"), {"share": 0.5, "units": 4})
    report = Report("probe", "net", (finding,), (layers("layers", gain=0.9, forward_gain=1.0, depth=30),))
    assert lines_with(report, "  31     Sigmoid")


def test_columns_without_a_value_are_left_out() -> None:
    table = Table("tensors", ("path", "grade", "status"), ("", "", ""), (("w", None, "right"),))
    told = text(Report("check", "net", (), (table,)))
    assert "grade" not in told
    assert "  tensor  status" in told.splitlines()


def test_gradients_are_drawn_as_bars_that_grow_towards_the_output() -> None:
    bars = [len(re.sub("[^█]", "", line)) for line in lines_with(vanishing(), " × 64 ")]
    assert bars == sorted(bars)
    assert bars[-1] == 16
    assert bars[0] <= 2


def test_before_and_after_stand_side_by_side() -> None:
    told = text(treated())
    assert "Layer by layer, before and after" in told
    assert "Layer by layer, before\n" not in told
    header = next(line for line in told.splitlines() if "gradient before" in line)
    assert header.split() == "layer kind signal before signal after gradient before gradient after".split()  # noqa: SIM905


def test_the_missing_loss_is_said() -> None:
    told = " ".join(text(vanishing()).split())
    assert "No loss was given: in its place, random numbers of typical size 1 were sent back" in told


def test_a_grade_and_a_status_that_seem_to_differ_are_explained() -> None:
    told = " ".join(text(wrong()).split())
    assert word("ui.grade_lenient") in told
    assert word("ui.grade_strict") not in told
    table = Table("tensors", ("path", "status", "grade"), ("", "", ""), (("w", "wrong", "acceptable"),))
    assert word("ui.grade_strict") in " ".join(text(Report("check", "f", (), (table,))).split())


def test_cost_and_environment_are_in_the_small_print() -> None:
    end = text(vanishing()).splitlines()[-2:]
    assert end[0].startswith("cost       0.31 s · forward passes 1 · backward passes 1")
    assert "torch 2.13.0+cpu" in end[1]


def test_known_settings_are_said_in_the_language() -> None:
    report = Report("plan_init", "net", settings={"mode": "train", "order": "modules", "brand_new": "train"})
    assert text(report, lang="zh-Hans").splitlines()[-1] == "设置  模式：训练 · 层的顺序：按模块排列 · brand_new：train"


def test_lists_take_several_lines_where_there_are_few_rows() -> None:
    found = ("signal-exploding", "gradient-exploding")
    row = ("a network with quite a long name", found, ("gradient-wrong",), (), 42.3, 93.7)
    columns = ("patient", "expected", "found", "found_after", "accuracy_before", "accuracy_after")
    told = text(Report("demo", "d", (), (Table("patients", columns, ("",) * 4 + ("%", "%"), (row,)),)))
    assert "…" not in told
    assert re.search("signal-exploding, +gradient-wrong .*42.3 +93.7\n.* gradient-exploding\n", told + "\n")


def test_what_was_expected_is_not_repeated_where_it_was_found() -> None:
    table = Table("patients", ("patient", "expected", "found"), ("",) * 3, (("a", ("x",), ("x",)), ("b", (), ())))
    assert "  patient  found" in text(Report("demo", "d", (), (table,)))


def test_a_demo_tells_every_part_with_its_story() -> None:
    told = text(demo())
    for at, part in enumerate(demo().parts, start=1):
        assert f"{at}. {part.verb} · {part.subject}" in told
    assert "A network of 20 sigmoid layers" in told
    assert told.count("Every patient got the expected diagnosis.") == 1


def test_a_pass_says_what_it_means() -> None:
    assert "PASS  Every gradient that was checked agrees" in text(Report("check", "f"))
    assert "PASS  No problem found." in text(Report("some_later_verb", "f"))


def _printed(report: Report, **options: object) -> str:
    console = Console(file=io.StringIO(), **options)  # type: ignore[arg-type]
    print_report(report, console=console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_off_a_terminal_the_plain_text_is_printed(report: Report) -> None:
    assert _printed(report).rstrip() == text(report).rstrip()


def test_on_a_terminal_the_verdict_has_a_colour() -> None:
    printed = _printed(wrong(), force_terminal=True, color_system="standard", width=100, _environ={})
    assert "\x1b[1;31mFAIL\x1b[0m" in printed
    assert re.sub(r"\x1b\[[0-9;]*m", "", printed).rstrip() == text(wrong()).rstrip()


def test_no_color_is_respected() -> None:
    printed = _printed(wrong(), force_terminal=True, width=100, _environ={"NO_COLOR": "1", "TERM": "xterm"})
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", printed)


@pytest.mark.parametrize("columns", [20, 60, 80, 300])
def test_lines_follow_the_width_of_the_terminal(columns: int) -> None:
    printed = _printed(demo(), force_terminal=True, width=columns, _environ={})
    widest = max(width(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in printed.splitlines())
    assert widest <= min(max(columns, 48), 120)


def test_very_long_names_fit_as_well() -> None:
    long = "encoder.layers." * 20
    finding = Finding("G102", Severity.ERROR, Site(long), {"tensors": (long,)}, confidence=0.5)
    table = Table(long, ("path", long), ("", long), ((long, long),))
    report = Report(long, long, (finding,), (table,), {long: long, "objective": "random"}, {long: long}, {long: long})
    assert max(map(width, text(Report(long, long, parts=(report,))).splitlines())) <= WIDTH


def test_markup_in_a_name_is_not_obeyed() -> None:
    assert "[bold]net[/bold]" in _printed(Report("check", "[bold]net[/bold]"))


def test_a_terminal_without_unicode_gets_question_marks() -> None:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="cp1252"))
    print_report(vanishing(), console=console)
    console.file.flush()
    assert b"gradient-vanishing" in raw.getvalue()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_saved_report_reads_the_same(kind: str) -> None:
    report = KINDS[kind]()
    assert text(Report.from_json(report.to_json())) == text(report)


def test_plain_text_needs_neither_rich_nor_numpy() -> None:
    code = (
        "import sys; from gradvitals.vocabulary import Report; str(Report('check', 'f'));"
        "sys.exit(', '.join({'rich', 'torch'} & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
