"""Is a fused kernel as exact as the plain function that it replaces? In bfloat16, where no tolerance is the right one.

python examples/check_reference.py
"""

from __future__ import annotations

import torch

import gradvitals as gv


class FusedNorm(torch.autograd.Function):
    """RMS norm with a backward pass by hand, in float32 inside; a Triton or CUDA kernel would stand here."""

    @staticmethod
    def forward(ctx, x, weight):
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale * weight.float()).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        normal, sent = x.float() * scale, grad.float() * weight.float()
        dx = scale * (sent - normal * (sent * normal).mean(-1, keepdim=True))
        dweight = grad.float() * normal
        return dx.to(x.dtype), dweight.sum(0).to(weight.dtype)


class ForgetfulNorm(FusedNorm):
    """The same, but dx is accumulated coarsely, and the last tile of eight rows doesn't reach the weight."""

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        normal, sent = x.float() * scale, grad.float() * weight.float()
        dx = scale * (sent - normal * (sent * normal).bfloat16().cumsum(-1)[..., -1:].float() / x.shape[-1])
        return dx.to(x.dtype), (grad.float() * normal)[:-8].sum(0).to(weight.dtype)


def plain_norm(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


def main():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(64, 128, generator=generator), torch.randn(128, generator=generator)
    print(gv.check(FusedNorm.apply, x.bfloat16(), weight.bfloat16(), reference=plain_norm, name="fused norm, bfloat16"))
    print(gv.check(ForgetfulNorm.apply, x, weight, reference=plain_norm, name="fused norm with mistakes, float32"))


if __name__ == "__main__":
    main()
