"""What a pass shows, against slow obvious truths; and odd models, each of which must leave no trace."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradvitals import Case
from gradvitals.frameworks.torch.capture import capture
from gradvitals.frameworks.torch.moments import moments
from gradvitals.vocabulary import InputError, ModelError


def run(model, *args, loss=None, seed=0, **kwargs):
    """Capture, and require that nothing of the model, its inputs or the random state has changed."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = [x.clone() for x in args if isinstance(x, torch.Tensor)]
    randomness, training = torch.get_rng_state(), model.training
    try:
        return capture(Case(model, args, kwargs, loss=loss), seed=seed)
    finally:
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
        assert all(
            torch.equal(a, b) for a, b in zip(inputs, (x for x in args if isinstance(x, torch.Tensor)), strict=True)
        )
        assert torch.equal(torch.get_rng_state(), randomness)
        assert model.training is training
        assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
        assert all(p.grad is None for p in model.parameters())


def paths(capture):
    return [call.path for call in capture.calls]


def by_path(capture, path, call=0):
    return next(c for c in capture.calls if (c.path, c.call) == (path, call))


# --- moments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_moments_of_float32_are_those_of_float64_arithmetic(scale):
    x = (torch.randn(7, 31, generator=torch.Generator().manual_seed(0)) * scale + scale / 3).relu()
    values, got = x.numpy().astype(np.float64), moments(x)
    assert got.mean == pytest.approx(values.mean(), rel=1e-12)
    assert got.std == pytest.approx(values.std(), rel=1e-12)
    assert got.rms == pytest.approx(math.sqrt((values**2).mean()), rel=1e-12)
    assert (got.low, got.high) == (values.min(), values.max())
    assert got.zero_share == pytest.approx((values == 0).mean())


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_moments_of_float64_extremes_neither_underflow_nor_overflow(scale):
    assert moments(torch.tensor([3.0, -4.0], dtype=torch.float64) * scale).rms == pytest.approx(math.sqrt(12.5) * scale)


def test_moments_are_of_the_finite_values_and_count_the_others():
    got = moments(torch.tensor([1.0, math.nan, math.inf, -math.inf, 3.0, 0.0]))
    assert (got.count, got.nonfinite, got.masked) == (6, 3, 1)
    assert got.mean == pytest.approx(4 / 3)
    assert got.zero_share == pytest.approx(1 / 6)
    assert math.isnan(moments(torch.full((2,), math.nan)).rms)
    assert moments(torch.ones(0)).count == 0


def test_moments_of_a_large_tensor_are_merged_from_its_parts():
    x = torch.arange(400_000, dtype=torch.float32)
    assert moments(x).std == pytest.approx(math.sqrt((400_000**2 - 1) / 12), rel=1e-12)


# --- what is recorded ------------------------------------------------------------------------------------------------


def test_rows_hold_the_outputs_moments_and_the_gradients_rms():
    torch.manual_seed(0)
    first, second = nn.Linear(4, 6), nn.Linear(6, 3)
    x = torch.randn(5, 4)
    got = run(nn.Sequential(first, nn.Tanh(), second), x, loss=lambda y: y.square().mean())
    z = first(x)
    h = z.tanh()
    y = second(h)
    value = y.square().mean()
    gradients = torch.autograd.grad(value, [z, h, y, first.weight])
    for call, output, gradient in zip(got.calls, (z, h, y), gradients, strict=False):
        assert call.forward.rms == pytest.approx(output.square().mean().sqrt().item(), rel=1e-5)
        assert call.forward.std == pytest.approx(output.std(correction=0).item(), rel=1e-5)
        assert call.gradient.rms == pytest.approx(gradient.square().mean().sqrt().item(), rel=1e-5)
        rows = F.normalize(output, dim=1)
        off_diagonal = (rows @ rows.T)[~torch.eye(5, dtype=torch.bool)]
        assert call.sample_cosine == pytest.approx(off_diagonal.mean().item(), abs=1e-5)
    assert [call.sources for call in got.calls] == [(), (0,), (1,)]
    assert [call.has_weights for call in got.calls] == [True, False, True]
    assert got.calls[0].parameters == ("0.weight", "0.bias")
    assert got.loss == pytest.approx(value.item())
    assert got.objective == "loss"
    weight = got.parameters[0]
    assert (weight.path, weight.shape) == ("0.weight", (6, 4))
    assert weight.gradient.rms == pytest.approx(gradients[3].square().mean().sqrt().item(), rel=1e-5)


def test_functional_activations_and_products_with_parameters_are_calls():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.W1, self.b1 = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.zeros(8))
            self.W2 = nn.Parameter(torch.randn(2, 8))

        def forward(self, x):
            h = torch.relu(x @ self.W1 + self.b1)
            return F.leaky_relu(h @ self.W2.T, 0.3)

    got = run(Net(), torch.randn(5, 4))
    assert [(c.path, c.kind, c.activation) for c in got.calls] == [
        ("W1", "matmul", None),
        ("relu()", "relu", "relu"),
        ("W2", "matmul", None),
        ("leaky_relu()", "leaky_relu", "leaky_relu"),
    ]
    assert [c.sources for c in got.calls] == [(), (0,), (1,), (2,)]
    assert got.calls[2].parameters == ("W2",)
    assert got.calls[3].options == {"negative_slope": 0.3}
    assert all(c.gradient is not None for c in got.calls)


ACTIVATIONS = [
    ("relu", nn.ReLU(), F.relu, {}),
    ("relu", nn.ReLU(inplace=True), lambda x: x.clone().relu_(), {}),
    ("relu", nn.ReLU(), lambda x: x.clamp(min=0), {}),
    ("relu", nn.ReLU(), lambda x: torch.clamp(x, 0), {}),
    ("relu6", nn.ReLU6(), F.relu6, {}),
    ("leaky_relu", nn.LeakyReLU(0.2), lambda x: F.leaky_relu(x, negative_slope=0.2), {"negative_slope": 0.2}),
    ("elu", nn.ELU(0.5), lambda x: F.elu(x, 0.5), {"alpha": 0.5}),
    ("celu", nn.CELU(0.5), lambda x: F.celu(x, 0.5), {"alpha": 0.5}),
    ("selu", nn.SELU(), F.selu, {}),
    ("gelu", nn.GELU(), F.gelu, {}),
    ("gelu_tanh", nn.GELU("tanh"), lambda x: F.gelu(x, approximate="tanh"), {}),
    ("silu", nn.SiLU(), F.silu, {}),
    ("mish", nn.Mish(), F.mish, {}),
    ("tanh", nn.Tanh(), torch.tanh, {}),
    ("sigmoid", nn.Sigmoid(), torch.Tensor.sigmoid, {}),
    ("logsigmoid", nn.LogSigmoid(), F.logsigmoid, {}),
    ("softplus", nn.Softplus(2.0), lambda x: F.softplus(x, 2.0), {"beta": 2.0}),
    ("softsign", nn.Softsign(), F.softsign, {}),
    ("hardtanh", nn.Hardtanh(-2, 3), lambda x: F.hardtanh(x, -2, 3), {"low": -2.0, "high": 3.0}),
    ("hardsigmoid", nn.Hardsigmoid(), F.hardsigmoid, {}),
    ("hardswish", nn.Hardswish(), F.hardswish, {}),
    ("softmax", nn.Softmax(-1), lambda x: x.softmax(-1), {}),
]


@pytest.mark.parametrize(("name", "module", "function", "options"), ACTIVATIONS)
def test_an_activation_is_recognised_as_module_and_as_function(name, module, function, options):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.activation = nn.Linear(4, 4), module

        def forward(self, x):
            return function(self.activation(self.first(x)))

    got = run(Net(), torch.randn(3, 4))
    as_module, as_function = (call for call in got.calls if call.activation)
    assert as_module.path == "activation"
    assert as_function.path.endswith("()")
    assert as_module.activation == as_function.activation == name
    if options:
        assert as_module.options == options
        assert as_function.options == options


def test_clamps_that_are_no_rectifiers_are_not_taken_for_one():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(x).clamp(-1, 1).clamp(min=1e-3)

    assert paths(run(Net(), torch.randn(3, 4))) == ["linear"]


def test_dataflow_goes_through_reshapes_sums_and_writes_in_place():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x):
            a = self.a(x)
            both = torch.cat([a, self.b(x)]).view(2, -1, 4).sum(0)
            kept = torch.zeros_like(x)
            kept[:2] = self.c(both)[:2]
            kept += a
            return self.d(kept.transpose(0, 1).t())

    got = run(Net(), torch.randn(3, 4))
    assert [by_path(got, path).sources for path in "abcd"] == [(), (), (0, 1), (0, 2)]


def test_a_reused_module_has_one_row_per_call():
    shared = nn.Linear(4, 4)
    got = run(nn.Sequential(shared, nn.Tanh(), shared, nn.ReLU(inplace=True), shared), torch.randn(5, 4))
    assert [(c.path, c.call) for c in got.calls if c.has_weights] == [("0", 0), ("0", 1), ("0", 2)]
    assert [c.sources for c in got.calls] == [(), (0,), (1,), (2,), (3,)]
    assert all(c.gradient is not None for c in got.calls)


def test_in_place_activations_do_not_hide_what_went_in():
    linear = nn.Linear(4, 4)
    x = torch.randn(5, 4)
    got = run(nn.Sequential(linear, nn.ReLU(inplace=True), nn.Linear(4, 1)), x)
    assert got.calls[0].forward.low == pytest.approx(linear(x).min().item())
    assert got.calls[0].forward.low < 0 == got.calls[1].forward.low
    assert got.calls[0].gradient.zero_share > got.calls[1].gradient.zero_share == 0


def test_the_first_output_that_a_gradient_reaches_stands_for_several():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x):
            _, (h, _) = self.lstm(x)
            return {"logits": self.head(h[-1]), "ids": torch.arange(3)}

    got = run(Last(), torch.randn(4, 6, 3))
    assert by_path(got, "lstm").shape == (4, 6, 5)
    assert by_path(got, "lstm").gradient.count == 1 * 4 * 5
    assert by_path(got, "head").sources == (0,)
    assert len(got.output) == 1


def test_parametrised_and_attention_layers_are_one_call_each():
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    got = run(
        nn.Sequential(normed, nn.ReLU(), nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))), torch.randn(3, 8)
    )
    assert [c.kind for c in got.calls] == ["Linear", "ReLU", "Linear"]
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    got = run(attention, *[torch.randn(2, 3, 8)] * 3)
    assert [(c.path, c.kind) for c in got.calls] == [("MultiheadAttention", "MultiheadAttention")]
    assert len(got.calls[0].parameters) == 4


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_every_layer_of_a_transformer_is_seen_in_any_mode(training, frozen):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).train(training).requires_grad_(not frozen)
    got = run(model, torch.randn(3, 5, 8), mask=nn.Transformer.generate_square_subsequent_mask(5))
    assert sum(call.has_weights for call in got.calls) == 6
    assert by_path(got, "layers.0.relu()").sources == (paths(got).index("layers.0.linear1"),)
    assert by_path(got, "layers.1.norm2").sources == tuple(
        sorted(paths(got).index(p) for p in ("layers.1.norm1", "layers.1.dropout2"))
    )
    assert all((call.gradient is None) is frozen for call in got.calls)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_have_their_gradient_and_one_row(reentrant):
    class Net(nn.Module):
        def __init__(self, *, stored):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.5))
            self.stored = stored

        def forward(self, x):
            a = self.a(x)
            return self.b(a) if self.stored else checkpoint(self.b, a, use_reentrant=reentrant)

    torch.manual_seed(0)
    plain, x = Net(stored=True), torch.randn(5, 4)
    saving = Net(stored=False)
    saving.load_state_dict(plain.state_dict())
    expected, got = run(plain, x), run(saving, x)
    assert paths(got) == paths(expected)
    for one, other in zip(got.calls, expected.calls, strict=True):
        assert one.gradient.rms == pytest.approx(other.gradient.rms)
    assert [p.gradient.rms for p in got.parameters] == pytest.approx([p.gradient.rms for p in expected.parameters])


def test_integer_inputs_no_grad_parts_and_sparse_gradients_work():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.linear = nn.Embedding(7, 4, sparse=True), nn.Linear(4, 4)

        def forward(self, ids):
            with torch.no_grad():
                target = self.linear(self.embedding(ids))
            return self.linear(torch.vmap(torch.sigmoid)(self.embedding(ids))) - target

    got = run(Net(), torch.randint(0, 7, (5, 3)))
    assert by_path(got, "linear").gradient is None
    assert by_path(got, "linear", 1).gradient is not None
    assert not by_path(got, "embedding").has_weights
    assert got.parameters[0].gradient.rms > 0


def test_frozen_layers_have_no_gradient_and_stay_frozen():
    model = nn.Sequential(nn.Linear(4, 4).requires_grad_(requires_grad=False), nn.ReLU(), nn.Linear(4, 2))
    got = run(model, torch.randn(3, 4))
    assert [call.gradient is None for call in got.calls] == [True, True, False]
    assert not model[0].weight.requires_grad
    assert [p.trainable for p in got.parameters] == [False, False, True, True]


def test_tied_parameters_appear_once_under_their_first_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)
            self.head.weight = self.embedding.weight

        def forward(self, ids):
            return self.head(self.embedding(ids))

    got = run(Tied(), torch.tensor([[1, 2]]))
    assert [p.path for p in got.parameters] == ["embedding.weight", "head.bias"]
    assert by_path(got, "head").parameters == ("embedding.weight", "head.bias")


def test_the_context_at_the_call_holds_and_no_grad_does_not_matter():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.GELU()), torch.randn(5, 4)
    plain = run(model, x)
    with torch.no_grad():
        assert run(model, x) == plain
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = run(model, x)
    assert half.calls[0].forward.rms != plain.calls[0].forward.rms
    assert half.calls[0].forward.rms == pytest.approx(plain.calls[0].forward.rms, rel=0.02)


def test_a_compiled_model_is_looked_into():
    assert paths(run(torch.compile(nn.Sequential(nn.Linear(4, 4)), backend="eager"), torch.randn(2, 4))) == ["0"]


def test_the_seed_decides_dropout_and_the_random_cotangent():
    model, x = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 2)), torch.randn(5, 4)
    assert run(model, x, seed=1) == run(model, x, seed=1)
    assert run(model, x, seed=1) != run(model, x, seed=2)


def test_without_a_loss_the_gradient_at_the_output_has_unit_rms():
    got = run(nn.Linear(4, 3), torch.randn(5, 4))
    assert (got.objective, got.loss) == ("random", None)
    assert got.calls[-1].gradient.rms == pytest.approx(1)


# --- units, saturation -----------------------------------------------------------------------------------------------


def test_dead_units_are_counted_along_the_channels_of_convolutions_and_the_features_of_others():
    torch.manual_seed(0)
    convolution, linear = nn.Conv2d(1, 4, 3), nn.Linear(4, 8)
    convolution.bias.data[:1] = -100
    linear.bias.data[:6] = -100
    model = nn.Sequential(convolution, nn.BatchNorm2d(4).eval(), nn.ReLU(), nn.Conv1d(1, 3, 1), nn.ReLU())
    got = run(model[:3], torch.randn(8, 1, 5, 5))
    assert (got.calls[2].units, got.calls[2].dead_share) == (4, 0.25)
    got = run(nn.Sequential(linear, nn.ReLU()), torch.randn(8, 6, 4))
    assert (got.calls[1].units, got.calls[1].dead_share) == (8, 0.75)
    got = run(nn.Sequential(model[3], nn.ReLU()), torch.randn(8, 1, 6))
    assert got.calls[1].units == 3
    assert got.calls[0].dead_share is None


@pytest.mark.parametrize(
    ("activation", "slope"),
    [
        (nn.Sigmoid(), lambda x: 4 * torch.sigmoid(x) * (1 - torch.sigmoid(x))),
        (nn.Tanh(), lambda x: 1 - x.tanh() ** 2),
        (nn.Softsign(), lambda x: 1 / (1 + x.abs()) ** 2),
        (nn.Hardtanh(), lambda x: (x.abs() < 1).double()),
        (nn.Hardsigmoid(), lambda x: (x.abs() < 3).double()),
        (nn.ReLU6(), lambda x: (x < 6).double()),
    ],
)
def test_saturation_is_told_by_the_activations_own_slope(activation, slope):
    x = torch.linspace(-20, 20, 4001, dtype=torch.float64)[:, None]
    got = run(nn.Sequential(activation), x)
    assert got.calls[0].saturated_share == pytest.approx((slope(x) < 0.025).double().mean().item(), abs=1e-3)


def test_unbounded_activations_do_not_saturate():
    assert run(nn.Sequential(nn.GELU()), torch.randn(5, 4)).calls[0].saturated_share is None


# --- what is not finite ----------------------------------------------------------------------------------------------


def test_a_function_that_makes_nan_is_recorded_like_a_layer():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(torch.log(self.a(x)))

    got = run(Net(), torch.randn(5, 4))
    assert paths(got) == ["a", "log()", "b"]
    assert [call.inputs_finite for call in got.calls] == [True, True, False]
    assert [call.forward.nonfinite > 0 for call in got.calls] == [False, True, True]


# --- errors ----------------------------------------------------------------------------------------------------------


class Faulty(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.linear, self.error = nn.Linear(4, 4), error

    def forward(self, x):
        self.linear(x)
        raise self.error


def test_a_model_that_raises_is_a_model_error_naming_the_layer_and_the_cause():
    with pytest.raises(ModelError, match="in 1 \\(Linear\\)") as caught:
        run(nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 4)), torch.randn(5, 4))
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes_through_and_leaves_no_hook(error):
    with pytest.raises(error):
        run(Faulty(error()), torch.randn(5, 4))


def test_a_backward_pass_that_raises_is_a_model_error():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            raise ZeroDivisionError

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return Broken.apply(self.linear(x))

    with pytest.raises(ModelError, match="backward pass raised") as caught:
        run(Net(), torch.randn(5, 4))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_model_that_catches_its_own_errors_is_followed_further():
    class Forgiving(nn.Module):
        def __init__(self):
            super().__init__()
            self.faulty, self.linear = Faulty(RuntimeError()), nn.Linear(4, 4)

        def forward(self, x):
            try:
                x = self.faulty(x)
            except RuntimeError:
                x = self.linear(x)
            return F.relu(self.linear(x))

    assert paths(run(Forgiving(), torch.randn(5, 4))) == ["faulty.linear", "linear", "linear", "relu()"]


def test_a_function_is_refused():
    with pytest.raises(InputError, match="can't be seen"):
        capture(Case(torch.relu, (torch.ones(2),)))


def test_a_loss_that_is_no_scalar_is_refused():
    with pytest.raises(InputError, match="not a scalar"):
        run(nn.Linear(4, 4), torch.randn(5, 4), loss=lambda y: y)


def test_an_optimiser_in_the_backward_pass_does_not_step():
    model = nn.Linear(4, 2)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    model.weight.register_post_accumulate_grad_hook(lambda _: optimiser.step())
    run(model, torch.randn(5, 4))


def test_the_users_gradients_are_untouched():
    model, x = nn.Linear(4, 2), torch.randn(5, 4)
    model(x).sum().backward()
    gradient, values = model.weight.grad, model.weight.grad.clone()
    capture(Case(model, (x,)))
    assert model.weight.grad is gradient
    assert torch.equal(gradient, values)


def test_complex_parameters_count_by_their_parts():
    class Rotated(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.weight = nn.Parameter(torch.randn(8, 8, dtype=torch.complex64))

        def forward(self, x):
            return (self.first(x).to(torch.complex64) @ self.weight).abs()

    torch.manual_seed(0)
    model, x = Rotated(), torch.randn(4, 8)
    model(x).square().mean().backward()
    gradient = torch.view_as_real(model.weight.grad)
    model.zero_grad()
    seen = capture(Case(model, (x,), loss=lambda y: y.square().mean()))
    (record,) = (record for record in seen.parameters if record.path == "weight")
    assert record.values.rms == pytest.approx(torch.view_as_real(model.weight.detach()).square().mean().sqrt().item())
    assert record.gradient.rms == pytest.approx(gradient.square().mean().sqrt().item(), rel=1e-4)
    assert record.copied_rows == 0
