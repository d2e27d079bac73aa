"""New weights: their statistics, their independence, and that a failure leaves the old ones."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradvitals.frameworks.torch.fill import filled, from_matrices, matrices
from gradvitals.frameworks.torch.weights import weights_of
from gradvitals.frameworks.weights import Fill, Layout, fans


def fill(model, draw, std, centre=0.0, seed=0):
    weights = [weight for weight in weights_of(model, {}) if weight.role == "mixing"]
    with filled(model, [Fill(weight, draw, std, centre) for weight in weights], seed=seed):
        pass
    return model


def values(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("draw", ["normal", "uniform", "orthogonal"])
def test_draws_have_the_standard_deviation_asked_for(draw):
    weight = fill(nn.Linear(300, 200), draw, 0.05).weight
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.05, rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=1e-3)


def test_uniform_draws_stay_within_their_bound():
    weight = fill(nn.Linear(300, 200), "uniform", 0.05).weight
    assert weight.abs().max().item() <= 0.05 * math.sqrt(3)


@pytest.mark.parametrize(("out", "inputs"), [(32, 32), (20, 50), (50, 20)])
def test_orthogonal_draws_have_equal_singular_values(out, inputs):
    std = 1 / math.sqrt(inputs)
    weight = fill(nn.Linear(inputs, out), "orthogonal", std).weight.detach()
    singular = torch.linalg.svdvals(weight)
    assert torch.allclose(singular, singular[0].expand_as(singular), rtol=1e-5)
    x = torch.randn(400, inputs)
    assert (x @ weight.T).std().item() == pytest.approx(1.0, rel=0.1)


def test_orthogonal_signs_are_not_favoured():
    diagonal = [fill(nn.Linear(1, 1), "orthogonal", 1.0, seed=seed).weight.item() for seed in range(200)]
    assert 70 < sum(value > 0 for value in diagonal) < 130


def test_every_parameter_has_numbers_of_its_own_whatever_the_order():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    first, second = (fill(model, "normal", 1.0)[at].weight.detach().clone() for at in (0, 1))
    assert not torch.equal(first, second)
    alone = nn.Sequential(nn.Identity(), nn.Linear(8, 8))
    assert torch.equal(fill(alone, "normal", 1.0)[1].weight, second)
    assert not torch.equal(fill(model, "normal", 1.0, seed=1)[0].weight, first)


def test_global_generators_are_not_touched():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    fill(nn.Sequential(), "normal", 1.0)
    model = nn.Linear(1, 1)
    state = torch.get_rng_state()
    fill(model, "orthogonal", 1.0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_storage_and_gradients_stay(dtype):
    layer = nn.Linear(20, 20).to(dtype)
    layer.weight.grad = torch.ones_like(layer.weight)
    place = layer.weight.data_ptr()
    fill(layer, "normal", 0.1)
    assert layer.weight.dtype == dtype
    assert layer.weight.data_ptr() == place
    assert torch.equal(layer.weight.grad, torch.ones_like(layer.weight))
    assert layer.weight.requires_grad


def test_float64_weights_are_drawn_in_float64():
    weight = fill(nn.Linear(20, 20).double(), "normal", 1.0).weight
    assert not torch.equal(weight.float().double(), weight)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(12, 9),
        nn.Conv2d(4, 6, 3),
        nn.Conv1d(4, 8, 3, groups=2),
        nn.ConvTranspose2d(6, 4, 4, stride=2, groups=2),
        nn.Bilinear(4, 5, 3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_centred_layers_do_not_see_a_constant_input(layer):
    """With b = -m·ΣW a layer that gets the mean everywhere gives zero (away from borders)."""
    mean = 0.5
    torch.nn.init.ones_(layer.weight)
    fill(layer, "normal", 1.0, centre=mean)
    if isinstance(layer, nn.Bilinear):
        out = layer(torch.full((1, 4), 1.0), torch.full((1, 5), mean))
    else:
        sizes = {nn.Linear: (1, 12), nn.Conv2d: (1, 4, 8, 8), nn.Conv1d: (1, 4, 8), nn.ConvTranspose2d: (1, 6, 8, 8)}
        out = layer(torch.full(sizes[type(layer)], mean))
    inner = out[..., 4:-4, 4:-4] if isinstance(layer, nn.ConvTranspose2d) else out
    averages = inner.flatten(2).mean(2) if isinstance(layer, nn.ConvTranspose2d) else inner
    assert torch.allclose(averages, torch.zeros_like(averages), atol=1e-5)


def test_without_a_bias_the_rows_sum_to_zero_and_the_size_stays():
    layer = fill(nn.Linear(40, 30, bias=False), "orthogonal", 0.2, centre=0.5)
    assert layer.weight.sum(1).abs().max().item() < 1e-5
    assert layer.weight.detach().square().mean().sqrt().item() == pytest.approx(0.2, rel=1e-4)


def test_biases_become_zero():
    assert fill(nn.Linear(5, 5), "normal", 1.0).bias.abs().sum().item() == 0


def test_the_padding_row_of_an_embedding_stays_zero():
    model = nn.Embedding(6, 4, padding_idx=2)
    (weight,) = weights_of(model, {})
    with filled(model, [Fill(weight, "normal", 1.0)]):
        pass
    assert model.weight[2].abs().sum().item() == 0
    assert (model.weight[[0, 1, 3, 4, 5]] != 0).all()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("after", [1, 2, "block"])
def test_an_exception_in_the_middle_leaves_every_weight_as_it_was(error, after):
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    before = values(model)
    done = []

    def interrupt():
        done.append(1)
        if len(done) == after:
            raise error

    weights = [weight for weight in weights_of(model, {}) if weight.role == "mixing"]
    fills = [Fill(weight, "normal", 1.0) for weight in weights]
    with pytest.raises(error), filled(model, fills, filled_one=interrupt):
        raise error
    assert all(torch.equal(old, new) for old, new in zip(before, values(model), strict=True))


@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 3),
    units=st.integers(1, 4),
    inputs=st.integers(1, 4),
    kernel=st.lists(st.integers(1, 3), max_size=2),
    transposed=st.booleans(),
)
def test_matrices_and_back_is_the_identity(groups, units, inputs, kernel, transposed):
    first = groups * (inputs if transposed else units)
    second = units if transposed else inputs
    weight = torch.arange(first * second * math.prod(kernel), dtype=torch.float32).reshape(first, second, *kernel)
    layout = Layout(groups, transposed)
    stacked = matrices(weight, layout)
    assert stacked.shape == (groups, units, inputs * math.prod(kernel))
    assert torch.equal(from_matrices(stacked, weight.shape, layout), weight)


@pytest.mark.parametrize("layer", [nn.Linear(7, 5), nn.Conv2d(3, 8, (3, 5)), nn.Bilinear(4, 5, 3), nn.Conv1d(2, 6, 3)])
def test_fans_of_plain_layers_are_those_of_torch(layer):
    expected = nn.init._calculate_fan_in_and_fan_out(layer.weight)
    assert fans(layer.weight.shape, Layout()) == expected


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 4, 3, groups=2),
        nn.ConvTranspose2d(6, 4, 4, stride=2),
        nn.ConvTranspose1d(6, 4, 6, stride=3, groups=2),
    ],
)
def test_fan_in_counts_what_sums_into_one_output(layer):
    """With weights 1 and inputs 1 an output away from the border is the fan-in."""
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    x = torch.ones(1, 6, *([12] * (layer.weight.ndim - 2)))
    out = layer(x)
    middle = out[(0, 0, *(size // 2 for size in out.shape[2:]))].item()
    (weight, *_) = weights_of(layer, {})
    assert weight.fan_in == middle
