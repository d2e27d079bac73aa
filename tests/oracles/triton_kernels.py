"""A fused softmax in Triton with a backward pass by hand, sound and with one mistake each.

Import it with TRITON_INTERPRET=1 to run it on the CPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

#: What may be wrong in the backward pass.
MISTAKES = ("sum missing", "two percent", "last column", "contiguous assumed")


@triton.jit
def _forward(x, y, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < n
    z = tl.load(x + row * n + at, mask=inside, other=-float("inf")).to(tl.float32)
    powers = tl.exp(z - tl.max(z, axis=0))
    tl.store(y + row * n + at, powers / tl.sum(powers, axis=0), mask=inside)


@triton.jit
def _backward(y, grad, dx, n, columns, row_stride, column_stride, share, factor, BLOCK: tl.constexpr):
    """One row; ``share`` of the sum is taken away, and ``columns`` of its n columns are read."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    read = at < columns
    p = tl.load(y + row * n + at, mask=read, other=0.0).to(tl.float32)
    sent = tl.load(grad + row * row_stride + at * column_stride, mask=read, other=0.0).to(tl.float32)
    tl.store(dx + row * n + at, factor * p * (sent - share * tl.sum(p * sent, axis=0)), mask=at < n)


class Softmax(torch.autograd.Function):
    """Over the last axis of a matrix, in float32 inside; ``mistake`` is one of MISTAKES or empty."""

    @staticmethod
    def forward(ctx, x, mistake):
        x = x.contiguous()
        y = torch.empty_like(x)
        rows, n = x.shape
        _forward[(rows,)](x, y, n, BLOCK=triton.next_power_of_2(n))
        ctx.save_for_backward(y)
        ctx.mistake = mistake
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        rows, n = y.shape
        dx = torch.empty_like(y)
        strides = (n, 1) if ctx.mistake == "contiguous assumed" else grad.stride()
        columns = n - 1 if ctx.mistake == "last column" else n
        share = 0.0 if ctx.mistake == "sum missing" else 1.0
        factor = 1.02 if ctx.mistake == "two percent" else 1.0
        _backward[(rows,)](y, grad, dx, n, columns, *strides, share, factor, BLOCK=triton.next_power_of_2(n))
        return dx, None


def softmax(x, mistake=""):
    return Softmax.apply(x, mistake)
