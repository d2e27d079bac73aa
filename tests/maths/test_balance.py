"""Working points of activations: they keep what they promise when layers are sampled and stacked."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradvitals.maths import gaussian
from gradvitals.maths.activations import NAMES, activation
from gradvitals.maths.balance import balance, is_homogeneous

WIDTH, DEPTH = 600, 8


@pytest.mark.parametrize("name", NAMES)
def test_sampled_layers_keep_the_variance_and_the_gradient(name):
    """Forward and backward through a stack of wide random layers, by hand."""
    phi, rng = activation(name), np.random.default_rng(0)
    point = balance(phi)
    z = math.sqrt(point.q) * rng.normal(size=WIDTH)
    slopes, weights = [], []
    for _ in range(DEPTH):
        weight = rng.normal(size=(WIDTH, WIDTH)) * point.gain / math.sqrt(WIDTH)
        slopes.append(phi.slope(z))
        weights.append(weight)
        z = weight @ (phi.value(z) - point.centre)
    gradient = rng.normal(size=WIDTH)
    for weight, slope in zip(reversed(weights), reversed(slopes), strict=True):
        gradient = slope * (weight.T @ gradient)
    assert np.mean(z**2) / point.q == pytest.approx(1.0, rel=0.5)
    assert np.mean(gradient**2) == pytest.approx(point.chi**DEPTH, rel=0.6)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_kept_at_every_working_point(name):
    assert 0.9 < balance(activation(name)).chi < 1.1


def test_only_activations_whose_mean_eats_the_variance_are_centred():
    centred = {name for name in NAMES if balance(activation(name)).centre}
    assert centred == {"sigmoid", "logsigmoid", "softplus", "hardsigmoid"}


def test_hes_and_lecuns_gains_come_out_of_it():
    assert balance(activation("relu")).gain == pytest.approx(math.sqrt(2))
    assert balance(activation("leaky_relu", negative_slope=0.2)).gain == pytest.approx(math.sqrt(2 / 1.04))
    assert balance(activation("identity")).gain == pytest.approx(1.0)
    assert balance(activation("selu")).gain == pytest.approx(1.0, abs=1e-9)


def test_bounded_activations_work_where_they_are_gently_bent():
    tanh = balance(activation("tanh"))
    assert tanh.q < 0.5
    assert tanh.chi == pytest.approx(1.035, abs=1e-6)
    assert tanh.gain == pytest.approx(gaussian.gain(activation("tanh"), tanh.q))
    assert tanh.gains == pytest.approx((1.0, 1.5925), abs=1e-4)


def test_homogeneous_ones_are_recognised():
    assert {name for name in NAMES if is_homogeneous(activation(name))} == {"identity", "relu", "leaky_relu"}
