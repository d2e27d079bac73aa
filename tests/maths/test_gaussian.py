"""Gaussian expectations, against closed forms and against a sum over a very fine grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradvitals.maths.activations import NAMES, activation
from gradvitals.maths.gaussian import (
    chi,
    critical_gain,
    expectation,
    gain,
    mean,
    second_moment,
    variance,
    variance_slope,
)


def grid_expectation(f, q):
    """The slow obvious way: a midpoint sum over two million cells."""
    edge = 12 * math.sqrt(q)
    cells = 2_000_000
    width = 2 * edge / cells
    z = -edge + width * (np.arange(cells) + 0.5)
    return float(np.sum(f(z) * np.exp(-(z**2) / (2 * q))) * width / math.sqrt(2 * math.pi * q))


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("gelu")])  # erfc point by point is slow
@pytest.mark.parametrize("q", [0.3, 4.0])
def test_second_moment_agrees_with_a_fine_grid(name, q):
    phi = activation(name)
    assert second_moment(phi, q) == pytest.approx(grid_expectation(lambda z: phi.value(z) ** 2, q), rel=1e-9)


def test_agrees_with_samples():
    rng = np.random.default_rng(0)
    z = rng.normal(size=1_000_000)
    for name in ("gelu", "silu", "sigmoid", "elu"):
        phi = activation(name)
        assert mean(phi) == pytest.approx(phi.value(z).mean(), abs=5e-3)
        assert variance(phi) == pytest.approx(phi.value(z).var(), rel=1e-2)


@settings(max_examples=50)
@given(q=st.floats(1e-6, 1e6), power=st.sampled_from([0, 2, 4, 6]))
def test_even_moments_are_those_of_a_gaussian(q, power):
    double_factorial = math.prod(range(power - 1, 0, -2))
    assert expectation(lambda z: z**power, q) == pytest.approx(double_factorial * q ** (power / 2), rel=1e-12)


@settings(max_examples=50)
@given(slope=st.floats(0, 1), q=st.floats(1e-4, 1e4))
def test_leaky_relu_has_its_closed_form_at_every_scale(slope, q):
    phi = activation("leaky_relu", negative_slope=slope)
    assert gain(phi, q) == pytest.approx(math.sqrt(2 / (1 + slope**2)), rel=1e-12)
    assert chi(phi, q) == pytest.approx(1.0, rel=1e-12)


def test_relu_keeps_the_gradient_at_hes_gain():
    relu = activation("relu")
    assert chi(relu, weight_gain=math.sqrt(2)) == pytest.approx(1.0, abs=1e-13)
    assert variance_slope(relu) == pytest.approx(1.0, abs=1e-13)
    assert mean(relu) == pytest.approx(1 / math.sqrt(2 * math.pi), abs=1e-13)


def test_hard_tanh_has_its_closed_form():
    q, a = 2.0, 1 / math.sqrt(2.0)
    inside = math.erf(a / math.sqrt(2))
    tail = 2 * a * math.exp(-(a**2) / 2) / math.sqrt(2 * math.pi)
    assert second_moment(activation("hardtanh"), q) == pytest.approx(q * (inside - tail) + 1 - inside, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "expected_gain", "expected_chi", "expected_slope"),
    [
        ("relu", 1.414, 1.0, 1.0),
        ("tanh", 1.593, 1.178, 0.46),
        ("gelu", 1.534, 1.072, 1.14),
        ("silu", 1.677, 1.067, 1.17),
        ("selu", 1.0, 1.072, 0.78),
        ("elu", 1.245, 1.036, 0.89),
        ("sigmoid", 1.846, 0.153, 0.11),
    ],
)
def test_published_figures_at_unit_variance(name, expected_gain, expected_chi, expected_slope):
    phi = activation(name)
    assert gain(phi) == pytest.approx(expected_gain, abs=6e-4)
    assert chi(phi) == pytest.approx(expected_chi, abs=6e-4)
    assert variance_slope(phi) == pytest.approx(expected_slope, abs=6e-3)


def test_selu_is_its_own_fixed_point():
    assert mean(activation("selu")) == pytest.approx(0.0, abs=1e-9)
    assert second_moment(activation("selu")) == pytest.approx(1.0, abs=1e-9)


def test_a_large_working_point_still_sees_the_bend():
    saturated = activation("tanh")
    assert second_moment(saturated, 1e6) == pytest.approx(1 - 2 / math.sqrt(2 * math.pi * 1e6), rel=1e-6)


def test_critical_gains():
    assert critical_gain(activation("sigmoid")) == 4.0
    assert critical_gain(activation("tanh")) == 1.0
    with pytest.raises(ValueError, match="no slope at zero"):
        critical_gain(activation("relu"))


@pytest.mark.parametrize("q", [0.0, -1.0, math.nan, math.inf])
def test_a_variance_that_is_none_is_refused(q):
    with pytest.raises(ValueError, match="positive and finite"):
        expectation(np.square, q)
