"""The command line: what is printed and written, and with which code it ends."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from pathlib import Path

import jsonschema
import pytest
from tests.conftest import ROOT
from tests.faces.conftest import Run, Shell, command, environment

import gradvitals
from gradvitals.vocabulary import NAMES, Report
from gradvitals.vocabulary.words import LANGUAGES, locale

SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))


def report_of(text: str) -> Report:
    """Read JSON as --json writes it; it must be nothing but that, and follow the schema."""
    jsonschema.validate(json.loads(text), SCHEMA)
    return Report.from_json(text)


# ---- exit codes ----


@pytest.mark.parametrize(
    ("command", "target", "code"),
    [
        ("check", "cases.py:right", 0),
        ("check", "cases.py:wrong", 1),
        ("check", "cases.py:unresolved", 3),
        ("check", "nets.py:sound", 0),
        ("check", "nets.py:two", 0),
        ("probe", "nets.py:sound", 0),
        ("probe", "nets.py:vanishing", 1),
        ("predict", "nets.py:sound", 0),
        ("predict", "nets.py:vanishing", 1),
        ("init", "nets.py:sound", 0),
        ("init", "nets.py:off", 0),
        ("checkup", "cases.py:right", 0),
        ("checkup", "cases.py:wrong", 1),
        ("checkup", "nets.py:two", 0),
    ],
)
def test_the_exit_code_is_that_of_the_verdict(run: Run, command: str, target: str, code: int) -> None:
    result = run(command, target)
    assert (result.exit_code, result.stderr) == (code, "")
    assert result.stdout


def test_probe_looks_at_the_spectrum_when_it_is_asked_to(run: Run) -> None:
    assert "σmax" not in run("probe", "nets.py:sound").stdout
    result = run("probe", "nets.py:sound", "--spectrum")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "σmax" in result.stdout


def test_strict_turns_a_warning_into_a_failure(run: Run) -> None:
    assert run("init", "nets.py:off").exit_code == 0
    assert run("init", "nets.py:off", "--strict").exit_code == 1
    assert run("init", "nets.py:sound", "--strict").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("check", "nowhere.py:make"), "the file isn't there"),
        (("check", "cases.py:make"), "cases.py has no function 'make'"),
        (("check", "cases.py"), "a case is named FILE.py:FACTORY"),
        (("check", "cases.py:right", "--sensitivity", "7"), "the sensitivity is not a relative error"),
        (("check", "nets.py:sound", "--wrt", "nothing"), "no tensor is called 'nothing'"),
        (("check", "nets.py:broken"), "raised"),
        (("probe", "nets.py:broken"), "raised"),
        (("checkup", "nets.py:broken"), "raised"),
        (("probe", "cases.py:right"), "the layers of this model can't be seen"),
        (("init", "cases.py:right"), "there are no weights to be seen"),
        (("init", "nets.py:sound", "--method", "hee"), "no method is called 'hee'"),
        (("explain", "gradient-vanishes"), "no finding is called 'gradient-vanishes'"),
        (("check", "cases.py:right", "--json", "no/folder/report.json"), "the folder isn't there"),
        (("check", "cases.py:right", "--html", "no/folder/report.html"), "the folder isn't there"),
        (("check", "cases.py:right", "--json", "."), "this is a folder"),
        (("demo", "--html", "no/folder/page.html"), "the folder isn't there"),
    ],
)
def test_misuse_ends_with_two_and_three_parts_on_standard_error(
    run: Run, arguments: tuple[str, ...], what: str
) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    first, *others = result.stderr.splitlines()
    assert first.startswith("error: ")
    assert what in first
    assert [line.strip().partition(":")[0] for line in others] == ["where", "do"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("chekc", "cases.py:right"), "No such command 'chekc'"),
        (("check", "cases.py:right", "--jsn", "-"), "No such option '--jsn'. Did you mean '--json'?"),
        (("check",), "Missing argument 'FILE.py:FACTORY'"),
        (("check", "cases.py:right", "--seed", "-1"), "-1 is not in the range"),
        (("check", "cases.py:right", "--seed", str(2**40)), "is not in the range"),
        (("check", "cases.py:right", "--seed", "x"), "'x' is not a valid integer"),
        (("check", "cases.py:right", "--lang", "fr"), "'fr' is not one of 'en', 'zh-hans', 'zh-hant'"),
        (("check", "cases.py:right", "--format", "xml"), "'xml' is not 'text'"),
        (("demo", "--write", "mine.py", "tensorflow"), "'tensorflow' is not one of 'numpy', 'module', 'function'"),
        (("demo", "--write", "mine.py"), "requires 2 arguments"),
    ],
)
def test_what_click_refuses_is_misuse_as_well(run: Run, arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_model_that_ends_the_program_is_no_pass(run: Run) -> None:
    result = run("check", "nets.py:stopping")
    assert result.exit_code == 2
    assert "ended the program" in result.stderr


def test_places_are_looked_at_before_the_work(run: Run) -> None:
    """A typing mistake in --html must not cost a minute of measuring: the file that isn't there isn't even reached."""
    assert "the folder isn't there" in run("check", "nowhere.py:make", "--html", "no/folder/report.html").stderr


def test_the_largest_seed_works_everywhere(run: Run) -> None:
    for verb in ("check", "probe", "init"):
        assert run(verb, "nets.py:sound", "--seed", str(2**32 - 1)).exit_code == 0


def test_codes_and_messages_arrive_through_a_real_process(shell: Shell) -> None:
    assert shell("check", "cases.py:right").returncode == 0
    wrong = shell("check", "cases.py:wrong")
    assert wrong.returncode == 1
    assert "a factor 2 is missing" in " ".join(wrong.stdout.split())
    misuse = shell("check", "cases.py:make")
    assert (misuse.returncode, misuse.stdout) == (2, "")
    assert misuse.stderr.startswith("error: cases.py has no function 'make'\n  where: ")
    assert shell("check", "cases.py:unresolved").returncode == 3


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_ends_with_130_and_writes_nothing(folder: Path) -> None:
    (folder / "slow.py").write_text(
        "import sys, time\nimport gradvitals as gv\n"
        "def f(x):\n    print('running', file=sys.stderr, flush=True)\n    time.sleep(30)\n    return x\n"
        "def make(): return gv.Case(f, (1.0,), grad=lambda x: 1.0)\n",
        encoding="utf-8",
    )
    before = sorted(folder.rglob("*"))
    process = subprocess.Popen(
        [str(command()), "check", "slow.py:make", "--json", "report.json", "--html", "report.html"],
        env={**environment(), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        assert process.stderr.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert error == "interrupted; the model and the files are as they were\n"
    assert sorted(folder.rglob("*")) == before


def test_a_reader_who_leaves_early_gets_no_traceback(folder: Path) -> None:
    name = shlex.quote(str(command()))
    line = f"{name} explain S203 | true; {name} check cases.py:right | head -1"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, env=environment())
    assert result.stdout.startswith("check ·")
    assert "Traceback" not in result.stderr


# ---- what is printed and written ----


def test_json_on_standard_output_is_nothing_but_json(run: Run) -> None:
    result = run("check", "cases.py:chatty", "--json", "-")
    assert result.exit_code == 0
    assert report_of(result.stdout).verb == "check"
    assert "loading" in result.stderr
    assert "running" in result.stderr


@pytest.mark.parametrize("verb", ["check", "probe", "init", "checkup"])
def test_json_of_every_verb_follows_the_schema(run: Run, verb: str) -> None:
    report = report_of(run(verb, "nets.py:sound", "--json", "-").stdout)
    assert report.ok
    assert {"seed", "objective"} & set(report.settings)


def test_json_can_be_written_to_any_name(run: Run, folder: Path) -> None:
    for name in ("report.json", "report.data", "report"):
        result = run("check", "cases.py:wrong", "--json", name)
        assert result.exit_code == 1
        assert report_of((folder / name).read_text(encoding="utf-8")).verdict.value == "fail"
        assert f"-> {name}" in result.stdout


def test_a_pipe_and_a_device_are_written_to(shell: Shell) -> None:
    assert shell("check", "cases.py:right", "-q", "--json", "/dev/null", "--html", "/dev/null").returncode == 0
    assert Path("/dev/null").is_char_device()


def test_the_page_is_complete_and_may_have_any_name(run: Run, folder: Path) -> None:
    for name in ("report.html", "page"):
        assert run("check", "cases.py:wrong", "--html", name).exit_code == 1
        page = (folder / name).read_text(encoding="utf-8")
        assert page.startswith("<!doctype html>")
        assert "gradient-wrong" in page


def test_quiet_prints_nothing_but_still_writes(run: Run, folder: Path) -> None:
    result = run("check", "cases.py:wrong", "--quiet", "--json", "report.json", "--html", "report.html")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "")
    assert (folder / "report.json").exists()
    assert (folder / "report.html").exists()
    assert run("init", "nets.py:sound", "-q").stdout == ""
    assert "the file isn't there" in run("check", "nowhere.py:make", "-q").stderr


def test_text_is_the_default_format(run: Run) -> None:
    plain, asked = (run("check", "cases.py:right", *form).stdout for form in ((), ("--format", "text")))
    timeless = [line for line in plain.partition("\ncost")[0].splitlines() if line]
    assert [line for line in asked.partition("\ncost")[0].splitlines() if line] == timeless
    assert not any("\x1b" in line for line in timeless)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_report_is_in_the_language_that_was_asked_for(run: Run, folder: Path, lang: str) -> None:
    result = run("check", "cases.py:wrong", "--lang", lang, "--html", "page.html", "--json", "report.json")
    title = locale(lang)["findings"]["G101"]["title"]
    assert title in result.stdout
    assert title in (folder / "page.html").read_text(encoding="utf-8")
    said = json.loads((folder / "report.json").read_text(encoding="utf-8"))["findings"][0]["text"]
    assert (any("一" <= letter <= "鿿" for letter in said)) == (lang != "en")


def test_languages_are_known_in_any_case(run: Run) -> None:
    assert run("explain", "S203", "--lang", "zh-hans").stdout == run("explain", "S203", "--lang", "zh-Hans").stdout


def test_the_seed_is_the_seed_of_the_report(run: Run) -> None:
    for verb in ("check", "probe", "init", "checkup"):
        report = report_of(run(verb, "nets.py:sound", "--seed", "7", "--json", "-").stdout)
        assert report.settings["seed"] == 7
    first, second, other = (
        report_of(run("check", "nets.py:sound", "--seed", seed, "--json", "-").stdout).tables for seed in "778"
    )
    assert first == second != other


def test_wrt_chooses_tensors(run: Run) -> None:
    result = run("check", "nets.py:sound", "--wrt", "0.*", "--wrt", "2.bias", "--json", "-")
    assert report_of(result.stdout).table("tensors").column("path") == ("0.weight", "0.bias", "2.bias")


def test_sensitivity_that_can_not_be_reached_is_inconclusive(run: Run) -> None:
    result = run("check", "nets.py:sound", "--sensitivity", "1e-9", "--json", "-")
    assert result.exit_code == 3
    assert report_of(result.stdout).settings["sensitivity"] == 1e-9


def test_two_inputs_and_a_loss_are_passed_on(run: Run) -> None:
    report = report_of(run("check", "nets.py:two", "--json", "-").stdout)
    assert {"x", "y"} <= set(report.table("tensors").column("path"))
    assert report.settings["objective"] == "loss"


def test_init_prints_the_plan_and_a_line_that_works(run: Run) -> None:
    result = run("init", "nets.py:vanishing", "--seed", "3", "--distribution", "uniform", "--method", "xavier")
    line = result.stdout.splitlines()[0].partition("The line to paste:")[2].strip()
    assert line == "gradvitals.init_(model, *inputs, method='xavier', distribution='uniform', seed=3)"
    assert "The plan for the weights" in result.stdout
    import nets  # type: ignore[import-not-found]  # what the command imported just now

    model, inputs = nets.vanishing()
    report = eval(line, {"gradvitals": gradvitals, "model": model, "inputs": (inputs,)})  # noqa: S307
    assert report.settings["method"] == "xavier"


def test_init_changes_nothing(run: Run) -> None:
    plan = report_of(run("init", "nets.py:vanishing", "--json", "-").stdout)
    assert plan.verb == "plan_init"
    assert set(plan.table("plan").column("reason")) != {""}


def test_a_terminal_that_can_not_show_chinese_gets_question_marks(shell: Shell) -> None:
    result = shell("explain", "S203", "--lang", "zh-Hans", PYTHONIOENCODING="cp437")
    assert result.returncode == 0
    assert "S203 gradient-vanishing" in result.stdout
    assert "?????" in result.stdout
    assert shell("check", "cases.py:wrong", "--lang", "zh-Hant", PYTHONIOENCODING="cp437").returncode == 1
    result = shell("check", "cases.py:wrong", "--lang", "zh-Hant", "--json", "-", PYTHONIOENCODING="cp437")
    assert report_of(result.stdout).verdict.value == "fail"


# ---- help and explanations ----


def test_help_names_every_command_in_the_order_of_a_first_day(run: Run) -> None:
    result = run("--help")
    assert result.exit_code == 0
    listed = [line.split()[0] for line in result.stdout.partition("Commands:")[2].splitlines() if line.strip()]
    assert [word for word in listed if word.isalpha() and word.islower()][:8] == [
        "demo", "checkup", "check", "probe", "predict", "scaling", "init", "explain",
    ]  # fmt: skip
    for code in ("0 pass", "1 fail", "2 misuse", "3 inconclusive"):
        assert code in " ".join(result.stdout.split())


@pytest.mark.parametrize("verb", ["demo", "checkup", "check", "probe", "init"])
def test_every_examining_command_has_the_common_options(run: Run, verb: str) -> None:
    said = run(verb, "-h").stdout
    for option in ("--json", "--html", "--format", "--lang", "--strict", "--seed", "--quiet"):
        assert option in said


def test_the_version_is_told(run: Run) -> None:
    assert run("--version").stdout == f"gradvitals, version {gradvitals.__version__}\n"


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("code", sorted(NAMES))
def test_every_finding_is_explained_by_its_code_and_by_its_name(run: Run, code: str, lang: str) -> None:
    by_code, by_name = (run("explain", name, "--lang", lang) for name in (code.lower(), NAMES[code]))
    assert by_code.exit_code == 0
    assert by_code.stdout == by_name.stdout
    words = locale(lang)["findings"][code]
    assert by_code.stdout.startswith(f"{code} {NAMES[code]} · {words['title']}\n")
    flowing = "".join(by_code.stdout.split())
    for sentence in (words["what"], words["why"], words["general_remedy"], words["like"]):
        assert "".join(sentence.split()) in flowing


@pytest.mark.parametrize("lang", LANGUAGES)
def test_explanations_fit_into_a_hundred_columns(run: Run, lang: str) -> None:
    from gradvitals.render.layout import width

    for code in NAMES:
        assert max(map(width, run("explain", code, "--lang", lang).stdout.splitlines())) <= 100


def test_an_unknown_finding_gets_suggestions(run: Run) -> None:
    said = run("explain", "gradient-vanished").stderr
    assert "did you mean gradient-vanishing" in said
    assert "Known: G101 gradient-wrong" in said
