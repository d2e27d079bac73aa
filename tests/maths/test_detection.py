"""The size of an error that random lines show."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradvitals.maths.detection import OVERLOOK, detectable, hidden, shows


@pytest.mark.parametrize("bars", [[1.0] * 6, [0.1, 1, 1, 1, 1, 10], [3e-9, 5e-9, 4e-8], [2.0], [1.0, math.inf, 1.0]])
def test_an_error_of_the_detectable_size_is_seen_995_times_in_1000(bars):
    rng = np.random.default_rng(0)
    missing = detectable(bars) * rng.standard_normal((200_000, len(bars)))
    seen = (np.abs(missing) > np.array(bars)).any(axis=1).mean()
    assert seen == pytest.approx(1 - OVERLOOK, abs=1e-3)


@given(bars=st.lists(st.floats(1e-12, 1e3), min_size=1, max_size=8), factor=st.floats(1e-6, 1e6))
def test_detectable_scales_with_its_bars(bars, factor):
    assert detectable([factor * bar for bar in bars]) == pytest.approx(factor * detectable(bars), rel=1e-6)


@given(bars=st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=8), more=st.floats(1e-6, 1e3))
def test_another_line_never_makes_it_worse(bars, more):
    assert detectable([*bars, more]) <= detectable(bars) * (1 + 1e-9)


def test_where_no_line_says_anything_nothing_can_be_detected():
    assert detectable([math.inf, math.inf]) == math.inf
    assert detectable([]) == math.inf


def test_without_bars_above_zero_everything_is_detected():
    assert detectable([0.0, 0.0]) == 0.0


@pytest.mark.parametrize("noise", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("lines", [2, 4, 8])
def test_an_error_hides_behind_a_smaller_bound_at_most_5_times_in_1000(lines, noise):
    rng = np.random.default_rng(0)
    cases = 200_000
    missing = rng.standard_normal((cases, lines)) + noise * rng.uniform(-1, 1, (cases, lines))
    unit = hidden([1.0] * lines) / math.sqrt(lines)
    too_small = (unit * np.linalg.norm(missing, axis=1) < 1.0).mean()
    assert too_small <= OVERLOOK + 5e-4
    if noise == 0.0:
        assert too_small == pytest.approx(OVERLOOK, abs=5e-4)


def test_two_looks_are_together_wrong_as_seldom_as_one():
    rng = np.random.default_rng(1)
    missing = rng.standard_normal((200_000, 8))
    wrong = np.zeros(len(missing), dtype=bool)
    for count in (4, 8):
        unit = hidden([1.0] * count, looks=2) / math.sqrt(count)
        wrong |= unit * np.linalg.norm(missing[:, :count], axis=1) < 1.0
    assert wrong.mean() <= OVERLOOK + 5e-4


@given(missing=st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=8), factor=st.floats(1e-6, 1e6))
def test_what_may_hide_scales_with_what_is_missing(missing, factor):
    assert hidden([factor * m for m in missing]) == pytest.approx(factor * hidden(missing), rel=1e-9)


def test_behind_no_line_anything_may_hide():
    assert hidden([]) == math.inf


@pytest.mark.parametrize("lines", [2, 8, 24])
def test_noise_alone_shows_once_in_a_thousand_cases(lines):
    missing = np.random.default_rng(2).standard_normal((20_000, lines))
    assert np.mean([shows(m, [1.0] * lines) for m in missing]) == pytest.approx(0.001, abs=8e-4)


def test_an_error_no_single_line_shows_is_shown_by_all():
    missing = 2.0 * np.random.default_rng(3).standard_normal((2_000, 24))
    small = missing[(np.abs(missing) < 5).all(axis=1)]
    assert len(small) > 100
    assert np.mean([shows(m, [1.0] * 24) for m in small]) > 0.9
