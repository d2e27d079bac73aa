"""Check a backward pass written by hand in NumPy.

python STARTER                    prints the report
gradvitals check STARTER:make     the same, with --html FILE for a page
"""

import numpy as np

import gradvitals as gv

# ---- your code goes here: a forward pass that returns (out, cache), and its backward pass --------------------------


def forward(x, w, b):
    """A layer that squares: x is (N, D), w is (D, M), b is (M,)."""
    z = x @ w + b
    return z**2, (x, w, z)


def backward(dout, cache):
    """Return the gradients of x, w and b, in the order of forward's arguments."""
    x, w, z = cache
    dz = dout * 2 * z  # try it: delete the 2 and run this file again
    return dz @ w.T, x.T @ dz, dz.sum(axis=0)


# --------------------------------------------------------------------------------------------------------------------


def make():
    """The case: small random inputs of the shapes that your forward pass takes."""
    rng = np.random.default_rng(0)
    x, w, b = rng.normal(size=(5, 4)), rng.normal(size=(4, 3)), rng.normal(size=3)
    return gv.Case(forward, (x, w, b), vjp=backward, name="my layer")


if __name__ == "__main__":
    print(gv.check(make()))
