"""The treatment helps: networks that stay at chance train after init_, on real digits."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from gradvitals.weights import init_

STEPS, BATCH, RATE, DEPTH = 300, 64, 1e-3, 20


@pytest.fixture(scope="module")
def digits():
    sklearn = pytest.importorskip("sklearn.datasets")
    x, y = (torch.from_numpy(array) for array in sklearn.load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order].float(), y[order]
    train = (x[:1400] - x[:1400].mean()) / x[:1400].std()
    return train, y[:1400], (x[1400:] - x[:1400].mean()) / x[:1400].std(), y[1400:]


def network(activation):
    layers = [layer for _ in range(DEPTH - 1) for layer in (nn.Linear(64, 64), activation())]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def accuracy_after_training(model, digits):
    x, y, test_x, test_y = digits
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    torch.manual_seed(0)
    for _ in range(STEPS):
        chosen = torch.randint(0, len(x), (BATCH,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
    with torch.no_grad():
        return (model(test_x).argmax(1) == test_y).double().mean().item()


def test_twenty_sigmoid_layers_go_from_chance_to_reading_digits(digits):
    torch.manual_seed(1)
    model = network(nn.Sigmoid)
    untreated = copy.deepcopy(model)
    init_(model, digits[0][:128])
    assert accuracy_after_training(untreated, digits) < 0.2
    assert accuracy_after_training(model, digits) > 0.85


def test_twenty_exploding_relu_layers_train_after_treatment(digits):
    torch.manual_seed(1)
    model = network(nn.ReLU)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 5 * (2 / 64) ** 0.5)
    init_(model, digits[0][:128])
    assert accuracy_after_training(model, digits) > 0.85
