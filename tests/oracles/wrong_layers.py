"""NumPy layers whose backward pass is wrong: linear, activations, normalisation, convolution, pooling."""

from __future__ import annotations

import numpy as np

from oracles import numpy_layers as right
from oracles.wrong_backwards import wrong


def drawn(rng, *shapes):
    return tuple(rng.standard_normal(shape) for shape in shapes)


def linear_case(rng, backward, n=6, d=4, k=5):
    """A linear layer x (n, d), w (d, k), b (k) with a backward pass of (dout, x, w)."""
    x, w, b = drawn(rng, (n, d), (d, k), (k,))
    return (lambda x, w, b: x @ w + b, x, w, b), {"vjp": lambda dout: backward(dout, x, w)}


@wrong("linear: dx has the wrong sign", "sign", "x")
def _(rng):
    return linear_case(rng, lambda dout, x, w: (-dout @ w.T, x.T @ dout, dout.sum(axis=0)))


@wrong("linear: dw of a square layer is transposed", "transposed", "w")
def _(rng):
    return linear_case(rng, lambda dout, x, w: (dout @ w.T, dout.T @ x, dout.sum(axis=0)), d=4, k=4)


@wrong("linear: dw is reshaped where it should be transposed", "transposed", "w")
def _(rng):
    return linear_case(rng, lambda dout, x, w: (dout @ w.T, (dout.T @ x).reshape(w.shape), dout.sum(axis=0)))


@wrong("linear: dx multiplies by w instead of its transpose", "operand-permuted transposed", "x", other="w")
def _(rng):
    return linear_case(rng, lambda dout, x, w: (dout @ w, x.T @ dout, dout.sum(axis=0)), d=4, k=4)


@wrong("linear: db is the first sample's", "sum-missing", "b", axis=0)
def _(rng):
    return linear_case(rng, lambda dout, x, w: (dout @ w.T, x.T @ dout, dout[0]))


@wrong("linear: db leaves the last sample out", "sum-missing", "b", axis=0)
def _(rng):
    return linear_case(rng, lambda dout, x, w: (dout @ w.T, x.T @ dout, dout[:-1].sum(axis=0)))


@wrong("linear: db is a mean where it should be a sum", "factor-extra", "b", name="1/N (N = 6)")
def _(rng):
    return linear_case(rng, lambda dout, x, w: (dout @ w.T, x.T @ dout, dout.mean(axis=0)))


@wrong("linear: dw is divided by the number of inputs", "factor-extra", "w", name="7")
def _(rng):
    return linear_case(rng, lambda dout, x, w: (dout @ w.T, x.T @ dout / 7, dout.sum(axis=0)), d=7)


@wrong("linear: dx is the mean over the batch, for every sample", "broadcast", "x", axis=0)
def _(rng):
    return linear_case(
        rng, lambda dout, x, w: (np.broadcast_to((dout @ w.T).mean(axis=0), x.shape), x.T @ dout, dout.sum(axis=0))
    )


@wrong("linear: a row of dw is never filled", "slice", "w", where=np.s_[2], axis=0)
def _(rng):
    def backward(dout, x, w):
        dw = x.T @ dout
        dw[2] = 0
        return dout @ w.T, dw, dout.sum(axis=0)

    return linear_case(rng, backward)


@wrong("linear: a column of a large dw has the wrong sign", "slice", "w", where=np.s_[:, 17], axis=1)
def _(rng):
    def backward(dout, x, w):
        dw = x.T @ dout
        dw[:, 17] *= -1
        return dout @ w.T, dw, dout.sum(axis=0)

    return linear_case(rng, backward, n=8, d=40, k=30)


@wrong("linear: one entry of a large dw is overwritten", "entries nonzero-at-zero", "w", where=np.s_[31, 7])
def _(rng):
    def backward(dout, x, w):
        dw = x.T @ dout
        dw[31, 7] += 1
        return dout @ w.T, dw, dout.sum(axis=0)

    return linear_case(rng, backward, n=8, d=40, k=30)


@wrong("linear: the last block of columns of dw is not scaled back", "slice", "w", where=np.s_[:, 24:], axis=1)
def _(rng):
    def backward(dout, x, w):
        dw = x.T @ dout
        dw[:, 24:] *= 8
        return dout @ w.T, dw, dout.sum(axis=0)

    return linear_case(rng, backward, n=8, d=24, k=32)


@wrong("linear: two rows of dw are exchanged", "permuted", "w", axis=0)
def _(rng):
    return linear_case(rng, lambda dout, x, w: (dout @ w.T, (x.T @ dout)[[0, 3, 2, 1]], dout.sum(axis=0)))


@wrong("relu: the mask is forgotten", "entries", "x")
def _(rng):
    (x,) = drawn(rng, (5, 6))
    return (lambda x: np.maximum(x, 0), x), {"vjp": lambda dout: dout}


@wrong("relu: the cotangent is ignored", "ignores-cotangent", "x")
def _(rng):
    (x,) = drawn(rng, (5, 6))
    return (lambda x: np.maximum(x, 0), x), {"vjp": lambda dout: (x > 0).astype(float)}


@wrong("square: the cotangent is applied twice", "not-linear", "x")
def _(rng):
    (x,) = drawn(rng, (5, 6))
    return (lambda x: x**2, x), {"vjp": lambda dout: 2 * x * dout**2}


@wrong("square: the gradient is clipped on its way", "not-linear", "x")
def _(rng):
    (x,) = drawn(rng, (5, 6))

    def backward(dout):
        dx = 2 * x * dout
        return dx / np.linalg.norm(dx)

    return (lambda x: x**2, x), {"vjp": backward}


@wrong("sigmoid: a plus for a minus", "formula", "x")
def _(rng):
    (x,) = drawn(rng, (5, 6))
    out = right.sigmoid(x)[0]
    return (lambda x: right.sigmoid(x)[0], x), {"vjp": lambda dout: dout * out * (1 + out)}


@wrong("tanh: the output is not squared", "formula", "x")
def _(rng):
    (x,) = drawn(rng, (5, 6))
    return (lambda x: 1.0 * np.tanh(x), x), {"vjp": lambda dout: dout * (1 - np.tanh(x))}


def normalised_case(rng, layer, dx, *, dgamma=None, n=6, d=5):
    """A normalisation with the backward pass of its input given by (dnormal, normal, scale)."""
    x, gamma, beta = drawn(rng, (n, d), (d,), (d,))
    x, gamma = 2 * x + 1, 1 + gamma / 4

    def backward(dout, cache):
        normal, scale, gamma = cache
        of_gamma = (dout * normal).sum(axis=0) if dgamma is None else dgamma(dout, normal)
        return dx(dout * gamma, normal, scale), of_gamma, dout.sum(axis=0)

    return (layer, x, gamma, beta), {"vjp": backward}


def right_layer_norm_dx(dnormal, normal, scale):
    along = (dnormal * normal).mean(axis=-1, keepdims=True)
    return scale * (dnormal - dnormal.mean(axis=-1, keepdims=True) - normal * along)


@wrong("batch norm: mean and variance are taken for constants", "detached", "x", axis=0)
def _(rng):
    return normalised_case(rng, right.batch_norm, lambda dn, xn, s: s * dn)


@wrong("batch norm: the mean is taken for a constant", "detached", "x", axis=0)
def _(rng):
    return normalised_case(rng, right.batch_norm, lambda dn, xn, s: s * (dn - xn * (dn * xn).mean(axis=0)))


@wrong("batch norm: the variance is taken for a constant", "detached", "x", axis=0)
def _(rng):
    return normalised_case(rng, right.batch_norm, lambda dn, xn, s: s * (dn - dn.mean(axis=0)))


@wrong("layer norm: mean and variance are taken for constants", "detached", "x", axis=1)
def _(rng):
    return normalised_case(rng, right.layer_norm, lambda dn, xn, s: s * dn)


@wrong("layer norm of a wide layer: the variance is taken for a constant", "detached", "x", axis=1)
def _(rng):
    return normalised_case(
        rng, right.layer_norm, lambda dn, xn, s: s * (dn - dn.mean(axis=-1, keepdims=True)), n=20, d=32
    )


@wrong("layer norm: the gradient of gamma is the first sample's", "sum-missing", "gamma", axis=0)
def _(rng):
    return normalised_case(rng, right.layer_norm, right_layer_norm_dx, dgamma=lambda dout, xn: (dout * xn)[0])


@wrong("layer norm: gamma gets the gradient of beta", "gradient-of-other", "gamma", other="beta")
def _(rng):
    return normalised_case(rng, right.layer_norm, right_layer_norm_dx, dgamma=lambda dout, xn: dout.sum(axis=0))


@wrong("RMS norm: the norm is taken for a constant", "detached", "x", axis=1)
def _(rng):
    x, gamma = drawn(rng, (6, 8), (8,))

    def forward(x, gamma):
        return gamma * x / np.sqrt((x**2).mean(axis=-1, keepdims=True))

    def backward(dout):
        scale = 1 / np.sqrt((x**2).mean(axis=-1, keepdims=True))
        return dout * gamma * scale, (dout * x * scale).sum(axis=0)

    return (forward, x, gamma), {"vjp": backward}


def conv_case(rng, spoil, size=(2, 3, 5, 5)):
    x, w, b = drawn(rng, size, (4, size[1], 3, 3), (4,))

    def backward(dout, cache):
        return spoil(*right.conv2d_backward(dout, cache))

    return (right.conv2d, x, w, b), {"vjp": backward}


@wrong("conv: the kernel's gradient is not flipped back", "flipped", "w", axes="2, 3")
def _(rng):
    return conv_case(rng, lambda dx, dw, db: (dx, dw[:, :, ::-1, ::-1], db))


@wrong("conv: height and width of the kernel's gradient are exchanged", "transposed", "w", axes="2, 3")
def _(rng):
    return conv_case(rng, lambda dx, dw, db: (dx, dw.swapaxes(2, 3), db))


@wrong("conv: dx correlates where it should convolve", "operand-permuted", "x", other="w")
def _(rng):
    x, w, b = drawn(rng, (2, 3, 5, 5), (4, 3, 3, 3), (4,))

    def backward(dout, cache):
        windows, w = cache
        _, dw, db = right.conv2d_backward(dout, cache)
        return right.conv2d_backward(dout, (windows, w[:, :, ::-1, ::-1]))[0], dw, db

    return (right.conv2d, x, w, b), {"vjp": backward}


@wrong("conv: colours are in another order in dx", "permuted rolled", "x", axis=1)
def _(rng):
    return conv_case(rng, lambda dx, dw, db: (dx[:, [2, 0, 1]], dw, db))


@wrong("conv: the bias's gradient is a mean over the image", "factor-extra factor-missing", "b", name="25")
def _(rng):
    return conv_case(rng, lambda dx, dw, db: (dx, dw, db / 25))


@wrong("conv: one output channel of the kernel is frozen", "slice", "w", where=np.s_[3], axis=0)
def _(rng):
    def spoil(dx, dw, db):
        dw[3] = 0
        return dx, dw, db

    return conv_case(rng, spoil)


@wrong("conv: the border of dx is cut off", "entries slice", "x", condition="border")
def _(rng):
    def spoil(dx, dw, db):
        inner = np.zeros_like(dx)
        inner[:, :, 1:-1, 1:-1] = dx[:, :, 1:-1, 1:-1]
        return inner, dw, db

    return conv_case(rng, spoil)


@wrong("max pool: every entry of a window gets the gradient", "entries formula", "x")
def _(rng):
    x = rng.permutation(64).reshape(2, 2, 4, 4) / 8.0

    def backward(dout, _cache):
        return np.repeat(np.repeat(dout, 2, axis=2), 2, axis=3)

    return (right.max_pool, x), {"vjp": backward}
