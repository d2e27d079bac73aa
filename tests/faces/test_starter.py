"""The starters: right as they are written, and the fault that they invite to try is found and named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faces.conftest import Run, Shell, environment

from gradvitals.faces.starter import STARTERS

KINDS = tuple(STARTERS)
#: What the third line of each starter invites to change, and what is found then.
FAULTS = {
    "numpy": ("dz = 2 * z * dout", "dz = z * dout", "The gradient of x, w, b is wrong. Throughout, numeric is 2.000 ×"),
    "function": ("dz = 2 * z * dout", "dz = z * dout", "numeric is 2.000 × analytic: a factor 2 is missing."),
    "module": ("torch.relu(", "torch.sigmoid(", "S203 gradient-vanishing"),
}


def as_script(file: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, file], capture_output=True, text=True, encoding="utf-8", check=False,
        env={**environment(), "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_starter_passes_as_a_script_and_as_a_case(run: Run, kind: str) -> None:
    written = run("demo", "--write", "mine.py", kind)
    assert (written.exit_code, written.stdout) == (
        0,
        f"Wrote mine.py. Now run:  gradvitals {STARTERS[kind]} mine.py:make\n",
    )
    script = as_script("mine.py")
    assert (script.returncode, script.stderr) == (0, "")
    assert "PASS" in script.stdout
    assert run(STARTERS[kind], "mine.py:make").exit_code == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_fault_that_a_starter_invites_is_found_and_named(run: Run, folder: Path, kind: str) -> None:
    run("demo", "--write", "mine.py", kind)
    before, after, said = FAULTS[kind]
    source = (folder / "mine.py").read_text(encoding="utf-8")
    assert source.count(before) == 1
    (folder / "mine.py").write_text(source.replace(before, after), encoding="utf-8")
    result = run(STARTERS[kind], "mine.py:make")
    assert result.exit_code == 1
    assert said in " ".join(result.stdout.split())


@pytest.mark.parametrize("kind", KINDS)
def test_a_starter_is_short_and_names_itself(run: Run, folder: Path, kind: str) -> None:
    run("demo", "--write", "my-layer.py", kind)
    source = (folder / "my-layer.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) < 50
    assert "STARTER" not in source
    assert "python my-layer.py" in source
    assert f"gradvitals {STARTERS[kind]} my-layer.py:make --html report.html" in source
    assert "# ---- your code: " in source


def test_a_starter_for_every_kind_needs_only_what_it_says(shell: Shell) -> None:
    assert shell("demo", "--write", "mine.py", "numpy", hidden=("torch", "sklearn")).returncode == 0
    assert shell("check", "mine.py:make", hidden=("torch", "sklearn")).returncode == 0


def test_a_starter_overwrites_nothing(run: Run, folder: Path) -> None:
    (folder / "mine.py").write_text("precious", encoding="utf-8")
    result = run("demo", "--write", "mine.py", "numpy")
    assert result.exit_code == 2
    assert "nothing was overwritten" in result.stderr
    assert (folder / "mine.py").read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mine", "end its name in .py"),
        ("mine.txt", "end its name in .py"),
        ("no/folder/mine.py", "make the folder no/folder first"),
        ("numpy.py", "a file of this name hides the package numpy"),
        ("torch.py", "a file of this name hides the package torch"),
    ],
)
def test_a_name_that_would_not_work_is_refused(run: Run, folder: Path, name: str, said: str) -> None:
    before = sorted(folder.rglob("*"))
    result = run("demo", "--write", name, "numpy")
    assert result.exit_code == 2
    assert said in result.stderr
    assert sorted(folder.rglob("*")) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_not_be_written_to_is_named(run: Run, folder: Path) -> None:
    (folder / "locked").mkdir(mode=0o500)
    assert "the file can't be written" in run("demo", "--write", "locked/mine.py", "numpy").stderr
    assert "nothing can be written" in run("check", "cases.py:right", "--json", "locked/report.json").stderr


def test_writing_a_starter_quietly_says_nothing(run: Run, folder: Path) -> None:
    assert run("demo", "--write", "mine.py", "numpy", "--quiet").stdout == ""
    assert (folder / "mine.py").exists()


def test_the_next_step_is_told_in_the_language_that_was_asked_for(run: Run) -> None:
    result = run("demo", "--write", "mine.py", "module", "--lang", "zh-Hans")
    assert result.stdout == "已写好 mine.py。接着运行：gradvitals checkup mine.py:make\n"
