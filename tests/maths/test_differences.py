"""Derivatives along a line: their values against closed forms, their error bars against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradvitals.maths.differences import (
    NEARBY,
    Ladder,
    derivative,
    extrapolate,
    kink_errors,
    ladder_for,
    noise_from,
    rounding,
    spacing_for,
    staircase,
)

UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}

#: The closed form itself is rounded, here and there by a few units in the last place.
LAST_PLACES = 2.0**-50

#: Name: function, its derivative.
SMOOTH = {
    "square": (lambda x: x * x, lambda x: 2 * x),
    "cube": (lambda x: x**3, lambda x: 3 * x * x),
    "sine": (math.sin, math.cos),
    "exponential": (math.exp, math.exp),
    "tanh": (math.tanh, lambda x: 1 / math.cosh(x) ** 2),
    "logistic": (lambda x: 1 / (1 + math.exp(-x)), lambda x: math.exp(-x) / (1 + math.exp(-x)) ** 2),
    "root": (lambda x: math.sqrt(x * x + 1), lambda x: x / math.sqrt(x * x + 1)),
    "rational": (lambda x: x / (1 + x * x), lambda x: (1 - x * x) / (1 + x * x) ** 2),
    "constant": (lambda x: 7.25, lambda x: 0.0),
}

scales = st.floats(-6, 6).map(lambda exponent: 10.0**exponent)
positions = st.floats(-2, 2).filter(lambda x: abs(x) > 0.05)


# ---- derivative ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMOOTH)
@settings(max_examples=40)
@given(at=positions, scale=scales)
def test_derivative_lies_within_five_of_its_own_errors_at_every_scale(name, at, scale):
    function, slope = SMOOTH[name]
    found = derivative(lambda x: function(x / scale), at * scale, scale=scale)
    truth = slope(at * scale / scale) / scale
    assert abs(found.value[0] - truth) <= 5 * found.error[0] + LAST_PLACES * abs(truth)


@pytest.mark.parametrize("name", SMOOTH)
@settings(max_examples=40)
@given(at=positions, scale=scales)
def test_error_of_a_smooth_functions_derivative_is_small(name, at, scale):
    function, slope = SMOOTH[name]
    found = derivative(lambda x: function(x / scale), at * scale, scale=scale)
    size = max(abs(slope(at)), abs(function(at))) / scale
    assert 0 <= found.error[0] <= 1e-8 * size


@given(at=positions, height=scales, offset=st.floats(-1e3, 1e3))
def test_large_offsets_show_in_the_error_bar(at, height, offset):
    # Adding a constant makes the differences noisier: the error bar must grow with it, not lie.
    found = derivative(lambda x: height * math.sin(x) + offset * height, at)
    truth = height * math.cos(at)
    assert abs(found.value[0] - truth) <= 5 * found.error[0] + LAST_PLACES * abs(truth)
    assert found.error[0] <= 1e-8 * height * (1 + abs(offset))


def test_the_notes_example_is_six():
    found = derivative(lambda theta: theta**2, 3.0)
    assert found.value[0] == pytest.approx(6.0, abs=1e-9)
    assert found.error[0] < 1e-9


def test_at_zero_the_scale_is_one():
    found = derivative(math.sin, 0.0)
    assert abs(found.value[0] - 1) <= 5 * found.error[0] + LAST_PLACES
    assert found.error[0] < 1e-8


@pytest.mark.parametrize("jump", [0.01, 1.0, 100.0])
def test_a_kink_nearby_widens_the_error_bar_and_does_not_fool_it(jump):
    rng = np.random.default_rng(0)
    covered = []
    for distance in 10.0 ** rng.uniform(-6, 0, 200):
        found = derivative(lambda x, kink=1 + distance: math.sin(x) + jump * max(x - kink, 0.0), 1.0)
        covered.append(abs(found.value[0] - math.cos(1.0)) <= 5 * found.error[0])
    assert np.mean(covered) >= 0.99


@pytest.mark.parametrize("jump", [0.01, 1.0, 100.0])
def test_at_a_kink_the_error_bar_reaches_the_slopes_of_both_sides(jump):
    found = derivative(lambda x: math.sin(x) + jump * max(x - 1, 0.0), 1.0)
    for slope in (math.cos(1.0), math.cos(1.0) + jump):
        assert abs(found.value[0] - slope) <= 5 * found.error[0]


def test_a_kink_far_away_costs_nothing():
    found = derivative(lambda x: math.sin(x) + max(x - 1.5, 0.0), 1.0)
    assert abs(found.value[0] - math.cos(1.0)) <= 5 * found.error[0]
    assert found.error[0] < 1e-6


@pytest.mark.parametrize("digits", [3, 4, 5, 6, 8, 10])
def test_a_function_that_is_rounded_coarsely_gets_an_error_bar_to_match(digits):
    # Moré and Wild (2011), section 6: where neighbours have the same value, look for noise farther away.
    places = np.linspace(0.3, 1.3, 80)
    found = [derivative(lambda x: round(math.sin(x), digits), float(at)) for at in places]
    covered = [
        abs(slope.value[0] - math.cos(at)) <= 5 * slope.error[0] for at, slope in zip(places, found, strict=True)
    ]
    assert np.mean(covered) >= 0.8  # seven points tell the noise only roughly
    assert np.median([slope.error[0] for slope in found]) < 1000 * 10.0**-digits


def test_a_function_that_is_nowhere_finite_gets_an_infinite_error():
    found = derivative(lambda x: math.nan, 1.0)
    assert math.isinf(found.error[0])


def test_a_function_that_is_finite_only_close_by_is_differentiated_there():
    found = derivative(lambda x: math.log(x - 0.99) if x > 0.99 else math.nan, 1.0)
    assert abs(found.value[0] - 100) <= 5 * found.error[0]
    assert found.error[0] < 0.1


# ---- noise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [1e-12, 1e-6, 1.0])
@pytest.mark.parametrize("points", [4, 7, 15])
def test_known_noise_is_recovered_on_average(sigma, points):
    rng = np.random.default_rng(0)
    estimates = [noise_from(sigma * rng.standard_normal(points)) for _ in range(4000)]
    assert np.sqrt(np.mean(np.square(estimates))) == pytest.approx(sigma, rel=0.06)


@given(coefficients=st.tuples(*[st.floats(-10, 10)] * 3))
def test_a_parabola_is_no_noise(coefficients):
    values = np.polyval(coefficients, np.arange(7.0))[:, None]
    assert noise_from(values)[0] <= 1e-14 * (1 + np.abs(values).max())


def test_noise_is_seen_on_top_of_a_smooth_function():
    rng = np.random.default_rng(1)
    at = 1 + np.array(NEARBY)[:, None] * spacing_for(UNITS["float64"])
    estimates = noise_from(np.exp(at) + 1e-9 * rng.standard_normal((at.size, 2000)))
    assert np.sqrt(np.mean(np.square(estimates))) == pytest.approx(1e-9, rel=0.06)


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_rounding_is_the_standard_deviation_of_half_a_unit_in_the_last_place_at_most(unit):
    # The bound |value|·u is attained just above a power of two; uniform over it, the deviation is that over √3.
    rng = np.random.default_rng(0)
    assert rounding(np.array([-2.0]), unit)[0] == pytest.approx(
        np.std(rng.uniform(-2 * unit, 2 * unit, 10**6)), rel=1e-2
    )


# ---- kinks ---------------------------------------------------------------------------------------------------------


def _even(function, at, ladder):
    return np.array([[function(at + h) + function(at - h) - 2 * function(at)] for h in ladder.steps])


@pytest.mark.parametrize("name", SMOOTH)
def test_kink_errors_of_smooth_functions_vanish_with_the_step(name):
    function, _ = SMOOTH[name]
    ladder = ladder_for(UNITS["float64"])
    noise = np.array([2.0**-52 * max(1, abs(function(1.0)))])
    found = kink_errors(_even(function, 1.0, ladder), ladder.steps, noise)[:, 0]
    assert (found[2:] <= 2 * ladder.steps[1:-1] ** 3).all()
    assert found[-1] <= 1e-9


@pytest.mark.parametrize("jump", [1e-3, 1.0, 50.0])
def test_at_a_kink_the_error_is_half_the_jump_at_every_step(jump):
    ladder = ladder_for(UNITS["float64"])
    found = kink_errors(_even(lambda x: jump * max(x, 0.0), 0.0, ladder), ladder.steps, np.zeros(1))
    assert found == pytest.approx(jump / 2)


@given(place=st.floats(-0.4, 0.4).filter(lambda x: abs(x) > 1e-3))
def test_beside_a_kink_the_estimate_is_typically_the_central_differences_error(place):
    ladder = Ladder(0.5, 2.0, 12)

    def function(x):
        return abs(x - place)

    found = kink_errors(_even(function, 0.0, ladder), ladder.steps, np.zeros(1))[:, 0]
    truth = -math.copysign(1.0, place)
    actual = np.array([abs((function(h) - function(-h)) / (2 * h) - truth) for h in ladder.steps])
    met = actual > 0.3
    if met.any():
        assert 0.3 <= np.median(found[met] / actual[met]) <= 4
    assert (found[ladder.steps < abs(place) / 16] < 1e-9).all()


def test_what_is_within_the_noise_is_no_kink():
    rng = np.random.default_rng(0)
    ladder = ladder_for(UNITS["float64"])
    sigma = np.full(1000, 1e-6)
    even = sigma * (rng.standard_normal((2, ladder.rungs, 1000)).sum(axis=0) - 2 * rng.standard_normal(1000))
    found = kink_errors(even, ladder.steps, sigma)
    assert np.mean(found > 0) < 0.01


# ---- extrapolate ---------------------------------------------------------------------------------------------------


def _random_smooth(rng, count):
    """Sums of three sinusoids of frequencies up to 3, and the slope at 0."""
    size, frequency, phase = (
        rng.normal(size=(3, count)),
        rng.uniform(0.2, 3, (3, count)),
        rng.uniform(0, 6.3, (3, count)),
    )

    def function(x):
        return (size * np.sin(frequency * x + phase)).sum(axis=0)

    return function, (size * frequency * np.cos(phase)).sum(axis=0)


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
@pytest.mark.parametrize("sigma", [0.0, 1e-10, 1e-6, 1e-3])
def test_error_bar_covers_the_truth_for_random_smooth_functions_with_noise(unit, sigma):
    rng = np.random.default_rng(2)
    count = 4000
    function, truth = _random_smooth(rng, count)
    steps = ladder_for(unit).steps
    # Evaluated in float64, where rounding is at most this; the noise asked for comes on top.
    noise = np.hypot(sigma, rounding(np.full(count, 4.0), UNITS["float64"]))
    plus, minus = (
        np.array([function(sign * h) + sigma * rng.standard_normal(count) for h in steps]) for sign in (1, -1)
    )
    found = extrapolate((plus - minus) / (2 * steps[:, None]), steps, noise)
    within = np.abs(found.value - truth) < 3 * found.error
    assert within.mean() >= 0.97
    assert (np.abs(found.value - truth) < 10 * found.error).mean() >= 0.999


def test_the_error_bar_is_not_wastefully_wide():
    rng = np.random.default_rng(3)
    function, truth = _random_smooth(rng, 2000)
    steps = ladder_for(UNITS["float64"]).steps
    sigma = 1e-8
    plus, minus = (np.array([function(s * h) + sigma * rng.standard_normal(2000) for h in steps]) for s in (1, -1))
    found = extrapolate((plus - minus) / (2 * steps[:, None]), steps, np.full(2000, sigma))
    assert np.median(np.abs(found.value - truth) / found.error) > 0.05
    assert np.median(found.error) < 200 * sigma


@given(unusable=st.sets(st.integers(0, 9), max_size=5))
def test_steps_that_left_the_functions_domain_are_passed_over(unusable):
    steps = ladder_for(UNITS["float64"]).steps
    quotients = np.array([[math.sin(h) / h] for h in steps])
    quotients[sorted(unusable)] = np.nan
    found = extrapolate(quotients, steps, np.full(1, 1e-16))
    if np.isfinite(quotients[:, 0]).any() and math.isfinite(found.error[0]):
        assert abs(found.value[0] - 1) <= 5 * found.error[0]


def test_without_a_finite_quotient_the_error_is_infinite():
    steps = ladder_for(UNITS["float64"]).steps
    found = extrapolate(np.full((len(steps), 2), np.nan), steps, np.zeros(2))
    assert np.isinf(found.error).all()


def test_lines_do_not_see_one_another():
    rng = np.random.default_rng(4)
    steps = ladder_for(UNITS["float32"]).steps
    quotients = 1 + steps[:, None] ** 2 * rng.normal(size=5) + 1e-6 * rng.normal(size=(len(steps), 5)) / steps[:, None]
    noise = np.full(5, 1e-6)
    together = extrapolate(quotients, steps, noise)
    for line in range(5):
        alone = extrapolate(quotients[:, [line]], steps, noise[[line]])
        assert (alone.value[0], alone.error[0]) == (together.value[line], together.error[line])


# ---- ladders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_a_ladder_reaches_from_truncation_to_noise(unit):
    steps = ladder_for(unit).steps
    truncation, noise = steps**2 / 6, unit / steps  # of sin at unit scale
    assert truncation[0] > noise[0]
    assert truncation[-1] < noise[-1]


@given(start=st.integers(-5, 30), rungs=st.integers(1, 20))
def test_part_of_a_ladder_is_steps_of_that_ladder(start, rungs):
    ladder = ladder_for(UNITS["float64"])
    part = ladder.part(start, rungs)
    assert part.rungs == min(rungs, ladder.rungs)
    assert set(part.steps) <= set(ladder.steps)


# ---- stairs --------------------------------------------------------------------------------------------------------


@given(width=st.floats(2.0, 8.0), start=st.floats(0.0, 1.0), height=scales, sign=st.sampled_from([-1.0, 1.0]))
def test_stairs_with_treads_of_two_to_eight_points_are_seen_at_seventeen(width, start, height, sign):
    values = sign * height * np.floor(np.arange(17.0) / width + start)
    assert staircase(values[:, None])[0] == pytest.approx(height)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: 0 * x, id="constant"),
        pytest.param(lambda x: x, id="line"),
        pytest.param(np.sin, id="sine"),
        pytest.param(lambda x: np.maximum(x - 4, 0), id="dead-zone"),
        pytest.param(lambda x: np.clip(x - 4, 0, 3), id="clamp"),
        pytest.param(lambda x: np.sign(x - 4.5), id="one-jump"),
        pytest.param(lambda x: (np.abs(x - 8) < 3).astype(float), id="pulse"),
        pytest.param(lambda x: x % 3, id="saw"),
    ],
)
def test_what_does_not_go_up_twice_with_a_tread_between_is_no_staircase(function):
    assert staircase(function(np.arange(17.0))[:, None])[0] == 0
