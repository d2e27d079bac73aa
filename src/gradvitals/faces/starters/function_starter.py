"""Check a torch.autograd.Function whose backward pass is written by hand.

python STARTER                    prints the report
gradvitals check STARTER:make     the same, with --html FILE for a page
"""

import torch

import gradvitals as gv

# ---- your code goes here: a Function with its own backward ---------------------------------------------------------


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        z = x @ weight
        ctx.save_for_backward(x, weight, z)
        return z**2

    @staticmethod
    def backward(ctx, dout):
        """Return one gradient for each argument of forward."""
        x, weight, z = ctx.saved_tensors
        dz = dout * 2 * z  # try it: delete the 2 and run this file again
        return dz @ weight.T, x.T @ dz


# --------------------------------------------------------------------------------------------------------------------


def make():
    """The case: small random inputs; float64 gives the sharpest answer, float32 works as well."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    weight = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    return gv.Case(Square.apply, (x, weight), name="my function")


if __name__ == "__main__":
    print(gv.check(make()))
