"""Two runs beside one another: sound pairs agree, others part at the layer where they were made to differ."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import gradvitals as gv
from gradvitals.frameworks.torch.comparison import compare
from gradvitals.signals import probe
from gradvitals.vocabulary import ModelError, UsageError
from oracles.networks import he, images, mlp, resnet, sequences, transformer, vectors

MODELS = {
    "ReLU": (lambda: mlp(8, nn.ReLU, he), vectors),
    "tanh": (lambda: mlp(20, nn.Tanh, lambda layer: None), vectors),
    "residual network with batch norm": (resnet, images),
    "transformer": (lambda: transformer(norm_first=False).eval(), sequences),
    "recurrent": (lambda: nn.RNN(16, 32, 2, batch_first=True), sequences),
}


def drawn(name, seed=0):
    torch.manual_seed(seed)
    make, batch = MODELS[name]
    return make(), batch()


def ratios(model, x, against):
    """The largest distances in units of the noise: of values, and of gradients."""
    places = compare(gv.Case(model, (x,)), against)
    forward = max(place.forward / place.forward_noise for place in places if place.forward is not None)
    gradient = max(place.gradient / place.gradient_noise for place in places if place.gradient is not None)
    return forward, gradient


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("how", ["bfloat16", "double", "autocast", pytest.param("compiled", marks=pytest.mark.slow)])
def test_two_ways_to_run_a_sound_model_agree_with_room_to_spare(name, how):
    if name == "recurrent" and how in {"autocast", "compiled"}:
        pytest.skip("oneDNN's and Dynamo's own limits with recurrent layers")
    for seed in range(1 if how == "compiled" else 3):
        model, x = drawn(name, seed)
        against = {
            "bfloat16": lambda model=model: copy.deepcopy(model).bfloat16(),
            "double": lambda model=model: copy.deepcopy(model).double(),
            "autocast": lambda: torch.bfloat16,
            "compiled": lambda model=model: torch.compile(model, backend="aot_eager"),
        }[how]()
        forward, gradient = ratios(model, x, against)
        assert forward < 1
        assert gradient < 6


@pytest.mark.parametrize("name", ["ReLU", "residual network with batch norm", "transformer"])
def test_a_checkpoint_whose_weights_differ_by_a_thousandth_parts_at_that_layer(name):
    model, x = drawn(name)
    other = copy.deepcopy(model)
    named = [name for name, parameter in other.named_parameters() if parameter.ndim > 1]
    changed = named[len(named) // 2]
    with torch.no_grad():
        other.get_parameter(changed).mul_(1.001)
    report = probe(model, x, against=other)
    (finding,) = report.findings
    assert (finding.code, finding.name) == ("S212", "runs-differ")
    assert changed.startswith(finding.site.path)
    assert finding.evidence["what"] == "values"
    assert finding.evidence["likely"] == "weights"
    assert finding.evidence["distance"] == pytest.approx(1e-3, rel=1)
    rows = list(report.table("against").records())
    assert next(row["path"] for row in rows if row["parted"] == "values") == finding.site.path
    assert changed.rpartition(".")[0] in str(report)


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (1 - x.tanh())


class Tanh(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_a_backward_pass_that_differs_is_found_where_values_agree():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), Tanh(torch.tanh), nn.Linear(8, 8), Tanh(torch.tanh), nn.Linear(8, 2))
    other = copy.deepcopy(model)
    other[1] = Tanh(WrongBackward.apply)
    (finding,) = probe(model, torch.randn(16, 8), against=other).findings
    assert (finding.site.path, finding.evidence["what"], finding.evidence["likely"]) == (
        "0",
        "gradients",
        "only-gradient",
    )


def test_a_mode_that_differs_is_told():
    model, x = drawn("residual network with batch norm")
    other = copy.deepcopy(model)
    other[1].eval()
    (finding,) = probe(model, x, against=other).findings
    assert (finding.site.path, finding.evidence["likely"]) == ("1", "mode")


class Precise(nn.Module):
    """Its normalisation leaves out a constant in the second version."""

    def __init__(self, epsilon):
        super().__init__()
        self.first, self.last, self.epsilon = nn.Linear(8, 8), nn.Linear(8, 2), epsilon

    def forward(self, x):
        return self.last(F.layer_norm(self.first(x), (8,), eps=self.epsilon))


def test_code_that_differs_is_found_at_its_operation():
    torch.manual_seed(0)
    model, other = Precise(1e-5), Precise(1e-3)
    other.load_state_dict(model.state_dict())
    (finding,) = probe(model, torch.randn(16, 8), against=other).findings
    assert finding.site.path == "layer_norm()"


def test_neither_side_is_changed_and_a_case_serves_as_well():
    model, x = drawn("residual network with batch norm")
    other = torch.compile(copy.deepcopy(model), backend="aot_eager")
    states = [{key: x.clone() for key, x in side.state_dict().items()} for side in (model, other)]
    randomness = torch.get_rng_state()
    report = probe(model, x, against=gv.Case(other, (x,), name="mine"))
    assert report.findings == ()
    assert report.settings["against"] == "mine"
    for side, state in zip((model, other), states, strict=True):
        assert all(torch.equal(state[key], x) for key, x in side.state_dict().items())
        assert not any(module._forward_hooks for module in side.modules())
    assert torch.equal(torch.get_rng_state(), randomness)


def test_a_loss_is_used_on_both_sides():
    model, x = drawn("ReLU")
    report = probe(model, x, against=copy.deepcopy(model), loss=lambda y: y.square().mean())
    assert report.verdict.value == "pass"
    assert "agree to rounding" in str(report)


def test_models_without_a_layer_in_common_are_refused():
    with pytest.raises(UsageError, match="can't be called"):
        probe(nn.Linear(4, 4), torch.ones(2, 4), against=3)
    with pytest.raises(ModelError, match="compared"):
        probe(nn.Linear(4, 4), torch.ones(2, 4), against=nn.Linear(5, 4))
