"""Verbs that look at one batch take the first of a case's batches, whose last item its loss wants."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradvitals as gv

X, Y = torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3


def of_both(output, target):
    return F.cross_entropy(output, target)


def test_a_loss_for_batches_gets_the_first_batchs_last_item():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    case = gv.Case(model, (X[:4],), loss=of_both, batches=[(X[:16], Y[:16]), (X[16:], Y[16:])])
    by_hand = gv.probe(model, X[:16], loss=lambda output: of_both(output, Y[:16]))
    assert gv.probe(case).table("layers") == by_hand.table("layers")
    assert gv.check(case).ok
    assert gv.checkup(case).ok
    assert gv.plan_init(case).ok


def test_a_loader_that_shuffles_leaves_the_random_state():
    loader = DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True)
    case = gv.Case(nn.Linear(4, 3), (X,), loss=of_both, batches=loader)
    state = torch.get_rng_state()
    gv.probe(case)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_is_given_beside_the_case_takes_the_output_alone():
    case = gv.Case(nn.Linear(4, 3), (X,), loss=of_both, batches=[(X[:16], Y[:16])])
    assert gv.probe(case, loss=lambda output: output.square().mean()).settings["objective"] == "loss"
