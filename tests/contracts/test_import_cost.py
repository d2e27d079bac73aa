"""Importing brings no framework; what it takes in time is measured by ``benchmarks/import_cost.py``."""

from __future__ import annotations

import subprocess
import sys

PYTHON = sys.executable
HEAVY = ("torch", "jax", "rich", "sklearn", "click", "numpy", "scipy", "pandas")


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
