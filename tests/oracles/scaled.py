"""A backward pass that is a factor off."""

import torch


class Scaled(torch.autograd.Function):
    """The identity, whose gradient has a factor too many."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, upstream):
        return ctx.factor * upstream, None
