"""Layers that are copies of one another, as ``nn.TransformerEncoder`` makes them, beside layers drawn one by one."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import nn

from oracles.drawn_networks import agreement


def layer(*, pre):
    return nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=pre)


class Encoder(nn.Module):
    """As built by torch, or with layers of their own."""

    def __init__(self, *, copies, pre):
        super().__init__()
        self.layers = nn.TransformerEncoder(layer(pre=pre), 4, enable_nested_tensor=False)
        if not copies:
            self.layers.layers = nn.ModuleList(layer(pre=pre) for _ in range(4))

    def forward(self, x):
        return self.layers(x)


def found_of(*, copies, pre):
    return agreement(lambda: (Encoder(copies=copies, pre=pre), (torch.randn(4, 16, 64),)), draws=8)


@pytest.mark.parametrize("pre", [False, True])
def test_an_encoder_of_independent_layers_is_predicted(pre):
    found = found_of(copies=False, pre=pre)
    for logs in (found.forward, found.backward):
        errors = sorted(abs(math.expm1(values.mean())) for values in logs.values())
        assert statistics.median(errors) < 0.03
        assert errors[int(0.9 * len(errors))] < 0.06
    assert found.inside("forward") > 0.9
    assert found.inside("backward") > 0.85


@pytest.mark.parametrize("pre", [False, True])
def test_the_band_of_copied_layers_says_how_far_theory_is_off(pre):
    found = found_of(copies=True, pre=pre)
    assert found.inside("forward") > 0.9
    assert found.inside("backward") > 0.9
    assert found.worst("backward")[0] < 0.4
