"""Mean-field maps against what they leave out to be quick."""

from __future__ import annotations

import numpy as np
import pytest

from gradvitals.maths.expansion import even_moments, expand


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
