"""Models on the meta device: planned without memory, started with it, the same as if built with it."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from gradvitals.vocabulary import InputError, ModelError, Verdict
from gradvitals.weights import init_, plan_init
from gradvitals.weights.recipes import METHODS

X = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def images():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 16), nn.Sigmoid(),
        nn.Linear(16, 3),
    )  # fmt: skip


def on_meta(build):
    with torch.device("meta"):
        return build()


def plan(report):
    """The plan without what the weights were before."""
    return [{k: v for k, v in row.items() if k != "std_before"} for row in report.table("plan").records()]


def test_the_plan_is_that_of_the_same_model_with_memory_and_nothing_is_made():
    model = on_meta(images)
    assert plan(plan_init(model, X)) == plan(plan_init(images(), X))
    assert plan(plan_init(model, X.to("meta"))) == plan(plan_init(model, X))
    assert plan(plan_init(model)) == plan(plan_init(images()))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert plan_init(model, X).settings["order"] == "dataflow"


def test_functions_and_attention_are_seen_without_values_too():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x):
            x = x + self.attention(x, x, x)[0]
            return x + self.down(torch.nn.functional.gelu(self.up(x)))

    x = torch.randn(2, 3, 8)
    assert plan(plan_init(on_meta(Net), x)) == plan(plan_init(Net(), x))


@pytest.mark.parametrize("method", METHODS)
def test_the_weights_are_those_of_the_same_model_with_memory(method):
    torch.manual_seed(5)
    built, lent = images(), on_meta(images)
    init_(built, X, method=method, seed=3)
    report = init_(lent, X, method=method, seed=3)
    for (path, ours), theirs in zip(lent.state_dict().items(), built.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), path
    assert "W305" not in {finding.code for finding in report.findings}
    assert lent(X).shape == (8, 3)


def test_tied_and_frozen_parameters_stay_so():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.words.weight
            self.fixed = nn.Linear(9, 9).requires_grad_(requires_grad=False)

        def forward(self, tokens):
            return self.fixed(self.head(self.words(tokens)))

    model = on_meta(Tied)
    init_(model, torch.arange(6).reshape(2, 3))
    assert model.head.weight is model.words.weight
    assert not model.fixed.weight.requires_grad
    assert bool(model.fixed.weight.isfinite().all())


class Rotary(nn.Module):
    """A buffer that only the constructor computes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("angles", torch.arange(4.0), persistent=False)

    def forward(self, x):
        return self.layer(x) * self.angles


def test_a_buffer_that_no_module_can_reset_is_named():
    report = init_(on_meta(Rotary), torch.randn(3, 4))
    finding = next(finding for finding in report.findings if finding.code == "W305")
    assert finding.site.path == "angles"
    assert report.verdict is Verdict.FAIL
    assert report.table("unset").column("path") == ("angles",)


def test_what_has_memory_already_keeps_its_values():
    model = on_meta(images)
    model[4] = nn.Linear(144, 16)
    kept = model[4].weight.detach().clone()
    init_(model, X, skip="4")
    assert torch.equal(model[4].weight, kept)
    assert not model[0].weight.is_meta


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_when_the_model_raises_it_is_on_meta_again(error):
    class Raises(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            if not self.layer.weight.is_meta:
                raise error
            return self.layer(x)

    model, x = on_meta(Raises), torch.randn(2, 4)
    before = list(model.parameters())
    state = torch.get_rng_state()
    with pytest.raises((ModelError, KeyboardInterrupt)):
        init_(model, x)
    assert all(old is new for old, new in zip(before, model.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_inputs_on_meta_are_refused_where_values_are_needed():
    with pytest.raises(InputError, match="meta device"):
        init_(on_meta(images), X.to("meta"))


def test_hugging_face_models_get_their_own_buffers():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, intermediate_size=32,
        vocab_size=20,
    )  # fmt: skip
    built, model = transformers.LlamaForCausalLM(config), on_meta(lambda: transformers.LlamaForCausalLM(config))
    report = init_(model, torch.arange(10).reshape(2, 5))
    assert "W305" not in {finding.code for finding in report.findings}
    for (path, ours), theirs in zip(model.named_buffers(), dict(built.named_buffers()).values(), strict=True):
        assert torch.equal(ours, theirs), path


def test_a_billion_parameters_are_planned_in_seconds():
    def large():
        layers = [layer for _ in range(16) for layer in (nn.Linear(8192, 8192), nn.GELU())]
        return nn.Sequential(*layers)

    model = on_meta(large)
    assert sum(parameter.numel() for parameter in model.parameters()) > 1e9
    started = time.process_time()
    report = plan_init(model, torch.empty(1, 8192, device="meta"))
    assert time.process_time() - started < 10
    assert len(report.table("plan")) == 16
