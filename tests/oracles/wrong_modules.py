"""Torch Functions, modules and whole models with a wrong backward pass."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from oracles.wrong_backwards import wrong


def function(forward, backward):
    """A custom autograd.Function as a callable: ``forward(*inputs)``, ``backward(dout, *inputs)``."""

    class Custom(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*inputs)
            return forward(*inputs)

        @staticmethod
        def backward(ctx, dout):
            return backward(dout, *ctx.saved_tensors)

    @functools.wraps(forward)
    def custom(*inputs):
        return Custom.apply(*inputs)

    return custom


def tensors(rng, *shapes, dtype=torch.float64):
    return tuple(torch.from_numpy(rng.standard_normal(shape)).to(dtype) for shape in shapes)


def seeded(rng, build, dtype=torch.float64):
    """A module with weights drawn from the case's own generator."""
    torch.manual_seed(int(rng.integers(2**31)))
    return build().to(dtype)


@wrong("torch square: the cotangent is ignored", "ignores-cotangent", "x")
def _(rng):
    square = function(lambda x: x**2, lambda dout, x: 2 * x)
    return (square, *tensors(rng, (4, 5))), {}


@wrong("torch loss: its own gradient is right for a cotangent of one only", "ignores-cotangent", "x")
def _(rng):
    mean_square = function(lambda x: (x**2).mean(), lambda dout, x: 2 * x / x.numel())
    return (lambda x: 3 * mean_square(x), *tensors(rng, (4, 5))), {}


@wrong("torch float32 linear: the factor 2 is lost", "factor-missing", "w", name="2")
def _(rng):
    linear = function(lambda x, w: x @ w.T, lambda dout, x, w: (dout @ w, dout.T @ x / 2))
    return (linear, *tensors(rng, (6, 5), (4, 5), dtype=torch.float32)), {}


@wrong("torch float32 linear: dw is reshaped where it should be transposed", "transposed", "w")
def _(rng):
    linear = function(lambda x, w: x @ w.T, lambda dout, x, w: (dout @ w, (x.T @ dout).reshape(w.shape)))
    return (linear, *tensors(rng, (6, 5), (4, 5), dtype=torch.float32)), {}


@wrong("torch float32 bias: the first sample's gradient", "sum-missing", "b", axis=0)
def _(rng):
    add = function(lambda x, b: x + b, lambda dout, x, b: (dout, dout[0]))
    return (lambda x, b: torch.tanh(add(x, b)), *tensors(rng, (6, 5), (5,), dtype=torch.float32)), {}


@wrong("torch broadcast over the middle axis: only its first position comes back", "sum-missing", "b", axis=1)
def _(rng):
    add = function(lambda x, b: x * b[:, None], lambda dout, x, b: (dout * b[:, None], (dout * x)[:, 0]))
    return (add, *tensors(rng, (4, 6, 3), (4, 3))), {}


@wrong("torch: the exponential is recomputed in half precision", "precision gradient", "x")
def _(rng):
    def backward(dout, x):
        return dout * (torch.exp(x.half()).float() if x.dtype == torch.float32 else torch.exp(x))

    return (function(lambda x: 1.0 * torch.exp(x), backward), *tensors(rng, (5, 6), dtype=torch.float32)), {}


@wrong("torch: the gradient is rounded to bfloat16 on its way", "precision gradient", "w")
def _(rng):
    def backward(dout, x, w):
        low = torch.bfloat16 if x.dtype == torch.float32 else x.dtype
        return dout @ w.T, (x.to(low).T @ dout.to(low)).to(x.dtype)

    linear = function(lambda x, w: x @ w, backward)
    return (linear, *tensors(rng, (16, 6), (6, 5), dtype=torch.float32)), {}


class Residual(nn.Module):
    def __init__(self, *, cut="none"):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
        self.head = nn.Linear(5, 3)
        self.cut = cut

    def forward(self, x):
        inner = self.branch(x.detach() if self.cut == "branch input" else x)
        return self.head((x.detach() if self.cut == "skip" else x) + inner)


@wrong("torch residual: the branch's input is detached", "detached", "x")
def _(rng):
    return (seeded(rng, lambda: Residual(cut="branch input")), *tensors(rng, (4, 5))), {}


@wrong("torch residual: the skip connection is detached", "detached", "x")
def _(rng):
    return (seeded(rng, lambda: Residual(cut="skip")), *tensors(rng, (4, 5))), {}


@wrong("torch batch norm by hand: the variance is detached", "detached", "x")
def _(rng):
    def batch_norm(x, gamma):
        variance = x.var(dim=0, unbiased=False).detach()
        return gamma * (x - x.mean(dim=0)) / (variance + 1e-5).sqrt()

    return (batch_norm, *tensors(rng, (6, 4), (4,))), {}


@wrong("torch: a mean goes through item()", "detached", "x")
def _(rng):
    return (lambda x: torch.tanh(x - x.mean().item()), *tensors(rng, (5, 4))), {}


@wrong("torch tied weights: one of the two uses is detached", "detached", "table")
def _(rng):
    indices = torch.tensor([0, 2, 2, 5, 1])

    def model(table):
        hidden = torch.tanh(F.embedding(indices, table.detach()))
        return hidden @ table.T

    return (model, *tensors(rng, (6, 4))), {}


class Doubling(nn.Module):
    """An activation whose hand-written backward pass is off by a factor."""

    def __init__(self, factor):
        super().__init__()
        self.apply_ = function(lambda x: 1.0 * torch.tanh(x), lambda dout, x: factor * dout * (1 - torch.tanh(x) ** 2))

    def forward(self, x):
        return self.apply_(x)


@wrong(
    "torch network: an activation in the middle doubles what comes back", "factor-extra", "0.weight 0.bias", name="2"
)
def _(rng):
    def build():
        return nn.Sequential(nn.Linear(5, 6), Doubling(2.0), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))

    (x,) = tensors(rng, (8, 5))
    labels = torch.from_numpy(rng.integers(3, size=8))
    return (seeded(rng, build), x), {"loss": lambda y: F.cross_entropy(y, labels), "wrt": "*.*"}


@wrong("torch network: an activation in the middle flips the sign", "sign", "0.weight 0.bias 2.weight 2.bias")
def _(rng):
    def build():
        return nn.Sequential(
            nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6), Doubling(-1.0), nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 3)
        )

    (x,) = tensors(rng, (8, 5))
    return (seeded(rng, build), x), {"loss": lambda y: y.square().mean(), "wrt": "*.*"}


@wrong("torch network: a wide hidden layer's weights are decayed by hand", "term-own", "2.weight", coefficient=-0.1)
def _(rng):
    decayed = function(lambda w: w.clone(), lambda dout, w: dout + 0.1 * w)

    class Decayed(nn.Linear):
        def forward(self, x):
            return F.linear(x, decayed(self.weight), self.bias)

    def build():
        return nn.Sequential(nn.Linear(6, 32), nn.Tanh(), Decayed(32, 24), nn.Tanh(), nn.Linear(24, 2))

    (x,) = tensors(rng, (8, 6))
    return (seeded(rng, build), x), {"loss": lambda y: y.square().mean()}


@wrong("torch network: a hook clears a row", "slice", "0.weight", where=np.s_[5], axis=0)
def _(rng):
    model = seeded(rng, lambda: nn.Sequential(nn.Linear(20, 24), nn.Tanh(), nn.Linear(24, 3)))

    def clear(gradient):
        gradient = gradient.clone()
        gradient[5] = 0
        return gradient

    model[0].weight.register_hook(clear)
    (x,) = tensors(rng, (8, 20))
    return (model, x), {"loss": lambda y: y.square().sum()}


@wrong("torch conv net: one kernel's gradient is upside down", "flipped", "0.weight", axes="2")
def _(rng):
    flip = function(lambda w: w.clone(), lambda dout, w: dout.flip(2))

    class Flipped(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, flip(self.weight), self.bias, padding=1)

    def build():
        return nn.Sequential(Flipped(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 3))

    (x,) = tensors(rng, (2, 3, 6, 6))
    return (seeded(rng, build), x), {"loss": lambda y: y.square().sum()}


class Block(nn.Module):
    """A pre-norm transformer block with hooks for mistakes in its layer norm and in its attention."""

    def __init__(self, norm=None, scale_back=1.0, width=12, heads=3):
        super().__init__()
        self.heads = heads
        self.norm = norm or nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.scaled = function(lambda s: s.clone(), lambda dout, s: scale_back * dout)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = self.scaled(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]))
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(x)))


@wrong("torch transformer block: the layer norm's input gradient lacks its mean terms", "detached formula", "x")
def _(rng):
    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = function(
                lambda x: F.layer_norm(x, x.shape[-1:]),
                lambda dout, x: dout / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt(),
            )

        def forward(self, x):
            return self.layer(x)

    (x,) = tensors(rng, (2, 4, 12))
    return (seeded(rng, lambda: Block(Norm())), x), {}


@wrong(
    "torch transformer block: the values' third of one projection is right, the rest is doubled",
    "slice",
    "qkv.weight qkv.bias x norm.weight norm.bias",
    where=np.s_[:24],
    axis=0,
)
def _(rng):
    (x,) = tensors(rng, (2, 4, 12))
    return (seeded(rng, lambda: Block(scale_back=2.0)), x), {"wrt": ["qkv.*", "out.*", "x", "norm.*", "up.*", "down.*"]}


@wrong("torch GRU by hand: two gates of a large recurrent matrix change places", "permuted", "u", axis=0)
def _(rng):
    swap = function(lambda u: u.clone(), lambda dout, u: torch.cat([dout[16:32], dout[:16], dout[32:]]))

    def cell(x, h, w, u):
        gi, gh = (x @ w.T).chunk(3, 1), (h @ swap(u).T).chunk(3, 1)
        r, z = torch.sigmoid(gi[0] + gh[0]), torch.sigmoid(gi[1] + gh[1])
        n = torch.tanh(gi[2] + r * gh[2])
        return (1 - z) * n + z * h

    return (cell, *tensors(rng, (5, 8), (5, 16), (48, 8), (48, 16))), {}


@wrong("torch attention: query and key gradients are exchanged", "exchanged", "q k")
def _(rng):
    class Exchange(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k):
            return q.clone(), k.clone()

        @staticmethod
        def backward(ctx, dq, dk):
            return dk, dq

    def attention(q, k, v):
        q, k = Exchange.apply(q, k)
        return F.scaled_dot_product_attention(q, k, v)

    return (attention, *tensors(rng, (2, 4, 6), (2, 4, 6), (2, 4, 6))), {}


@wrong("torch dropout by hand: the scale is applied once more on the way back", "factor-extra", "x", name="p = 0.1")
def _(rng):
    kept = torch.from_numpy(rng.random((6, 8)) >= 0.1)
    dropout = function(lambda x: x * kept / 0.9, lambda dout, x: dout * kept / 0.81)
    return (lambda x: torch.sin(dropout(x)), *tensors(rng, (6, 8))), {}


@wrong("torch gelu: the derivative of the tanh approximation misses a term", "formula", "x")
def _(rng):
    gelu = function(lambda x: F.gelu(x, approximate="tanh"), lambda dout, x: dout * 0.5 * (1 + torch.tanh(0.797 * x)))
    return (gelu, *tensors(rng, (5, 6))), {}


@wrong("torch l2 normalise: the norm is detached", "detached", "x")
def _(rng):
    return (lambda x: x / x.norm(dim=-1, keepdim=True).detach(), *tensors(rng, (5, 6))), {}


@wrong("torch: the weight's gradient is computed from the input of the call before", "stale", "w")
def _(rng):
    x, w = tensors(rng, (5, 4), (4, 3))
    kept = [x + 1]

    def backward(dout, x, w):
        old, kept[0] = kept[0], x
        return dout @ w.T, old.T @ dout

    linear = function(lambda x, w: x @ w, backward)
    return (linear, x, w), {}


@wrong("torch: heads are counted into the gradient", "factor-extra", "v", name="3")
def _(rng):
    times = function(lambda v: v.clone(), lambda dout, v: 3 * dout)
    q, k, v = tensors(rng, (2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 4, 5))
    return (lambda q, k, v: F.scaled_dot_product_attention(q, k, times(v)), q, k, v), {}
