"""The demo: every patient gets its diagnosis, the treatment helps, and where something is amiss the demo says so."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from tests.conftest import ROOT
from tests.faces.conftest import Run, Shell

from gradvitals.faces import demo, numpy_patients, torch_patients
from gradvitals.faces.cli import main
from gradvitals.vocabulary import MissingDependencyError, Report, Verdict
from gradvitals.vocabulary.words import LANGUAGES, locale

SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))
KEYS = ("vanishing", "exploding", "wrong-layer", "wrong-function", "sound")


@dataclass(frozen=True)
class Demonstration:
    """What one run of the demo left behind."""

    code: int
    printed: str
    page: str
    report: Report


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Demonstration:
    """The whole demo, run once."""
    folder = tmp_path_factory.mktemp("demo")
    files = [f"--html={folder / 'demo.html'}", f"--json={folder / 'demo.json'}"]
    result = CliRunner(catch_exceptions=False).invoke(main, ["demo", *files])
    assert sorted(file.name for file in folder.iterdir()) == ["demo.html", "demo.json"]
    text = (folder / "demo.json").read_text(encoding="utf-8")
    jsonschema.validate(json.loads(text), SCHEMA)
    page = (folder / "demo.html").read_text(encoding="utf-8")
    return Demonstration(result.exit_code, result.stdout, page, Report.from_json(text))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train for two steps only, and check a shallow network: a diagnosis needs no more."""
    monkeypatch.setattr(torch_patients, "STEPS", 2)
    monkeypatch.setattr(torch_patients, "_SOUND_DEPTH", 2)
    monkeypatch.setattr(torch_patients, "_LOOK_EVERY", 1)


def patients(report: Report) -> dict[str, dict[str, Any]]:
    """The rows of the table of patients by the keys of their stories."""
    keys = [str(part.settings["story"]) for part in report.parts]
    return dict(zip(keys, report.table("patients").records(), strict=True))


def test_every_patient_gets_the_expected_diagnosis_and_is_well_after_treatment(whole: Demonstration) -> None:
    assert (whole.code, whole.report.verdict) == (0, Verdict.PASS)
    rows = patients(whole.report)
    assert tuple(rows) == KEYS
    assert {key: row["found"] for key, row in rows.items()} == {
        "vanishing": ("gradient-vanishing", "inputs-collapsed"),
        "exploding": ("signal-exploding", "gradient-exploding"),
        "wrong-layer": ("gradient-wrong",),
        "wrong-function": ("gradient-wrong",),
        "sound": (),
    }
    assert {key: row["found_after"] for key, row in rows.items()} == dict.fromkeys(KEYS[:4], ()) | {"sound": None}


def test_treatment_makes_the_networks_learn(whole: Demonstration) -> None:
    rows = patients(whole.report)
    assert rows["vanishing"]["accuracy_before"] < 20  # ten classes: guessing gives about 10 %
    assert rows["vanishing"]["accuracy_after"] >= 85
    assert rows["exploding"]["accuracy_after"] >= 85
    assert rows["exploding"]["accuracy_before"] < rows["exploding"]["accuracy_after"] - 20


def test_both_versions_are_trained_for_the_same_few_hundred_steps(whole: Demonstration) -> None:
    for part in whole.report.parts[:2]:
        training = part.table("training")
        assert training.column("step") == tuple(range(0, torch_patients.STEPS + 1, 10))
        assert part.settings["steps"] == torch_patients.STEPS == 300


def test_the_vanishing_patient_shows_what_is_lost_and_where(whole: Demonstration) -> None:
    part = whole.report.parts[0]
    (finding,) = [finding for finding in part.findings if finding.name == "gradient-vanishing"]
    assert finding.evidence["left"] < 1e-12
    assert finding.evidence["lost_at"] == "layer18"
    gradients = dict(zip(part.table("before").column("path"), part.table("before").column("gradient_rms"), strict=True))
    healthy = dict(zip(part.table("after").column("path"), part.table("after").column("gradient_rms"), strict=True))
    assert gradients["layer1"] < 1e-12 * gradients["layer20"]
    assert healthy["layer1"] > 1e-2 * healthy["layer20"]


def test_the_missing_factor_is_named_with_its_entry_and_both_numbers(whole: Demonstration) -> None:
    for part in whole.report.parts[2:4]:
        (finding,) = part.findings
        assert finding.evidence["likely"] == "factor-missing"
        assert finding.evidence["name"] == "2"
        assert finding.site.index is not None
        assert finding.evidence["numeric"].value == pytest.approx(2 * finding.evidence["analytic"])
        assert 0 <= finding.evidence["numeric"].error < 1e-6
    assert "numeric is 2.000 × analytic: a factor 2 is missing" in " ".join(whole.printed.split())


def test_the_demo_takes_less_than_a_minute(whole: Demonstration) -> None:
    assert whole.report.cost["seconds"] < 60


def test_the_page_is_complete_in_itself_and_shows_the_curves(whole: Demonstration) -> None:
    page = whole.page
    assert page.startswith("<!doctype html>")
    assert not re.search(r"(src|href)\s*=\s*[\"']?(?![\"'#]|data:)", page)
    assert "@import" not in page
    assert "url(" not in page.replace("url(data:", "")
    for key in KEYS:
        assert locale("en")["demo"][f"title-{key}"] in page
        assert locale("en")["demo"][key] in page
    for chart in ("chart_loss", "chart_accuracy", "chart_gradient_rms", "chart_forward_rms"):
        assert page.count(locale("en")["ui"][chart]) >= 2, chart
    assert page.count("<svg") >= 8


def test_the_terminal_ends_with_the_outcome_the_page_and_the_next_step(whole: Demonstration) -> None:
    *_, page, outcome, after = whole.printed.splitlines()
    assert page.endswith("demo.html")
    assert outcome == "Every patient got the expected diagnosis."
    assert "gradvitals demo --write mine.py" in after


@pytest.mark.browser
def test_the_written_page_opens_without_a_request_or_a_complaint(
    whole: Demonstration, tmp_path: Path, browser: Any
) -> None:
    address = tmp_path / "page.html"
    address.write_text(whole.page, encoding="utf-8")
    requests: list[str] = []
    complaints: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    page.wait_for_load_state("networkidle")
    drawings = page.get_by_role("img").count()
    page.close()
    assert [url for url in requests if url not in {address.as_uri(), "data:,"}] == []
    assert complaints == []
    assert drawings >= 8


@pytest.mark.parametrize("lang", LANGUAGES[1:])
@pytest.mark.usefixtures("hasty")
def test_the_demo_speaks_chinese(run: Run, folder: Path, lang: str) -> None:
    result = run("demo", "--lang", lang, "--json", "demo.json")
    assert result.exit_code == 0
    page = (folder / "gradvitals-demo.html").read_text(encoding="utf-8")
    for key in KEYS:
        assert locale(lang)["demo"][f"title-{key}"] in page
        assert "".join(locale(lang)["demo"][key].split()) in "".join(result.stdout.split())
    report = Report.from_json((folder / "demo.json").read_text(encoding="utf-8"))
    assert report.table("patients").column("patient")[0] == locale(lang)["demo"]["title-vanishing"]


@pytest.mark.usefixtures("hasty")
def test_a_quiet_demo_only_writes_its_page(run: Run, folder: Path) -> None:
    result = run("demo", "--quiet", "--html", "page.html", "--seed", "3")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert (folder / "page.html").stat().st_size > 10_000


@pytest.mark.usefixtures("hasty")
def test_the_same_seed_gives_the_same_demo_and_leaves_the_random_state_alone(run: Run) -> None:
    import torch

    state = torch.get_rng_state()
    first, second = (json.loads(run("demo", "--json", "-").stdout) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for part, again in zip(first["parts"], second["parts"], strict=True):
        assert part["tables"] == again["tables"]
        assert part["findings"] == again["findings"]


@pytest.mark.usefixtures("hasty")
def test_the_demo_trains_on_one_thread_and_gives_the_others_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads on a machine that is busy elsewhere made the demo twenty times slower."""
    import torch

    before = torch.get_num_threads()
    seen: set[int] = set()
    measured = torch_patients._Training._accuracy

    def watched(training: Any, model: Any) -> float:
        seen.add(torch.get_num_threads())
        return measured(training, model)

    monkeypatch.setattr(torch_patients._Training, "_accuracy", watched)
    torch.set_num_threads(2)
    try:
        demo.run_demo()
        assert (seen, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("hasty")
def test_progress_counts_up_to_its_total() -> None:
    told: list[tuple[int, int]] = []
    demo.run_demo(progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert {total for _, total in told} == {told[-1][0]}


# ---- machines on which something is missing ----


def test_without_torch_the_numpy_patients_are_examined_and_the_others_named(shell: Shell, folder: Path) -> None:
    result = shell("demo", "--json", "demo.json", hidden=("torch", "sklearn"))
    assert (result.returncode, result.stderr) == (0, "")
    report = Report.from_json((folder / "demo.json").read_text(encoding="utf-8"))
    assert [part.settings["story"] for part in report.parts] == ["wrong-layer", "sound-layer"]
    printed = " ".join(result.stdout.split())
    assert (
        'PyTorch is not installed: the patients that need it were left out. pip install "gradvitals[demo]"' in printed
    )
    for key in ("vanishing", "exploding", "wrong-function", "sound"):
        assert locale("en")["demo"][f"title-{key}"] in printed
    assert "torch" not in report.environment
    assert (folder / "gradvitals-demo.html").stat().st_size > 10_000


@pytest.mark.parametrize("lang", LANGUAGES)
def test_without_torch_the_demo_speaks_every_language(run: Run, monkeypatch: pytest.MonkeyPatch, lang: str) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("demo", "--lang", lang)
    assert result.exit_code == 0
    words = locale(lang)
    printed = "".join(result.stdout.split())
    for key in ("wrong-layer", "sound-layer"):
        assert "".join(words["demo"][f"title-{key}"].split()) in printed
        assert "".join(words["demo"][key].split()) in printed
    assert "".join(words["ui"]["reason_no-torch"].split()) in printed


def test_without_scikit_learn_the_demo_says_how_to_get_it(shell: Shell, folder: Path) -> None:
    result = shell("demo", hidden=("sklearn",))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[0] == "error: the demo's data are not installed"
    assert 'pip install "gradvitals[demo]"' in result.stderr
    assert not (folder / "gradvitals-demo.html").exists()


def test_a_broken_package_is_not_taken_for_a_missing_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "broken_package.py").write_text("import nothing_of_that_name", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        demo._installed("broken_package")


def test_a_missing_dependency_can_be_caught_as_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingDependencyError) as caught:
        demo.run_demo()
    assert isinstance(caught.value, ImportError)


# ---- wrong diagnoses ----


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Only NumPy patients, whose examinations a test may alter."""
    monkeypatch.setattr(demo, "_installed", lambda _package: False)
    original = numpy_patients.examinations

    def altered(**changes: Any) -> None:
        wrong, right = original(0)
        fields = {
            "before": wrong.before,
            "after": wrong.after,
            **dict.fromkeys(changes.pop("well", ()), right.before),
        }
        fields |= dict.fromkeys(changes.pop("ill", ()), wrong.before)
        first = demo.replace(wrong, **fields, **changes)
        monkeypatch.setattr(numpy_patients, "examinations", lambda _seed: iter((first, right)))

    return altered


def test_an_illness_that_is_overlooked_fails_the_demo(run: Run, examined: Any) -> None:
    examined(well=("before",))
    result = run("demo", "--json", "demo.json")
    assert result.exit_code == 1
    assert "D901 patient-misdiagnosed" in result.stdout
    assert "expected gradient-wrong, found no finding" in " ".join(result.stdout.split())


def test_another_illness_than_expected_fails_the_demo(run: Run, examined: Any) -> None:
    examined(expected=("gradient-vanishing",))
    assert run("demo").exit_code == 1


def test_an_illness_that_survives_its_treatment_fails_the_demo(run: Run, examined: Any) -> None:
    examined(ill=("after",))
    result = run("demo")
    assert result.exit_code == 1
    assert "After treatment there was still: gradient-wrong." in " ".join(result.stdout.split())


def test_a_finding_on_a_sound_patient_fails_the_demo(run: Run, examined: Any) -> None:
    examined(expected=())
    assert run("demo").exit_code == 1


# ---- interruptions ----


@pytest.mark.parametrize("moment", ["the training", "the saving"])
@pytest.mark.usefixtures("hasty")
def test_an_interrupted_demo_leaves_no_file(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = sorted(folder.iterdir())
    if moment == "the training":
        monkeypatch.setattr(torch_patients._Training, "_accuracy", interrupt)
    else:
        monkeypatch.setattr(Path, "replace", interrupt)
    result = run("demo")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert sorted(folder.iterdir()) == before
