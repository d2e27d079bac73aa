"""Is a hand-written backward pass right? Three ways to write one, each with a mistake in it.

python examples/check.py
"""

from __future__ import annotations

import numpy as np
import torch

import gradvitals as gv

rng = np.random.default_rng(0)


def cost(parameters, X, y):
    """The way courses write it: a dict of parameters, a cost averaged over the m columns of X."""
    return 0.5 * np.mean((parameters["W"] @ X + parameters["b"] - y) ** 2)


def gradients(parameters, X, y):
    error = parameters["W"] @ X + parameters["b"] - y
    return {"dW": error @ X.T, "db": error.sum(axis=1, keepdims=True) / X.shape[1]}  # dW should be divided by m as well


def layer(x, w):
    """A NumPy layer: forward returns (out, cache), backward takes it."""
    return np.tanh(x @ w), (x, w, np.tanh(x @ w))


def layer_backward(dout, cache):
    x, w, out = cache
    dz = dout * (1 - out**2)
    return dz @ w.T, dz.T @ x  # should be x.T @ dz; w is square, so nothing complains


class Swish(torch.autograd.Function):
    """x · sigmoid(x), with a derivative that forgets the product rule's second half."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, dout):
        (x,) = ctx.saved_tensors
        return dout * torch.sigmoid(x)


def main():
    parameters = {"W": rng.standard_normal((1, 4)), "b": np.zeros((1, 1))}
    X, y = rng.standard_normal((4, 6)), rng.standard_normal((1, 6))
    print(gv.check(cost, parameters, X, y, grad=gradients(parameters, X, y)))

    x, w = rng.standard_normal((3, 4)), rng.standard_normal((4, 4))
    print(gv.check(layer, x, w, vjp=layer_backward))

    # In float32, where plain finite differences are of no use: every slope carries its error bar.
    print(gv.check(Swish.apply, torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), name="Swish"))


if __name__ == "__main__":
    main()
