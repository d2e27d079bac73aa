"""One line through the point: what is missing, and with which error bar."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradvitals.frameworks.problem import Gradient, Tensor, values_one_by_one
from gradvitals.gradients.measure_base import Base, measure_base, surroundings
from gradvitals.gradients.measure_lines import CONFIRM_FROM, SUSPECT_AT, Line, confirmed, measure_line
from gradvitals.maths.differences import ladder_for, rounding

UNIT = 2.0**-53


class Analytic:
    """A problem that is a formula: F and its gradient as plain functions of flat arrays."""

    objective = "scalar"
    sample_sizes = ()
    roundoff = UNIT
    evaluation = "sequential"

    def __init__(self, function, gradient, *points):
        self.function, self.slope, self.points = function, gradient, points
        self.tensors = tuple(Tensor(f"x{at}", "input", x.shape, "float64", UNIT) for at, x in enumerate(points))
        self.asked = []

    def point(self, tensor):
        return self.points[tensor]

    def values(self, points):
        return values_one_by_one(self, points, self.value({}).size)

    @property
    def output_sizes(self):
        return (self.value({}).size,)

    def value(self, moved):
        at = [moved.get(k, x) for k, x in enumerate(self.points)]
        self.asked.append(at)
        return np.atleast_1d(self.function(*at))

    @property
    def output_roundoff(self):
        return np.full(self.value({}).size, UNIT)

    def representable(self, cotangent):
        return cotangent

    def gradient(self, cotangent, moved=None):
        return tuple(Gradient(g) for g in self.slope(*self.points))

    def wide_gradient(self, cotangent, moved=None):
        return None


def base_of(problem, gradients, cotangent=None, noise=0.0):
    value = problem.value({})
    return Base(
        points=problem.points,
        value=value,
        noise=np.hypot(rounding(value, UNIT), noise),
        rounding=rounding(np.ones(value.size), UNIT),
        cotangent=np.ones(value.size) if cotangent is None else cotangent,
        gradients=tuple(gradients),
        gradient_errors=tuple(np.zeros(g.size) for g in gradients),
        scales=tuple(1.0 for _ in gradients),
        roundoff=UNIT,
        gradient_roundoff=UNIT,
    )


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def smooth(rng):
    x, y = rng.normal(size=5), rng.normal(size=3)
    return Analytic(
        lambda x, y: np.sin(x).sum() * np.exp(y).sum(),
        lambda x, y: (np.cos(x) * np.exp(y).sum(), np.sin(x).sum() * np.exp(y)),
        x,
        y,
    )


def test_of_a_right_gradient_nothing_is_missing(smooth, rng):
    gradients = smooth.slope(*smooth.points)
    base = base_of(smooth, gradients)
    for _ in range(20):
        direction = {0: rng.normal(size=5), 1: rng.normal(size=3)}
        line = measure_line(smooth, base, direction, ladder_for(2.0**-53))
        moved = line.direction
        assert all(np.allclose(moved[at], direction[at], rtol=1e-6) for at in direction)  # to exact displacements
        assert line.analytic == pytest.approx(gradients[0] @ moved[0] + gradients[1] @ moved[1], rel=1e-12)
        assert abs(line.missing) <= SUSPECT_AT * line.error
        assert line.error < 1e-9
        assert not line.suspect(0.0)


def test_what_is_missing_is_the_gradients_error_along_the_direction(smooth, rng):
    gradients = smooth.slope(*smooth.points)
    error = rng.normal(size=5)
    base = base_of(smooth, [gradients[0] - error, gradients[1]])
    for _ in range(10):
        direction = {0: rng.normal(size=5), 1: rng.normal(size=3)}
        line = measure_line(smooth, base, direction)
        moved = line.direction
        assert abs(line.missing - error @ moved[0]) <= SUSPECT_AT * line.error
        assert line.numeric == pytest.approx(gradients[0] @ moved[0] + gradients[1] @ moved[1], rel=1e-8)
        assert line.suspect(0.0)
        assert confirmed(smooth, base, line, 0.0)


def test_tensors_that_are_not_in_the_direction_stay_where_they_are(smooth, rng):
    measure_line(smooth, base_of(smooth, smooth.slope(*smooth.points)), {1: rng.normal(size=3)})
    assert all(np.array_equal(x, smooth.points[0]) for x, _ in smooth.asked)


def test_the_cotangent_weighs_the_outputs(rng):
    x = rng.normal(size=4)
    weights = rng.normal(size=4)
    problem = Analytic(np.sin, lambda x: (weights * np.cos(x),), x)
    base = base_of(problem, problem.slope(x), cotangent=weights)
    line = measure_line(problem, base, {0: rng.normal(size=4)}, ladder_for(2.0**-53))
    assert not line.suspect(0.0)
    assert line.error < 1e-9


@pytest.mark.parametrize("distance", [1e-5, 1e-4, 1e-3, 1e-2])
def test_a_right_gradient_beside_a_kink_is_never_suspect(distance, rng):
    for _ in range(20):
        x = rng.normal(size=6)
        x[0] = distance * rng.choice((-1, 1))
        problem = Analytic(lambda x: np.maximum(x, 0) ** 2 + np.maximum(x, 0), lambda x: ((2 * x + 1) * (x > 0),), x)
        line = measure_line(problem, base_of(problem, problem.slope(x)), {0: rng.normal(size=6)})
        assert not line.suspect(0.0)


@pytest.mark.parametrize("subgradient", [0.0, 0.3, 0.5, 1.0])
def test_exactly_at_a_kink_every_subgradient_is_right(subgradient, rng):
    x = np.zeros(3)
    problem = Analytic(lambda x: np.maximum(x, 0), lambda x: (np.full(3, subgradient),), x)
    line = measure_line(problem, base_of(problem, problem.slope(x)), {0: rng.normal(size=3)})
    assert not line.suspect(0.0)


def test_far_outside_the_subgradients_even_a_kink_excuses_nothing():
    problem = Analytic(lambda x: np.maximum(x, 0), lambda x: (np.full(3, -10.0),), np.zeros(3))
    line = measure_line(problem, base_of(problem, problem.slope(*problem.points)), {0: np.ones(3)})
    assert line.suspect(0.0)


def test_noise_of_the_function_is_in_the_error_bar(rng):
    sigma = 1e-6
    x = rng.normal(size=4)
    noise = np.random.default_rng(1)
    problem = Analytic(lambda x: np.sin(x).sum() + sigma * noise.standard_normal(), lambda x: (np.cos(x),), x)
    base = base_of(problem, problem.slope(x), noise=sigma)
    lines = [measure_line(problem, base, {0: rng.normal(size=4)}) for _ in range(200)]
    assert np.mean([abs(line.missing) <= SUSPECT_AT * line.error for line in lines]) >= 0.99
    assert all(0 < line.noise <= line.error for line in lines)


def measured_base(problem, seed):
    value, again = problem.value({}), problem.value({})
    cotangent = np.ones(value.size)
    rng = np.random.default_rng(seed)
    around = surroundings(problem, value, rng).repeated(again - value)
    return measure_base(problem, value, around, cotangent, problem.gradient(cotangent), rng)


def test_the_functions_noise_is_recovered(rng):
    sigma = 1e-7
    noise = np.random.default_rng(1)
    x = rng.normal(size=4)
    problem = Analytic(lambda x: np.sin(x).sum() + sigma * noise.standard_normal(), lambda x: (np.cos(x),), x)
    found = [measured_base(problem, seed).projected_noise for seed in range(200)]
    assert np.median(found) == pytest.approx(sigma, rel=0.5)
    assert np.quantile(found, 0.02) > sigma / 5


@pytest.mark.parametrize("quantum", [4e-3, 1e-3, 1e-5, 1e-8])
def test_a_function_that_is_rounded_inside_is_noisy_by_what_it_rounds_to(quantum, rng):
    x = rng.normal(size=4)
    problem = Analytic(lambda x: np.round(np.sin(x) / quantum) * quantum, lambda x: (np.cos(x),), x)
    found = [measured_base(problem, seed).projected_noise for seed in range(50)]
    assert np.median(found) > 0.1 * quantum
    assert np.median(found) < 10 * quantum


def test_steps_outside_the_domain_are_passed_over(rng):
    x = np.full(3, 0.01)
    with np.errstate(invalid="ignore"):
        problem = Analytic(np.sqrt, lambda x: (0.5 / np.sqrt(x),), x)
        line = measure_line(problem, base_of(problem, problem.slope(x)), {0: np.ones(3)})
        off = measure_line(problem, base_of(problem, [np.ones(3)]), {0: np.ones(3)})
    assert not line.suspect(0.0)
    assert line.error < 1e-4
    assert off.suspect(0.0)


def test_where_nothing_is_finite_nothing_is_suspect():
    problem = Analytic(lambda x: x * math.nan, lambda x: (x,), np.ones(2))
    base = base_of(problem, [np.ones(2)])
    line = measure_line(problem, base, {0: np.ones(2)})
    assert not line.suspect(0.0)


def test_what_only_one_ladder_sees_is_not_confirmed(smooth, rng):
    gradients = smooth.slope(*smooth.points)
    base = base_of(smooth, gradients)
    honest = measure_line(smooth, base, {0: rng.normal(size=5)})
    imagined = Line(honest.direction, honest.analytic, 1e-3, 1e-9, 1e-9, 0.0, 0.0, 0.0, honest.rung)
    assert imagined.suspect(0.0)
    assert not confirmed(smooth, base, imagined, 0.0)


def test_confirmation_uses_other_steps():
    own = set(ladder_for(UNIT).steps)
    assert all(not own & set(ladder_for(UNIT).multiple(multiple).steps) for multiple in CONFIRM_FROM)


def test_widening_adds_independent_errors():
    line = Line({}, 1.0, 0.5, 3.0, 0.0, 0.0, 0.0, 0.25, 0)
    assert line.widened(4.0).error == pytest.approx(5.0)
    assert line.bar == pytest.approx(SUSPECT_AT * 3 + 0.25)
    assert line.numeric == 1.5


def test_immaterial_differences_are_not_suspect():
    line = Line({}, 1.0, 1e-8, 1e-12, 0.0, 0.0, 0.0, 0.0, 0)
    assert line.suspect(0.0)
    assert not line.suspect(1e-7)
