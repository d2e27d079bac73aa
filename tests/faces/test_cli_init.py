"""``gradvitals init``: what a factory leaves unset, weights in a file, and starts compared."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from tests.faces.conftest import Run, Shell, command, environment

import gradvitals
from gradvitals.faces.cli import INIT_METHODS
from gradvitals.frameworks.case import load_case
from gradvitals.vocabulary import Report
from gradvitals.weights.recipes import METHODS

safetensors = pytest.importorskip("safetensors.torch")

GAPS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.tied = nn.Linear(8, 8, bias=False)
        self.tied.weight = self.down.weight
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.tied(self.norm(self.down(torch.tanh(self.up(x)))))

class Scaled(Net):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(8))

    def forward(self, x):
        return super().forward(x) * self.scale

def filled():
    model = Net()
    model.up.weight = nn.Parameter(torch.empty(8, 8))
    return model, torch.randn(16, 8)

def net():
    x = torch.randn(16, 8)
    return Net(), x, lambda y: (y - x).square().mean()

def scaled():
    return Scaled(), torch.randn(16, 8)

def slow():
    import pathlib, time
    x, calls = torch.randn(16, 8), []
    def loss(y):
        calls.append(time.sleep(0.02))
        if len(calls) > 10:  # two runs of five steps
            pathlib.Path("training").touch()
        return y.square().mean()
    return Net(), x, loss

def endless():
    import pathlib, time
    def loss(y):
        pathlib.Path("training").touch()
        time.sleep(60)
        return y.square().mean()
    return Net(), torch.randn(16, 8), loss
"""


TRAINED = """
def trained():
    model = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32))
    for layer in (model[0], model[2]):
        layer.weight.data += torch.outer(torch.randn(32), torch.randn(32))  # a direction that stands out of all others
    return model, torch.randn(16, 32)
"""


@pytest.fixture(autouse=True)
def gaps(folder: Path) -> None:
    (folder / "gaps.py").write_text(GAPS, encoding="utf-8")


def codes(text: str) -> list[str]:
    return [finding.code for finding in Report.from_json(text).findings]


def test_what_the_factory_leaves_unset_is_named(run: Run) -> None:
    result = run("init", "gaps.py:scaled")
    assert result.exit_code == 1
    assert "8 of the 8 entries of scale were never given a value" in result.stdout
    assert "W305" not in codes(run("init", "gaps.py:net", "--json", "-").stdout)


def test_saved_weights_load_into_the_same_model_and_are_those_of_init_(run: Run, folder: Path) -> None:
    result = run("init", "gaps.py:net", "--save", "net.safetensors", "--seed", "3", "--method", "lecun")
    assert result.exit_code == 0, result.stdout
    assert "safetensors.torch.load_model(model, 'net.safetensors')" in result.stdout
    started, loaded = load_case("gaps.py:net"), load_case("gaps.py:net").model
    gradvitals.init_(started, method="lecun", seed=3)
    safetensors.load_model(loaded, "net.safetensors")
    assert loaded.tied.weight is loaded.down.weight
    for path, value in started.model.named_parameters():
        assert torch.equal(loaded.get_parameter(path), value), path
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_gap_that_is_saved_is_told_and_one_that_init_fills_is_not(run: Run) -> None:
    assert "W305" in codes(run("init", "gaps.py:scaled", "--save", "a.safetensors", "--json", "-").stdout)
    assert "W305" not in codes(run("init", "gaps.py:filled", "--save", "b.safetensors", "--json", "-").stdout)


def test_a_file_is_never_replaced_unless_that_is_asked_for(run: Run) -> None:
    Path("old.safetensors").write_text("mine")
    result = run("init", "gaps.py:net", "--save", "old.safetensors")
    assert (result.exit_code, "the file is there already" in result.stderr) == (2, True)
    assert Path("old.safetensors").read_text() == "mine"
    assert run("init", "gaps.py:net", "--save", "old.safetensors", "--overwrite").exit_code == 0
    assert "up.weight" in safetensors.load_file("old.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--save", "net.pt"), "written as safetensors"),
        (("--save", "nowhere/net.safetensors"), "the folder isn't there"),
        (("--save", "net.safetensors", "--compare"), "a comparison saves nothing"),
        (("--compare", "--starts", "hee"), "not a list of starts"),
        (("--compare", "--method", "he"), "--method does nothing here"),
        (("--compare", "--skip", "up.*"), "--skip does nothing here"),
        (("--compare", "--rate", "0"), "x>0"),
        (("--starts", "he"), "--starts does nothing here"),
        (("--patience", "3"), "--patience does nothing here"),
        (("--overwrite",), "--overwrite does nothing here"),
        (("--save", "/proc/net.safetensors"), "nothing can be written to this folder"),
        (("--html", "/proc/net.html"), "nothing can be written to this folder"),
    ],
)
def test_misuse_is_told_before_any_work(run: Run, arguments: tuple[str, ...], message: str) -> None:
    result = run("init", "gaps.py:net", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_only_and_skip_choose_what_is_saved_anew(run: Run) -> None:
    result = run("init", "gaps.py:net", "--skip", "up.*", "--skip", "norm.*", "--only", "*.weight")
    assert "only=['*.weight'], skip=['up.*', 'norm.*'], seed=0)" in result.stdout
    torch.manual_seed(0)
    built = load_case("gaps.py:net").model
    torch.manual_seed(0)
    assert run("init", "gaps.py:net", "--skip", "up.*", "--save", "net.safetensors").exit_code == 0
    saved = safetensors.load_file("net.safetensors")
    assert not torch.equal(saved["down.weight"], built.down.weight)
    untouched = run("init", "gaps.py:net", "--skip", "*", "--save", "old.safetensors", "--json", "-")
    rows = Report.from_json(untouched.stdout).table("plan").records()
    assert {row["scheme"] for row in rows} == {"untouched"}


def test_weights_that_look_trained_are_warned_of_in_a_sentence(shell: Shell, folder: Path) -> None:
    (folder / "gaps.py").write_text(GAPS + TRAINED, encoding="utf-8")
    result = shell("init", "gaps.py:trained", "--save", "net.safetensors")
    assert result.stderr.startswith("warning: weights that look trained are overwritten\n  where: ")
    assert "starting.py" not in result.stderr


def test_the_methods_of_the_help_are_those_of_init_() -> None:
    assert INIT_METHODS == METHODS


def test_without_safetensors_it_says_what_to_install(shell: Shell) -> None:
    result = shell("init", "gaps.py:net", "--save", "net.safetensors", hidden=("safetensors",))
    assert result.returncode == 2
    assert "pip install 'gradvitals[safetensors]'" in result.stderr


def test_starts_are_compared_in_the_terminal_and_on_a_page(run: Run) -> None:
    asked = ("--steps", "5", "--seeds", "1", "--rate", "1e-2", "--starts", "built", "--starts", "he")
    result = run("init", "gaps.py:net", "--compare", *asked, "--html", "page.html")
    assert result.exit_code == 0, result.stdout
    assert "built: the weights as they came" in result.stdout.replace("\n  ", " ")
    assert "▁" in result.stdout
    assert "W307" in result.stdout
    assert "whether by luck, one seed can't tell" in result.stdout
    assert Path("page.html").read_text(encoding="utf-8").count("<polyline") == 2


def interrupted(*arguments: str) -> tuple[str, str]:
    """Run a command, interrupt it where the case says that it is in its midst, and return what it said."""
    process = subprocess.Popen(
        [str(command()), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    deadline = time.monotonic() + 100
    while not Path("training").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=100)
    assert process.returncode == 130, complained
    return said, complained


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_while_saving_leaves_the_old_file(folder: Path) -> None:
    Path("old.safetensors").write_text("mine")
    _, complained = interrupted("init", "gaps.py:endless", "--save", "old.safetensors", "--overwrite")
    assert complained == "interrupted; the model and the files are as they were\n"
    assert Path("old.safetensors").read_text() == "mine"
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_shows_what_was_trained() -> None:
    asked = ("--steps", "5", "--seeds", "99", "--starts", "built", "--json", "r.json")
    said, _ = interrupted("init", "gaps.py:slow", "--compare", *asked)
    assert "interrupted" in said
    report = Report.from_json(Path("r.json").read_text(encoding="utf-8"))
    assert 2 <= report.cost["runs"] < 297


def test_layers_are_chosen_by_patterns(run: Run) -> None:
    done = run("init", "gaps.py:net", "--skip", "up", "--skip", "norm", "--json", "plan.json")
    plan = Report.from_json(Path("plan.json").read_text(encoding="utf-8")).table("plan")
    reasons = dict(zip(plan.column("path"), plan.column("reason"), strict=True))
    assert [path for path, reason in reasons.items() if reason == "left-out"] == ["up.weight", "norm.weight"]
    assert "skip=['up', 'norm']" in done.stdout
    misspelt = run("init", "gaps.py:net", "--only", "dwn")
    assert misspelt.exit_code == 2
    assert "did you mean 'down'?" in misspelt.output
