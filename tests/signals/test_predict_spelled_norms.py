"""Norms over units in every spelling that models have, beside ``torch.nn.LayerNorm``, over draws of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from oracles.drawn_networks import agreement


class Spelled(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x)


def centred(x):
    return x - x.mean(-1, keepdim=True)


def by_var_mean(x):
    variance, mean = torch.var_mean(x, -1, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + 1e-6)


def by_its_square(x):
    y = centred(x)
    return y * torch.rsqrt((y * y).mean(-1, keepdim=True) + 1e-6)


NORMS = {
    "centred twice": lambda x: centred(x) / torch.sqrt(centred(x).pow(2).mean(-1, keepdim=True) + 1e-7),
    "by the deviation": lambda x: centred(x) / (x.std(-1, keepdim=True) + 1e-6),
    "by the biased variance": lambda x: centred(x) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-6),
    "by var_mean": by_var_mean,
    "by a product with itself": by_its_square,
    "by torch.square": lambda x: x * torch.rsqrt(torch.square(x).mean(-1, keepdim=True) + 1e-6),
    "by the mean without its dimension": lambda x: (x - x.mean(-1).unsqueeze(-1)) / x.std(-1).unsqueeze(-1),
    "by the Euclidean norm": lambda x: x / x.norm(dim=-1, keepdim=True) * 4,
    "by the Euclidean norm of another multiple": lambda x: 4 * x / x.norm(dim=-1, keepdim=True),
    "by torch.nn.functional.normalize": lambda x: 4 * functional.normalize(x, dim=-1),
    "by the mean absolute value": lambda x: x / x.abs().mean(-1, keepdim=True),
}


def network(norm):
    return nn.Sequential(
        *(nn.Linear(64, 16), Spelled(norm), nn.Linear(16, 32), nn.ReLU()),
        *(nn.Linear(32, 16), Spelled(norm), nn.Linear(16, 16), Spelled(norm), nn.Linear(16, 64)),
    )


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_counts_as_one_in_every_spelling(name):
    found = agreement(lambda: (network(NORMS[name]), (torch.randn(32, 64),)), draws=24)
    assert found.unmodelled == ()
    assert len(found.backward) == len(found.forward)
    assert found.worst("forward")[0] < 0.02, found.worst("forward")
    assert found.worst("backward")[0] < 0.06, found.worst("backward")
