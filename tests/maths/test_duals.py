"""Expansions that are kept for all variances, against those that are made for each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradvitals.maths import duals
from gradvitals.maths.duals import Growing
from gradvitals.maths.expansion import expand

FUNCTIONS = [np.tanh, duals.sigmoid, duals.tanh_slope, duals.sigmoid_slope]


def _covariance(rng, n, widest):
    root = rng.normal(size=(n, n + 2))
    c = root @ root.T
    deviation = np.sqrt(c.diagonal())
    sizes = np.exp(rng.uniform(-widest, widest, n) / 2)
    return c / np.outer(deviation, deviation) * np.outer(sizes, sizes)


@pytest.mark.parametrize("function", FUNCTIONS)
@given(mean=st.sampled_from([0.0, 1.0, -0.5]), seed=st.integers(0, 20), widest=st.sampled_from([0.1, 2.0, 6.0]))
def test_a_kernel_is_that_of_an_expansion_of_its_own(function, mean, seed, widest):
    covariance = _covariance(np.random.default_rng(seed), 9, widest)
    variance = covariance.diagonal()
    whole = expand(function, np.full(9, mean), variance)
    expected = whole.kernel(covariance / np.sqrt(np.outer(variance, variance)))
    found = duals.of(function, mean).kernel(covariance)
    np.testing.assert_allclose(found, expected, atol=1e-4 * whole.second.max())
    np.testing.assert_allclose(found.diagonal(), whole.second, rtol=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_variables_that_come_step_by_step_have_the_kernel_of_all_at_once(function):
    covariance = _covariance(np.random.default_rng(0), 12, 1.0)
    whole = duals.of(function, 0.0).kernel(covariance).reshape(4, 3, 4, 3).transpose(0, 2, 1, 3)
    growing = Growing(function, 0.0, 4, 3)
    shaped = covariance.reshape(4, 3, 4, 3).transpose(0, 2, 1, 3)
    for t in range(4):
        block, _ = growing.step(shaped[: t + 1, t])
        np.testing.assert_allclose(block, whole[: t + 1, t], rtol=1e-6, atol=1e-7)


def test_variances_far_below_one_lose_nothing():
    tiny = duals.of(np.tanh, 0.0).kernel(np.array([[1e-12, 5e-13], [5e-13, 1e-12]]))
    np.testing.assert_allclose(tiny, [[1e-12, 5e-13], [5e-13, 1e-12]], rtol=1e-6)


def test_variances_far_beyond_the_table_are_at_the_ends_of_the_function():
    huge = duals.of(np.tanh, 0.0).kernel(np.diag([1e12, 1e60]))
    np.testing.assert_allclose(huge, np.eye(2), atol=0.02)
