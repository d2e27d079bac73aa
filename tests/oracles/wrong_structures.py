"""Backward passes of ``x * w`` that are right for the cotangent that a plain check sends, or nearly, and wrong
otherwise.
"""

from __future__ import annotations

import torch


def product(backward):
    """``x * w`` with a backward pass ``(ctx, cotangent, x, w) -> (dx, dw)``."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return x * w

        @staticmethod
        def backward(ctx, cotangent):
            return backward(ctx, cotangent, *ctx.saved_tensors)

    return Product.apply


def as_contiguous(tensor):
    """The numbers that a kernel finds which takes the tensor for contiguous."""
    return tensor.as_strided(tensor.shape, torch.empty(tensor.shape).stride())


def _is_expanded(tensor):
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def _needs_the_first(ctx, g, x, w):
    return (g * w, g * x) if ctx.needs_input_grad[0] else (None, None)


sound = product(lambda _, g, x, w: (g * w, g * x))

#: What is wrong, how it shows ("likely"), and in which of the two tensors.
WRONG = {
    "ones in place of the cotangent": ("ignores-cotangent", ("x",), lambda _, g, x, w: (torch.ones_like(g) * w, g * x)),
    "absolute value": ("not-linear", ("x",), lambda _, g, x, w: (g.abs() * w, g * x)),
    "square": ("not-linear", ("w",), lambda _, g, x, w: (g * w, g * g * x)),
    "clipped": ("not-linear", ("x",), lambda _, g, x, w: (g.clamp(-1, 1) * w, g * x)),
    "normalised": ("not-linear", ("x",), lambda _, g, x, w: (g / g.norm() * w, g * x)),
    "largest for all": ("not-linear", ("x",), lambda _, g, x, w: (g.amax() * w, g * x)),
    "constant added": ("term-constant", ("x",), lambda _, g, x, w: (g * w + 0.125, g * x)),
    "tensor added": ("nonzero-at-zero", ("x",), lambda _, g, x, w: (g * w + 1e-3 * torch.cos(9 * x * w), g * x)),
    "taken for contiguous": ("cotangent-strides", ("x",), lambda _, g, x, w: (as_contiguous(g) * w, g * x)),
    "expanded cotangent counted twice": (
        "cotangent-expanded",
        ("w",),
        lambda _, g, x, w: (g * w, (2 * g if _is_expanded(g) else g) * x),
    ),
    "input taken for contiguous": ("input-strides", ("w",), lambda _, g, x, w: (g * w, g * as_contiguous(x))),
    "told apart by address": (
        "double-use",
        ("x",),
        lambda _, g, x, w: (g * w if x.data_ptr() != w.data_ptr() else 3 * g * w, g * x),
    ),
    "wrong index": ("needs-input-grad", ("w",), _needs_the_first),
}


class KeptInClass(torch.autograd.Function):
    """Keeps what the backward pass needs in the class: a second call overwrites it."""

    kept = ()

    @staticmethod
    def forward(ctx, x, w):
        KeptInClass.kept = (x, w)
        return x * w

    @staticmethod
    def backward(ctx, cotangent):
        x, w = KeptInClass.kept
        return cotangent * w, cotangent * x


def with_forward_mode(factor):
    """A right backward pass with a forward mode that takes the part of w so many times."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            ctx.save_for_forward(x, w)
            return x * w

        @staticmethod
        def backward(ctx, cotangent):
            x, w = ctx.saved_tensors
            return cotangent * w, cotangent * x

        @staticmethod
        def jvp(ctx, dx, dw):
            x, w = ctx.saved_tensors
            return dx * w + factor * x * dw

    return Product.apply
