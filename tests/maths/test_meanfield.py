"""Mean-field maps against what they leave out to be quick."""

from __future__ import annotations

import numpy as np
import pytest

from gradvitals.maths.expansion import Nodes, Values, even_moments, expand


@pytest.mark.parametrize("f", [np.tanh, np.exp, np.sign, lambda z: 1 / z, np.log])
def test_even_moments_are_those_of_the_expansion(f):
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(size=5), rng.uniform(0.5, 2.0, 5)
    whole = expand(f, mean, variance)
    with np.errstate(all="ignore"):
        second, fourth = even_moments(f, mean, variance)
    np.testing.assert_allclose(second, whole.second, rtol=1e-12)
    np.testing.assert_allclose(fourth, whole.fourth, rtol=1e-12)


@pytest.mark.parametrize("largest", [0.0, 0.1, 0.6, 1.0])
@pytest.mark.parametrize("rows", [1, 70])
@pytest.mark.parametrize("f", [np.tanh, np.abs, lambda z: np.maximum(z, 0), lambda z: np.exp(z / 3)])
def test_a_kernel_without_negligible_terms_is_the_whole_series(f, rows, largest):
    rng = np.random.default_rng(0)
    expansion = expand(f, rng.normal(size=rows), rng.uniform(0.5, 2.0, rows))
    c = rng.uniform(-largest, largest, (70, 70))
    c = (c + c.T) / 2
    np.fill_diagonal(c, rng.uniform(0.5, 1.0, 70))
    a = np.broadcast_to(expansion.coefficients, (70, expansion.coefficients.shape[1]))
    left_out = np.maximum(expansion.second - (expansion.coefficients**2).sum(axis=1), 0.0) * np.ones(70)
    whole = sum(np.outer(a[:, k], a[:, k]) * c**k for k in range(a.shape[1]))
    whole = whole + np.sqrt(np.outer(left_out, left_out)) * c ** (a.shape[1] + 2)
    np.testing.assert_allclose(expansion.kernel(c), whole, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("widest", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("f", [np.tanh, lambda z: z / (1 + np.exp(-z)), np.square])
def test_rows_between_few_are_what_each_row_would_be(f, shifted, widest):
    rng = np.random.default_rng(0)
    variance = np.exp(rng.uniform(-widest / 2, widest / 2, 2000))
    mean = rng.uniform(0.3, 0.4, 2000) * np.sqrt(variance) if shifted else np.full(2000, 0.2)
    few = Nodes.of(mean, variance)
    assert len(few.variance) < 300
    whole, part = expand(f, mean, variance), Values(f, few.mean, few.variance).expansion()
    np.testing.assert_allclose(few.spread(part.second), whole.second, rtol=1e-9)
    np.testing.assert_allclose(few.spread(part.fourth), whole.fourth, rtol=1e-9)
    np.testing.assert_allclose(few.spread(part.mean), whole.mean, rtol=1e-9, atol=1e-9)


def test_rows_that_lie_far_apart_are_all_taken():
    assert Nodes.of(np.zeros(30), np.exp(np.linspace(-9, 9, 30))).between is None
    assert Nodes.of(np.zeros(30), np.zeros(30)).between is None


@pytest.mark.parametrize("f", [np.tanh, lambda z: np.maximum(z, 0)])
def test_a_kernel_of_interpolated_rows_is_that_of_all_rows(f):
    rng = np.random.default_rng(0)
    mean, variance = np.full(90, 0.01), rng.uniform(0.8, 1.2, 90)
    few = Nodes.of(mean, variance)
    c = rng.uniform(-0.3, 0.9, (90, 90))
    c = (c + c.T) / 2
    np.fill_diagonal(c, 1.0)
    found = expand(f, few.mean, few.variance).kernel(c, few.between)
    np.testing.assert_allclose(found, expand(f, mean, variance).kernel(c), atol=2e-5)
