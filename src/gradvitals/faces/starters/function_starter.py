"""A torch.autograd.Function with a backward pass written by hand, and its check.

1. python STARTER: the report says that every gradient is right.
2. Delete the "2 * " in backward, and run it again: the check finds it.
3. Put your own Function in its place, and inputs of your shapes into make().

A page of it:  gradvitals check STARTER:make --html report.html
"""

import torch

import gradvitals as gv

# ---- your code: a Function with its own backward ---------------------------------------------------------------------


class SquaredLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        z = x @ weight
        ctx.save_for_backward(x, weight, z)
        return z**2

    @staticmethod
    def backward(ctx, dout):
        """One gradient for each argument of forward, in their order."""
        x, weight, z = ctx.saved_tensors
        dz = 2 * z * dout
        return dz @ weight.T, x.T @ dz


# ---- the case: what is checked, with small random inputs; float64 gives the sharpest answer, float32 works as well ---


def make():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    weight = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    return gv.Case(SquaredLinear.apply, (x, weight), name="my function")


if __name__ == "__main__":
    print(gv.check(make()))
