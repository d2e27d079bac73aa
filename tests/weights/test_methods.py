"""What each method does to whole networks, and that it is undone when anything fails."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from gradvitals.vocabulary import UsageError
from gradvitals.weights import init_, plan_init, variance

X = torch.randn(128, 32, generator=torch.Generator().manual_seed(2))
IMAGES = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(3))


def deep(activation, depth=24, width=32, *, bias=True):
    layers = [layer for _ in range(depth - 1) for layer in (nn.Linear(width, width, bias=bias), activation())]
    return nn.Sequential(*layers, nn.Linear(width, 10, bias=bias))


def convolutions(activation, depth=12, channels=8, *, pooled=False):
    layers = [nn.Conv2d(3, channels, 3, padding=1), activation()]
    layers += [layer for _ in range(depth - 2) for layer in (nn.Conv2d(channels, channels, 3, padding=1), activation())]
    if pooled:
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 36, 5))


def spreads(model, x):
    """Largest over smallest standard deviation over the hidden layers, forwards and backwards: by hand, with hooks."""
    outputs = []
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))][:-1]
    handles = [layer.register_forward_hook(lambda _m, _i, output: outputs.append(output)) for layer in layers]
    torch.manual_seed(0)
    y = model(x)
    gradients = torch.autograd.grad(y, outputs, torch.randn_like(y))
    for handle in handles:
        handle.remove()
    return [max(s) / min(s) for s in ([t.std().item() for t in tensors] for tensors in (outputs, gradients))]


@pytest.mark.parametrize(
    "activation", [nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid, nn.ELU, nn.LeakyReLU, nn.Softplus]
)
def test_auto_keeps_signal_and_gradient_level_over_a_plain_network(activation):
    model = deep(activation)
    report = init_(model, X)
    assert report.settings["method"] == "tailored"
    forward, backward = spreads(model, X)
    assert forward <= 1.05
    assert backward <= 2.5


class Squared(nn.Module):
    def forward(self, x):
        return torch.relu(x).square()


@pytest.mark.parametrize("activation", [nn.Mish, Squared])
def test_activations_that_make_more_of_a_larger_signal_stay_level_on_new_data(activation):
    for seed in range(3):
        model = deep(activation, depth=40, width=64)
        x, new = (torch.randn(256, 64, generator=torch.Generator().manual_seed(at)) for at in (seed, 9))
        init_(model, x, seed=seed)
        forward, backward = spreads(model, new)
        assert forward < 1.06
        assert backward < 2.5


class Noisy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.SELU(), nn.AlphaDropout(0.05))


def test_selu_before_alpha_dropout_works_at_deviation_one():
    model = deep(Noisy, depth=30)
    column = init_(model, X).table("plan").column
    assert set(column("output_std")) == {1.0}
    assert set(column("output_mean")) == {0.0}
    forward, backward = spreads(model, X)
    assert forward <= 1.05
    assert backward <= 6


class Scaled(nn.Module):
    """Features that others scale and shift, in branches that theory can't tell from other products."""

    def __init__(self):
        super().__init__()
        self.condition = nn.Sequential(nn.Linear(16, 32), nn.ReLU())
        self.films = nn.ModuleList(nn.Linear(32, 32) for _ in range(6))
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x, low = x[:, :16], self.condition(x[:, 16:])
        for layer, film in zip(self.layers, self.films, strict=True):
            scale, shift = film(low).chunk(2, -1)
            x = x + torch.relu((1 + scale) * layer(x) + shift)
        return self.head(x)


def test_where_theory_knows_too_little_the_batch_decides_but_for_the_head():
    model = Scaled()
    report = init_(model, X)
    assert (report.settings["method"], report.settings["why"]) == ("calibrated", "measured")
    fitted = {row["path"]: row["fitted"] for row in report.table("plan").records()}
    assert not fitted["head.weight"]
    assert all(fitted[f"layers.{at}.weight"] and fitted[f"films.{at}.weight"] for at in range(6))
    assert spreads(model, torch.randn(256, 32, generator=torch.Generator().manual_seed(9)))[0] < 1.2
    assert plan_init(Scaled()).settings["method"] == "analytic"


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
@pytest.mark.parametrize("pooled", [False, True], ids=["flatten", "average pool"])
def test_auto_keeps_signal_and_gradient_level_over_convolutions(activation, pooled):
    model = convolutions(activation, pooled=pooled)
    init_(model, IMAGES)
    forward, backward = spreads(model, IMAGES)
    assert forward <= 1.05
    assert backward <= 2.5


def test_the_plan_says_what_is_done():
    model = deep(nn.Sigmoid, depth=8)
    planned = plan_init(model, X).table("plan")
    done = init_(model, X).table("plan")
    assert planned == done


def test_rectifiers_get_units_in_pairs_of_opposite_sign():
    model = deep(nn.ReLU, depth=8)
    report = init_(model, X)
    assert report.table("plan").column("reason") == ("mirrored",) * 7 + ("head",)
    middle = model[4].weight.detach()
    assert torch.equal(middle[:16], -middle[16:])
    assert torch.equal(middle[:, :16], -middle[:, 16:])


def test_an_odd_width_is_shifted_instead():
    report = init_(deep(nn.ReLU, depth=8, width=33), torch.randn(64, 33))
    assert set(report.table("plan").column("reason")) == {"tailored", "head"}


def test_kernels_mix_until_the_image_is_seen_where_positions_are_averaged():
    flat, pooled = (
        plan_init(convolutions(nn.ReLU, pooled=pooled), IMAGES).table("plan").column("scheme")
        for pooled in (False, True)
    )
    assert flat[:-1] == ("orthogonal",) + ("delta_orthogonal",) * 10  # the first reads three channels, and gives eight
    # a 7 x 7 field sees a 6 x 6 image
    assert pooled[:-1] == ("orthogonal",) * 3 + ("delta_orthogonal",) * 7 + ("difference_orthogonal",)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Sigmoid])
def test_what_all_positions_have_in_common_does_not_reach_an_average_nor_come_back_from_it(activation):
    model = convolutions(activation, depth=20, pooled=True)
    init_(model, IMAGES)
    last = [layer for layer in model if isinstance(layer, nn.Conv2d)][-1]
    assert last.weight.detach().sum((2, 3)).abs().max() < 1e-5 * last.weight.detach().abs().max()
    outputs = []
    handle = last.register_forward_pre_hook(lambda _layer, inputs: outputs.append(inputs[0]))
    y = model(torch.randn(64, 3, 6, 6))
    handle.remove()
    (gradient,) = torch.autograd.grad(y, outputs, torch.randn_like(y))
    inside = gradient[:, :, 1:-1, 1:-1]
    assert inside.mean((2, 3)).square().mean() < 0.3 * inside.square().mean()


@pytest.mark.parametrize(
    "pool",
    [nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1), nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1))],
    ids=["average", "maximum", "maximum, then average"],
)
@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh])
def test_only_averages_of_units_with_a_mean_are_compared(pool, activation):
    hidden = list(convolutions(activation))[:-2]
    model = nn.Sequential(*hidden, pool, nn.Flatten(), nn.Linear(8, 5))
    schemes = plan_init(model, IMAGES).table("plan").column("scheme")
    wanted = activation is nn.Sigmoid and isinstance(pool, nn.AdaptiveAvgPool2d)
    assert ("difference_orthogonal" in schemes) == wanted


class OfSets(nn.Module):
    def __init__(self):
        super().__init__()
        self.each = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
        self.all = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, x):
        return self.all(self.each(x).sum(1))


def test_what_is_summed_over_a_set_tells_more_than_the_sum_of_its_points():
    model, points = OfSets(), torch.randn(128, 20, 2)
    init_(model, points)
    with torch.no_grad():
        told = model.each(points).sum(1)
        known = torch.cat([points.sum(1), torch.ones(128, 1)], dim=1)
        left = told - known @ torch.linalg.lstsq(known, told).solution
        assert left.square().mean() > 0.2 * (told - told.mean(0)).square().mean()


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.Softplus, nn.Mish])
def test_convolutions_that_cannot_be_paired_stay_level_before_an_average(activation):
    model = convolutions(activation, channels=9, pooled=True)
    init_(model, IMAGES)
    forward, backward = spreads(model, torch.randn(64, 3, 6, 6))
    assert forward < 1.06
    assert backward < 2.5


def test_without_a_bias_the_rows_sum_to_zero():
    model = deep(nn.Sigmoid, depth=6, width=33, bias=False)
    init_(model, torch.randn(64, 33))
    assert model[4].weight.detach().sum(1).abs().max() < 1e-5


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
def test_calibrated_outputs_have_the_planned_spread(activation):
    model = deep(activation, depth=10)
    report = init_(model, X, method="calibrated")
    rows = {row["path"]: row for row in report.table("after").records()}
    for row in report.table("plan").records():
        seen = rows[row["path"].removesuffix(".weight")]
        assert seen["forward_rms"] == pytest.approx(row["output_std"], rel=1e-4)


def test_critical_sigmoids_get_gain_four_and_lose_their_mean():
    model = deep(nn.Sigmoid, depth=6)
    rows = list(plan_init(model, X, method="critical").table("plan").records())
    assert rows[2]["std_after"] == pytest.approx(4 / math.sqrt(32))
    assert rows[2]["bias"] == "centred"
    init_(model, X, method="critical")
    weight = model[4].weight.detach()
    assert torch.allclose(weight @ weight.T, 16 * torch.eye(32), atol=1e-3)


def shaped(activation, *widths):
    sides = (32, *widths)
    layers = [
        layer for inputs, outputs in itertools.pairwise(sides) for layer in (nn.Linear(inputs, outputs), activation())
    ]
    return nn.Sequential(*layers, nn.Linear(sides[-1], 10))


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh])
@pytest.mark.parametrize(
    "widths", [(32,) * 12 + (64,) * 12 + (128,) * 12, (128,) * 12 + (64,) * 12 + (32,) * 12], ids=["rising", "falling"]
)
def test_widths_that_rise_or_fall_fourfold_keep_signal_and_gradient_level(activation, widths):
    model, x = shaped(activation, *widths), torch.randn(512, 32, generator=torch.Generator().manual_seed(4))
    init_(model, x)
    forward, backward = spreads(model, x)
    assert forward <= 1.05
    assert backward <= 2.5


def bend(model, *inputs):
    """The stretch of the first layer's activation."""
    return next(plan_init(model, *inputs, method="tailored").table("plan").records())["output_std"]


def test_a_chain_bends_less_where_widths_grow_and_as_always_where_they_fall_or_alternate():
    level = bend(shaped(nn.Tanh, *(64,) * 24), X)
    assert bend(shaped(nn.Tanh, *(32,) * 12, *(128,) * 12), X) < 0.7 * level
    assert bend(shaped(nn.Tanh, *(128,) * 12, *(32,) * 12), X) == level
    assert bend(shaped(nn.Tanh, *(32, 128) * 12), X) == level


class Residual(nn.Module):
    def __init__(self, *, normalised=False, blocks=9):
        super().__init__()
        self.stem, self.head = nn.Linear(32, 32), nn.Linear(32, 4)
        end = nn.LayerNorm if normalised else nn.Identity
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), end(32)) for _ in range(blocks)
        )

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def test_residual_networks_without_normalisation_get_small_branches():
    model = Residual()
    report = init_(model, X)
    assert (report.settings["method"], report.settings["why"]) == ("calibrated", "residual-unnormalised")
    sizes = [row["forward_rms"] for row in report.table("after").records() if row["path"] in {"stem", "head"}]
    assert sizes[1] < 3 * sizes[0]


@pytest.mark.parametrize("pre", [True, False])
def test_the_last_layers_of_branches_before_normalised_sums_start_small(pre):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
            self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)
            self.norm1, self.norm2 = nn.LayerNorm(64), nn.LayerNorm(64)

        def forward(self, x):
            if pre:
                y = self.norm1(x)
                x = x + self.attention(y, y, y, need_weights=False)[0]
                return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
            x = self.norm1(x + self.attention(x, x, x, need_weights=False)[0])
            return self.norm2(x + self.down(nn.functional.gelu(self.up(x))))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), *(Layer() for _ in range(6)), nn.LayerNorm(64), nn.Linear(64, 3))
    report = init_(model, torch.randn(4, 5, 16))
    assert report.settings["why"] == "held-by-normalisation"
    layer = model[3]
    branches = 12**-0.5
    assert layer.attention.out_proj.weight.std().item() == pytest.approx(branches * 64**-0.5, rel=0.1)
    assert layer.down.weight.std().item() == pytest.approx(branches * 128**-0.5, rel=0.1)
    assert layer.attention.in_proj_weight.std().item() == pytest.approx(64**-0.5, rel=0.1)


def test_normalised_branches_start_small_when_asked_to():
    model = Residual(normalised=True)
    init_(model, X, method="scaled-residual")
    assert torch.allclose(model.blocks[0][3].weight, torch.full((32,), 1 / 3))
    init_(model, X, method="analytic")
    assert torch.equal(model.blocks[0][3].weight, torch.ones(32))


def test_layers_right_before_a_normalisation_start_as_small_as_pytorch_has_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    default = model[0].weight.std().item()
    init_(model, X)
    assert model[0].weight.std().item() == pytest.approx(default, rel=0.05)


def test_normalised_networks_are_analytic():
    layers = [layer for _ in range(10) for layer in (nn.Linear(32, 32), nn.LayerNorm(32), nn.ReLU())]
    report = plan_init(nn.Sequential(*layers), X)
    assert (report.settings["method"], report.settings["why"]) == ("analytic", "held-by-normalisation")


class Bent(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(2 * x)


def test_an_activation_of_the_users_own_is_known_by_what_it_does():
    model = deep(Bent, depth=8)
    report = init_(model, X)
    assert set(report.table("plan").column("activation")) == {"Bent", ""}
    assert report.settings["method"] == "tailored"
    assert spreads(model, X)[0] <= 1.05


def test_modules_marked_as_initialised_stay_unless_they_are_named():
    model = deep(nn.ReLU, depth=4)
    model[2]._is_hf_initialized = True
    before = model[2].weight.detach().clone()
    report = init_(model, X)
    assert {row["path"]: row["reason"] for row in report.table("plan").records()}["2.weight"] == "marked"
    assert torch.equal(model[2].weight, before)
    init_(model, X, only="*")
    assert not torch.equal(model[2].weight, before)


class RaisesLater(nn.Module):
    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def forward(self, x):
        if next(self.calls) == 2:
            raise KeyboardInterrupt
        return x


def test_an_interrupt_while_fitting_leaves_the_weights_as_they_were():
    calls = itertools.count(1)  # what a module's lists hold would be put back
    model = nn.Sequential(*deep(nn.Tanh, depth=6), RaisesLater(calls))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(KeyboardInterrupt):
        init_(model, X)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_the_cost_is_five_passes():
    cost = init_(deep(nn.ReLU), X).cost
    assert (cost["forwards"], cost["backwards"]) == (3, 2)


def test_the_balance_table_shows_what_theory_expects():
    rows = list(init_(deep(nn.Tanh), X).table("balance").records())
    assert len(rows) == 23
    for row in rows[:-1]:
        assert row["variance_ratio_after"] == pytest.approx(row["variance_ratio_expected"], rel=0.1)
        assert row["gradient_ratio_after"] == pytest.approx(row["gradient_ratio_expected"], rel=0.25)


def test_the_learning_rate_falls_with_depth_and_a_deep_network_is_warned_of_the_usual_one():
    shallow, deeper = (init_(deep(nn.ReLU, depth=depth, width=64), torch.randn(64, 64)) for depth in (5, 60))
    assert 8 < shallow.settings["learning_rate"] / deeper.settings["learning_rate"] < 25
    odd = init_(deep(nn.ReLU, depth=80, width=65), torch.randn(64, 65))
    assert "W306" in {finding.code for finding in odd.findings}
    assert "W306" not in {finding.code for finding in shallow.findings}


def test_truncated_numbers_have_the_variance_that_was_asked_for():
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4))
    init_(model, method="truncated_normal")
    weight = model[0].weight.detach()
    assert weight.std().item() == pytest.approx(1 / 16, rel=0.02)
    assert weight.abs().max().item() <= 2 / 16 / 0.8796 + 1e-6


@pytest.mark.parametrize("activation", ["gelu", nn.GELU(), torch.nn.functional.gelu])
def test_the_variance_takes_any_activation(activation):
    assert variance("he", 100, 50, activation) == pytest.approx(0.0235164, rel=1e-4)


def test_the_variance_is_for_numpy_users_too():
    assert variance("he", 100, 50, lambda x: np.maximum(x, 0)) == pytest.approx(0.02, rel=1e-6)
    with pytest.raises(UsageError, match="did you mean 'xavier'"):
        variance("xavir", 3)
    with pytest.raises(UsageError, match="fans are positive"):
        variance("he", 0)
