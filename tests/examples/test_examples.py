"""The examples run as they are, and show what they claim to show."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

SHOWN = {
    "check.py": ["a factor 1/N (N = 6) is missing", "it is transposed", "The gradient of x is wrong"],
    "check_jax.py": ["The gradient of x is wrong", "params.dense.W"],
    "check_reference.py": ["PASS Values and gradients are as exact", "weight is wrong", "computed too coarsely"],
    "probe.py": ["S203 gradient-vanishing", "gradient at 0:"],
    "init.py": ["he normal", "before: the signal's RMS", "after: the signal's RMS"],
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
