"""The gradient check where people compute: on a GPU, with its random numbers, its formats and its settings."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradvitals as gv
from gradvitals import Verdict

pytestmark = [
    pytest.mark.cuda,
    # Autograd's own thread says so of the first matrix product that it is asked for.
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS, but there was no current CUDA context"),
]

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
#: The mistake in Gelu's backward pass that each format must show: what its default sensitivity resolves.
FACTORS = {torch.float64: 1.001, torch.float32: 1.01, torch.bfloat16: 2.0, torch.float16: 2.0}


class Gelu(torch.autograd.Function):
    """By its own formula, in the precision of its input; the backward pass times a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(x)
        ctx.factor = factor
        return x * 0.5 * (1 + torch.erf(x * 2**-0.5))

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        slope = 0.5 * (1 + torch.erf(x * 2**-0.5)) + x * torch.exp(-x * x / 2) * (2 * torch.pi) ** -0.5
        return ctx.factor * grad * slope, None


class WrongGelu(nn.Module):
    def forward(self, x):
        return Gelu.apply(x, 1.01)


def numbers(*shape, dtype=torch.float32, device="cuda"):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def network(device, dtype=torch.float32, middle=nn.Tanh):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), middle(), nn.Dropout(0.25), nn.Linear(16, 3)).to(device, dtype)


def square(y):
    return y.float().square().mean()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_function_passes_in_every_format(device, dtype):
    report = gv.check(lambda x: Gelu.apply(x, 1.0), numbers(7, 5, dtype=dtype, device=device))
    assert report.verdict is Verdict.PASS, str(report)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wrong_function_fails_in_every_format(device, dtype):
    report = gv.check(lambda x: Gelu.apply(x, FACTORS[dtype]), numbers(7, 5, dtype=dtype, device=device))
    assert report.verdict is Verdict.FAIL, str(report)
    assert report.findings[0].code == "G101"


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_network_with_dropout_passes_and_stays_where_it_was(device, dtype):
    model = network(device, dtype).train()
    before = {name: (parameter.data_ptr(), parameter.clone()) for name, parameter in model.named_parameters()}
    report = gv.check(model, numbers(5, 6, dtype=dtype, device=device), loss=square)
    assert report.verdict in {Verdict.PASS, Verdict.INCONCLUSIVE}, str(report)
    assert report.verdict is Verdict.PASS or dtype in {torch.bfloat16, torch.float16}
    for name, parameter in model.named_parameters():
        assert parameter.device.type == device
        assert parameter.data_ptr() == before[name][0]
        assert torch.equal(parameter, before[name][1])
        assert parameter.grad is None


MODELS = {
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(64, 3)),
        (3, 2, 6, 6),
    ),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True), (2, 4, 8)),
    "recurrence": (lambda: Last(nn.LSTM(4, 5, batch_first=True)), (2, 3, 4)),
}


class Last(nn.Module):
    """What a recurrent network gives at the last step."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)[0][:, -1]


@pytest.mark.parametrize("name", list(MODELS))
def test_models_that_the_gpu_has_kernels_for_pass(device, name):
    torch.manual_seed(0)
    make, shape = MODELS[name]
    report = gv.check(make().to(device), numbers(*shape, device=device), loss=square)
    assert report.ok, str(report)


def test_the_layer_at_fault_is_named(device):
    model = network(device, middle=WrongGelu)
    report = gv.check(model, numbers(5, 6, device=device), loss=square)
    assert report.verdict is Verdict.FAIL
    modules = report.table("modules")
    found = dict(zip(modules.column("path"), modules.column("status"), strict=True))
    assert found["1"] == "wrong"
    assert found["3"] != "wrong"


@pytest.mark.parametrize("training", [False, True])
def test_slopes_in_float64_resolve_more(device, training):
    """With dropout too: float64 with other masks would be another function, and refused."""
    model, x = network(device).train(training), numbers(5, 6, device=device)
    native = gv.check(model, x, loss=square, precision="native")
    wide = gv.check(model, x, loss=square, precision="float64")
    assert wide.verdict is Verdict.PASS, str(wide)
    finest, usual = (max(report.table("tensors").column("resolution")) for report in (wide, native))
    assert finest < usual


def test_points_with_dropout_are_evaluated_together(device):
    report = gv.check(network(device).train(), numbers(5, 6, device=device), loss=square)
    assert report.cost["evaluation"] == "batched"


def test_every_entry_is_measured(device):
    report = gv.check(network(device), numbers(5, 6, device=device), loss=square, exhaustive=True)
    assert report.verdict is Verdict.PASS, str(report)


def test_a_second_derivative_is_measured(device):
    report = gv.check(torch.tanh, numbers(4, 3, dtype=torch.float64, device=device), order=2)
    assert report.verdict is Verdict.PASS, str(report)


def test_parts_on_the_cpu_and_on_the_gpu_are_checked_together(device):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.here, self.there = nn.Linear(4, 6), nn.Linear(6, 2).to(device)

        def forward(self, x):
            return self.there(torch.tanh(self.here(x)).to(device))

    torch.manual_seed(0)
    report = gv.check(Both(), numbers(3, 4, device="cpu"), loss=square)
    assert report.verdict is Verdict.PASS, str(report)
    assert len(report.table("tensors").rows) == 5


def test_a_table_with_sparse_gradients_passes(device):
    table = nn.Embedding(9, 3, sparse=True).to(device)
    report = gv.check(table, torch.tensor([[1, 2], [2, 5]]).to(device), loss=square)
    assert report.verdict is Verdict.PASS, str(report)


def test_a_kernel_beside_its_reference(device):
    x = numbers(8, 16, dtype=torch.bfloat16, device=device)
    assert gv.check(lambda x: Gelu.apply(x, 1.0), x, reference=functional.gelu).verdict is not Verdict.FAIL
    assert gv.check(lambda x: Gelu.apply(x, 1.1), x, reference=functional.gelu).verdict is Verdict.FAIL
    assert gv.check(functional.gelu, x, reference=functional.gelu).verdict is Verdict.PASS


def test_tf32_is_named(device):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    before = torch.backends.cuda.matmul.allow_tf32
    x, w = numbers(256, 256, device=device), numbers(256, 256, device=device).T.contiguous()
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        report = gv.check(torch.matmul, x, w)
        torch.backends.cuda.matmul.allow_tf32 = False
        plain = gv.check(torch.matmul, x, w)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    found = [finding for finding in report.findings if finding.code == "G107"]
    assert found, str(report)
    assert report.verdict is not Verdict.FAIL, str(report)
    assert any("torch.backends.cuda.matmul.allow_tf32" in finding.evidence["settings"] for finding in found)
    assert [finding.code for finding in plain.findings if finding.code == "G107"] == []
    assert plain.verdict is Verdict.PASS, str(plain)


def test_autocast_holds_for_every_evaluation(device):
    model = network(device).eval()
    with torch.autocast(device, torch.bfloat16):
        report = gv.check(model, numbers(5, 6, device=device), loss=square)
    assert report.verdict is not Verdict.FAIL, str(report)
    assert not torch.is_autocast_enabled(device)


def test_random_numbers_of_the_gpu_are_as_before(device):
    model = network(device).train()
    torch.cuda.manual_seed(7)
    torch.rand(3, device=device)
    before, on_cpu = torch.cuda.get_rng_state(), torch.get_rng_state()
    gv.check(model, numbers(5, 6, device=device), loss=square)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), on_cpu)


def test_a_generator_of_the_models_own_is_as_before(device):
    generator = torch.Generator(device).manual_seed(3)
    before = generator.get_state()

    def noisy(x):
        return torch.tanh(x + torch.rand(x.shape, device=x.device, generator=generator))

    report = gv.check(noisy, numbers(4, 3, device=device))
    assert report.verdict is Verdict.PASS, str(report)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_everything_is_as_before_after_a_forward_pass_that_fails(device, error):
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.calls = nn.Linear(6, 3), 0

        def forward(self, x):
            type(self).count += 1
            if type(self).count > 12:
                raise error("enough")
            return functional.dropout(self.layer(x), 0.5)

    Fails.count = 0
    torch.manual_seed(0)
    model = Fails().to(device)
    model(numbers(5, 6, device=device)).sum().backward()
    Fails.count = 0
    kept = {name: (p.clone(), p.grad, p.grad.clone()) for name, p in model.named_parameters()}
    before = torch.cuda.get_rng_state()
    with pytest.raises((gv.ModelError, KeyboardInterrupt)):
        gv.check(model, numbers(5, 6, device=device), loss=square)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    for name, parameter in model.named_parameters():
        values, grad, grad_values = kept[name]
        assert torch.equal(parameter, values)
        assert parameter.grad is grad
        assert torch.equal(parameter.grad, grad_values)


def test_memory_is_given_back(device):
    model, x = network(device), numbers(5, 6, device=device)
    gv.check(model, x, loss=square)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    gv.check(model, x, loss=square)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before
