"""Exponents of networks whose exponents are known, and what is asked of the function that makes them."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import gradvitals as gv
from gradvitals.signals import scaling
from gradvitals.vocabulary import InputError, ModelError, UsageError

WIDTHS = (32, 64, 128, 256)
DATA = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


def loss(y):
    return (y - 1).square().mean()


def three_layers(width):
    """The standard parametrisation: variance 1/fan_in everywhere."""
    layers = [nn.Linear(8, width, bias=False), nn.Linear(width, width, bias=False), nn.Linear(width, 1, bias=False)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def maximal_update(width):
    """The same start but for the output, whose variance is 1/fan_in²; with the learning rates of adam_by_width."""
    model = three_layers(width)
    with torch.no_grad():
        model[-1].weight.mul_(width**-0.5)
    return model


def adam_by_width(model):
    """Yang et al. (2022), table 3: Adam's rate is 1/fan_in at hidden and output layers, constant at the input."""
    return torch.optim.Adam(
        [
            {"params": model[0].parameters(), "lr": 0.003},
            {"params": model[2].parameters(), "lr": 0.1 / model[2].in_features},
            {"params": model[4].parameters(), "lr": 0.1 / model[4].in_features},
        ]
    )


def exponents(report, quantity, step):
    return {
        row["path"]: (row["exponent"], row["exponent_error"])
        for row in report.table("scaling").records()
        if row["quantity"] == quantity and row["step"] == step and row["kind"] != "parameter"
    }


def test_the_start_of_linear_networks_has_the_exponents_of_theory():
    """Weights of unit variance: each hidden layer multiplies the RMS by √width, forwards and backwards."""

    def unscaled(width):
        layers = [nn.Linear(8, width, bias=False), nn.Linear(width, width, bias=False), nn.Linear(width, 4, bias=False)]
        for layer in layers:
            nn.init.normal_(layer.weight)
        return nn.Sequential(*layers)

    report = scaling(unscaled, DATA, widths=WIDTHS, steps=0)
    forward, backward = exponents(report, "forward_rms", 0), exponents(report, "gradient_rms", 0)
    for found, expected in ((forward, {"0": 0.0, "1": 0.5, "2": 1.0}), (backward, {"0": 0.5, "1": 0.0, "2": 0.0})):
        for path, true in expected.items():
            exponent, error = found[path]
            assert abs(exponent - true) <= max(2 * error, 0.02), path
            assert error < 0.35, path
    assert report.findings == ()
    assert {row["role"] for row in report.table("scaling").records()} == {"input", "hidden", "output"}


def test_with_one_learning_rate_adam_moves_wide_standard_networks_more():
    """A hidden layer's output moves by width · rate, the network's at least as much (Yang and Hu, 2021)."""
    report = scaling(three_layers, DATA, widths=WIDTHS, loss=loss, learning_rate=1e-4, steps=1)
    update = exponents(report, "update_rms", 1)
    assert update["0"][0] == pytest.approx(0, abs=0.1)
    assert update["2"][0] == pytest.approx(1, abs=0.2)
    assert update["4"][0] > 0.75
    (finding,) = report.findings
    assert (finding.code, finding.evidence["likely"], finding.severity.label) == ("S213", "grows-with-width", "warning")
    assert finding.evidence["exponent"].value > 0.75
    assert report.ok


def test_with_one_learning_rate_plain_gradient_descent_moves_the_output_by_the_width():
    """One step changes the output by rate · ‖h‖², and the hidden layer has width entries."""

    def two_layers(width):
        layers = nn.Linear(8, width, bias=False), nn.Linear(width, 1, bias=False)
        for layer in layers:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        return nn.Sequential(*layers)

    report = scaling(
        two_layers, DATA, widths=WIDTHS, loss=lambda y: y.mean(), optimizer="sgd", learning_rate=1e-4, steps=1
    )
    exponent, error = exponents(report, "update_rms", 1)["1"]
    assert exponent == pytest.approx(1, abs=0.15)
    assert error < 0.3


def test_under_maximal_update_parametrisation_nothing_grows():
    report = scaling(maximal_update, DATA, widths=WIDTHS, loss=loss, optimizer=adam_by_width, steps=2, seeds=4)
    for step in (1, 2):
        for path, (exponent, _) in exponents(report, "update_rms", step).items():
            assert exponent == pytest.approx(0, abs=0.2), (path, step)
    assert exponents(report, "forward_rms", 0)["4"][0] == pytest.approx(-0.5, abs=0.3)  # its output starts smaller
    assert report.findings == ()
    assert report.settings["optimizer"] == "adam_by_width"


class Branches(nn.Module):
    """A residual stream of branches x + scale · W x."""

    def __init__(self, depth, scale):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(depth))
        self.scale = scale
        for layer in self.layers:
            nn.init.orthogonal_(layer.weight)

    def forward(self, x):
        for layer in self.layers:
            x = x + self.scale * layer(x)
        return x


def test_over_depth_a_residual_stream_grows_unless_its_branches_are_scaled():
    """Variance (1 + s²)^L: with s² = 1/L it stays e at any depth; with s = 0.3 it is (1.09)^L, 0.5 · log 1.09 at L."""
    x = torch.randn(8, 64)
    depths = (4, 8, 16, 32)
    scaled = scaling(lambda depth: Branches(depth, depth**-0.5), x, depths=depths, steps=0)
    plain = scaling(lambda depth: Branches(depth, 0.3), x, depths=depths, steps=0)
    assert exponents(scaled, "forward_rms", 0)["output"][0] == pytest.approx(0, abs=0.1)
    rows = {row["path"]: row for row in plain.table("scaling").records() if row["quantity"] == "forward_rms"}
    assert rows["output"]["largest"] / rows["output"]["smallest"] == pytest.approx(1.09 ** (28 / 2), rel=0.2)
    assert "layers.3 … layers.31" in rows


def test_both_axes_are_swept_each_alone():
    def make_model(width, depth):
        made.append((width, depth))
        return nn.Sequential(nn.Linear(8, width), *(nn.Linear(width, width) for _ in range(depth)), nn.Linear(width, 1))

    made, steps = [], []
    report = scaling(
        make_model,
        DATA,
        widths=[8, 16],
        depths=[1, 2, 4],
        seeds=1,
        steps=1,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert made == [(8, 1), (16, 1), (8, 1), (8, 2), (8, 4)]
    assert steps[-1] == (5, 5)
    assert set(report.table("scaling").column("axis")) == {"width", "depth"}
    assert report.table("scaling").column("exponent")[0] is None  # two points have no interval


def test_the_same_seed_gives_the_same_numbers_and_the_random_state_stays():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = scaling(three_layers, DATA, widths=[8, 16], loss=loss, seeds=2)
    assert torch.equal(before, torch.get_rng_state())
    assert scaling(three_layers, DATA, widths=[8, 16], loss=loss, seeds=2).tables == first.tables


def test_a_readout_that_starts_at_zero_has_no_exponent_where_nothing_moves():
    def zero_readout(width):
        model = three_layers(width)
        nn.init.zeros_(model[-1].weight)
        return model

    report = scaling(zero_readout, DATA, widths=[8, 16, 32], loss=loss, steps=1)
    assert exponents(report, "update_rms", 1)["0"][0] is None
    assert exponents(report, "forward_rms", 0)["4"][0] is None
    assert exponents(report, "update_rms", 1)["4"][0] is not None


@pytest.mark.parametrize("lang", ["en", "zh-Hans", "zh-Hant"])
def test_a_report_is_told_in_every_language_drawn_and_travels(lang):
    report = scaling(three_layers, DATA, widths=[8, 32, 128], loss=loss, seeds=2)
    text = report.render("text", lang=lang)
    assert "{" not in text
    assert "S213" in text
    page = report.render("html", lang=lang)
    assert page.count('class="gv-chart"') == 3
    again = gv.Report.from_json(report.to_json(lang=lang))
    assert again.table("scaling") == report.table("scaling")
    assert "–" not in json.loads(report.to_json(lang=lang))["findings"][0]["text"]
    assert all(math.isfinite(value) for value in report.table("points").column("value"))


def raising(width):
    raise ValueError(f"no model of {width}")


@pytest.mark.parametrize(
    ("make", "options", "error", "says"),
    [
        (raising, {"widths": [8, 16]}, ModelError, r"make_model\(width=8\) raised ValueError"),
        (lambda: nn.Linear(8, 1), {"widths": [8, 16]}, UsageError, "doesn't take the width"),
        (three_layers, {"widths": [8, 16], "depths": [1, 2]}, UsageError, "doesn't take the depth"),
        (lambda width: width, {"widths": [8, 16]}, InputError, "no module"),
        (lambda width: three_layers(8), {"widths": [8, 16]}, InputError, "don't change with the width"),
        (lambda width: nn.Sequential(*(nn.Linear(8, 8) for _ in range(2))) if width == 8 else nn.Tanh(),
         {"widths": [8, 16]}, InputError, "no layer in common"),
        (three_layers, {}, UsageError, "no sizes"),
        (three_layers, {"widths": [8]}, UsageError, "too few widths"),
        (three_layers, {"widths": [8, 16], "seeds": 0}, UsageError, "out of range"),
        (three_layers, {"widths": [8, 16], "optimizer": "lion"}, UsageError, "no optimiser is called 'lion'"),
        (three_layers, {"widths": [8, 16], "optimizer": lambda model: None}, UsageError, "makes no optimiser"),
        (three_layers, {"width": [8, 16]}, UsageError, "did you mean 'widths'"),
        (three_layers(8), {"widths": [8, 16]}, ModelError, "raised"),
        (3, {"widths": [8, 16]}, UsageError, "can't be called"),
    ],
)  # fmt: skip
def test_misuse_is_an_exception_in_three_parts(make, options, error, says):
    with pytest.raises(error, match=says) as caught:
        scaling(make, DATA, **options)
    assert str(caught.value).count("\n") >= 2


def test_ctrl_c_keeps_the_models_that_were_finished():
    def stop(done, _total):
        if done == 5:
            raise KeyboardInterrupt

    report = scaling(three_layers, DATA, widths=WIDTHS, loss=loss, seeds=3, progress=stop)
    assert report.settings["interrupted"] is True
    assert report.cost["models"] == 5
    assert set(report.table("points").column("size")) == set(WIDTHS)


def test_ctrl_c_before_two_sizes_are_known_stops_it():
    def stop(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scaling(three_layers, DATA, widths=WIDTHS, loss=loss, progress=stop)
