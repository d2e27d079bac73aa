"""Scalar NumPy costs with a wrong gradient, and layers as objects that remember the wrong thing."""

from __future__ import annotations

import numpy as np

from oracles import numpy_layers as right
from oracles.wrong_backwards import wrong
from oracles.wrong_layers import drawn


def regression_case(rng, spoil, *, decay=0.0, bias_decay=0.0, lasso=0.0, n=7, d=4, k=3):
    """Softmax regression with penalties in the cost, and a gradient that ``spoil`` gets wrong."""
    x, w, b = drawn(rng, (n, d), (d, k), (k,))
    loss, gradient = right.softmax_regression(rng.integers(k, size=n))

    def cost(w, b, x):
        penalties = decay * (w**2).sum() / 2 + bias_decay * (b**2).sum() / 2 + lasso * np.abs(w).sum()
        return loss(x, w, b) + penalties

    def claimed(w, b, x):
        _, dw, db = gradient(x, w, b)
        dw, db = dw + decay * w + lasso * np.sign(w), db + bias_decay * b
        return dict(zip(("w", "b"), spoil(dw, db, w, b), strict=True))

    return (cost, w, b, x), {"grad": claimed}


@wrong("cross-entropy: 1/N is missing", "factor-missing", "w b", name="1/N (N = 7)")
def _(rng):
    return regression_case(rng, lambda dw, db, w, b: (7 * dw, 7 * db))


@wrong("cross-entropy: label minus output", "sign", "w b")
def _(rng):
    return regression_case(rng, lambda dw, db, w, b: (-dw, -db))


@wrong("weight decay: it is in the cost, not in the gradient", "term-own", "w", coefficient=0.1)
def _(rng):
    return regression_case(rng, lambda dw, db, w, b: (dw - 0.1 * w, db), decay=0.1)


@wrong("weight decay: it is in the gradient, not in the cost", "term-own", "w", coefficient=-0.01)
def _(rng):
    return regression_case(rng, lambda dw, db, w, b: (dw + 0.01 * w, db))


@wrong("weight decay: of the bias as well", "term-own", "b", coefficient=-0.5)
def _(rng):
    return regression_case(rng, lambda dw, db, w, b: (dw, db + 0.5 * b), k=5)


@wrong("weight decay: of a large layer", "term-own", "w", coefficient=0.02)
def _(rng):
    return regression_case(rng, lambda dw, db, w, b: (dw - 0.02 * w, db), decay=0.02, n=20, d=40, k=12)


@wrong("lasso: it is in the cost, not in the gradient", "term-sign", "w", coefficient=0.05)
def _(rng):
    return regression_case(rng, lambda dw, db, w, b: (dw - 0.05 * np.sign(w), db), lasso=0.05)


@wrong("cross-entropy over tokens: the sum's gradient for a mean", "factor-missing", "logits", name="24")
def _(rng):
    (logits,) = drawn(rng, (4, 6, 5))
    labels = rng.integers(5, size=24)
    loss, gradient = right.cross_entropy(labels)

    def claimed(logits):
        return 24 * gradient(logits.reshape(24, 5)).reshape(logits.shape)

    return (lambda logits: loss(logits.reshape(24, 5)), logits), {"grad": claimed}


@wrong("half squared error: the half is forgotten", "factor-extra", "w", name="2")
def _(rng):
    x, y, w = drawn(rng, (6, 4), (6,), (4,))
    return (lambda w, x, y: 0.5 * ((x @ w - y) ** 2).sum(), w, x, y), {
        "grad": lambda w, x, y: {"dw": 2 * x.T @ (x @ w - y)}
    }


@wrong("variance: N where N − 1 is meant", "factor-missing", "x", name="8")
def _(rng):
    (x,) = drawn(rng, (9,))
    return (lambda x: x.var(ddof=1), x), {"grad": lambda x: 2 * (x - x.mean()) / 9}


def network(rng, spoil):
    """Two layers in the courses' notation; ``spoil`` gets (gradients, dZ1, dZ2, X, A1)."""
    X, Y, W1, b1, W2, b2 = drawn(rng, (3, 6), (2, 6), (4, 3), (4, 1), (2, 4), (2, 1))
    parameters = {"W1": W1, "b1": b1, "W2": W2, "b2": b2}

    def cost(p):
        A1 = np.tanh(p["W1"] @ X + p["b1"])
        return float(((p["W2"] @ A1 + p["b2"] - Y) ** 2).sum() / 12)

    def claimed(p):
        A1 = np.tanh(p["W1"] @ X + p["b1"])
        dZ2 = (p["W2"] @ A1 + p["b2"] - Y) / 6
        dZ1 = (p["W2"].T @ dZ2) * (1 - A1**2)
        gradients = {
            "dW1": dZ1 @ X.T,
            "db1": dZ1.sum(axis=1, keepdims=True),
            "dW2": dZ2 @ A1.T,
            "db2": dZ2.sum(axis=1, keepdims=True),
        }
        return gradients | spoil(dZ1, dZ2, X, A1, p)

    return (cost, parameters), {"grad": claimed}


@wrong("course network: the activation's derivative is forgotten", "formula", "W1 b1")
def _(rng):
    def spoil(dZ1, dZ2, X, A1, p):
        dA1 = p["W2"].T @ dZ2
        return {"dW1": dA1 @ X.T, "db1": dA1.sum(axis=1, keepdims=True)}

    return network(rng, spoil)


@wrong("course network: the biases' gradient is a mean", "factor-extra factor-missing", "b1 b2", name="6")
def _(rng):
    def spoil(dZ1, dZ2, X, A1, p):
        return {"db1": dZ1.mean(axis=1, keepdims=True), "db2": dZ2.mean(axis=1, keepdims=True)}

    return network(rng, spoil)


@wrong("course network: the hidden layer's sign is lost", "sign", "W1 b1")
def _(rng):
    return network(rng, lambda dZ1, dZ2, X, A1, p: {"dW1": -dZ1 @ X.T, "db1": -dZ1.sum(axis=1, keepdims=True)})


@wrong("course network: dW2 is never assigned", "zero", "W2")
def _(rng):
    return network(rng, lambda dZ1, dZ2, X, A1, p: {"dW2": np.zeros((2, 4))})


class Layer:
    """tanh(x w), with a backward pass that uses what the object remembers."""

    def __init__(self, w):
        self.dw = np.zeros_like(w)
        self.remembered = None

    def forward(self, x, w):
        out = np.tanh(x @ w)
        self.x, self.w, self.out = x, w, out
        return out

    def pulled_back(self, dout, out, x, w):
        dz = dout * (1 - out**2)
        return dz @ w.T, x.T @ dz


class Accumulating(Layer):
    def backward(self, dout):
        dx, dw = self.pulled_back(dout, self.out, self.x, self.w)
        self.dw += dw
        return dx, self.dw.copy()


class Lagging(Layer):
    def forward(self, x, w):
        if self.remembered is None:
            self.remembered = (x * 1.5, w, np.tanh(1.5 * x @ w))
        super().forward(x, w)
        return self.out

    def backward(self, dout):
        out, self.remembered = self.remembered, (self.x, self.w, self.out)
        return self.pulled_back(dout, out[2], out[0], out[1])


class Frozen(Layer):
    """Uses the weights of the day it was made."""

    def __init__(self, w):
        super().__init__(w)
        self.old = w + 0.3 * np.cos(np.arange(w.size)).reshape(w.shape)

    def backward(self, dout):
        _, dw = self.pulled_back(dout, self.out, self.x, self.w)
        dz = dout * (1 - self.out**2)
        return dz @ self.old.T, dw


class Constant(Layer):
    """Answers with the gradient that it computed for another batch."""

    def backward(self, dout):
        if self.remembered is None:
            x = 0.5 + np.sin(np.arange(self.x.size)).reshape(self.x.shape)
            self.remembered = (np.tanh(x @ self.w), x, self.w)
        dx, _ = self.pulled_back(dout, self.out, self.x, self.w)
        return dx, self.pulled_back(dout, *self.remembered)[1]


def layer_case(rng, kind):
    x, w = drawn(rng, (6, 4), (4, 3))
    layer = kind(w)
    return (layer.forward, x, w), {"vjp": layer.backward}


@wrong("object: the gradient is added to that of the call before", "accumulates", "w")
def _(rng):
    return layer_case(rng, Accumulating)


@wrong("object: the backward pass uses the call before", "stale", "x w")
def _(rng):
    return layer_case(rng, Lagging)


@wrong("object: dx uses weights that are out of date", "stale", "x", unfollowed="w")
def _(rng):
    return layer_case(rng, Frozen)


@wrong("object: dw is that of an earlier batch", "stale", "w", unfollowed="x")
def _(rng):
    return layer_case(rng, Constant)
