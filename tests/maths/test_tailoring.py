"""Working points, beside layers of random numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradvitals.maths.activations import NAMES, Activation, activation
from gradvitals.maths.tailoring import LEAST, ZETA, mirrored_point, working_point

WIDTH, SAMPLES = 400, 200
NONLINEAR = sorted(set(NAMES) - {"identity"})


def one_layer(phi, alpha, beta, seed=0):
    """A layer of random numbers: outputs of unit variance, their gradient, and the gradient behind the activation."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((SAMPLES, WIDTH))
    h = phi.value(alpha * z + beta)
    weights = rng.standard_normal((WIDTH, WIDTH)) / math.sqrt(WIDTH)
    scale = 1 / math.sqrt(np.mean(((h - h.mean()) @ weights) ** 2))
    sent = rng.standard_normal((SAMPLES, WIDTH))
    back = (sent @ (weights * scale).T) * phi.slope(alpha * z + beta) * alpha
    return h, np.mean(back**2) / np.mean(sent**2)


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid", "gelu", "elu", "softplus", "hardtanh"])
@pytest.mark.parametrize("depth", [2, 20])
def test_a_random_layer_at_the_working_point_shows_its_moments_and_chi(name, depth):
    phi = activation(name)
    point = working_point(phi, depth)
    h, chi = one_layer(phi, point.alpha, point.beta)
    assert h.mean() == pytest.approx(point.mean, abs=0.02 * math.sqrt(point.variance))
    assert h.var() == pytest.approx(point.variance, rel=0.02)
    assert chi == pytest.approx(point.chi, rel=0.03)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(NONLINEAR), st.integers(3, 200))
def test_chi_over_the_whole_depth_is_zeta(name, depth):
    point = working_point(activation(name), depth)
    assert point is not None
    assert point.chi**depth == pytest.approx(ZETA, rel=0.05)
    assert point.variance_slope <= 1.01  # the search sees kinks less sharply


#: Functions that make more of a larger signal at every shift, with their slopes.
RUNAWAY = {
    "squared relu": (lambda x: np.maximum(x, 0) ** 2, lambda x: 2 * np.maximum(x, 0)),
    "cube": (lambda x: x**3, lambda x: 3 * x**2),
    "exp": (np.exp, np.exp),
    "sinh": (np.sinh, np.cosh),
}


@pytest.mark.parametrize("name", RUNAWAY)
def test_what_grows_faster_than_its_input_is_bent_little(name):
    point = working_point(Activation(name, *RUNAWAY[name]), 20)
    assert point.chi**20 == pytest.approx(LEAST, rel=0.05)
    assert 1 < point.variance_slope**20 < 1.5


def test_a_working_point_without_a_bias_has_no_shift():
    assert working_point(activation("tanh"), 30, shifted=False).beta == 0
    assert working_point(activation("relu"), 30, shifted=False) is None


def test_an_even_activation_has_no_point_without_a_shift():
    square = Activation("square", np.square, lambda x: 2 * x)
    assert working_point(square, 30, shifted=False) is None
    assert mirrored_point(square) is None


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu", "silu", "softplus", "hardswish"])
def test_pairs_of_opposite_sign_cancel_the_mean_and_keep_the_variance(name):
    phi = activation(name)
    point = mirrored_point(phi)
    rng = np.random.default_rng(1)
    half = rng.standard_normal((SAMPLES, WIDTH)) * point.alpha
    w = rng.standard_normal((WIDTH, WIDTH)) * point.gain / math.sqrt(2 * WIDTH)
    out = np.hstack([phi.value(half), phi.value(-half)]) @ np.vstack([w, -w])
    assert abs(out.mean()) < 0.02 * point.alpha
    assert out.std() == pytest.approx(point.alpha, rel=0.03)


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "softplus"])
def test_pairs_make_a_rectifier_linear(name):
    assert mirrored_point(activation(name)).chi == 1.0


@pytest.mark.parametrize("name", ["tanh", "softsign", "hardtanh", "sigmoid", "elu"])
def test_what_stays_bent_gains_nothing_from_pairs(name):
    assert mirrored_point(activation(name)) is None


@pytest.mark.parametrize(("depth", "zeta"), [(0, 2.0), (5, 1.0)])
def test_a_depth_or_zeta_that_makes_no_sense_is_refused(depth, zeta):
    with pytest.raises(ValueError, match="needs a depth"):
        working_point(activation("tanh"), depth, zeta=zeta)
