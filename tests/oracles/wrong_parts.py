"""Backward passes that are wrong in one part of a tensor only."""

from __future__ import annotations

import numpy as np

from oracles import numpy_layers as right
from oracles.wrong_backwards import wrong
from oracles.wrong_layers import drawn


def part_case(rng, shape, part, change):
    """Elementwise x² w, with a part of w's gradient changed."""
    x, w = drawn(rng, (3, *shape), shape)

    def backward(dout):
        dw = (dout * x**2).sum(axis=0)
        dw[part] = change(dw[part])
        return dout * 2 * x * w, dw

    return (lambda x, w: x**2 * w, x, w), {"vjp": backward}


PARTS = {
    "the first entry of a vector": ((7,), np.s_[0], "entries slice"),
    "the last entry of a long vector": ((400,), np.s_[399], "entries slice"),
    "one entry of four axes": ((4, 3, 3, 3), np.s_[2, 1, 0, 2], "entries slice"),
    "one entry of a large kernel": ((16, 8, 3, 3), np.s_[11, 5, 2, 0], "entries slice"),
    "the middle column": ((6, 9), np.s_[:, 4], "slice"),
    "one channel of a large image": ((6, 12, 12), np.s_[4], "slice"),
    "the right half": ((8, 10), np.s_[:, 5:], "slice"),
    "a tile of a large matrix": ((32, 48), np.s_[16:, 32:], "slice"),
    "one tap of all kernels": ((5, 4, 3, 3), np.s_[:, :, 1, 1], "slice"),
    "the last step of a sequence": ((6, 4, 5), np.s_[:, 3], "slice"),
}
CHANGES = {"lost": lambda g: 0 * g, "tripled": lambda g: 3 * g}

for where, (shape, part, kinds) in PARTS.items():
    for what, change in CHANGES.items():

        @wrong(f"part: {where} is {what}", kinds, "w", where=part)
        def _(rng, shape=shape, part=part, change=change):
            return part_case(rng, shape, part, change)


@wrong("part: the causal half of a score matrix leaks", "entries", "x", condition="upper-triangle")
def _(rng):
    (x,) = drawn(rng, (6, 6))
    return (lambda x: np.tril(x) ** 2, x), {"vjp": lambda dout: 2 * x * dout}


@wrong("part: the diagonal is counted twice", "entries", "x", condition="diagonal")
def _(rng):
    (x,) = drawn(rng, (6, 6))
    return (lambda x: x**2, x), {"vjp": lambda dout: 2 * x * dout * (1 + np.eye(6))}


@wrong("part: the padded border of an image is cut off on the way back", "entries", "x", condition="border")
def _(rng):
    (x,) = drawn(rng, (2, 3, 7, 7))

    def backward(dout):
        dx = np.zeros_like(x)
        dx[:, :, 1:-1, 1:-1] = (dout * np.cos(x))[:, :, 1:-1, 1:-1]
        return dx

    return (lambda x: 1.0 * np.sin(x), x), {"vjp": backward}


@wrong("part: one class is left out of the softmax's gradient", "slice", "logits", where=np.s_[:, 2], axis=1)
def _(rng):
    (logits,) = drawn(rng, (6, 5))
    loss, gradient = right.cross_entropy(rng.integers(5, size=6))

    def spoilt(logits):
        found = gradient(logits)
        found[:, 2] = 0
        return found

    return (loss, logits), {"grad": spoilt}
