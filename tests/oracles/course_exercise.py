"""The gradient-checking exercise of the courses: three layers, two classic mistakes in the backward pass.

Layer sizes 4-5-3-1, rectified hidden layers, a sigmoid output, cross-entropy averaged over m = 3 samples. The
mistakes: ``dW2`` carries a stray factor 2, ``db1`` has 4/m where 1/m belongs.
"""

from __future__ import annotations

import itertools

import numpy as np

SIZES = (4, 5, 3, 1)
SAMPLES = 3


def gradient_check_n_test_case(seed=1):
    """X (4, 3), Y (1, 3) of whole numbers, and the parameters W1, b1, W2, b2, W3, b3."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((SIZES[0], SAMPLES))
    Y = np.array([[1, 1, 0]])
    parameters = {}
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(SIZES), start=1):
        parameters[f"W{layer}"] = rng.standard_normal((fan_out, fan_in))
        parameters[f"b{layer}"] = rng.standard_normal((fan_out, 1))
    return X, Y, parameters


def forward_propagation_n(X, Y, parameters):
    m = Y.shape[1]
    W1, b1 = parameters["W1"], parameters["b1"]
    W2, b2 = parameters["W2"], parameters["b2"]
    W3, b3 = parameters["W3"], parameters["b3"]
    Z1 = W1 @ X + b1
    A1 = np.maximum(Z1, 0)
    Z2 = W2 @ A1 + b2
    A2 = np.maximum(Z2, 0)
    Z3 = W3 @ A2 + b3
    A3 = 1 / (1 + np.exp(-Z3))
    log_probabilities = -np.log(A3) * Y - np.log(1 - A3) * (1 - Y)
    cost = np.sum(log_probabilities) / m
    return cost, (Z1, A1, Z2, A2, A3, W2, W3)


def backward_propagation_n(X, Y, cache, *, mistaken=True):
    m = X.shape[1]
    Z1, A1, Z2, A2, A3, W2, W3 = cache
    dZ3 = A3 - Y
    dW3 = dZ3 @ A2.T / m
    db3 = np.sum(dZ3, axis=1, keepdims=True) / m
    dA2 = W3.T @ dZ3
    dZ2 = dA2 * (Z2 > 0)
    dW2 = dZ2 @ A1.T / m * (2 if mistaken else 1)
    db2 = np.sum(dZ2, axis=1, keepdims=True) / m
    dA1 = W2.T @ dZ2
    dZ1 = dA1 * (Z1 > 0)
    dW1 = dZ1 @ X.T / m
    db1 = (4 if mistaken else 1) / m * np.sum(dZ1, axis=1, keepdims=True)
    return {
        "dZ3": dZ3, "dW3": dW3, "db3": db3,
        "dA2": dA2, "dZ2": dZ2, "dW2": dW2, "db2": db2,
        "dA1": dA1, "dZ1": dZ1, "dW1": dW1, "db1": db1,
    }  # fmt: skip
