"""NumPy layers whose backward pass is wrong: attention, embeddings, recurrences, residual branches, dropout."""

from __future__ import annotations

import math

import numpy as np

from oracles import numpy_layers as right
from oracles.wrong_backwards import wrong
from oracles.wrong_layers import drawn


def attention_case(rng, backward, t=5, d=16):
    q, k, v = drawn(rng, (t, d), (t, d), (t, d))
    return (right.attention, q, k, v), {"vjp": backward}


def softmax_backward(share, dshare):
    return share * (dshare - (share * dshare).sum(axis=-1, keepdims=True))


@wrong("attention: the scale 1/√d is forgotten on the way back", "factor-missing", "q k", name="√")
def _(rng):
    def backward(dout, cache):
        dq, dk, dv = right.attention_backward(dout, cache)
        return math.sqrt(16) * dq, math.sqrt(16) * dk, dv

    return attention_case(rng, backward)


@wrong("attention: the scores are divided by d, not by its root", "factor-extra factor-missing", "q k", name="√")
def _(rng):
    def backward(dout, cache):
        dq, dk, dv = right.attention_backward(dout, cache)
        return dq / math.sqrt(24), dk / math.sqrt(24), dv

    return attention_case(rng, backward, d=24)


@wrong("attention: the softmax's Jacobian is taken for diagonal", "formula detached", "q k")
def _(rng):
    def backward(dout, cache):
        q, k, v, share = cache
        dscores = share * (dout @ v.T) / math.sqrt(q.shape[-1])
        return dscores @ k, dscores.T @ q, share.T @ dout

    return attention_case(rng, backward)


@wrong("attention: the gradients of q and k are exchanged", "exchanged", "q k")
def _(rng):
    def backward(dout, cache):
        dq, dk, dv = right.attention_backward(dout, cache)
        return dk, dq, dv

    return attention_case(rng, backward)


@wrong("attention: dv uses the shares untransposed", "formula", "v")
def _(rng):
    def backward(dout, cache):
        dq, dk, _ = right.attention_backward(dout, cache)
        return dq, dk, cache[3] @ dout

    return attention_case(rng, backward)


@wrong("attention: the last head of dv is lost", "slice", "v", where=np.s_[:, 12:], axis=1)
def _(rng):
    def backward(dout, cache):
        dq, dk, dv = right.attention_backward(dout, cache)
        dv[:, 12:] = 0
        return dq, dk, dv

    return attention_case(rng, backward)


@wrong("softmax: the Jacobian is taken for diagonal", "detached", "scores", axis=1)
def _(rng):
    (x,) = drawn(rng, (6, 5))
    share = right.softmax(x)
    return (right.softmax, x), {"vjp": lambda dout: share * dout}


@wrong("softmax: its Jacobian is taken over the wrong axis", "formula", "scores")
def _(rng):
    (x,) = drawn(rng, (6, 5))
    share = right.softmax(x)
    return (right.softmax, x), {"vjp": lambda dout: share * (dout - (share * dout).sum(axis=0))}


@wrong("embedding: repeated indices overwrite one another", "entries slice", "table", where=np.s_[[1, 4]])
def _(rng):
    indices = np.array([0, 1, 1, 4, 2, 4, 4])
    (table,) = drawn(rng, (6, 4))

    def backward(dout):
        dtable = np.zeros_like(table)
        dtable[indices] = dout
        return dtable

    return (lambda table: table[indices], table), {"vjp": backward}


@wrong("embedding: the padding row is cleared though it is used", "slice", "table", where=np.s_[0], axis=0)
def _(rng):
    forward, backward = right.embedding(np.array([0, 1, 0, 2, 3, 3]))

    def spoilt(dout, cache):
        dtable = backward(dout, cache)
        dtable[0] = 0
        return dtable

    (table,) = drawn(rng, (4, 3))
    return (forward, table), {"vjp": spoilt}


def lstm_case(rng, backward, n=3, d=4, h=3):
    x, state, cell, w, u, b = drawn(rng, (n, d), (n, h), (n, h), (d, 4 * h), (h, 4 * h), (4 * h,))
    return (right.lstm_cell, x, state, cell, w, u, b), {"vjp": backward}


@wrong("LSTM: two gates change places in the bias", "permuted", "b", axis=0)
def _(rng):
    def backward(dout, cache):
        *others, db = right.lstm_cell_backward(dout, cache)
        i, f, g, o = np.split(db, 4)
        return *others, np.concatenate([f, i, g, o])

    return lstm_case(rng, backward)


@wrong("LSTM: the output gate's bias is left out", "slice", "b", where=np.s_[9:], axis=0)
def _(rng):
    def backward(dout, cache):
        *others, db = right.lstm_cell_backward(dout, cache)
        db[9:] = 0
        return *others, db

    return lstm_case(rng, backward)


@wrong("LSTM: what comes back through the cell state is ignored", "output-ignored", "x h c W U b")
def _(rng):
    def backward(dout, cache):
        dout = dout.copy()
        dout[:, 3:] = 0
        return right.lstm_cell_backward(dout, cache)

    return lstm_case(rng, backward)


@wrong("residual: the skip connection is forgotten", "term-cotangent", "x", coefficient=1.0)
def _(rng):
    x, w = drawn(rng, (5, 4), (4, 4))

    def backward(dout):
        dz = dout * (1 - np.tanh(x @ w) ** 2)
        return dz @ w.T, x.T @ dz

    return (lambda x, w: x + np.tanh(x @ w), x, w), {"vjp": backward}


@wrong("residual: the skip connection is counted twice", "term-cotangent", "x", coefficient=-1.0)
def _(rng):
    x, w = drawn(rng, (5, 4), (4, 4))

    def backward(dout):
        dz = dout * (1 - np.tanh(x @ w) ** 2)
        return 2 * dout + dz @ w.T, x.T @ dz

    return (lambda x, w: x + np.tanh(x @ w), x, w), {"vjp": backward}


@wrong("product: the factors are exchanged", "operand-permuted gradient-of-other", "a", other="b")
def _(rng):
    a, b = drawn(rng, (4, 5), (4, 5))
    return (lambda a, b: a * b, a, b), {"vjp": lambda dout: (dout * a, dout * a)}


@wrong("dropout: the survivors' scale is forgotten on the way back", "factor-missing", "x", name="p = 0.2")
def _(rng):
    (x,) = drawn(rng, (6, 8))
    kept = rng.random(x.shape) >= 0.2
    return (lambda x: x * kept / 0.8, x), {"vjp": lambda dout: dout * kept}


@wrong("dropout: the mask is forgotten on the way back", "entries", "x")
def _(rng):
    (x,) = drawn(rng, (6, 8))
    kept = rng.random(x.shape) >= 0.5
    return (lambda x: x * kept, x), {"vjp": lambda dout: dout}


@wrong("moving average: the gradient is one step late", "rolled", "x", axis=1)
def _(rng):
    (x,) = drawn(rng, (3, 9))

    def backward(dout):
        dx = dout + np.roll(dout, -1, axis=1)
        return np.roll(dx, 1, axis=1) / 2

    return (lambda x: (x + np.roll(x, 1, axis=1)) / 2, x), {"vjp": backward}


@wrong("reversed sequence: the gradient is not reversed back", "flipped", "x", axes="1")
def _(rng):
    (x,) = drawn(rng, (3, 7, 2))
    return (lambda x: x[:, ::-1] ** 2, x), {"vjp": lambda dout: 2 * x[:, ::-1] * dout}


@wrong("recurrence: the last time step's cotangent is dropped", "output-ignored sum-missing", "h w")
def _(rng):
    h, w = drawn(rng, (4, 3), (3, 3))

    def forward(h, w):
        states = []
        for _ in range(5):
            h = np.tanh(h @ w)
            states.append(h)
        return np.stack(states, axis=1)

    def backward(dout):
        states = np.concatenate([h[:, None], forward(h, w)], axis=1)
        dh, dw = np.zeros_like(h), np.zeros_like(w)
        for step in reversed(range(4)):
            dz = (dh + dout[:, step]) * (1 - states[:, step + 1] ** 2)
            dw += states[:, step].T @ dz
            dh = dz @ w.T
        return dh, dw

    return (forward, h, w), {"vjp": backward}


@wrong("quadratic form: the other half of the product rule is missing", "term-transposed", "x", coefficient=1.0)
def _(rng):
    (x,) = drawn(rng, (5, 5))
    return (lambda x: x @ x.T, x), {"vjp": lambda dout: dout @ x}
