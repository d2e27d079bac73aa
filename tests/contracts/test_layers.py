"""Data flows one way, and torch stays behind its seam: the contracts of import-linter, and what it can't see."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

SOURCE = ROOT / "src" / "gradvitals"
#: The modules whose import takes a framework for granted.
AFTER_A_FRAMEWORK = ("frameworks/torch/", "frameworks/jax/", "faces/starters/", "faces/torch_patients.py")
#: Pytest imports it, and only pytest.
PYTEST_PLUGIN = "faces/pytest_plugin.py"
#: The folders in which torch or jax may be imported by name.
TORCH_SIDE = ("frameworks/torch/", "frameworks/jax/", "faces/")


def imports(path: Path, *, everywhere: bool) -> set[str]:
    """The top-level packages that a module imports, also those that a function imports late; not for types only."""
    found: set[str] = set()

    def look(body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                look(node.orelse)
            elif everywhere or not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                look([child for child in ast.walk(node) if isinstance(child, (ast.Import, ast.ImportFrom))])

    look(ast.parse(path.read_text(encoding="utf-8")).body)
    return found


def test_the_import_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [str(linter), "--no-cache"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout


def test_torch_is_imported_behind_the_seam_only() -> None:
    named = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if {"torch", "jax"} & imports(path, everywhere=True)
    }
    assert {name for name in named if not name.startswith(TORCH_SIDE)} == set()
    assert named  # the test sees the imports that there are


def test_no_rule_imports_a_framework() -> None:
    for path in SOURCE.rglob("rules.py"):
        assert {"torch", "jax", "sklearn"} & imports(path, everywhere=True) == set(), path


def test_the_vocabulary_needs_the_standard_library_only() -> None:
    known = sys.stdlib_module_names | {"gradvitals"}
    for path in (SOURCE / "vocabulary").rglob("*.py"):
        assert imports(path, everywhere=True) <= known, path


def test_what_the_package_needs_is_what_it_declares() -> None:
    """NumPy, click and rich are dependencies; everything else is an extra, imported late."""
    known = sys.stdlib_module_names | {"gradvitals", "numpy", "click", "rich"}
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        if name.startswith(AFTER_A_FRAMEWORK) or name == PYTEST_PLUGIN:
            continue
        assert imports(path, everywhere=False) <= known, path
