"""Images that are padded before a convolution are predicted as those that the convolution pads."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradvitals as gv


class Padded(nn.Module):
    def __init__(self, *, before):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(channels, 8, 3, padding=0 if before else 1, bias=False) for channels in (3, 8, 8)
        )
        self.before = before

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(functional.pad(x, (1, 1, 1, 1)) if self.before else x))
        return x


@pytest.mark.parametrize(("size", "within"), [(6, 0.02), (24, 0.01)])
def test_images_padded_by_hand_are_predicted_as_those_that_a_convolution_pads(size, within):
    x = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0))
    found = []
    for before in (False, True):
        torch.manual_seed(0)
        table = gv.predict(Padded(before=before), x).table("layers")
        at = [at for at, kind in enumerate(table.column("kind")) if kind == "Conv2d"]
        found.append([table.column(name)[n] for name in ("forward_rms", "gradient_rms") for n in at])
    assert found[1] == pytest.approx(found[0], rel=within)
