"""Where all formulas are the framework's own: a cut is named where one was seen, else what may be taken for granted."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import gradvitals as gv
from gradvitals import Verdict
from gradvitals.frameworks.torch.cuts import Cuts


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def without_gradient(x):
    with torch.no_grad():
        return x.mean()


SCALES = {
    "detach()": lambda x: x.mean().detach(),
    ".data": lambda x: x.data.mean(),
    "item()": lambda x: x.mean().item(),
    "float()": lambda x: float(x.mean()),
    "tolist()": lambda x: sum(x.reshape(-1).tolist()) / x.numel(),
    "no_grad()": without_gradient,
}


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("how", SCALES)
def test_the_place_of_a_cut_is_named(how):
    report = gv.check(lambda x: x * x * SCALES[how](x), normal(5, 6) + 2)
    (finding,) = report.findings
    assert finding.evidence["likely"] == "detached"
    (cut,) = finding.evidence["cuts"]
    name, _, place = cut.partition(" ")
    assert name == how
    assert place.startswith("(test_cuts.py:")


@pytest.mark.parametrize(
    "sound",
    [
        lambda x: x * torch.ones_like(x) + x.new_zeros(()),
        lambda x: x / x.shape[-1] if x.numel() > 3 and (x > 0).any() else x,
        lambda x: functional.dropout(x, 0.5) + x.sort(-1).values + x.argmax(),
        lambda x: torch.cat([x, x.tanh()]) @ torch.eye(x.shape[-1]),
        lambda x: torch.stack(x.max(-1)[:1]),
    ],
)
def test_nothing_is_called_a_cut_that_is_none(sound):
    x = normal(5, 6).requires_grad_()
    with Cuts() as cuts:
        sound(x)
    assert cuts.found == ()


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 8)

    def part(self, x):
        return self.second(functional.dropout(self.first(x).tanh(), 0.3))

    def forward(self, x):
        return checkpoint(self.part, x, use_reentrant=False, preserve_rng_state=False)


def unnormalised(scores):
    return functional.ctc_loss(scores, torch.tensor([[1, 2, 2], [3, 1, 4]]), (12, 10), (3, 3))


@pytest.mark.parametrize("name", ["checkpoint", "ctc"])
def test_no_cut_is_claimed_where_none_is(name):
    torch.manual_seed(0)
    if name == "checkpoint":
        report = gv.check(Checkpointed(), normal(6, 8), loss=lambda y: y.square().mean())
    else:
        report = gv.check(unnormalised, normal(12, 2, 5))
    assert report.verdict is Verdict.FAIL
    wrong = [finding for finding in report.findings if finding.code == "G101"]
    assert wrong
    for finding in wrong:
        assert "framework_only" not in finding.evidence
        assert "only a cut" not in str(report)
        if finding.evidence["likely"] == "detached":
            assert finding.evidence["uncut"] is True
            assert finding.confidence <= 0.5
