"""Importing costs little, and imports no framework. The bounds are generous: a test machine is seldom idle."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

PYTHON = sys.executable
COMMAND = str(Path(PYTHON).with_name("gradvitals"))
#: What may be added to the bare interpreter, and what the help may take, on an idle machine.
IMPORT_SECONDS, HELP_SECONDS = 0.200, 0.350
ROUNDS = 5
HEAVY = ("torch", "jax", "rich", "sklearn", "click", "numpy", "scipy", "pandas")

RUNS = {
    "bare": [PYTHON, "-c", "pass"],
    "numpy": [PYTHON, "-c", "import numpy"],
    "gradvitals": [PYTHON, "-c", "import gradvitals"],
    "verbs": [PYTHON, "-c", "import gradvitals; gradvitals.checkup, gradvitals.init_"],
    "help": [COMMAND, "--help"],
}


def seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


@pytest.fixture(scope="module")
def cost() -> dict[str, float]:
    """The median time of each, taken in turns so that a busy moment meets them all."""
    rounds = [{name: seconds(arguments) for name, arguments in RUNS.items()} for _ in range(ROUNDS)]
    return {name: statistics.median(one[name] for one in rounds) for name in RUNS}


def test_the_import_adds_little_to_the_bare_interpreter(cost: dict[str, float]) -> None:
    busy = max(1.0, (cost["numpy"] - cost["bare"]) / 0.100)  # NumPy alone takes 0.1 s where nothing else runs
    assert cost["gradvitals"] - cost["bare"] < IMPORT_SECONDS * busy
    assert cost["gradvitals"] < cost["numpy"] * 1.2


def test_the_verbs_add_less_than_twice_what_numpy_takes(cost: dict[str, float]) -> None:
    assert cost["verbs"] - cost["bare"] < 2.5 * (cost["numpy"] - cost["bare"])


def test_help_is_there_at_once(cost: dict[str, float]) -> None:
    busy = max(1.0, (cost["numpy"] - cost["bare"]) / 0.100)
    assert cost["help"] < HELP_SECONDS * busy


def imported_by(statement: str) -> set[str]:
    told = subprocess.run(
        [PYTHON, "-c", f"import sys; {statement}; print(*sys.modules)"], check=True, capture_output=True, text=True
    )
    return {name.partition(".")[0] for name in told.stdout.split()}


def test_the_import_brings_no_framework_and_not_even_numpy() -> None:
    assert imported_by("import gradvitals") & set(HEAVY) == set()


def test_the_verbs_bring_numpy_and_no_framework() -> None:
    names = ", ".join(f"gradvitals.{name}" for name in ("check", "checkup", "init_", "plan_init", "probe", "Case"))
    assert imported_by(f"import gradvitals; {names}") & set(HEAVY) == {"numpy"}


def test_checking_numpy_code_and_rendering_its_report_brings_no_torch() -> None:
    statement = (
        "import numpy, gradvitals as gv; "
        "r = gv.checkup(lambda x: (x**2).sum(), numpy.ones(3), grad=lambda x: 2 * x); "
        "str(r), r.to_json(), r.render('html')"
    )
    assert imported_by(statement) & {"torch", "jax", "sklearn", "rich", "click"} == set()


def test_the_command_line_imports_click_and_nothing_heavier_for_its_help() -> None:
    assert imported_by("import gradvitals.faces.cli") & set(HEAVY) == {"click"}


def test_a_saved_report_renders_without_numpy() -> None:
    statement = (
        "import gradvitals; r = gradvitals.Report.from_json(gradvitals.Report('check', 'f').to_json()); "
        "str(r), r.render('html')"
    )
    assert imported_by(statement) & set(HEAVY) == set()
