"""Torch functions that a model calls itself, where somebody looks at them."""

from __future__ import annotations

import torch
from torch import nn

from gradvitals.signals import predict, probe


class Asking(nn.Module):
    """It asks for the gradient of something in its middle, as checkpointed feature encoders do (HuBERT)."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x):
        y = x[:, None]
        y.requires_grad = True
        return self.layer(y)


def test_a_model_may_ask_for_gradients_of_what_has_one():
    torch.manual_seed(0)
    x = torch.randn(6, 8)
    assert probe(Asking(), x, spectrum=True).table("spectrum")
    assert probe(Asking(), x).findings == ()
    assert predict(Asking(), x).table("layers").column("forward_rms")[0] > 0
