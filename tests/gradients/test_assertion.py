"""``assert_gradients`` and the pytest fixture: what fails, what warns, and what the message shows."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import gradvitals as gv
from gradvitals import UnresolvedGradientWarning, Verdict

pytest_plugins = ("pytester",)


def square(x):
    return (x**2).sum()


def test_a_right_gradient_returns_its_report():
    assert gv.assert_gradients(square, np.arange(3.0), grad=lambda x: 2 * x).verdict is Verdict.PASS


def test_a_wrong_gradient_raises_with_a_small_table():
    with pytest.raises(AssertionError) as failure:
        gv.assert_gradients(square, np.arange(3.0), grad=lambda x: x)
    said = str(failure.value)
    assert said.splitlines()[0].startswith("check · square: FAIL")
    assert "a factor 2 is missing" in " ".join(said.split())
    assert "relative error" in said
    assert "x " in said.splitlines()[-1]
    assert len(said.splitlines()) <= 10
    assert failure.value.report.verdict is Verdict.FAIL


def rough(x):
    """Rounded to three digits: no slope can be measured finely."""
    return np.round(np.sin(x), 3).sum()


def test_unresolved_warns_with_the_resolution_where_none_was_asked_for():
    with pytest.warns(UnresolvedGradientWarning, match="relative accuracy that was reached is"):
        report = gv.assert_gradients(rough, np.arange(3.0), grad=np.cos)
    assert report.verdict is Verdict.INCONCLUSIVE


def test_unresolved_fails_where_a_sensitivity_was_asked_for():
    with pytest.raises(AssertionError, match="INCONCLUSIVE"):
        gv.assert_gradients(rough, np.arange(3.0), grad=np.cos, sensitivity=1e-4)


def test_settings_reach_the_check():
    report = gv.assert_gradients(square, np.arange(3.0), grad=lambda x: 2 * x, seed=7, name="mine")
    assert (report.settings["seed"], report.subject) == (7, "mine")


def test_the_fixture_fails_a_test_with_the_table_and_its_name(pytester):
    pytester.makepyfile(
        """
        import numpy as np

        def test_right(assert_gradients):
            assert_gradients(np.sin, np.ones(3), vjp=lambda dout: dout * np.cos(np.ones(3)))

        def test_wrong(assert_gradients):
            assert_gradients(np.sin, np.ones(3), vjp=lambda dout: -dout * np.cos(np.ones(3)))
        """
    )
    run = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    run.assert_outcomes(passed=1, failed=1)
    run.stdout.fnmatch_lines(["*AssertionError: check · test_wrong: FAIL*", "*numeric is −1 × analytic*"])


def test_the_plugin_costs_a_test_run_nothing_heavy():
    code = (
        "import sys, gradvitals.faces.pytest_plugin; print([m for m in ('numpy', 'torch', 'jax') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"
