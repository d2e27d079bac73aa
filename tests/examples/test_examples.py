"""The examples run as they are, and show what they claim to show."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

SHOWN = {
    "check.py": ["a factor 1/N (N = 6) is missing", "it is transposed", "The gradient of x is wrong"],
    "check_in_tests.py": ["check · LeakyClamp: FAIL", "wrong in the part"],
    "check_model.py": [
        "The layer at fault is 1 (Scaled)",
        "1/N (N = 6) too many",
        "pass for the second derivative too",
    ],
    "check_surrogate.py": ["not declared", "FAIL The gradient is wrong", "the straight line"],
    "check_jax.py": ["The gradient of x is wrong", "params.dense.W"],
    "check_reference.py": ["PASS Values and gradients are as exact", "weight is wrong", "computed too coarsely"],
    "probe.py": ["S203 gradient-vanishing", "gradient at 0:"],
    "predict.py": ["on the way back: × 0.41", "layers outside of the band: 0"],
    "scaling.py": ["make_model: WARN", "make_small_output: PASS"],
    "init.py": ["tailored", "before: the signal's RMS", "after: the signal's RMS"],
    "checkup.py": ["a small classifier", "PASS"],
}


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_example_runs_and_shows_what_it_claims(name, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [name])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = " ".join(capsys.readouterr().out.split())
    for words in SHOWN[name]:
        assert words in printed


def test_the_example_for_tests_passes_as_tests():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / "check_in_tests.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "..." in done.stdout
