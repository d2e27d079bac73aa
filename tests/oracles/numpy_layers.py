"""Layers written by hand in NumPy, forwards and backwards, as a course would write them.

Every layer is a pair ``forward(*inputs) -> (out, cache)`` and ``backward(dout, cache) -> gradients`` in the order of
the inputs (a bare array for one input). They compute in the dtype of their inputs: scalars come from :mod:`math`, for a
NumPy float64 scalar would promote float32.
"""

from __future__ import annotations

import math

import numpy as np

EPSILON = 1e-5


def linear(x, w, b):
    return x @ w + b, (x, w)


def linear_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(axis=0)


def bias(x, b):
    return x + b, None


def bias_backward(dout, _cache):
    return dout, dout.sum(axis=0)


def relu(x):
    return np.maximum(x, 0), x


def relu_backward(dout, x):
    return dout * (x > 0)


def sigmoid(x):
    out = 1 / (1 + np.exp(-x))
    return out, out


def sigmoid_backward(dout, out):
    return dout * out * (1 - out)


def tanh(x):
    out = np.tanh(x)
    return out, out


def tanh_backward(dout, out):
    return dout * (1 - out**2)


def batch_norm(x, gamma, beta):
    scale = 1 / np.sqrt(x.var(axis=0) + EPSILON)
    normal = (x - x.mean(axis=0)) * scale
    return gamma * normal + beta, (normal, scale, gamma)


def batch_norm_backward(dout, cache):
    normal, scale, gamma = cache
    dnormal = dout * gamma
    dx = scale * (dnormal - dnormal.mean(axis=0) - normal * (dnormal * normal).mean(axis=0))
    return dx, (dout * normal).sum(axis=0), dout.sum(axis=0)


def layer_norm(x, gamma, beta):
    scale = 1 / np.sqrt(x.var(axis=-1, keepdims=True) + EPSILON)
    normal = (x - x.mean(axis=-1, keepdims=True)) * scale
    return gamma * normal + beta, (normal, scale, gamma)


def layer_norm_backward(dout, cache):
    normal, scale, gamma = cache
    dnormal = dout * gamma
    along = (dnormal * normal).mean(axis=-1, keepdims=True)
    dx = scale * (dnormal - dnormal.mean(axis=-1, keepdims=True) - normal * along)
    return dx, (dout * normal).sum(axis=0), dout.sum(axis=0)


def conv2d(x, w, b):
    """3×3 kernels, stride 1, padding 1: x (N, C, H, W), w (O, C, 3, 3), b (O)."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, w) + b[:, None, None], (windows, w)


def conv2d_backward(dout, cache):
    windows, w = cache
    n, c, height, width = windows.shape[:4]
    dpadded = np.zeros((n, c, height + 2, width + 2), dtype=dout.dtype)
    for i in range(3):
        for j in range(3):
            dpadded[:, :, i : i + height, j : j + width] += np.einsum("nohw,oc->nchw", dout, w[:, :, i, j])
    dw = np.einsum("nchwij,nohw->ocij", windows, dout)
    return dpadded[:, :, 1:-1, 1:-1], dw, dout.sum(axis=(0, 2, 3))


def max_pool(x):
    """2×2 windows, stride 2: x (N, C, H, W) with H and W even."""
    n, c, height, width = x.shape
    blocks = x.reshape(n, c, height // 2, 2, width // 2, 2)
    out = blocks.max(axis=(3, 5))
    return out, (blocks == out[:, :, :, None, :, None], x.shape)


def max_pool_backward(dout, cache):
    winners, shape = cache
    return (winners * dout[:, :, :, None, :, None]).reshape(shape)


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def attention(q, k, v):
    """One head: q, k, v of shape (T, D)."""
    share = softmax(q @ k.T / math.sqrt(q.shape[-1]))
    return share @ v, (q, k, v, share)


def attention_backward(dout, cache):
    q, k, v, share = cache
    dshare = dout @ v.T
    dscores = share * (dshare - (share * dshare).sum(axis=-1, keepdims=True)) / math.sqrt(q.shape[-1])
    return dscores @ k, dscores.T @ q, share.T @ dout


def embedding(indices):
    def forward(table):
        return table[indices], table.shape

    def backward(dout, shape):
        dtable = np.zeros(shape, dtype=dout.dtype)
        np.add.at(dtable, indices, dout)
        return dtable

    return forward, backward


def lstm_cell(x, h, c, W, U, b):
    """Gates in the order input, forget, cell, output; returns the new h and c side by side, (N, 2H)."""
    i, f, g, o = np.split(x @ W + h @ U + b, 4, axis=1)
    i, f, o, g = sigmoid(i)[0], sigmoid(f)[0], sigmoid(o)[0], np.tanh(g)
    new_c = f * c + i * g
    squashed = np.tanh(new_c)
    return np.concatenate([o * squashed, new_c], axis=1), (x, h, c, W, U, i, f, g, o, squashed)


def lstm_cell_backward(dout, cache):
    x, h, c, W, U, i, f, g, o, squashed = cache
    dh, dc = np.split(dout, 2, axis=1)
    dc = dc + dh * o * (1 - squashed**2)
    dgates = np.concatenate(
        [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dh * squashed * o * (1 - o)], axis=1
    )
    return dgates @ W.T, dgates @ U.T, dc * f, x.T @ dgates, h.T @ dgates, dgates.sum(axis=0)


def cross_entropy(labels):
    """Softmax and cross-entropy, mean over the N samples: a scalar function and its gradient."""
    rows = np.arange(len(labels))

    def loss(logits):
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return (np.log(np.exp(shifted).sum(axis=-1)) - shifted[rows, labels]).mean()

    def gradient(logits):
        share = softmax(logits)
        share[rows, labels] -= 1
        return share / len(labels)

    return loss, gradient


def softmax_regression(labels):
    """A linear layer with mean cross-entropy on top: where a forgotten 1/N may strike one tensor alone."""
    loss_of, gradient_of = cross_entropy(labels)

    def loss(x, w, b):
        return loss_of(x @ w + b)

    def gradient(x, w, b):
        return linear_backward(gradient_of(x @ w + b), (x, w))

    return loss, gradient
