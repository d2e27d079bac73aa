"""The verb: what a user gives, what the report shows, and what is left behind."""

from __future__ import annotations

import copy
import json
import math
import threading

import numpy as np
import pytest
import torch
from torch import nn

from gradvitals import Report, theory
from gradvitals.signals import predict, probe
from gradvitals.vocabulary import InputError, ModelError, Severity, UsageError
from oracles.networks import default, he, mlp, scaled, vectors

EXTRA = ("forward_rms_error", "gradient_rms_error")


def test_the_table_is_a_probes_with_error_bars():
    torch.manual_seed(0)
    model, x = mlp(6, nn.ReLU, he), vectors()
    said, seen = predict(model, x).table("layers"), probe(model, x).table("layers")
    assert set(said.columns) >= {*EXTRA, "forward_rms", "gradient_rms", "sample_cosine"}
    assert said.column("path") == seen.column("path")
    assert said.column("shape") == seen.column("shape")
    assert all(0 <= error < 1 for error in said.column("forward_rms_error"))


def test_vanishing_is_foretold_without_data():
    report = predict(mlp(20, nn.Sigmoid, default), vectors())
    assert [finding.name for finding in report.findings] == ["gradient-vanishing"]
    report = predict(mlp(20, nn.ReLU, scaled(3.0)), vectors())
    assert {finding.name for finding in report.findings} == {"signal-exploding", "gradient-exploding"}


@pytest.mark.parametrize(
    ("depth", "gain", "size"), [(20, 0.5, 1), (30, 0.5, 1), (12, 0.3, 1), (12, 0.4, 1e9), (20, 0.5, 1e9)]
)
def test_a_small_gradient_is_judged_by_what_becomes_of_the_first_weights(depth, gain, size):
    """An error only where Adam leaves them still, as the measured gradients say it, too."""
    torch.manual_seed(0)
    model, x = mlp(depth, nn.Tanh, scaled(gain)), vectors()
    foretold, seen = (
        {finding.code: finding.severity for finding in verb(model, x, loss=lambda y: size * y.square().mean()).findings}
        for verb in (predict, probe)
    )
    assert foretold["S203"] == seen["S203"]
    assert (seen["S203"] == Severity.ERROR) == (size == 1)


class Singular(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(torch.linalg.svdvals(self.first(x)))


def test_an_operation_without_a_rule_is_named_and_nothing_behind_it_is_guessed():
    report = predict(Singular(), torch.randn(4, 8))
    (finding,) = report.findings
    assert (finding.code, finding.evidence["operation"]) == ("S209", "aten::_linalg_svd")
    assert report.verdict.value == "inconclusive"
    first, last = report.table("layers").records()
    assert first["forward_rms"] is not None
    assert last["forward_rms"] is None


def test_a_rule_is_registered_in_one_function():
    from torch.library import custom_op

    @custom_op("gradvitals_tests::third", mutates_args=())
    def third(x: torch.Tensor) -> torch.Tensor:
        return x / 3

    third.register_fake(torch.empty_like)
    third.register_autograd(lambda _ctx, grad: grad / 3)

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(8, 64), nn.Linear(64, 2)

        def forward(self, x):
            return self.last(third(self.first(x)))

    model, x = Own(), torch.randn(32, 8)
    assert predict(model, x).findings[0].evidence["operation"] == "gradvitals_tests::third"
    theory.register_operation("gradvitals_tests::third", forward=1 / 9)
    report = predict(model, x)
    assert report.findings == ()
    row = report.table("layers").column("gradient_rms")
    expected = float(model.last.weight.detach().square().mean().sqrt()) * 2**0.5 / 3
    assert row[0] == pytest.approx(expected, rel=0.02)  # the typical value, of a finite width


def test_a_layer_that_differs_from_its_prediction_is_named():
    class Doubled(nn.Linear):
        """Multiplies by weights that aren't independent of what comes in."""

        def forward(self, x):
            with torch.no_grad():
                self.weight.copy_(x[:64].T @ x[:64] / 8)
            return super().forward(x)

    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Linear(64, 64), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(64, 64), nn.Linear(64, 4))
    x = torch.randn(64, 64)
    assert predict(model, x, against="probe").findings == ()
    with torch.no_grad():  # weights that know the data
        hidden = model[:6](x)
        model[6].weight.copy_(hidden.T @ hidden / 16)
    finding = predict(model, x, against="probe").findings[0]
    assert (finding.code, finding.site.path, finding.evidence["direction"]) == ("S210", "6", "forward")
    assert finding.evidence["measured"] > finding.evidence["predicted"]


def test_an_operation_without_a_rule_is_only_noted_where_nothing_depends_on_it():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 3)

        def forward(self, x):
            mixed, _ = self.attention(x, x, x)  # the mean of the weights over the heads
            return self.head(mixed)

    x = torch.randn(4, 6, 32)
    report = predict(Attending(), x)
    assert report.verdict.value == "pass"
    assert all(row["forward_rms"] is not None for row in report.table("layers").records())

    class Both(Attending):
        def forward(self, x):
            mixed, averaged = self.attention(x, x, x)
            return self.head(mixed), averaged

    assert predict(Both(), x).verdict.value == "inconclusive"


@pytest.mark.parametrize("loss", [None, lambda y: y.square().mean()])
def test_an_output_that_something_unknown_was_written_into_is_not_passed(loss):
    from torch.library import custom_op

    @custom_op("gradvitals_tests::kept", mutates_args=())
    def kept(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    kept.register_fake(torch.empty_like)
    kept.register_autograd(lambda _ctx, grad: grad)

    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x):
            out = torch.zeros(len(x), 2, 8)
            out[:, 0] = kept(self.inner(x))
            return out

    report = predict(Writing(), torch.randn(4, 8), loss=loss)
    assert report.verdict.value == "inconclusive"
    assert "gradvitals_tests::kept" in {finding.evidence["operation"] for finding in report.findings}


def test_layers_that_are_copies_are_named_where_theory_and_measurement_part():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 12, enable_nested_tensor=False), nn.Linear(64, 3))
    report = predict(model, torch.randn(8, 16, 64), against="probe")
    found = {finding.code: finding for finding in report.findings}
    assert found["S208"].severity.name == "INFO"
    assert found["S210"].evidence["likely"] == "cloned"
    assert str(found["S210"].evidence["nearest"]).startswith("0.layers.")


def test_what_the_measurement_shows_by_itself_is_found_beside_a_prediction():
    class Normalised(nn.Module):
        def forward(self, x):
            return x / (x - x)

    model = nn.Sequential(nn.Linear(8, 8), Normalised(), nn.Linear(8, 8))
    codes = {finding.code for finding in predict(model, torch.randn(16, 8), against="probe").findings}
    assert "S211" in codes
    torch.manual_seed(0)
    layers = [layer for _ in range(12) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
    codes = {finding.code for finding in predict(nn.Sequential(*layers), torch.randn(16, 16), against="probe").findings}
    assert "S207" in codes


def test_no_thread_is_left_behind():
    class Larger(nn.Module):
        """Its gradient is taken in a thread of its own: inside a dispatched operation PyTorch records none."""

        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return torch.maximum(self.one(x), self.two(x))

    before = threading.active_count()
    assert predict(Larger(), torch.randn(4, 8)).ok
    assert threading.active_count() == before


def test_nothing_of_the_model_is_changed():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(), nn.Flatten())
    x = torch.randn(4, 3, 6, 6)
    before, given = copy.deepcopy(model.state_dict()), x.clone()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    predict(model, x, against="probe")
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(x, given)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert torch.backends.mkldnn.enabled == torch.backends.mkldnn.is_available()


def test_a_model_of_seven_billion_parameters_needs_no_memory_for_them():
    """The sizes of a large language model's blocks, on the meta device; four of its 32 blocks make the time short."""

    class Block(nn.Module):
        def __init__(self, width=4096, hidden=11008):
            super().__init__()
            self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
            self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
            self.down = nn.Linear(hidden, width, bias=False)

        def forward(self, x):
            q, k, v = (t.unflatten(-1, (32, 128)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).flatten(2))
            y = self.norm2(x)
            return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(32000, 4096), nn.Linear(4096, 32000, bias=False)
            self.blocks = nn.ModuleList(Block() for _ in range(4))

        def forward(self, ids):
            x = self.embed(ids)
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    with torch.device("meta"):
        model = Model()
    sizes = {name: 0.02 for name, p in model.named_parameters() if p.ndim == 2}
    report = predict(model, torch.randint(0, 32000, (1, 48)), weight_rms=sizes)
    assert report.findings == ()
    assert report.settings["tensors"] == "meta"
    rows = {row["path"]: row for row in report.table("layers").records()}
    assert rows["blocks.0.gate"]["forward_rms"] == pytest.approx(0.02 * 4096**0.5, rel=0.01)
    assert rows["embed"]["forward_rms"] == pytest.approx(0.02, rel=1e-4)
    assert rows["blocks.0.qkv"]["gradient_rms"] > 0


def test_code_that_looks_at_values_runs_on_real_tensors():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            y = self.layer(x)
            return y if float(y.sum()) > 0 else -y

    report = predict(Looks(), torch.randn(4, 8))
    assert report.settings["tensors"] == "real"
    assert report.table("layers").column("forward_rms")[0] > 0


def test_a_report_travels_as_json_and_every_sentence_has_its_facts():
    report = predict(Singular(), torch.randn(4, 8), against="probe")
    assert Report.from_json(report.to_json()).findings == report.findings
    for lang in ("en", "zh-Hans", "zh-Hant"):
        for finding in json.loads(report.to_json(lang=lang))["findings"]:
            assert "–" not in finding["text"]
            assert "{" not in finding["text"]


def test_misuse_is_told():
    with pytest.raises(UsageError, match="did you mean 'against'"):
        predict(nn.Linear(2, 2), torch.ones(1, 2), agains="probe")
    with pytest.raises(UsageError, match="probe only"):
        predict(nn.Linear(2, 2), torch.ones(1, 2), against="check")
    with pytest.raises(InputError, match=r"torch\.nn\.Module"):
        predict(np.sin, np.ones(3))
    with pytest.raises(ModelError):
        predict(nn.Linear(2, 2), torch.ones(1, 3))


class WritesThroughAView(nn.Module):
    """Changes a tensor by a view of all of it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        h = self.first(x)
        h.view(-1).mul_(2.0)
        return self.second(h)


def test_what_is_written_through_a_view_is_never_passed_over_in_silence():
    report = predict(WritesThroughAView(), torch.randn(4, 8))
    assert [finding.code for finding in report.findings if finding.code == "S209"]
    assert report.table("layers").column("forward_rms")[-1] is None


class WritesIntoParts(nn.Module):
    """Fills a tensor of zeros row by row, all of them alike."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x):
        h = self.first(x)
        out = torch.zeros(4, 3, 64)
        for at in range(3):
            out[:, at] = h
        return self.second(out)


def test_what_is_written_into_parts_is_known_of_the_whole():
    torch.manual_seed(0)
    model, x = WritesIntoParts(), torch.randn(4, 64)
    said, seen = predict(model, x).table("layers"), probe(model, x).table("layers")
    assert said.column("forward_rms") == pytest.approx(seen.column("forward_rms"), rel=0.08)
    assert said.column("gradient_rms") == pytest.approx(seen.column("gradient_rms"), rel=0.15)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
    with torch.no_grad():
        model[1].weight[0, 0] = value
    with pytest.raises(InputError, match=r"1\.weight are not finite[\s\S]*1 of 24"):
        predict(model, torch.randn(4, 8))


def test_a_parameter_without_entries_is_no_obstacle():
    class Empty(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.none = nn.Linear(8, 3), nn.Parameter(torch.empty(5, 3, 0))

        def forward(self, x):
            return self.layer(x) + self.none.sum()

    assert predict(Empty(), torch.randn(4, 8)).findings == ()
    assert probe(Empty(), torch.randn(4, 8)).findings == ()


@pytest.mark.parametrize(
    ("size", "said"),
    [(math.nan, "an input is not finite"), (math.inf, "an input is not finite"), (1e100, "sizes leave the range")],
)
@pytest.mark.parametrize("kind", ["dense", "recurrent"])
def test_inputs_of_which_theory_can_say_nothing_are_refused(kind, size, said):
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    model = (dense if kind == "dense" else nn.LSTM(8, 8, batch_first=True)).double()
    with pytest.raises(InputError, match=said):
        predict(model, size * torch.ones(4, 5, 8, dtype=torch.float64))
    with pytest.raises(InputError, match="the batch is empty"):
        predict(model, torch.ones(0, 5, 8, dtype=torch.float64))


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_a_recurrent_net_is_as_it_was_after_a_forward_pass_that_fails(error):
    class Fails(nn.LSTM):
        def forward(self, x):
            super().forward(x)
            raise error

    torch.manual_seed(0)
    model, x = nn.Sequential(Fails(8, 8, batch_first=True)), torch.randn(4, 5, 8)
    before, flat = list(model.parameters()), list(model[0]._flat_weights)
    random = torch.get_rng_state()
    with pytest.raises((ModelError, KeyboardInterrupt)):
        predict(model, x)
    assert all(one is other for one, other in zip(before, model.parameters(), strict=True))
    assert all(one is other for one, other in zip(flat, model[0]._flat_weights, strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert not model[0]._forward_hooks
