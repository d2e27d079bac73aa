"""Whole models as people have them: nothing sound is refused, nothing wrong passes."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradvitals as gv
from gradvitals import Verdict
from gradvitals.vocabulary.errors import InputError, UsageError

# Dynamo asks tensors for their gradients, and hides the warning from those who only print warnings.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class Tripled(torch.autograd.Function):
    """Its backward pass is wrong by a factor of three."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, dout):
        return 3 * dout


def paths(report):
    return [row[0] for row in report.table("tensors").rows]


def mlp(*middle):
    return nn.Sequential(nn.Linear(4, 6), *middle, nn.Linear(6, 3))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(torch.tanh(self.embedding(ids)))


class Checkpointed(nn.Module):
    def __init__(self, *, use_reentrant):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), mlp(nn.Tanh())[2]
        self.use_reentrant = use_reentrant

    def forward(self, x):
        hidden = checkpoint(lambda h: torch.tanh(self.first(h)), x, use_reentrant=self.use_reentrant)
        return self.second(hidden)


class WithGenerator(nn.Module):
    """Draws its noise from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.generator = torch.Generator().manual_seed(5)

    def forward(self, x):
        return self.linear(x) * torch.rand(3, generator=self.generator)


class Recurrent(nn.Module):
    """Keeps its hidden state from call to call."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.hidden = None

    def forward(self, x):
        hidden = torch.tanh(self.linear(x) + (0 if self.hidden is None else self.hidden))
        self.hidden = hidden.detach()
        return hidden


class Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args):
        return self.module(*args)


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        x += 1
        return self.linear(x.mul_(0.5)).relu_()


def hooked():
    model = mlp(nn.Tanh())
    model[0].register_forward_hook(lambda module, args, out: out * 2)
    model[2].register_forward_pre_hook(lambda module, args: (args[0] - 1,))
    return model


def float_inputs():
    return (torch.randn(5, 4),)


def sequence():
    return (torch.randn(2, 3, 4),)


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)


SOUND = {
    "tied weights": (Tied, lambda: (torch.tensor([[1, 2], [3, 3]]),)),
    "batch norm and dropout": (lambda: mlp(nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Tanh()), float_inputs),
    "dropout in place": (lambda: mlp(nn.Dropout(0.3, inplace=True)), float_inputs),
    "attention with dropout": (SelfAttention, sequence),
    "transformer layer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), sequence),
    "LSTM": (lambda: nn.LSTM(4, 3, num_layers=2, dropout=0.2, batch_first=True), sequence),
    "GRU": (lambda: nn.GRU(4, 3, bidirectional=True), sequence),
    "checkpoint": (lambda: Checkpointed(use_reentrant=False), float_inputs),
    "in-place on its input": (InPlace, float_inputs),
    "hooks": (hooked, float_inputs),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), float_inputs),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)), float_inputs),
    "data parallel": (lambda: nn.DataParallel(mlp(nn.Tanh())), float_inputs),
    "wrapper": (lambda: Wrapper(mlp(nn.Tanh())), float_inputs),
    "generator of its own": (WithGenerator, float_inputs),
    "hidden state kept": (Recurrent, float_inputs),
    "lazy, once seen": (lambda: seen(nn.LazyLinear(3)), float_inputs),
    "compiled module": (lambda: torch.compile(mlp(nn.Tanh()), backend="eager"), float_inputs),
    "compiled by aot": (lambda: torch.compile(mlp(nn.Tanh()), backend="aot_eager"), float_inputs),
    "compiled inside": (lambda: mlp(torch.compile(nn.Linear(6, 6), backend="eager")), float_inputs),
    "scripted": (lambda: scripted(mlp(nn.Tanh())), float_inputs),
}


def seen(module):
    module(*float_inputs())
    return module


def scripted(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(module)


@pytest.mark.parametrize("name", list(SOUND))
def test_sound_models_in_float32_pass(name):
    make, inputs = SOUND[name]
    model = make().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = gv.check(model, *inputs())
    assert report.verdict is Verdict.PASS, str(report)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Tied, ["embedding.weight"]),
        (lambda: torch.compile(nn.Sequential(nn.Linear(4, 3)), backend="eager"), ["0.weight", "0.bias"]),
        (
            lambda: mlp(torch.compile(nn.Linear(6, 6), backend="eager")),
            ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"],
        ),
        (lambda: nn.Sequential(nn.Linear(4, 3).requires_grad_(False), nn.Linear(3, 2)), ["1.weight", "1.bias"]),  # noqa: FBT003
    ],
    ids=["tied once", "compiled", "compiled inside", "frozen left out"],
)
def test_parameters_have_the_names_that_the_user_gave_them(model, expected):
    model = model()
    inputs = torch.tensor([[1, 2], [3, 3]]) if isinstance(model, Tied) else torch.randn(5, 4)
    assert [path for path in paths(gv.check(model, inputs)) if path not in {"input", "args[0]"}] == expected


@pytest.mark.parametrize("name", ["compiled", "checkpointed", "in a function"])
def test_a_wrong_backward_is_found_wherever_it_hides(name):
    class Wrong(nn.Module):
        def forward(self, x):
            return Tripled.apply(x)

    model = mlp(nn.Tanh(), Wrong())
    if name == "compiled":
        report = gv.check(torch.compile(model, backend="eager"), torch.randn(5, 4))
    elif name == "checkpointed":
        report = gv.check(lambda x: checkpoint(model, x, use_reentrant=True), torch.randn(5, 4))
    else:
        report = gv.check(lambda x: 2 * model(x), torch.randn(5, 4), wrt=model)
    assert report.verdict is Verdict.FAIL
    assert report.findings[0].code == "G101"


def test_a_compiled_function_passes():
    report = gv.check(torch.compile(lambda x: torch.tanh(x) * x, backend="aot_eager"), torch.randn(6))
    assert report.verdict is Verdict.PASS
    assert paths(report) == ["x"]


def test_a_method_of_a_module_is_checked_with_its_parameters():
    class Coder(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def encode(self, x):
            return torch.tanh(self.inner(x))

    assert paths(gv.check(Coder().encode, torch.randn(5, 4))) == ["inner.weight", "inner.bias", "x"]


# What is differentiated of the output


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    states: Any = None
    count: Any = None


class Pair(NamedTuple):
    mean: torch.Tensor
    spread: torch.Tensor


OUTPUTS = {
    "dict": lambda x: {"logits": x * 2, "states": [torch.sin(x), x.argmax()], "count": None},
    "dataclass": lambda x: Output(x * 2, (torch.sin(x), None), 3),
    "named tuple": lambda x: Pair(x * 2, torch.sin(x)),
    "nested lists": lambda x: [x * 2, [torch.sin(x), [x.sum(), None]]],
    "integers beside": lambda x: (x * 2, x.argmax(), "word", None),
}


@pytest.mark.parametrize("name", list(OUTPUTS))
def test_nested_outputs_are_differentiated_whatever_lies_beside(name):
    assert gv.check(OUTPUTS[name], torch.randn(5)).verdict is Verdict.PASS


def half_wrong(x):
    return {"logits": x * 2, "states": [torch.sin(x), Tripled.apply(x)], "loss": x.sum()}


@pytest.mark.parametrize(
    ("outputs", "verdict"),
    [
        ("logits", Verdict.PASS),
        ("states[0]", Verdict.PASS),
        ("states[1]", Verdict.FAIL),
        ("states", Verdict.FAIL),
        ("*s[0]", Verdict.PASS),
        (["logits", "states[0]"], Verdict.PASS),
        (0, Verdict.PASS),
        (1, Verdict.FAIL),
        (-1, Verdict.PASS),
        ("loss", Verdict.PASS),
        (None, Verdict.PASS),  # the output's own loss
    ],
)
def test_outputs_chooses_what_is_differentiated(outputs, verdict):
    assert gv.check(half_wrong, torch.randn(5), outputs=outputs).verdict is verdict


def test_a_scalar_that_is_chosen_is_the_objective():
    report = gv.check(half_wrong, torch.randn(5), outputs="loss")
    assert report.settings["objective"] == "output-loss"


def test_an_output_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(UsageError) as caught:
        gv.check(half_wrong, torch.randn(5), outputs="logit")
    assert "logits, states[0], states[1], loss" in str(caught.value)
    with pytest.raises(UsageError, match="no output is called 7"):
        gv.check(half_wrong, torch.randn(5), outputs=7)


def test_outputs_and_a_loss_contradict_each_other():
    with pytest.raises(UsageError, match="both say what is differentiated"):
        gv.check(half_wrong, torch.randn(5), outputs="logits", loss=lambda out: out["loss"])


def test_outputs_that_no_gradient_comes_back_from_are_left_out_and_named():
    def normalised(x):
        mean = x.detach().mean()
        return torch.tanh(x), mean

    report = gv.check(normalised, torch.randn(5))
    assert report.verdict is Verdict.PASS
    assert report.settings["left_out"] == ("output[1]",)


def test_an_output_asked_for_is_not_left_out():
    def cut(x):
        return x * 2, torch.sin(x.detach())

    assert gv.check(cut, torch.randn(5), outputs=1).findings[0].code == "G102"


def test_optional_inputs_may_be_none_and_integers_are_left_alone():
    def attend(x, mask=None, heads=2):
        return x * heads if mask is None else x * mask

    report = gv.check(attend, torch.randn(5), None, 3, wrt="x")
    assert report.verdict is Verdict.PASS


# Several modules


@pytest.fixture
def gan():
    """A generator and a critic, and a step that uses both."""
    G, D = nn.Sequential(nn.Linear(4, 3), nn.Tanh()), nn.Linear(3, 1)

    def step(x):
        return -nn.functional.logsigmoid(D(G(x))).mean()

    return G, D, step


def test_modules_that_a_function_uses_are_named_as_the_code_names_them(gan):
    G, D, step = gan
    report = gv.check(step, torch.randn(5, 4), wrt=[G, D])
    assert report.verdict is Verdict.PASS
    assert paths(report) == ["G.0.weight", "G.0.bias", "D.weight", "D.bias"]


@pytest.mark.parametrize("make", [dict, nn.ModuleDict], ids=["dict", "ModuleDict"])
def test_modules_have_the_names_that_a_mapping_gives_them(gan, make):
    G, D, step = gan
    report = gv.check(step, torch.randn(5, 4), wrt=make({"generator": G, "critic": D}))
    assert paths(report) == ["generator.0.weight", "generator.0.bias", "critic.weight", "critic.bias"]


def test_patterns_reach_into_modules_that_a_function_closes_over(gan):
    *_, step = gan
    assert paths(gv.check(step, torch.randn(5, 4), wrt=["G.*", "x"])) == ["x", "G.0.weight", "G.0.bias"]


def test_without_other_inputs_the_modules_behind_are_differentiated(gan):
    _, D, _ = gan
    labels = torch.tensor([0, 1])

    def loss():
        return nn.functional.cross_entropy(torch.cat([D(torch.eye(3)[:2]), D(torch.eye(3)[1:])], dim=1), labels)

    assert paths(gv.check(loss)) == ["D.weight", "D.bias"]


def test_a_part_of_a_model_can_be_chosen_by_itself():
    model = mlp(nn.Tanh())
    assert paths(gv.check(model, torch.randn(5, 4), wrt=model[2])) == ["2.weight", "2.bias"]
    assert paths(gv.check(model, torch.randn(5, 4), wrt=[model[0].bias, "2.bias"])) == ["0.bias", "2.bias"]


def test_modules_passed_as_arguments_can_be_named():
    def step(module, x):
        return module(x)

    model = nn.Linear(4, 2)
    assert paths(gv.check(step, model, torch.randn(5, 4), wrt={"student": model})) == ["student.weight", "student.bias"]


def test_a_wrong_gradient_in_one_of_two_modules_is_found_there(gan):
    G, D, _ = gan

    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.3))

        def forward(self, x):
            return Tripled.apply(self.scale * torch.ones(())) * x

    extra = Wrong()
    report = gv.check(lambda x: D(extra(G(x))).mean(), torch.randn(5, 4), wrt=[G, D, extra])
    assert report.verdict is Verdict.FAIL
    assert report.findings[0].evidence["tensors"] == ("extra.scale",)


def test_a_module_without_trainable_parameters_is_refused(gan):
    _, D, step = gan
    D.requires_grad_(requires_grad=False)
    with pytest.raises(UsageError, match="no parameter to differentiate"):
        gv.check(step, torch.randn(5, 4), wrt={"critic": D})


@pytest.mark.parametrize("wrt", [[3], {"a": object()}])
def test_what_is_no_tensor_cannot_be_differentiated(gan, wrt):
    *_, step = gan
    with pytest.raises(UsageError, match="no tensor"):
        gv.check(step, torch.randn(5, 4), wrt=wrt)


def test_modules_of_a_function_are_left_as_they_were(gan):
    G, D, step = gan
    D.weight.grad = torch.ones_like(D.weight)
    before = {name: value.clone() for module in (G, D) for name, value in module.state_dict().items()}
    grad = D.weight.grad
    gv.check(step, torch.randn(5, 4), wrt=[G, D])
    after = {name: value for module in (G, D) for name, value in module.state_dict().items()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert D.weight.grad is grad
    assert G[0].weight.grad is None


# Precision of the contexts in force


def test_a_model_under_autocast_is_judged_in_the_precision_of_autocast():
    model, x = mlp(nn.Tanh()), torch.randn(8, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = gv.check(model, x)
        assert torch.is_autocast_enabled("cpu")
    assert report.verdict in {Verdict.PASS, Verdict.INCONCLUSIVE}, str(report)
    assert "G101" not in [finding.code for finding in report.findings]
    assert report.settings["sensitivity"] == 0.1


def test_a_gross_mistake_under_autocast_is_found():
    model, x = mlp(nn.Tanh()), torch.randn(8, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = gv.check(lambda x: Tripled.apply(model(x)).float().square().mean(), x, wrt=model)
    assert report.verdict is Verdict.FAIL


def test_casts_kept_by_autocast_are_never_taken_from_another_point():
    model, x = nn.Linear(4, 3), torch.randn(5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = model(x)
        gv.check(model, x, wrt="weight")
        assert torch.equal(model(x), before)


def test_inputs_that_hold_nothing_to_differentiate_are_refused():
    with pytest.raises(InputError, match="no floating-point tensor"):
        gv.check(lambda ids: ids * 2, torch.tensor([1, 2]))


def test_numpy_still_goes_its_own_way_beside_modules_in_globals():
    report = gv.check(lambda x: float((x**2).sum()), np.arange(3.0), grad=lambda x: 2 * x)
    assert report.verdict is Verdict.PASS
