"""The table of activations, against central differences and against PyTorch's own functions."""

from __future__ import annotations

import numpy as np
import pytest

from gradvitals.maths.activations import NAMES, activation

GRID = np.linspace(-7.9, 7.9, 4001)


@pytest.mark.parametrize("name", NAMES)
def test_slope_is_the_derivative_away_from_kinks(name):
    phi = activation(name)
    step = 1e-6
    away = np.all([np.abs(GRID - kink) > 1e-3 for kink in (*phi.kinks, np.inf)], axis=0)
    x = GRID[away]
    measured = (phi.value(x + step) - phi.value(x - step)) / (2 * step)
    np.testing.assert_allclose(phi.slope(x), measured, atol=2e-8)


@pytest.mark.parametrize(
    ("name", "function", "parameters"),
    [
        ("relu", "relu", {}),
        ("leaky_relu", "leaky_relu", {"negative_slope": 0.2}),
        ("elu", "elu", {"alpha": 0.7}),
        ("celu", "celu", {"alpha": 0.7}),
        ("selu", "selu", {}),
        ("gelu", "gelu", {}),
        ("silu", "silu", {}),
        ("tanh", "tanh", {}),
        ("sigmoid", "sigmoid", {}),
        ("logsigmoid", "logsigmoid", {}),
        ("softplus", "softplus", {"beta": 2.0}),
        ("mish", "mish", {}),
        ("hardtanh", "hardtanh", {}),
        ("relu6", "relu6", {}),
        ("hardsigmoid", "hardsigmoid", {}),
        ("hardswish", "hardswish", {}),
        ("softsign", "softsign", {}),
    ],
)
def test_values_are_those_of_pytorch(name, function, parameters):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn.functional, function)(torch.from_numpy(GRID), **parameters)
    np.testing.assert_allclose(activation(name, **parameters).value(GRID), theirs.numpy(), atol=1e-8)


def test_tanh_form_of_gelu_is_pytorchs():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.functional.gelu(torch.from_numpy(GRID), approximate="tanh")
    np.testing.assert_allclose(activation("gelu_tanh").value(GRID), theirs.numpy(), atol=1e-12)


def test_unknown_name_is_a_key_error():
    with pytest.raises(KeyError, match="reluu"):
        activation("reluu")


@pytest.mark.parametrize("name", NAMES)
def test_large_inputs_neither_overflow_nor_warn(name):
    phi = activation(name)
    with np.errstate(all="raise", under="ignore"):
        assert np.all(np.isfinite(phi.value(np.array([-400.0, 400.0]))))
        assert np.all(np.isfinite(phi.slope(np.array([-400.0, 400.0]))))
