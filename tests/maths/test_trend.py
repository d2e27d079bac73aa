from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradvitals.maths.trend import log_gain

SCATTERS = {
    "independent": lambda rng, n: rng.normal(size=n),
    "heavy tails": lambda rng, n: rng.standard_t(2, size=n),
    "random walk": lambda rng, n: np.cumsum(rng.normal(size=n)),
    "alternating": lambda rng, n: (-1.0) ** np.arange(n) + 0.3 * rng.normal(size=n),
}


@pytest.mark.parametrize("scatter", SCATTERS)
@pytest.mark.parametrize("n", [6, 10, 20])
def test_interval_covers_the_true_gain_however_the_layers_scatter(scatter, n):
    rng = np.random.default_rng(n)
    covered = []
    for _ in range(300):
        fit = log_gain(np.exp(0.1 * np.arange(n) + 0.5 * SCATTERS[scatter](rng, n)))
        covered.append(fit.low <= math.exp(0.1) <= fit.high)
    assert np.mean(covered) >= 0.9


def test_gain_of_a_noisy_decay_is_found_and_differs_from_one():
    rng = np.random.default_rng(0)
    fit = log_gain(0.8 ** np.arange(20) * np.exp(0.1 * rng.normal(size=20)))
    assert fit.low < 0.8 < fit.high < 1
    assert fit.differs_from_one


def test_one_wild_layer_does_not_move_the_gain():
    values = [0.9**layer for layer in range(20)]
    values[7] = 1e9
    assert log_gain(values).gain == pytest.approx(0.9, rel=1e-6)


@given(st.floats(0.01, 100), st.floats(1e-30, 1e30), st.integers(4, 30))
def test_exact_powers_give_their_base(gain, start, layers):
    fit = log_gain([start * gain**layer for layer in range(layers)])
    assert fit.gain == pytest.approx(gain, rel=1e-9)
    assert fit.low == pytest.approx(gain, rel=1e-6)
    assert fit.high == pytest.approx(gain, rel=1e-6)


@given(st.lists(st.floats(1e-6, 1e6), min_size=4, max_size=12))
def test_reversing_the_values_inverts_the_gain_and_scaling_changes_nothing(values):
    fit, back, scaled = log_gain(values), log_gain(values[::-1]), log_gain([1000 * value for value in values])
    assert back.gain == pytest.approx(1 / fit.gain, rel=1e-6)
    assert back.high == pytest.approx(1 / fit.low, rel=1e-6)
    assert scaled.gain == pytest.approx(fit.gain, rel=1e-6)


@given(st.lists(st.floats(1e-6, 1e6), min_size=4, max_size=9))
def test_gain_is_the_median_of_all_pairwise_slopes(values):
    slopes = [math.log(b / a) / (j - i) for i, a in enumerate(values) for j, b in enumerate(values) if j > i]
    assert (
        math.log(log_gain(values).gain) == pytest.approx(sorted(slopes)[len(slopes) // 2], abs=1e-9)
        or len(slopes) % 2 == 0
    )


def test_zeros_and_non_finite_values_are_left_out_but_keep_their_places():
    values = [0.5**layer for layer in range(10)]
    values[2], values[5], values[8] = 0.0, math.nan, math.inf
    fit = log_gain(values)
    assert fit.gain == pytest.approx(0.5)
    assert fit.points == 7


def test_positions_may_have_gaps():
    positions = [0, 1, 4, 5, 9, 10]
    assert log_gain([2.0**p for p in positions], positions).gain == pytest.approx(2.0)


def test_three_points_have_no_trend():
    assert log_gain([1.0, 2.0, 4.0]) is None


def test_positions_that_do_not_increase_are_refused():
    with pytest.raises(ValueError, match="increase"):
        log_gain([1.0, 2.0, 3.0, 4.0], [0, 1, 1, 2])


def test_a_factor_beyond_floats_is_zero_or_infinite():
    values = [10.0 ** (-40 * layer) for layer in range(6)]
    assert log_gain(values).over(20) == 0.0
    assert log_gain(values[::-1]).over(20) == math.inf
