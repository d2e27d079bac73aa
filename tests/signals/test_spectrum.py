"""The spectrum of real models' Jacobians, against those written down in float64 and decomposed."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

import gradvitals as gv
from gradvitals.frameworks.torch.linearisation import linearised
from gradvitals.frameworks.torch.state import seed_everything
from gradvitals.signals import probe
from gradvitals.vocabulary import InputError, ModelError, UsageError
from oracles.jacobians import in_float64, jacobians, of_batch, truth
from oracles.networks import mlp, resnet, scaled

COLUMNS = (
    *("first", "path", "inputs", "outputs", "sigma_max", "sigma_max_error", "mean_square", "mean_square_error"),
    *("square_variance", "square_variance_error", "condition", "products"),
)


def spectrum_of(model, *inputs, **options):
    """The report's settings, and the rows of the whole model and of its stages."""
    report = probe(model, *inputs, spectrum=True, **options)
    whole, *stages = report.table("spectrum").records()
    return report.settings, whole, stages


def looked_at(x, axis=0):
    """Of a batch the first quarter, eight samples at most."""
    return x.narrow(axis, 0, max(1, min(8, x.shape[axis] // 4)))


def agrees(row, true, *, condition=1e-3):
    assert row["sigma_max"] <= true["sigma_max"] * (1 + 1e-5)
    assert true["sigma_max"] <= row["sigma_max"] + row["sigma_max_error"] + 1e-6 * true["sigma_max"]
    for key in ("mean_square", "square_variance"):
        assert abs(row[key] - true[key]) <= 1.5 * row[f"{key}_error"] + 1e-5 * true[key], key
    if row["condition"] is not None and math.isfinite(row["condition"]):
        assert row["condition"] == pytest.approx(true["condition"], rel=condition)


class FirstOutput(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)[0]


MODELS = {
    "tanh MLP": (lambda: mlp(6, nn.Tanh, scaled(1.5)), (5, 32), 0),
    "wide MLP": (lambda: nn.Sequential(nn.Linear(200, 160), nn.GELU(), nn.Linear(160, 180)), (3, 200), 0),
    "ReLU in place": (lambda: mlp(4, lambda: nn.ReLU(inplace=True), scaled(1.5)), (5, 32), 0),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)),
        (3, 2, 8, 8),
        0,
    ),
    "transformer block": (
        lambda: nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True),
        (3, 5, 16),
        0,
    ),
    "transformer, time first": (lambda: nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0), (5, 3, 16), 1),
    "LSTM over time": (lambda: FirstOutput(nn.LSTM(6, 10, 2, batch_first=True)), (3, 7, 6), 0),
    "RNN, time first": (lambda: FirstOutput(nn.RNN(6, 10)), (7, 3, 6), 1),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_whole_model_agrees_with_its_jacobian_written_down(name):
    torch.manual_seed(0)
    make, shape, axis = MODELS[name]
    model, x = make(), torch.randn(shape)
    settings, whole, _ = spectrum_of(model, x)
    few = looked_at(x, axis)
    true = truth(jacobians(in_float64(model), few.double(), axis))
    assert (settings["jacobian"], settings["samples"]) == ("per-sample", few.shape[axis])
    agrees(whole, true)


@pytest.mark.parametrize("name", ["tanh MLP", "convolutions", "transformer block"])
def test_what_is_too_large_to_be_formed_agrees_as_well(name, monkeypatch):
    monkeypatch.setattr("gradvitals.signals.measure_spectrum._DENSE_WHOLE", 0)
    torch.manual_seed(0)
    make, shape, axis = MODELS[name]
    model, x = make(), torch.randn(shape)
    _, whole, _ = spectrum_of(model, x)
    assert whole["condition"] is None
    agrees(whole, truth(jacobians(in_float64(model), looked_at(x, axis).double(), axis)))


def test_a_model_of_float64_is_known_to_its_own_precision():
    model, x = mlp(6, nn.Tanh, scaled(1.5)).double(), torch.randn(4, 32).double()
    _, whole, _ = spectrum_of(model, x)
    assert whole["sigma_max"] == pytest.approx(truth(jacobians(model, looked_at(x)))["sigma_max"], rel=1e-12)


def test_stages_follow_one_another_and_their_product_is_the_whole():
    torch.manual_seed(0)
    model, x = mlp(5, nn.Tanh, scaled(1.5)), torch.randn(4, 32)
    _, whole, stages = spectrum_of(model, x)
    assert (whole["first"], whole["path"]) == ("input", "output")
    assert [(row["first"], row["path"]) for row in stages][:2] == [("input", "0"), ("0", "2")]
    assert stages[-1]["path"] == "output"
    assert all(a["path"] == b["first"] for a, b in itertools.pairwise(stages))
    weight = model[2].weight.detach().double().numpy()
    x = looked_at(x)
    slopes = 1 - torch.tanh(model[0](x)).detach().double().numpy() ** 2
    agrees(stages[1], truth(weight[None] * slopes[:, None, :]))
    with linearised(gv.Case(model, (x,))) as point:
        ends = [None, *(2 * at for at in range(5)), None]
        chain = [point.jacobian(a, b).dense() for a, b in itertools.pairwise(ends)]
        product = chain[0]
        for matrices in chain[1:]:
            product = matrices @ product
        np.testing.assert_allclose(product, point.jacobian().dense(), atol=1e-6)


def test_stages_of_a_residual_network_are_its_blocks():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    _, _, stages = spectrum_of(model, torch.randn(2, 5, 16))
    assert len(stages) == 6
    assert all(row["inputs"] == row["outputs"] == 80 for row in stages)
    assert stages[0]["path"] == "layers.0.+"


def test_samples_that_share_batch_statistics_make_one_jacobian():
    torch.manual_seed(0)
    model, x = resnet(), torch.randn(4, 3, 4, 4)
    settings, whole, _ = spectrum_of(model, x)
    assert (settings["jacobian"], settings["samples"]) == ("of-batch", 1)
    assert (whole["inputs"], whole["outputs"]) == (4 * 48, 40)
    agrees(whole, truth(of_batch(in_float64(model), x.double())))
    settings, whole, _ = spectrum_of(model.eval(), x)
    assert (settings["jacobian"], settings["samples"]) == ("per-sample", 1)
    agrees(whole, truth(jacobians(in_float64(model), looked_at(x).double())))


def test_dropout_is_that_of_the_seed_throughout():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.Dropout(0.5), nn.Linear(32, 32), nn.Dropout(0.5)).double()
    x = torch.randn(4, 32).double()

    def same_masks(values):
        seed_everything(7)
        return model(values)

    _, whole, _ = spectrum_of(model, x, seed=7)
    assert whole["sigma_max"] == pytest.approx(truth(jacobians(same_masks, x))["sigma_max"], rel=1e-10)


def test_of_a_large_batch_the_first_samples_are_looked_at():
    torch.manual_seed(0)
    model, x = mlp(3, nn.Tanh, scaled(1.5)), torch.randn(64, 32)
    settings, whole, _ = spectrum_of(model, x)
    assert settings["samples"] == 8
    agrees(whole, truth(jacobians(in_float64(model), looked_at(x).double())))


def test_a_batch_that_cannot_be_cut_is_looked_at_as_a_whole():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(x).reshape(20, 4)

    settings, whole, _ = spectrum_of(Fixed(), torch.randn(20, 4))
    assert (settings["samples"], whole["inputs"]) == (20, 4)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(30, 12), nn.Embedding(6, 12)
        self.layer = nn.TransformerEncoderLayer(12, 2, 24, dropout=0.0, batch_first=True)
        self.head = nn.Linear(12, 30)

    def after(self, embedded):
        return self.head(self.layer(embedded + self.places.weight))

    def forward(self, ids):
        return {"count": ids.sum(), "logits": self.after(self.words(ids))}


def test_token_ids_are_differentiated_where_they_become_numbers():
    torch.manual_seed(0)
    model, ids = Tokens(), torch.randint(30, (3, 6))
    settings, whole, _ = spectrum_of(model, ids)
    assert (settings["jacobian_of"], whole["first"], whole["path"]) == ("words", "words", "output.logits")
    double = in_float64(model)
    agrees(whole, truth(jacobians(double.after, double.words(looked_at(ids)).detach())))


def test_frozen_embeddings_are_no_hindrance():
    model = Tokens()
    model.requires_grad_(requires_grad=False)
    _, whole, _ = spectrum_of(model, torch.randint(30, (2, 6)))
    assert whole["sigma_max"] > 0
    assert not any(parameter.requires_grad for parameter in model.parameters())


def function_with(*, twice, tangent):
    """y = sin(x) by hand: its backward pass differentiable or not, with a forward mode or without."""

    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            ctx.save_for_forward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, sent):
            return sent * ctx.saved_tensors[0].cos()

        if not twice:
            backward = staticmethod(once_differentiable(backward.__func__))
        if tangent:

            @staticmethod
            def jvp(ctx, moved):
                return moved * ctx.saved_tensors[0].cos()

    return Sine


class ByHand(nn.Module):
    def __init__(self, function, width):
        super().__init__()
        self.function, self.first, self.last = function, nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return self.last(self.function.apply(self.first(x)))


@pytest.mark.parametrize(("twice", "tangent"), [(True, False), (False, True)])
def test_functions_by_hand_go_either_way(twice, tangent, monkeypatch):
    monkeypatch.setattr("gradvitals.signals.measure_spectrum._DENSE_WHOLE", 0)
    torch.manual_seed(0)
    model, x = ByHand(function_with(twice=twice, tangent=tangent), 140), torch.randn(3, 140)
    _, whole, _ = spectrum_of(model, x)
    plain = nn.Sequential(model.first, torch.nn.Module(), model.last)
    double = in_float64(plain)
    agrees(whole, truth(jacobians(lambda v: double[2](double[0](v).sin()), looked_at(x).double())))


def test_where_only_the_transposed_can_be_had_small_ones_are_formed_and_large_ones_left_open():
    function = function_with(twice=False, tangent=False)
    torch.manual_seed(0)
    model, x = ByHand(function, 20), torch.randn(3, 20)
    _, whole, _ = spectrum_of(model, x)
    double = in_float64(nn.Sequential(model.first, nn.Module(), model.last))
    agrees(whole, truth(jacobians(lambda v: double[2](double[0](v).sin()), looked_at(x).double())))
    _, whole, stages = spectrum_of(ByHand(function, 600), torch.randn(2, 600))
    assert whole["sigma_max"] is None
    assert stages[0]["sigma_max"] > 0


def test_what_a_backward_pass_hides_from_autograd_is_not_left_out_in_silence(monkeypatch):
    """A branch whose backward pass goes through NumPy, beside a skip connection: J·v would lose the branch."""

    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, sent):
            return torch.from_numpy(sent.detach().numpy() * np.cos(ctx.saved_tensors[0].detach().numpy()))

    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(140, 140)

        def forward(self, x):
            return x + Hidden.apply(self.linear(x))

    torch.manual_seed(0)
    model, x = Skip(), torch.randn(3, 140)
    double = in_float64(model.linear)
    agrees(spectrum_of(model, x)[1], truth(jacobians(lambda v: v + double(v).sin(), looked_at(x).double())))
    monkeypatch.setattr("gradvitals.signals.measure_spectrum._DENSE_WHOLE", 0)
    assert spectrum_of(model, x)[1]["sigma_max"] is None


def test_checkpointed_and_compiled_models_are_seen_too():
    class Checkpointed(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    torch.manual_seed(0)
    model, x = mlp(3, nn.Tanh, scaled(1.5)), torch.randn(3, 32)
    true = truth(jacobians(in_float64(model), looked_at(x).double()))
    for same in (Checkpointed(model), torch.compile(model, backend="eager")):
        agrees(spectrum_of(same, x)[1], true)


def test_under_autocast_the_jacobian_is_that_of_autocast():
    torch.manual_seed(0)
    model, x = mlp(3, nn.Tanh, scaled(1.5)), torch.randn(3, 32)
    with torch.autocast("cpu", torch.bfloat16):
        _, whole, _ = spectrum_of(model, x)
    true = truth(jacobians(in_float64(model), looked_at(x).double()))
    assert whole["sigma_max"] == pytest.approx(true["sigma_max"], rel=0.02)
    assert whole["sigma_max_error"] >= 1e-3 * whole["sigma_max"]


def test_orthogonal_layers_are_isometric_and_gaussian_ones_are_not():
    torch.manual_seed(0)
    layers = [nn.Linear(200, 200, bias=False) for _ in range(8)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight)
    _, whole, _ = spectrum_of(nn.Sequential(*layers), torch.randn(2, 200))
    assert whole["square_variance"] < 1e-5
    assert whole["condition"] == pytest.approx(1, abs=1e-4)
    for layer in layers:
        nn.init.normal_(layer.weight, std=200**-0.5)
    _, whole, _ = spectrum_of(nn.Sequential(*layers), torch.randn(2, 200))
    assert whole["square_variance"] == pytest.approx(8, rel=0.35)  # Pennington et al. (2017): L, at width 200


def snapshot(model, x):
    state = {name: (id(t), t.clone(), t.requires_grad) for name, t in model.state_dict(keep_vars=True).items()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    flags = (torch._C._get_mkldnn_enabled(), torch.backends.cudnn.enabled, torch.is_grad_enabled())
    return state, hooks, grads, [m.training for m in model.modules()], torch.get_rng_state(), x.clone(), flags


def same(before, after):
    for (a, x, r), (b, y, s) in zip(before[0].values(), after[0].values(), strict=True):
        assert (a, r) == (b, s)
        assert torch.equal(x, y)
    assert before[1] == after[1]
    assert before[3] == after[3]
    assert torch.equal(before[4], after[4])
    assert torch.equal(before[5], after[5])
    assert before[6] == after[6]
    for x, y in zip(before[2], after[2], strict=True):
        assert (x is None and y is None) or torch.equal(x, y)


def test_nothing_of_the_model_is_changed_also_when_it_fails():
    torch.manual_seed(0)
    model, x = resnet(), torch.randn(4, 3, 4, 4)
    model(x).sum().backward()
    model[0].weight.requires_grad_(requires_grad=False)
    before = snapshot(model, x)
    probe(model, x, spectrum=True)
    same(before, snapshot(model, x))

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe(model, x, spectrum=True, progress=interrupt)
    same(before, snapshot(model, x))


def test_an_output_that_does_not_depend_on_the_input_is_refused_with_the_way_out():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(x.detach())

    with pytest.raises(InputError, match="can't be differentiated") as caught:
        probe(Cut(), torch.randn(2, 4), spectrum=True)
    assert "detach" in str(caught.value)
    assert probe(Cut(), torch.randn(2, 4)).ok


def test_a_model_that_runs_only_once_says_so():
    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.runs = nn.Linear(4, 4), []

        def forward(self, x):
            self.runs = [*self.runs, 1]
            if x.requires_grad:
                raise RuntimeError("no gradient at the input, please")
            return self.linear(x)

    with pytest.raises(ModelError, match="no gradient at the input"):
        probe(Once(), torch.randn(2, 4), spectrum=True)


def test_a_comparison_has_no_spectrum():
    with pytest.raises(UsageError, match="no spectrum"):
        probe(nn.Linear(2, 2), torch.randn(2, 2), against=nn.Linear(2, 2), spectrum=True)


def test_where_the_signal_is_not_finite_no_jacobian_is_asked_for():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    nn.init.constant_(model[0].weight, math.inf)
    report = probe(model, torch.randn(2, 4), spectrum=True)
    assert report.findings[0].code == "S211"
    assert "spectrum" not in [table.name for table in report.tables]


@pytest.mark.parametrize("lang", ["en", "zh-Hans", "zh-Hant"])
def test_the_table_is_told_in_a_sentence_and_travels(lang):
    steps = []
    model, x = mlp(4, nn.Tanh, scaled(1.5)), torch.randn(3, 32)
    report = probe(model, x, spectrum=True, progress=lambda done, total: steps.append((done, total)))
    table = report.table("spectrum")
    assert table.columns == COLUMNS
    assert steps[-1] == (len(table), len(table))
    assert report.cost["products"] == sum(table.column("products"))
    text = report.render("text", lang=lang)
    assert "σ² " in text
    assert "{" not in text
    assert "spectrum" not in [t.name for t in probe(model, x).tables]
    again = gv.Report.from_json(report.to_json(lang=lang))
    assert again.table("spectrum") == table
    assert json.loads(report.to_json())["settings"]["jacobian"] == "per-sample"
