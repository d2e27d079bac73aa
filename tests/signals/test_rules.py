"""Judgement, rule by rule."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from gradvitals.frameworks.torch.layers import FLAT
from gradvitals.maths.trend import LogGain
from gradvitals.signals import probe
from gradvitals.signals.measure import Gain, Signal
from gradvitals.signals.rules import RULES, UNITS_SATURATED, judge
from gradvitals.signals.trunk import Trunk
from gradvitals.vocabulary import Severity
from oracles.networks import he, mlp, scaled, vectors


class Chain(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(4, 4), nn.Linear(4, 4), between

    def forward(self, x):
        return self.b(self.between(self.a(x)))


class Added(nn.Module):
    """A branch, added to what came in."""

    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, x):
        return x + self.branch(x)


def serious(report):
    return [finding for finding in report.findings if finding.severity >= Severity.WARNING]


def only(report):
    (finding,) = report.findings
    return finding


def judged(direction, gain, *, width=0.01, layers=20):
    from gradvitals.frameworks.capture import Capture

    fit = LogGain(gain, gain * (1 - width), gain * (1 + width), layers + 1)
    over = Gain(direction, fit, layers, gain**layers, "first", "last", "middle")
    return judge(Signal(Capture((), (), (), None, "random"), Trunk((), {}, frozenset(), frozenset()), (), (over,)))


@pytest.mark.parametrize(
    ("direction", "gain", "code"),
    [
        ("forward", 0.6, "S201"),
        ("forward", 1.3, "S202"),
        ("backward", 0.6, "S203"),
        ("backward", 1.3, "S204"),
        ("forward", 0.75, None),
        ("backward", 0.75, None),
        ("forward", 1.2, None),
        ("backward", 1.2, None),
    ],
)
def test_a_thousandth_or_seventyfold_over_depth_is_an_error(direction, gain, code):
    assert [finding.code for finding in judged(direction, gain)] == ([code] if code else [])


def test_layers_that_disagree_on_the_direction_give_no_finding():
    assert judged("backward", 0.6, width=0.9) == ()


def test_every_threshold_has_a_source():
    assert all(threshold.source for rule in RULES for threshold in rule.thresholds.values())


def test_the_measurement_and_the_rule_mean_the_same_by_flat():
    assert UNITS_SATURATED["slope"] == FLAT


# --- dead and saturated units ----------------------------------------------------------------------------------------


def dying(share, units=64):
    torch.manual_seed(0)
    model = mlp(2, nn.ReLU, he, width=units)
    model[2].bias.data[: int(share * units)] = -100
    return probe(model, vectors())


def test_a_layer_with_most_units_dead_is_a_warning_naming_it_and_their_share():
    finding = only(dying(0.8))
    assert (finding.code, finding.severity, finding.site.path) == ("S205", Severity.WARNING, "3")
    assert finding.evidence["share"] == pytest.approx(0.8, abs=0.02)
    assert finding.evidence["units"] == 64


def test_a_layer_with_all_units_dead_is_an_error():
    assert only(dying(1.0)).severity == Severity.ERROR


def test_half_of_the_units_dead_is_what_chance_gives_one_sample():
    torch.manual_seed(0)
    assert probe(mlp(10, nn.ReLU, he), vectors()[:1]).findings == ()


def test_several_dead_layers_make_one_finding():
    torch.manual_seed(0)
    model = mlp(4, nn.ReLU, he)
    model[2].bias.data.fill_(-100)
    finding = only(probe(model, vectors()))
    assert finding.site.path == "3"
    assert finding.evidence["paths"] == ("3", "5", "7")
    assert finding.evidence["affected"] == 3


def test_saturated_hidden_units_are_found_and_a_sure_output_is_not():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1), nn.Sigmoid())
    scaled(30.0)(model[2])
    assert probe(model, vectors()).findings == ()
    scaled(30.0)(model[0])
    finding = only(probe(model, vectors()))
    assert (finding.code, finding.site.path) == ("S206", "1")
    assert finding.evidence["share"] > 0.5


# --- not finite ------------------------------------------------------------------------------------------------------


def test_the_function_that_makes_nan_is_named_and_those_that_pass_it_on_are_counted():
    torch.manual_seed(0)
    finding = only(probe(Chain(torch.log), torch.randn(5, 4)))
    assert (finding.code, finding.severity, finding.site.path) == ("S211", Severity.ERROR, "log()")
    assert finding.evidence["what"] == "output"
    assert finding.evidence["passed_on"] == 1
    assert 0 < finding.evidence["count"] < finding.evidence["total"] == 20


def test_a_layer_with_nan_weights_is_named_among_twenty():
    torch.manual_seed(0)
    model = mlp(20, nn.ReLU, he)
    model[8].weight.data[0, 0] = math.nan
    finding = only(probe(model, vectors()))
    assert finding.site.path == "8"
    assert finding.evidence["count"] == 32
    assert finding.evidence["passed_on"] == 32


def test_minus_infinity_of_a_logarithm_is_named_not_the_layer_that_makes_nan_of_it():
    finding = only(probe(Chain(lambda x: torch.log(torch.relu(x) * 0)), torch.randn(5, 4)))
    assert finding.site.path == "log()"


def test_an_overflow_in_half_precision_is_named():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).half()
    model[1].weight.data.fill_(6e4)
    assert only(probe(model, 10 * torch.randn(5, 4).half())).site.path == "1"


class Attention(nn.Module):
    def __init__(self, *, whole_row):
        super().__init__()
        self.qkv, self.whole_row = nn.Linear(4, 12), whole_row

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        hidden = torch.ones(5, 5, dtype=torch.bool).triu(0 if self.whole_row else 1)
        return (q @ k.transpose(-1, -2)).masked_fill(hidden, -math.inf).softmax(-1) @ v


def test_masks_of_minus_infinity_are_meant():
    assert probe(Attention(whole_row=False), torch.randn(2, 5, 4)).findings == ()


def test_a_fully_masked_row_is_the_softmaxs_fault():
    assert only(probe(Attention(whole_row=True), torch.randn(2, 5, 4))).site.path == "softmax()"


def test_a_loss_that_is_not_finite_is_named_loss():
    finding = only(probe(nn.Linear(4, 2), torch.randn(5, 4), loss=lambda y: (y - y).sum() / 0))
    assert (finding.site.path, finding.severity) == ("loss", Severity.ERROR)


def test_an_infinite_loss_of_a_models_minus_infinity_names_the_function():
    class Confident(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x):
            return torch.log(torch.softmax(1e6 * self.linear(x), -1))

    finding = only(probe(Confident(), torch.randn(5, 4), loss=lambda y: F.nll_loss(y, torch.randint(0, 3, (5,)))))
    assert finding.site.path == "log()"


def test_a_gradient_that_is_not_finite_is_told_with_its_neighbours():
    finding = only(probe(Chain(lambda x: torch.sqrt((x - x).square())), torch.randn(5, 4)))
    assert (finding.site.path, finding.evidence["what"]) == ("sqrt()", "gradient")
    assert (finding.evidence["before"], finding.evidence["behind"]) == ("a", ("b",))
    assert finding.severity == Severity.ERROR


def test_a_gradient_that_the_loss_spoils_names_the_loss():
    finding = only(probe(nn.Linear(4, 2), torch.randn(5, 4), loss=lambda y: (y * 0).norm(dim=1).pow(0.5).sum()))
    assert (finding.site.path, finding.evidence["what"]) == ("loss", "gradient")


def test_a_nan_that_stops_on_the_way_is_a_warning():
    class Safe(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            h = self.a(x)
            with torch.no_grad():
                _unused = torch.log(-h.abs())
            return self.b(h)

    finding = only(probe(Safe(), torch.randn(5, 4)))
    assert (finding.severity, finding.evidence["likely"]) == (Severity.WARNING, "stopped")


def test_behind_a_nan_nothing_is_said_of_sizes():
    torch.manual_seed(0)
    model = mlp(20, nn.ReLU, scaled(3.0))
    model[38].weight.data[0, 0] = math.inf
    assert [finding.code for finding in probe(model, vectors()).findings] == ["S211"]


# --- outcome, one layer, time ----------------------------------------------------------------------------------------


def faded(scale):
    """Gradients that fade over depth to a few millionths of a thousandth, of a loss of a given scale."""
    torch.manual_seed(0)
    model = mlp(10, nn.Sigmoid, lambda layer: nn.init.normal_(layer.weight, std=2 / math.sqrt(layer.in_features)))
    return probe(model, vectors(), loss=lambda y: scale * y.square().mean())


def test_a_gradient_that_adam_still_turns_into_a_step_is_no_error_and_one_that_it_does_not_is():
    large, small = (next(f for f in faded(scale).findings if f.code == "S203") for scale in (1e4, 1e-4))
    assert large.severity == Severity.WARNING
    assert large.evidence["kept_by_adam"] > 0.5
    assert small.severity == Severity.ERROR
    assert small.evidence["still"] < 0.5
    assert small.evidence["weakest_still"] == "0.weight"


def test_layers_that_fade_in_step_are_only_a_note():
    """Forwards and backwards fade alike: every weight's gradient is the same share of it, and SGD moves all alike."""
    torch.manual_seed(0)
    model = mlp(8, nn.Identity, lambda layer: nn.init.orthogonal_(layer.weight, 0.3))
    for layer in model[::2]:
        nn.init.zeros_(layer.bias)
    (gradient,) = (
        f for f in probe(model, vectors(), loss=lambda y: 1e9 * y.square().mean()).findings if f.code == "S203"
    )
    assert gradient.severity == Severity.INFO
    assert gradient.evidence["keeps_pace"] == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("factor", [1e-4, 1e-2, 1e2, 1e4])
def test_one_layer_that_spoils_the_scale_is_named(factor):
    torch.manual_seed(0)
    model = mlp(8, nn.ReLU, he)
    with torch.no_grad():
        model[6].weight.mul_(factor)
    findings = [f for f in probe(model, vectors()).findings if f.severity >= Severity.WARNING]
    assert findings
    assert {f.site.path for f in findings} == {"6"}
    assert {f.evidence["likely"] for f in findings} == {"one-layer"}
    assert any(f.evidence["jump"] == pytest.approx(factor, rel=0.5) for f in findings)


def test_one_layer_before_a_normalisation_may_have_any_scale():
    torch.manual_seed(0)
    layers = [part for _ in range(6) for part in (nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(32, 10))
    with torch.no_grad():
        model[6].weight.mul_(1e4)
    assert [f for f in probe(model, vectors()).findings if f.severity >= Severity.WARNING] == []


def residual_stack(depth=8):
    blocks = [
        Added(nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 32))) for _ in range(depth)
    ]
    return nn.Sequential(*blocks, nn.LayerNorm(32), nn.Linear(32, 10))


@pytest.mark.parametrize(("factor", "found"), [(1e4, ["5.+"]), (10.0, [])])
def test_a_branch_that_drowns_its_stream_is_a_warning_even_before_a_normalisation(factor, found):
    torch.manual_seed(0)
    model = residual_stack()
    with torch.no_grad():
        model[5].branch[3].weight.mul_(factor)
    serious = [f for f in probe(model, vectors()).findings if f.severity >= Severity.WARNING and f.code == "S202"]
    assert [f.site.path for f in serious] == found
    assert all(f.severity == Severity.WARNING for f in serious)


def test_what_is_added_first_may_be_larger_than_what_came_in():
    torch.manual_seed(0)
    assert [f for f in probe(residual_stack(), 1e-4 * vectors()).findings if f.severity >= Severity.WARNING] == []


def test_factors_that_differ_much_count_where_all_go_one_way():
    class Square(nn.Module):
        def forward(self, x):
            return x * x

    torch.manual_seed(0)
    model = mlp(5, Square, scaled(1.3))
    found = {f.code: f for f in probe(model, vectors()).findings}
    assert {"S202", "S204"} <= found.keys()
    assert found["S202"].evidence["left"] > 1e6


def test_the_culprit_between_two_layers_is_named():
    torch.manual_seed(0)
    model = nn.Sequential(*mlp(2, nn.ReLU, he)[:4], nn.LayerNorm(32), *mlp(4, nn.ReLU, he))
    nn.init.constant_(model[4].weight, 1e-4)
    found = {f.code: f for f in probe(model, vectors()).findings}
    assert (found["S201"].site.path, found["S201"].evidence["culprit"]) == ("4", "4")


def test_a_layer_of_zeros_is_told_unless_the_signal_passes_it_by_an_addition():
    class Flow(nn.Module):
        def __init__(self):
            super().__init__()
            self.nets = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(3))
            for net in self.nets:
                nn.init.zeros_(net[2].weight)
                nn.init.zeros_(net[2].bias)

        def forward(self, x):
            one, two = x.chunk(2, 1)
            for net in self.nets:
                one, two = two * net(one).exp() + net(one), one
            return torch.cat([one, two], 1)

    torch.manual_seed(0)
    assert serious(probe(Flow(), vectors())) == []
    plain = mlp(5, nn.GELU, scaled(1.5))
    with torch.no_grad():
        plain[4].weight.zero_()
        plain[4].bias.zero_()
    (finding,) = (f for f in probe(plain, vectors()).findings if f.code == "S201")
    assert (finding.site.path, finding.evidence["likely"]) == ("4", "all-zero")


def test_what_becomes_zero_inside_a_module_and_stays_so_is_told_there():
    class Lost(nn.Module):
        """The root mean square overflows in half precision; divided by infinity nothing is left."""

        def forward(self, x):
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), Lost(), nn.Linear(32, 10)).half()
    nn.init.normal_(model[0].weight, std=50.0)
    found = serious(probe(model, vectors().half(), loss=lambda y: y.float().square().mean()))
    assert [(finding.code, finding.site.path) for finding in found] == [("S201", "1")]


@pytest.mark.parametrize("both", [True, False])
def test_two_layers_of_zeros_in_a_row_never_move_and_one_does(both):
    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.down, self.up = nn.Linear(32, 32), nn.Linear(32, 4, bias=False), nn.Linear(4, 32)
            self.layer.requires_grad_(requires_grad=False)
            for layer in (self.up, *((self.down,) if both else ())):
                nn.init.zeros_(layer.weight)
            nn.init.zeros_(self.up.bias)

        def forward(self, x):
            return self.layer(x) + self.up(self.down(x))

    torch.manual_seed(0)
    model = nn.Sequential(Adapted(), nn.ReLU(), Adapted(), nn.ReLU(), nn.Linear(32, 10))
    found = [(f.code, f.site.path, f.evidence["likely"]) for f in serious(probe(model, vectors()))]
    assert found == ([("S203", "0.down", "both-zero")] if both else [])


def test_what_is_read_once_before_a_loop_that_forgets_it_is_lost():
    class Carried(nn.Module):
        def __init__(self, *, once):
            super().__init__()
            self.inputs, self.hidden, self.once = nn.Linear(8, 32, bias=False), nn.Linear(32, 32, bias=False), once
            self.head = nn.Linear(32, 10)
            nn.init.orthogonal_(self.hidden.weight, 0.5)

        def forward(self, x):
            h = torch.tanh(self.inputs(x[:, 0]))
            for step in range(1, x.shape[1]):
                h = torch.tanh(self.hidden(h) + (0 if self.once else self.inputs(x[:, step])))
            return self.head(h)

    torch.manual_seed(0)
    x = torch.randn(16, 50, 8)
    lost = {f.code: f for f in serious(probe(Carried(once=True), x))}
    assert lost["S203"].evidence["weakest_still"] == "inputs.weight"
    assert "S203" not in {f.code for f in serious(probe(Carried(once=False), x))}


def test_a_gradient_that_an_operation_of_the_model_spoils_behind_its_layers_names_it_and_not_the_loss():
    class Distances(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(32, 8)

        def forward(self, x):
            y = self.encoder(x)
            return (y[:, None] - y[None]).pow(2).sum(-1).sqrt()

    torch.manual_seed(0)
    (finding,) = serious(probe(Distances(), vectors(), loss=torch.mean))
    assert (finding.code, finding.site.path) == ("S211", "sqrt()")


def test_a_dropout_that_keeps_nothing_is_told_and_starts_at_zero_behind_a_head_of_zeros_are_not():
    torch.manual_seed(0)
    nothing = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Dropout(1.0), *mlp(2, nn.ReLU, he))
    assert {(f.code, f.site.path) for f in serious(probe(nothing, vectors()))} == {("S201", "2")}
    branches = [Added(nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))) for _ in range(4)]
    waiting = nn.Sequential(nn.Linear(32, 32), *branches, nn.Linear(32, 10))
    for layer in (waiting[-1], *(branch.branch[2] for branch in branches)):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert serious(probe(waiting, vectors())) == []


def test_layers_that_explode_before_a_normalisation_are_a_warning():
    torch.manual_seed(0)
    model = nn.Sequential(*mlp(6, nn.ReLU, scaled(40.0))[:-1], nn.LayerNorm(32), *mlp(8, nn.ReLU, he))
    (finding,) = (f for f in probe(model, vectors()).findings if f.code == "S202")
    assert (finding.severity, finding.site.path, finding.evidence["first"]) == (Severity.WARNING, "10", "0")


def test_what_a_recurrent_layer_never_takes_in_is_told():
    torch.manual_seed(0)

    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent, self.head = nn.GRU(8, 32, batch_first=True), nn.Linear(32, 10)

        def forward(self, x):
            return self.head(self.recurrent(x)[0][:, -1])

    model = Read()
    with torch.no_grad():
        model.recurrent.bias_ih_l0[32:64] = 20.0
    assert "recurrent" in {f.site.path for f in serious(probe(model, torch.randn(16, 20, 8))) if f.code == "S201"}


def test_a_remedy_names_the_layer_furthest_from_its_scheme():
    torch.manual_seed(0)
    finding = probe(mlp(12, nn.ReLU, scaled(0.3)), vectors()).findings[0]
    assert finding.evidence["scheme"] == "He"
    assert finding.evidence["std_wanted"] == pytest.approx(math.sqrt(2 / 32))
    assert finding.evidence["std_now"] == pytest.approx(0.3 / math.sqrt(32), rel=0.2)


def test_a_residual_network_that_explodes_is_told_to_scale_its_branches():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(20))
            self.head = nn.Linear(32, 10)

        def forward(self, x):
            for layer in self.layers:
                x = x + torch.relu(layer(x))
            return self.head(x)

    torch.manual_seed(0)
    model = Plain()
    for layer in model.layers:
        scaled(2.5)(layer)
    report = probe(model, vectors())
    assert {f.evidence["advice"] for f in report.findings} == {"advice-scale-branches"}
    assert "√(number of branches)" in str(report)


def recurrent(gain):
    class Cells(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.RNNCell(4, 16), nn.Linear(16, 3)
            nn.init.orthogonal_(self.cell.weight_hh, gain=gain)

        def forward(self, x):
            h = torch.zeros(len(x), 16)
            for t in range(x.shape[1]):
                h = self.cell(x[:, t], h)
            return self.head(h)

    torch.manual_seed(0)
    return probe(Cells(), 0.1 * torch.randn(4, 30, 4))


def test_forgetting_over_time_is_a_note_and_forgetting_at_once_a_warning():
    (natural,) = recurrent(0.5).findings
    (at_once,) = recurrent(0.05).findings
    assert (natural.code, natural.severity) == ("S203", Severity.INFO)
    assert (at_once.code, at_once.severity) == ("S203", Severity.WARNING)
    assert at_once.evidence["advice"] == "advice-forgets"


def test_the_gain_over_time_of_a_fused_layer_is_that_of_its_weights():
    layer = nn.RNN(4, 16, nonlinearity="relu", bias=False, batch_first=True)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(0.8 * torch.eye(16))
        layer.weight_ih_l0.abs_()
    table = probe(layer, torch.rand(4, 20, 4)).table("gains")
    rows = {(row["along"], row["direction"]): row for row in table.records()}
    assert rows["time", "backward"]["gain"] == pytest.approx(0.8, rel=1e-3)
    assert rows["time", "backward"]["path"] == "RNN"
    assert "× 0.8 per step of time" in str(probe(layer, torch.rand(4, 20, 4)))


# --- collapsed, cloned -----------------------------------------------------------------------------------------------


def test_samples_that_a_layer_makes_alike_are_told_with_the_layer():
    torch.manual_seed(0)
    model = mlp(6, nn.Tanh, lambda layer: None)
    with torch.no_grad():
        model[4].weight.mul_(1e-6)
    (finding,) = (f for f in probe(model, vectors()).findings if f.code == "S207")
    assert finding.site.path == "4"
    assert finding.evidence["spread_before"] > 0.1
    assert finding.evidence["spread_left"] < 1e-4


def test_attention_alone_makes_the_positions_of_a_sequence_alike():
    class Averaging(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x):
            return F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))

    torch.manual_seed(0)
    model = nn.Sequential(*(Averaging() for _ in range(8)), nn.Linear(16, 3))
    (finding,) = (f for f in probe(model, torch.randn(4, 6, 16)).findings if f.code == "S207")
    assert finding.evidence["likely"] == "positions"


def test_what_collapsed_already_in_an_embedding_is_told_there():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 16), nn.Flatten(), nn.Linear(96, 32), *mlp(3, nn.ReLU, he))
    nn.init.constant_(model[0].weight, 0.1)
    finding = next(f for f in probe(model, torch.randint(0, 20, (16, 6))).findings if f.code == "S207")
    assert finding.site.path == "0"


def test_inputs_far_from_zero_are_told_unless_a_layer_sets_that_right():
    torch.manual_seed(0)
    model, x = mlp(3, nn.ReLU, he), 1000 + vectors()
    (finding,) = (f for f in probe(model, x).findings if f.code == "S207")
    assert (finding.site.path, finding.evidence["likely"], finding.severity) == ("input", "inputs", Severity.WARNING)
    centred = nn.Sequential(nn.BatchNorm1d(x.shape[1]), *model)
    assert "S207" not in {f.code for f in probe(centred, x).findings}


def test_inputs_that_are_the_same_are_no_data_to_judge_by():
    torch.manual_seed(0)
    x = vectors()[:1].expand(16, -1)
    assert "S207" not in {f.code for f in probe(mlp(3, nn.ReLU, he), x).findings}


def test_a_scale_for_each_channel_is_neither_a_layer_with_weights_nor_a_matrix_of_copied_rows():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.full((8, 1, 1), 0.2))

        def forward(self, x):
            return x * self.gain

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Scale(), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    assert "S208" not in {f.code for f in probe(model, torch.randn(4, 3, 8, 8)).findings}


def test_copies_one_behind_the_other_are_a_warning_and_copies_side_by_side_that_will_part_a_note():
    class Towers(nn.Module):
        def __init__(self, tower):
            super().__init__()
            self.first, self.second = tower, copy.deepcopy(tower)

        def forward(self, x):
            return self.first(x) * self.second(x + 1)

    torch.manual_seed(0)
    block = Added(nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32)))
    chain = nn.Sequential(*(copy.deepcopy(block) for _ in range(4)), nn.Linear(32, 3))
    (finding,) = (f for f in probe(chain, vectors()).findings if f.code == "S208")
    assert (finding.severity, finding.evidence["likely"]) == (Severity.WARNING, "in-one-chain")
    (finding,) = (f for f in probe(Towers(nn.Linear(32, 8)), vectors()).findings if f.code == "S208")
    assert (finding.severity, finding.evidence["likely"]) == (Severity.INFO, "will-part")


def test_the_copies_that_torch_makes_of_an_encoders_layer_are_a_note():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    found = [f for f in probe(model, torch.randn(4, 5, 16)).findings if f.code == "S208"]
    assert [f.severity for f in found] == [Severity.INFO]


@pytest.mark.parametrize(("factor", "found"), [(200.0, ["3"]), (1.0, [])])
def test_a_last_tanh_that_the_gradient_cannot_pass_is_saturated(factor, found):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8), nn.Tanh())
    with torch.no_grad():
        model[2].weight.mul_(factor)
    target = torch.rand(64, 8) - 0.5
    report = probe(model, torch.randn(64, 32), loss=lambda y: (y - target).square().mean())
    assert [f.site.path for f in report.findings if f.code == "S206"] == found


@pytest.mark.parametrize(("noise", "found"), [(0.0, ["2.weight"]), (1e-6, [])])
def test_units_that_are_copies_with_the_same_gradient_are_told(noise, found):
    torch.manual_seed(0)
    model = mlp(3, nn.ReLU, he)
    with torch.no_grad():
        model[2].weight[16:] = model[2].weight[:16] + noise * torch.randn(16, 32)
        model[2].bias[16:] = model[2].bias[:16]
        model[4].weight[:, 16:] = model[4].weight[:, :16]
    clones = [f for f in probe(model, vectors()).findings if f.code == "S208"]
    assert [f.site.path for f in clones] == found
    assert all(f.evidence["likely"] == "units" and 8 <= f.evidence["rows"] <= 16 for f in clones)


def test_rows_that_are_all_alike_are_copies():
    torch.manual_seed(0)
    model = mlp(2, nn.ReLU, he)
    nn.init.constant_(model[2].weight, 0.1)
    (finding,) = (f for f in probe(model, vectors()).findings if f.code == "S208")
    assert (finding.site.path, finding.evidence["likely"], finding.severity) == ("2.weight", "rows", Severity.WARNING)


def test_the_cause_of_a_nan_is_said_in_words():
    torch.manual_seed(0)
    report = probe(Chain(torch.log), torch.randn(5, 4))
    assert "the logarithm of a negative number" in str(report)
    assert "softplus" in str(report)


def test_batch_norm_that_has_never_seen_a_batch_makes_findings_on_sizes_notes():
    torch.manual_seed(0)
    layers = [part for _ in range(12) for part in (nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(32, 10)).eval()
    for layer in model[::3]:
        scaled(0.1)(layer)
    report = probe(model, vectors())
    assert report.findings
    assert max(f.severity for f in report.findings) == Severity.INFO
    assert report.findings[0].evidence["untracked"] == 12
