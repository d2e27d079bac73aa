"""Rates over seeds: sound models are never failed, and an error above the stated resolution is caught.

The claims of the README rest on these and on ``benchmarks/gradients_layers.py``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import gradvitals as gv
from gradvitals import Verdict

SEEDS = range(40)


def sound_model(seed):
    """A random small network of two or three linear layers, and a batch for it."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    width = int(rng.integers(2, 5))
    first = width
    layers = []
    for _ in range(int(rng.integers(1, 3))):
        following = int(rng.integers(2, 5))
        activations = [nn.Tanh(), nn.ReLU(), nn.GELU(), nn.Softmax(dim=-1), nn.Sigmoid(), nn.SiLU()]
        norms = [nn.Identity(), nn.LayerNorm(following), nn.BatchNorm1d(following), nn.Dropout(0.2)]
        layers += [nn.Linear(width, following), norms[rng.integers(len(norms))]]
        layers += [activations[rng.integers(len(activations))]]
        width = following
    layers.append(nn.Linear(width, 3))
    return nn.Sequential(*layers), torch.randn(int(rng.integers(3, 7)), first, dtype=torch.float64)


def objective_of(seed, batch):
    """Every third model goes with cross-entropy, with a mean square, and without a loss."""
    target = torch.arange(batch) % 3
    losses = [lambda out: nn.functional.cross_entropy(out, target), lambda out: out.square().mean(), None]
    return losses[seed % 3]


@pytest.mark.slow
def test_no_sound_model_is_called_wrong():
    verdicts = {}
    for seed in SEEDS:
        dtype = (torch.float64, torch.float32)[seed % 2]
        model, x = sound_model(seed)
        report = gv.check(model.to(dtype), x.to(dtype), loss=objective_of(seed // 2, len(x)), seed=seed)
        verdicts[seed] = report.verdict
        assert report.verdict is not Verdict.FAIL, f"seed {seed}: {model}\n{report}"
    # A check that can never tell would not be wrong either: nearly all of them must pass outright.
    assert sum(verdict is Verdict.PASS for verdict in verdicts.values()) >= 0.9 * len(SEEDS), verdicts


def sound_numpy(seed, dtype):
    """A random hand-written layer: forward, backward and its inputs."""
    rng = np.random.default_rng(seed)
    x, w, b = (
        rng.normal(size=size).astype(dtype) for size in ((int(rng.integers(3, 8)), 4), (4, int(rng.integers(2, 9))), ())
    )
    kind = seed % 4

    def forward(x, w, b):
        z = x @ w + b
        return [np.tanh(z), np.maximum(z, 0) ** 2, z / (1 + np.exp(-z)), np.exp(z - z.max()) / 3][kind]

    def backward(dout):
        z = x @ w + b
        s = 1 / (1 + np.exp(-z))
        at = np.unravel_index(int(np.argmax(z)), z.shape)
        dz = dout * [1 - np.tanh(z) ** 2, 2 * np.maximum(z, 0), s * (1 + z * (1 - s)), np.exp(z - z.max()) / 3][kind]
        if kind == 3:
            dz[at] -= dz.sum()  # the maximum that is subtracted moves with its entry
        return dz @ w.T, x.T @ dz, dz.sum()

    return forward, backward, (x, w, b)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_no_sound_numpy_layer_is_called_wrong(dtype):
    found = []
    for seed in range(24):
        forward, backward, inputs = sound_numpy(seed, dtype)
        report = gv.check(forward, *inputs, vjp=backward, seed=seed)
        found.append(report.verdict)
        assert report.verdict is not Verdict.FAIL, f"seed {seed}\n{report}"
    assert sum(verdict is Verdict.PASS for verdict in found) >= 0.9 * len(found)


def product(seed, dtype):
    """A layer so small that hundreds of checks take seconds: tanh(x w), smooth."""
    rng = np.random.default_rng(seed)
    x, w = (rng.normal(size=size).astype(dtype) for size in ((2, 3), (3, int(rng.integers(2, 4)))))

    def backward(dout):
        dz = dout * (1 - np.tanh(x @ w) ** 2)
        return dz @ w.T, x.T @ dz

    return (lambda x, w: np.tanh(x @ w)), backward, (x, w)


@pytest.mark.slow
def test_an_error_of_three_times_the_stated_resolution_is_caught():
    caught = []
    for seed in range(25):
        forward, backward, inputs = product(seed, (np.float64, np.float32)[seed // 2 % 2])
        at = seed % 2  # x or w
        row = list(gv.check(forward, *inputs, vjp=backward, seed=seed).table("tensors").records())[at]
        assert row["status"] == "right"
        for repeat in range(4):
            pattern = np.random.default_rng(1000 * repeat + seed).normal(size=inputs[at].shape)
            pattern *= 3 * row["resolution"] / np.linalg.norm(pattern)

            def spoilt(dout, backward=backward, at=at, pattern=pattern):
                gradients = list(backward(dout))
                error = (pattern * np.linalg.norm(gradients[at])).astype(gradients[at].dtype)
                gradients[at] = gradients[at] + error
                return tuple(gradients)

            # Other seeds: the same one would only look along the directions that the resolution was computed from.
            report = gv.check(forward, *inputs, vjp=spoilt, seed=500 * (1 + repeat) + seed)
            caught.append(report.table("tensors").column("status")[at] == "wrong")
    assert np.mean(caught) >= 0.99, f"{sum(caught)} of {len(caught)}"
