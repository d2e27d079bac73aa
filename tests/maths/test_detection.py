"""The size of an error that random lines show."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradvitals.maths.detection import OVERLOOK, detectable


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
