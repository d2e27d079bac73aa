"""The ways in which torch code is handed to ``check``: each is understood, right or wrong."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json

import numpy as np
import pytest
import torch
from torch import nn

import gradvitals as gv
from gradvitals import Verdict

PASS, FAIL = Verdict.PASS, Verdict.FAIL


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def paths(report):
    return list(report.table("tensors").column("path"))


def roles(report):
    return {row["path"]: row["role"] for row in report.table("tensors").records()}


def wide(*shape):
    return torch.randn(*shape, dtype=torch.float64)


class Scale(torch.autograd.Function):
    """y = x · w, with the gradient of w times a factor."""

    @staticmethod
    def forward(ctx, x, w, factor=1.0):
        ctx.save_for_backward(x, w)
        ctx.factor = factor
        return x * w

    @staticmethod
    def backward(ctx, dout):
        x, w = ctx.saved_tensors
        return dout * w, (dout * x).sum(0) * ctx.factor, None


class ModernScale(torch.autograd.Function):
    """The same with ``setup_context``: there forward has no ctx."""

    @staticmethod
    def forward(x, w):
        return x * w

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dout):
        x, w = ctx.saved_tensors
        return dout * w, (dout * x).sum(0)


# ---- callables -----------------------------------------------------------------------------------------------------


def test_a_plain_function_is_named_after_its_arguments():
    def blend(a, b):
        return torch.sin(a) * b

    report = gv.check(blend, wide(4, 3), wide(3))
    assert report.verdict is PASS
    assert roles(report) == {"a": "input", "b": "input"}
    assert report.subject == "blend"
    assert report.settings["objective"] == "random"


def test_a_scalar_function_needs_no_loss():
    report = gv.check(lambda a: a.square().sum(), wide(4))
    assert report.verdict is PASS
    assert report.settings["objective"] == "output-loss"


@pytest.mark.parametrize("function", [Scale, ModernScale])
def test_an_autograd_functions_arguments_keep_their_names(function):
    report = gv.check(function.apply, wide(5, 3), wide(3))
    assert report.verdict is PASS
    assert paths(report) == ["x", "w"]


def test_a_wrong_factor_in_an_autograd_function_is_named():
    report = gv.check(Scale.apply, wide(5, 3), wide(3), 0.5)
    assert report.verdict is FAIL
    (finding,) = report.findings
    assert (finding.code, finding.site.path, finding.evidence["likely"], finding.evidence["name"]) == (
        *("G101", "w"),
        *("factor-missing", "2"),
    )
    assert "numeric is 2.000 × analytic: a factor 2 is missing" in " ".join(str(report).split())


def test_plain_settings_among_the_arguments_are_handed_over():
    seen = []

    def f(x, mode, options, *, scale):
        seen.append((mode, options, scale))
        return x * scale

    report = gv.check(f, wide(3), "fast", {"deep": [1, None]}, kwargs={"scale": 2.0})
    assert report.verdict is PASS
    assert paths(report) == ["x"]
    assert set(map(str, seen)) == {str(("fast", {"deep": [1, None]}, 2.0))}


def test_tensors_in_nests_and_keywords_are_checked():
    Pair = collections.namedtuple("Pair", "left right")  # noqa: PYI024 - the plain kind is met as well

    def f(pair, table, *, gain):
        assert isinstance(pair, Pair)
        return pair.left * pair.right + table["bias"] * gain

    report = gv.check(f, Pair(wide(3), wide(3)), {"bias": wide(3)}, kwargs={"gain": wide(3)})
    assert report.verdict is PASS
    assert paths(report) == ["pair[0]", "pair[1]", "table.bias", "gain"]


def test_whole_number_tensors_are_not_differentiated():
    report = gv.check(lambda table, index: table[index], wide(5, 2), torch.tensor([0, 3, 3]))
    assert paths(report) == ["table"]
    assert report.verdict is PASS


def test_functions_that_work_in_place_are_judged_right_and_do_no_harm():
    x = wide(4)
    before = x.clone()

    def f(x):
        x.mul_(2)
        return x.sin_()

    assert gv.check(f, x).verdict is PASS
    assert torch.equal(x, before)


def test_several_outputs_are_all_looked_at():
    class Half(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin(), x.cos()

        @staticmethod
        def backward(ctx, dsin, dcos):
            (x,) = ctx.saved_tensors
            return dsin * x.cos()

    assert gv.check(lambda x: (x.sin(), {"deep": x.cos()}), wide(4)).verdict is PASS
    assert gv.check(Half.apply, wide(4)).verdict is FAIL


def test_inputs_that_need_no_gradient_or_are_not_leaves_are_checked_as_well():
    leaf = wide(3).requires_grad_()
    report = gv.check(lambda a, b, c: a * b * c, leaf, leaf * 2, wide(3))
    assert report.verdict is PASS
    assert paths(report) == ["a", "b", "c"]
    assert leaf.grad is None


# ---- modules -------------------------------------------------------------------------------------------------------


def network():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def test_a_module_with_a_loss():
    target = torch.tensor([0, 2, 1, 1, 0])
    report = gv.check(network(), wide(5, 4), loss=lambda out: nn.functional.cross_entropy(out, target))
    assert report.verdict is PASS
    assert report.settings["objective"] == "loss"
    assert roles(report) == {
        **dict.fromkeys(["0.weight", "0.bias", "2.weight", "2.bias"], "parameter"),
        "input": "input",
    }


def test_a_module_without_a_loss_gets_a_random_cotangent_and_says_so():
    report = gv.check(network(), wide(5, 4))
    assert report.verdict is PASS
    assert report.settings["objective"] == "random"


class WithLoss(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.head = nn.Linear(4, 3).double()
        self.wrap = wrap

    def forward(self, x):
        logits = self.head(x)
        return self.wrap(logits.square().mean(), logits)


@dataclasses.dataclass
class Output:
    loss: torch.Tensor
    logits: torch.Tensor


class Mapped(collections.OrderedDict):
    """Like a ModelOutput: a mapping with attributes."""

    __getattr__ = dict.__getitem__


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(Output, id="dataclass"),
        pytest.param(lambda loss, logits: {"loss": loss, "logits": logits}, id="dict"),
        pytest.param(lambda loss, logits: Mapped(loss=loss, logits=logits), id="model output"),
        pytest.param(lambda loss, logits: Output(loss[None], logits), id="one entry"),
    ],
)
def test_the_outputs_own_scalar_loss_is_used_and_said(wrap):
    report = gv.check(WithLoss(wrap), wide(5, 4))
    assert report.verdict is PASS
    assert report.settings["objective"] == "output-loss"


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda loss, logits: {"logits": logits}, id="no loss"),
        pytest.param(lambda loss, logits: Output(None, logits), id="loss is None"),
        pytest.param(lambda loss, logits: {"loss": logits, "more": [loss]}, id="loss of many entries"),
        pytest.param(lambda loss, logits: (logits, torch.tensor([1, 2])), id="tuple"),
    ],
)
def test_an_output_without_a_scalar_loss_gets_a_random_cotangent(wrap):
    report = gv.check(WithLoss(wrap), wide(5, 4))
    assert report.verdict is PASS
    assert report.settings["objective"] == "random"


def test_a_given_loss_goes_before_the_outputs_own():
    report = gv.check(WithLoss(Output), wide(5, 4), loss=lambda out: out.logits.sum())
    assert report.settings["objective"] == "loss"
    assert report.verdict is PASS


def test_frozen_parameters_are_left_out():
    model = network()
    model[0].requires_grad_(requires_grad=False)
    assert paths(gv.check(model, wide(5, 4))) == ["2.weight", "2.bias", "input"]


def test_tied_weights_are_one_tensor_and_right():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(6, 4)
            self.head = nn.Linear(4, 6, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            return self.head(torch.tanh(self.embed(tokens)))

    report = gv.check(Tied().double(), torch.tensor([[1, 2, 5], [0, 0, 3]]))
    assert report.verdict is PASS
    assert paths(report) == ["embed.weight"]


def test_the_models_keywords_go_in_kwargs():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(wide(3))

        def forward(self, x, *, gate, double=False):
            return x * self.weight * gate * (2 if double else 1)

    report = gv.check(Gated(), wide(2, 3), kwargs={"gate": wide(2, 3), "double": True})
    assert report.verdict is PASS
    assert paths(report) == ["weight", "x", "gate"]


@pytest.mark.parametrize(
    ("wrt", "expected"),
    [
        ("0.*", ["0.weight", "0.bias"]),
        ("*.bias", ["0.bias", "2.bias"]),
        (["2.weight", "input"], ["2.weight", "input"]),
    ],
)
def test_wrt_chooses_tensors_by_name_or_pattern(wrt, expected):
    assert paths(gv.check(network(), wide(5, 4), wrt=wrt)) == expected


def test_wrt_leaves_out_what_is_wrong_elsewhere():
    assert gv.check(Scale.apply, wide(5, 3), wide(3), 0.5, wrt="x").verdict is PASS


def test_a_case_is_checked_as_its_parts_are():
    model, x = network(), wide(5, 4)
    loss = lambda out: out.square().mean()  # noqa: E731 - the loss that a user would write
    by_case = gv.check(gv.Case(model, (x,), loss=loss, name="mine"))
    assert by_case.subject == "mine"
    assert by_case.tables == gv.check(model, x, loss=loss).tables
    assert gv.check(gv.Case(model, (x,)), loss=loss).tables == by_case.tables


def test_methods_partials_and_compiled_signatures_are_callables_too():
    model, x = network(), wide(5, 4)
    assert gv.check(model.forward, x).verdict is PASS
    assert gv.check(functools.partial(torch.mul, wide(5, 4)), x).verdict is PASS
    assert gv.check(torch.sin, x).verdict is PASS


@pytest.mark.parametrize("seed", [0, 5])
def test_same_seed_same_report(seed):
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3)).double()
    x = wide(5, 4)
    torch.manual_seed(11)

    def run():
        torch.manual_seed(11)  # dropout's mask belongs to the model's own randomness
        data = json.loads(gv.check(model, x, seed=seed).to_json())
        data["cost"].pop("seconds")
        return data

    assert run() == run()


def test_dropout_may_stay_on():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double().train()
    report = gv.check(model, wide(5, 4))
    assert report.verdict is PASS
    assert not report.findings


def test_float32_modules_are_checked_in_their_own_precision():
    model = network().float()
    report = gv.check(model, torch.randn(5, 4))
    assert report.verdict is PASS
    assert set(report.table("tensors").column("dtype")) == {"float32"}
    assert report.settings["sensitivity"] == 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tells_a_missing_factor_and_does_not_cry_wolf(dtype):
    x, w = torch.randn(5, 3, dtype=dtype), torch.randn(3, dtype=dtype)
    assert gv.check(Scale.apply, x, w).verdict in {PASS, Verdict.INCONCLUSIVE}
    report = gv.check(Scale.apply, x, w, 0.5)
    assert report.verdict is FAIL
    assert {finding.site.path for finding in report.findings if finding.code == "G101"} == {"w"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("outside", [torch.float32, torch.float64])
def test_a_function_that_computes_in_half_precision_inside_is_not_called_wrong(dtype, outside):
    for seed in range(4):
        x = torch.from_numpy(np.random.default_rng(seed).normal(size=7)).to(outside)
        report = gv.check(lambda x: torch.sin(x.to(dtype)).to(x.dtype), x, seed=seed)
        assert report.verdict is not FAIL, str(report)


def test_autocast_in_force_at_the_call_holds_during_the_check():
    seen = set()

    class Watch(nn.Linear):
        def forward(self, x):
            seen.add((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
            return super().forward(x)

    model, x = Watch(4, 3), torch.randn(5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = gv.check(model, x, loss=lambda out: out.float().square().mean())
    assert seen == {(True, torch.bfloat16)}
    assert report.verdict is not FAIL


def test_no_grad_around_the_call_does_not_matter():
    with torch.no_grad():
        assert gv.check(network(), wide(5, 4)).verdict is PASS


def test_a_default_dtype_of_float64_does_not_matter():
    torch.set_default_dtype(torch.float64)
    try:
        assert gv.check(nn.LSTMCell(3, 4), torch.randn(2, 3)).verdict is PASS
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(torch.arange(12.0, dtype=torch.float64).reshape(3, 4).T, id="transposed"),
        pytest.param(torch.arange(24.0, dtype=torch.float64).reshape(4, 6)[:, ::2], id="strided"),
        pytest.param(torch.arange(3.0, dtype=torch.float64).expand(4, 3), id="expanded"),
        pytest.param(torch.tensor(0.7, dtype=torch.float64), id="scalar"),
    ],
)
def test_inputs_of_every_layout_are_checked(x):
    report = gv.check(lambda x: torch.sin(x / 3), x)
    assert report.verdict is PASS
    assert report.table("tensors").column("shape") == (tuple(x.shape),)


@pytest.mark.parametrize("path", ["0.weight", "0.bias", "2.weight", "2.bias", "input"])
def test_entries_agree_with_autograd(path):
    model, x = network(), wide(5, 4)
    report = gv.check(model, x, loss=lambda out: out.square().mean(), wrt=path)
    x.requires_grad_()
    tensors = {**dict(model.named_parameters()), "input": x}
    (truth,) = torch.autograd.grad(model(x).square().mean(), [tensors[path]])
    entries = list(report.table("entries").records())
    assert entries
    for entry in entries:
        exact = float(truth[entry["index"]])
        assert entry["analytic"] == pytest.approx(exact, rel=1e-12)
        assert abs(entry["numeric"] - exact) <= 5 * entry["error"] + 1e-13


def test_a_hook_on_a_parameter_is_part_of_its_backward_pass():
    model, x = nn.Linear(4, 3), torch.randn(5, 4)
    model.weight.register_hook(lambda gradient: 1.01 * gradient)
    report = gv.check(model, x)
    assert report.verdict is FAIL
    assert [finding.site.path for finding in report.findings] == ["weight"]
