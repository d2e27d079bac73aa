"""The schemes' variances: the worked numbers, and that they keep what they promise on sampled weights."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradvitals.maths import schemes


@pytest.mark.parametrize(("sigma", "expected"), [(0.1, 1.0), (0.5, 25.0), (0.01, 0.01)])
def test_output_variance_of_a_sampled_layer_is_the_computed_one(sigma, expected):
    rng = np.random.default_rng(0)
    weights = rng.normal(0, sigma, size=(400, 100))
    x = rng.normal(size=(100, 400))
    assert schemes.output_variance(100, sigma) == pytest.approx(expected)
    assert (weights @ x).var() == pytest.approx(expected, rel=0.05)


def test_he_keeps_the_second_moment_through_relu():
    rng = np.random.default_rng(1)
    x = np.maximum(rng.normal(size=(512, 256)), 0)
    for _ in range(10):
        z = x @ rng.normal(0, math.sqrt(schemes.he(256)), size=(256, 256))
        x = np.maximum(z, 0)
    assert np.mean(z**2) == pytest.approx(1.0, rel=0.5)


def test_xavier_is_the_papers_and_not_half_of_it():
    assert schemes.xavier(100, 50) == pytest.approx(0.013333, abs=1e-6)
    assert schemes.uniform_bound(schemes.xavier(100, 50)) == pytest.approx(math.sqrt(6 / 150))


def test_uniform_draws_have_the_variance_they_were_asked_for():
    bound = schemes.uniform_bound(0.02)
    draws = np.random.default_rng(2).uniform(-bound, bound, size=200_000)
    assert draws.var() == pytest.approx(0.02, rel=0.01)


def test_gain_multiplies_the_standard_deviation():
    assert schemes.variance("orthogonal", 64, 64, gain=4.0) == pytest.approx(16 / 64)
    assert schemes.variance("he", 100, 50) == pytest.approx(0.02)


def test_empty_fans_and_unknown_schemes_are_refused():
    with pytest.raises(ValueError, match="fan_in"):
        schemes.variance("he", 0, 5)
    with pytest.raises(KeyError):
        schemes.variance("hee", 5, 5)
