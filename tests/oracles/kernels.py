"""Kernels as their authors write them, sound and with one mistake each, and the plain functions that they replace."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

TILE = 16


def attention(q, k, v):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return torch.softmax(scores, dim=-1) @ v


def causal_attention(q, k, v):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(hidden, -math.inf), dim=-1) @ v


class Flash(torch.autograd.Function):
    """Attention tile by tile with an online softmax and a backward pass by hand, in float32 inside.

    ``mistake`` is one of MISTAKES or empty.
    """

    @staticmethod
    def forward(ctx, q, k, v, causal, mistake):
        Q, K, V = q.float(), k.float(), v.float()
        scale = 1.0 if mistake == "scale missing" else 1 / math.sqrt(q.shape[-1])
        largest = torch.full((*q.shape[:-1], 1), -math.inf)
        total, out = torch.zeros_like(largest), torch.zeros_like(Q)
        for start in range(0, k.shape[-2], TILE):
            if mistake == "tile skipped" and start == TILE:
                continue
            s = _scores(Q, K, scale, start, causal, off=int(mistake == "mask off by one"))
            new = torch.maximum(largest, s.amax(-1, keepdim=True))
            p, shrink = torch.exp(s - new), torch.exp(largest - new)
            total = total * shrink + p.sum(-1, keepdim=True)
            out = out * shrink + p @ V[..., start : start + TILE, :]
            if mistake == "accumulated in bfloat16":
                out = out.bfloat16().float()
            largest = new
        out = out / total
        ctx.save_for_backward(q, k, v, out, largest + torch.log(total))
        ctx.how = causal, mistake, scale
        result = out.to(q.dtype)
        if mistake == "nan in one row":
            result[..., -1, :] = math.nan
        return result

    @staticmethod
    def backward(ctx, grad):
        q, k, v, out, logsumexp = ctx.saved_tensors
        causal, mistake, scale = ctx.how
        Q, K, V, G = q.float(), k.float(), v.float(), grad.float()
        inner = (G * out).sum(-1, keepdim=True)
        dq, dk, dv = torch.zeros_like(Q), [], []
        for start in range(0, k.shape[-2], TILE):
            tile = slice(start, start + TILE)
            p = torch.exp(_scores(Q, K, scale, start, causal) - logsumexp)
            ds = p * (G @ V[..., tile, :].mT - inner)
            if mistake == "tile skipped backwards" and start == TILE:
                ds = torch.zeros_like(ds)
            dv.append(p.mT @ G)
            dq = dq + ds @ K[..., tile, :] * scale
            dk.append(ds.mT @ Q * scale)
        dk, dv = torch.cat(dk, -2), torch.cat(dv, -2)
        if mistake == "dk transposed":
            dk = dk.reshape(*dk.shape[:-2], dk.shape[-1], dk.shape[-2]).mT
        if mistake == "factor 1.01":
            dq = dq * 1.01
        if mistake == "factor 1.05":
            dq = dq * 1.05
        if mistake == "one row":
            dv[..., 3, :] *= 1.05
        if mistake == "one entry":
            dv[..., 3, 2] *= 1.05
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None


def _scores(Q, K, scale, start, causal, off=0):
    s = Q @ K[..., start : start + TILE, :].mT * scale
    if not causal:
        return s
    rows, columns = torch.arange(Q.shape[-2])[:, None], torch.arange(start, min(start + TILE, K.shape[-2]))
    return s.masked_fill(columns > rows + off, -math.inf)


def flash(mistake="", *, causal=False):
    def kernel(q, k, v):
        return Flash.apply(q, k, v, causal, mistake)

    return kernel


def softmax_in_chunks(x):
    parts = x.split(7, -1)
    largest = torch.stack([part.amax(-1) for part in parts]).amax(0)[..., None]
    powers = [torch.exp(part - largest) for part in parts]
    total = sum(power.sum(-1, keepdim=True) for power in powers)
    return torch.cat([power / total for power in powers], -1)


def softmax(x):
    return torch.softmax(x, -1)


def layer_norm_by_hand(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5) * weight + bias


def layer_norm(x, weight, bias):
    return functional.layer_norm(x, (x.shape[-1],), weight, bias)


def gelu_by_hand(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def product_in_tiles(a, b):
    return sum(a[:, j : j + 8] @ b[j : j + 8] for j in range(0, a.shape[1], 8))


def product(a, b):
    return a @ b


def gated_by_hand(x, w):
    a, b = (x @ w).chunk(2, -1)
    return a * torch.sigmoid(a) * b


def gated(x, w):
    a, b = (x @ w).chunk(2, -1)
    return functional.silu(a) * b


def cross_entropy_by_hand(x):
    return -torch.log_softmax(x, -1)[..., 0].mean()


def cross_entropy(x):
    return functional.cross_entropy(x, torch.zeros(x.shape[0], dtype=torch.long))


#: Kernel, reference, shapes of the inputs.
SOUND = {
    "flash attention": (flash(), attention, [(2, 48, 8)] * 3),
    "causal flash attention": (flash(causal=True), causal_attention, [(2, 48, 8)] * 3),
    "fused attention": (functional.scaled_dot_product_attention, attention, [(2, 24, 8)] * 3),
    "softmax in chunks": (softmax_in_chunks, softmax, [(5, 40)]),
    "fused layer norm": (layer_norm, layer_norm_by_hand, [(6, 32), (32,), (32,)]),
    "layer norm by hand": (layer_norm_by_hand, layer_norm, [(6, 32), (32,), (32,)]),
    "gelu by hand": (gelu_by_hand, functional.gelu, [(100,)]),
    "product in tiles": (product_in_tiles, product, [(12, 64), (64, 9)]),
    "gated": (gated_by_hand, gated, [(6, 16), (16, 20)]),
    "cross entropy": (cross_entropy_by_hand, cross_entropy, [(8, 10)]),
}


def inputs(shapes, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
