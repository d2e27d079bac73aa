"""What a last activation that is flat holds back of the gradient, where the loss doesn't undo it.

The slope of a cross entropy grows as that of its sigmoid or softmax falls, so that their product stays; that of a mean
square doesn't. And where a flat value is right, the gradient would only push it further: nothing is held back.
"""

from __future__ import annotations

import torch

from gradvitals.frameworks.torch.layers import FLAT


def held_back_share(name: str, output: torch.Tensor, gradient: torch.Tensor) -> float | None:
    """Share of a sigmoid's or tanh's values, or of a softmax's rows (its last axis), that are flat, are wanted
    elsewhere, and can't be moved.
    """
    with torch.no_grad():
        y, g = output.double(), gradient.double()
        if name == "softmax":
            y, g = y.reshape(-1, y.shape[-1]), g.reshape(-1, g.shape[-1])
            largest, at = y.max(-1)
            flat = 4 * largest * (1 - largest) < FLAT
            wanted = g.gather(-1, at[:, None])[:, 0] > g.min(-1).values
            sent, passed = g.abs().amax(-1), (y * (g - (y * g).sum(-1, keepdim=True))).abs().amax(-1)
        elif name in {"sigmoid", "tanh"}:
            middle, slope = (0.5, 4 * y * (1 - y)) if name == "sigmoid" else (0.0, 1 - y * y)
            flat, wanted = slope < FLAT, g * (y - middle) > 0
            sent, passed = g.abs(), (g * slope).abs()
        else:
            return None
        held = flat & wanted
        some = held & (passed > 0)
        if int(some.sum()) > 1 and float(sent[some].log().std()) > float(passed[some].log().std()):
            held = held & ~some  # what is sent grows as the slope falls, but for slopes of zero
        return float(held.double().mean())
