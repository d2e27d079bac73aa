"""What is said of starts that were compared: who is ahead, who stands still, who diverged; and how often luck is called
merit.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradvitals.vocabulary import Severity, words
from gradvitals.weights.rules_starts import judge_starts
from gradvitals.weights.trials import Trial, outcomes


def runs(method, *lasts, first=2.3, steps=20):
    """A run per seed whose loss falls in a straight line."""
    return [
        Trial(
            method, seed, 1e-3, tuple(np.linspace(first, last, steps)) if math.isfinite(last) else (first, last), steps
        )
        for seed, last in enumerate(lasts)
    ]


def found(*trials):
    return {finding.code: finding for finding in judge_starts(outcomes([one for some in trials for one in some]))}


def test_the_one_ahead_is_named_with_the_next_and_the_step_at_which_it_was_there():
    ahead = found(runs("he", 1.0, 1.1, 0.9), runs("auto", 0.1, 0.11, 0.12))["W307"]
    assert ahead.severity == Severity.INFO
    facts = ahead.evidence
    assert (facts["start"], facts["method"], facts["second"], facts.get("likely")) == ("auto", "auto", "he", None)
    assert facts["caught_up"] == 12  # of 20 steps from 2.3 to 0.11 the first at or below 1
    assert "gradvitals.init_(model, x, method='auto')" in words.describe(ahead).remedy


def test_starts_within_what_seeds_differ_are_level():
    facts = found(runs("he", 1.0, 1.4, 0.7), runs("auto", 0.9, 1.3, 0.6), runs("xavier", 2.0, 2.02, 1.98))[
        "W307"
    ].evidence
    assert (facts["start"], facts["likely"], facts["level"], facts["second"]) == ("auto", "level", ("he",), "xavier")


def test_losses_orders_of_magnitude_apart_are_compared_as_ratios():
    facts = found(runs("he", 1e-6, 6e-6), runs("auto", 1e-8, 2e-8))["W307"].evidence
    assert "likely" not in facts


def test_negative_losses_are_compared_as_they_are():
    facts = found(runs("he", -1.0, -1.1, -1.2, first=0.5), runs("auto", -5.0, -5.1, -5.2, first=0.5))["W307"].evidence
    assert (facts["start"], facts.get("likely")) == ("auto", None)


def test_one_seed_says_that_it_cannot_tell():
    assert found(runs("he", 1.0), runs("auto", 0.1))["W307"].evidence["likely"] == "one-seed"


def test_the_weights_as_they_came_have_no_line_to_paste():
    ahead = found(runs("built", 0.1, 0.11), runs("he", 1.0, 1.1))["W307"]
    assert "method" not in ahead.evidence
    assert "init_" not in words.describe(ahead).remedy


@pytest.mark.parametrize(("start", "severity"), [("built", Severity.WARNING), ("xavier", Severity.INFO)])
def test_a_start_that_stands_still_is_a_warning_where_it_is_the_present_one(start, severity):
    findings = found(runs(start, 2.29, 2.3), runs("auto", 0.1, 0.11))
    assert findings["W308"].severity == severity
    assert findings["W308"].evidence["starts"] == (start,)
    assert findings["W307"].evidence["second"] == start


def test_a_large_first_loss_that_falls_to_chance_stands_still():
    assert "he" in found(runs("he", 2.3, 2.3, first=20.0), runs("built", 2.3, 2.3))["W308"].evidence["starts"]


def test_where_no_start_trains_another_fault_is_looked_for():
    findings = found(runs("he", 2.29), runs("auto", 2.3))
    assert set(findings) == {"W308"}
    assert findings["W308"].severity == Severity.WARNING
    said = words.describe(findings["W308"])
    assert "No start trains" in said.text
    assert "Look for another fault" in said.remedy


def test_a_start_that_diverges_is_a_note_and_an_error_where_all_do():
    one = found(runs("he", math.inf, 1.0), runs("auto", 0.1, 0.2))["W309"]
    assert (one.severity, one.evidence["starts"], one.evidence["broken"]) == (Severity.INFO, ("he",), 1)
    assert found(runs("built", math.nan), runs("auto", 0.1))["W309"].severity == Severity.WARNING
    every = found(runs("he", math.inf), runs("auto", math.nan))
    assert set(every) == {"W309"}
    assert every["W309"].severity == Severity.ERROR
    assert "likely" not in every["W309"].evidence


def test_a_loss_that_is_not_finite_from_the_start_is_not_the_starts_fault():
    findings = judge_starts(outcomes([Trial("he", 0, 1e-3, (math.nan,), 5)]))
    assert findings[0].evidence["likely"] == "from-the-start"
    assert "gradvitals probe" in words.describe(findings[0]).remedy


def test_a_single_start_is_ahead_of_nobody():
    assert found(runs("he", 0.1, 0.2)) == {}


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equal_starts_are_rarely_told_apart(seeds):
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        drawn = np.exp(generator.normal(-1.0, 0.3, (2, seeds)))
        facts = found(runs("he", *drawn[0]), runs("auto", *drawn[1]))["W307"].evidence
        alarms += facts.get("likely") is None
    assert alarms / 400 <= 0.08  # 5 % by Student's values, and three standard errors of 400 draws
