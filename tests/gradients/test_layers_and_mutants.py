"""No correct layer is refused; every layer with one wrong gradient is caught, and the tensor named.

In float64 and float32, NumPy and torch. The exhaustive grid is ``benchmarks/gradients_layers.py``; here every layer,
tensor and mistake is met at least once.
"""

from __future__ import annotations

import pytest
import torch

import gradvitals as gv
from gradvitals import Verdict
from oracles import layer_zoo, mutations, sound_networks, torch_layers
from oracles.layer_check import cause_of, check, tensors_called_wrong, wrong_findings

DTYPES = ["float64", "float32"]
#: By seed: NumPy layers are met with a cache that is handed on, and as objects that remember.
FORMS = {"numpy": ("numpy", "object", "numpy"), "torch": ("torch", "torch", "torch")}
WAYS = [(framework, dtype) for framework in FORMS for dtype in DTYPES]


def _in_turn(cases):
    """Each case in one of the ways, so that all ways are met often: every case in every way would take minutes."""
    return [pytest.param(*case, *WAYS[at % len(WAYS)]) for at, case in enumerate(cases)]


def _mutants(name):
    """Every kind of mistake that counts, in the layer's tensors in turn."""
    layer = layer_zoo.draw(name)
    tensors = {}
    for tensor in layer.inputs:
        for kind in layer.mutations(tensor):
            tensors.setdefault(kind, []).append(tensor)
    return [(name, fits[at % len(fits)], kind) for at, (kind, fits) in enumerate(tensors.items())]


MUTANTS = [mutant for name in layer_zoo.LAYERS for mutant in _mutants(name)]


@pytest.mark.parametrize(("framework", "dtype"), WAYS)
@pytest.mark.parametrize("name", layer_zoo.LAYERS)
def test_correct_layer_passes(name, framework, dtype):
    for seed, form in enumerate(FORMS[framework]):
        layer = layer_zoo.draw(name, seed)
        report = check(layer, form, dtype, seed=seed)
        assert report.verdict is Verdict.PASS, f"seed {seed}\n{report}"
        rows = {row["path"]: row for row in report.table("tensors").records()}
        assert set(rows) == set(layer.inputs)
        assert {row["status"] for row in rows.values()} == {"right"}
        assert {path: row["shape"] for path, row in rows.items()} == {k: v.shape for k, v in layer.inputs.items()}


@pytest.mark.parametrize(("name", "framework", "dtype"), _in_turn([(name,) for name in layer_zoo.LAYERS]))
def test_correct_layer_of_a_few_thousand_entries_passes(name, framework, dtype):
    report = check(layer_zoo.draw(name, 0, "medium"), framework, dtype)
    assert report.verdict is Verdict.PASS, str(report)


@pytest.mark.parametrize(("name", "tensor", "kind", "framework", "dtype"), _in_turn(MUTANTS))
def test_mutant_fails_and_its_tensor_alone_is_named(name, tensor, kind, framework, dtype):
    layer = layer_zoo.draw(name)
    mutation = layer.mutations(tensor)[kind]
    report = check(layer, framework, dtype, tensor, mutation)
    assert report.verdict is Verdict.FAIL, str(report)
    assert tensors_called_wrong(report) == {tensor}, str(report)
    (finding,) = wrong_findings(report)
    assert finding.site.path == tensor
    assert finding.evidence["tensors"] == (tensor,)
    if cause_of(kind):
        assert finding.evidence["likely"] == cause_of(kind), str(report)
    if mutation.factor is not None:
        assert finding.evidence["factor"].value == pytest.approx(mutation.factor, rel=1e-3)


@pytest.mark.parametrize(("name", "framework", "dtype"), _in_turn([(name,) for name in layer_zoo.LAYERS]))
def test_an_error_of_three_times_the_stated_resolution_is_caught(name, framework, dtype):
    layer = layer_zoo.draw(name)
    row = list(check(layer, framework, dtype).table("tensors").records())[-1]
    tensor = row["path"]
    error = 3.3 * row["resolution"]
    mutation = mutations.shuffled("shuffled", error, layer.inputs[tensor].shape)
    report = check(layer, framework, dtype, tensor, mutation)
    assert report.verdict is Verdict.FAIL, f"error of {error:.3g}\n{report}"
    assert tensors_called_wrong(report) == {tensor}, str(report)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        pytest.param(lambda: torch.nn.Linear(4, 3), (5, 4), id="Linear"),
        pytest.param(lambda: torch.nn.Conv2d(2, 3, 3, padding=1), (2, 2, 4, 4), id="Conv2d"),
        pytest.param(lambda: torch.nn.BatchNorm1d(4), (6, 4), id="BatchNorm1d"),
        pytest.param(lambda: torch.nn.LayerNorm(4), (6, 4), id="LayerNorm"),
        pytest.param(lambda: torch.nn.LSTMCell(3, 4), (2, 3), id="LSTMCell"),
    ],
)
def test_module_passes_and_its_spoilt_parameter_is_named(make, shape, dtype):
    module, x = _made(make, shape, dtype)
    report = gv.check(module, x)
    assert report.verdict is Verdict.PASS, str(report)
    parameters = dict(module.named_parameters())
    roles = {row["path"]: row["role"] for row in report.table("tensors").records()}
    assert roles == {"input": "input", **dict.fromkeys(parameters, "parameter")}
    parameter = next(name for name in parameters if name.startswith("weight"))
    report = gv.check(torch_layers.spoil_module(module, parameter, lambda g: 2 * g), x)
    assert report.verdict is Verdict.FAIL, str(report)
    assert tensors_called_wrong(report) == {parameter}, str(report)
    (finding,) = wrong_findings(report)
    assert (finding.site.path, finding.evidence["likely"]) == (parameter, "factor-extra")


def _made(make, shape, dtype, seed=0):
    """The module and an input of that shape, drawn from the seed."""
    torch.manual_seed(seed)
    return make().to(getattr(torch, dtype)), torch.randn(shape, dtype=getattr(torch, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "seeds"),
    [
        ("linear before batch norm", (4, 5)),
        ("convolution before batch norm", range(2)),
        ("transformer layer", range(1)),
        ("GELU and dropout", range(1)),
        ("LSTM", range(1)),
        ("rectified", range(2)),
    ],
)
def test_sound_network_passes(name, seeds, dtype):
    for seed in seeds:
        model, x, loss = sound_networks.draw(name, dtype, seed)
        report = gv.check(model, x, loss=loss, seed=seed)
        assert report.verdict is Verdict.PASS, f"seed {seed}\n{report}"


class _OnlySingle(torch.nn.Module):
    """Computes in float32 whatever comes in, as many kernels do."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 3))

    def forward(self, x):
        return torch.tanh(x.float() @ self.weight.float())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_function_that_insists_on_float32_is_judged_by_what_float32_can_show(dtype):
    for seed in range(2):
        model, x = _made(_OnlySingle, (5, 4), dtype, seed)
        report = gv.check(model, x, seed=seed)
        assert report.verdict in {Verdict.PASS, Verdict.INCONCLUSIVE}, f"seed {seed}\n{report}"
        wrong = gv.check(torch_layers.spoil_module(model, "weight", lambda g: 2 * g), x, seed=seed)
        assert wrong.verdict is Verdict.FAIL, f"seed {seed}\n{wrong}"
        assert tensors_called_wrong(wrong) == {"weight"}, str(wrong)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_numpy_layer_that_insists_on_float32_is_judged_by_what_float32_can_show(dtype):
    layer = layer_zoo.draw("linear")

    def forward(x, w, b):
        return layer.numpy_forward(*(value.astype("float32") for value in (x, w, b)))

    report = gv.check(forward, *layer.arrays(dtype), vjp=layer.numpy_backward)
    assert report.verdict in {Verdict.PASS, Verdict.INCONCLUSIVE}, str(report)
