"""A layer written by hand in NumPy, and the check of its backward pass.

1. python STARTER: the report says that every gradient is right.
2. Delete the "2 * " in backward, and run it again: the check finds it.
3. Put your own forward and backward in their place, and inputs of your shapes into make().

A page of it:  gradvitals check STARTER:make --html report.html
"""

import numpy as np

import gradvitals as gv

# ---- your code: a forward pass that returns (out, cache), and its backward pass --------------------------------------


def forward(x, w, b):
    """x is (N, D), w is (D, M), b is (M,)."""
    z = x @ w + b
    return z**2, (x, w, z)


def backward(dout, cache):
    """The gradients of x, w and b: in the order of forward's arguments."""
    x, w, z = cache
    dz = 2 * z * dout
    return dz @ w.T, x.T @ dz, dz.sum(axis=0)


# ---- the case: what is checked, with small random inputs -------------------------------------------------------------


def make():
    rng = np.random.default_rng(0)
    x, w, b = rng.normal(size=(5, 4)), rng.normal(size=(4, 3)), rng.normal(size=3)
    return gv.Case(forward, (x, w, b), vjp=backward, name="my layer")


if __name__ == "__main__":
    print(gv.check(make()))
