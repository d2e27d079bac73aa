"""Exponents, and how often their intervals hold."""

from __future__ import annotations

import numpy as np
import pytest

from gradvitals.maths.powerlaw import power_law, student_95


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.5, 2.0])
def test_an_exact_power_law_is_found_exactly(exponent):
    sizes = [16, 32, 100, 300]
    fit = power_law(sizes, [3 * size**exponent for size in sizes])
    assert fit.exponent == pytest.approx(exponent, abs=1e-12)
    assert fit.error < 1e-10


def test_intervals_hold_in_95_of_100_cases():
    rng, sizes, held = np.random.default_rng(0), np.repeat([32, 64, 128, 256], 3), 0
    for _ in range(2000):
        fit = power_law(sizes, sizes**0.5 * np.exp(0.3 * rng.standard_normal(len(sizes))))
        held += abs(fit.exponent - 0.5) <= fit.error
    assert 0.94 < held / 2000 < 0.96


def test_the_quantile_is_that_of_students_distribution():
    """Student (1908); Abramowitz and Stegun (1964), table 26.10."""
    for freedom, quantile in {1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571, 10: 2.228, 30: 2.042}.items():
        assert student_95(freedom) == pytest.approx(quantile, rel=0.01)


def test_zeros_and_what_is_not_finite_are_left_out_and_too_little_gives_nothing():
    assert power_law([1, 2, 4, 8], [1, 2, 0, 8]).points == 3
    assert power_law([1, 2, 4, 8], [1, 2, float("nan"), float("inf")]) is None
    assert power_law([4, 4, 4], [1, 2, 3]) is None
