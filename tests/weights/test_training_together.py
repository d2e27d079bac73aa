"""The benchmark trains the copies of a network together: the same as each alone."""

from __future__ import annotations

import copy

import pytest
import torch


@pytest.fixture
def training(monkeypatch, request):
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(request.config.rootpath / "benchmarks")
    return pytest.importorskip("weights_training")


@pytest.mark.parametrize("name", ["mlp50-tanh", "residual-mlp50"])
def test_copies_that_are_trained_together_end_as_each_alone(training, name):
    network = training.networks()[name]
    seeds, rates = [0, 1, 0, 1], [1e-3, 1e-3, 3e-4, 3e-4]
    models = [training.started(network, "orthogonal" if network.plain else "auto", seed)[0] for seed in (0, 1)] * 2
    given = (seeds, rates, network.data(), 3)
    stacked = training.together([copy.deepcopy(model) for model in models], *given)
    alone = training.one_by_one([copy.deepcopy(model) for model in models], *given)
    for one, other in zip(stacked, alone, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["test"] == pytest.approx(other["test"], abs=1.0)
    assert torch.unique(torch.tensor([round(run["loss"], 6) for run in stacked])).numel() == len(models)
