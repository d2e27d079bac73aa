"""What holds of every backward pass, whatever the function: mistakes that one contiguous cotangent never shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import gradvitals as gv
from gradvitals import Severity, Verdict
from gradvitals.vocabulary.words import LANGUAGES, describe
from oracles import wrong_structures
from oracles.wrong_structures import WRONG, KeptInClass, product, sound, with_forward_mode

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
#: Evaluations of a small operation that passes, those inside backward passes among them.
MOST_POINTS = 60


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)


def of(report, code):
    return [finding for finding in report.findings if finding.code == code]


def the(report, code):
    (found,) = of(report, code)
    return found


def statuses(report):
    return {row["path"]: (row["status"], row["likely"]) for row in report.table("tensors").records()}


# ---- sound ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sound_backward_pass_has_no_finding_and_costs_little(pair, dtype):
    report = gv.check(sound, *(x.to(dtype) for x in pair))
    assert report.verdict is Verdict.PASS
    assert report.findings == ()
    assert report.cost["cotangents"] > 0
    if dtype != torch.bfloat16:
        assert report.cost["forwards"] + report.cost["backwards"] <= MOST_POINTS


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)), (2, 2, 8, 8)),
        (nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Dropout(0.5), nn.Softmax(-1)), (3, 4)),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 3, 8)),
    ],
    ids=["convolution", "normalised", "attention"],
)
@pytest.mark.parametrize("loss", [None, lambda y: y.square().sum()], ids=["random", "loss"])
def test_sound_modules_have_no_structural_finding(module, shape, loss):
    torch.manual_seed(0)
    report = gv.check(module, torch.randn(*shape), loss=loss)
    assert report.cost["cotangents"] > 0
    assert [f for f in report.findings if f.code in {"G105", "G110"} or f.severity is Severity.ERROR] == []


def test_an_imprecise_backward_pass_is_not_called_nonlinear():
    torch.manual_seed(0)
    x = torch.randn(5, 4).bfloat16()
    report = gv.check(lambda x: torch.logcumsumexp(x, 0), x)
    assert [f.evidence["likely"] for f in of(report, "G101") if f.evidence["likely"] == "not-linear"] == []


def test_a_backward_pass_that_allows_no_second_one_is_examined_by_more_forward_passes(pair):
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.kept = [(x, w)]
            return x * w

        @staticmethod
        def backward(ctx, cotangent):
            x, w = ctx.kept.pop()
            return cotangent * w, cotangent * x

    class OnceIgnoring(Once):
        @staticmethod
        def backward(ctx, cotangent):
            x, w = ctx.kept.pop()
            return torch.ones_like(cotangent) * w, cotangent * x

    assert gv.check(Once.apply, *pair).verdict is Verdict.PASS
    assert the(gv.check(OnceIgnoring.apply, *pair), "G101").evidence["likely"] == "ignores-cotangent"


# ---- wrong ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(WRONG))
def test_each_broken_rule_is_one_finding_with_its_name_and_tensors(pair, name, dtype):
    likely, tensors, backward = WRONG[name]
    report = gv.check(product(backward), *(x.to(dtype) for x in pair))
    assert report.verdict is Verdict.FAIL
    finding = the(report, "G101")
    assert (finding.evidence["likely"], finding.evidence["tensors"]) == (likely, tensors)
    assert statuses(report) == {x: ("wrong", likely) if x in tensors else ("right", None) for x in ("x", "w")}


@pytest.mark.parametrize("name", list(WRONG))
def test_a_broken_rule_is_told_in_every_language(pair, name):
    finding = the(gv.check(product(WRONG[name][2]), *pair), "G101")
    for lang in LANGUAGES:
        words = describe(finding, lang)
        assert "–" not in words.text
        assert "–" not in words.remedy


def test_the_stated_difference_is_the_one_that_autograd_gives(pair):
    doubled = product(WRONG["expanded cotangent counted twice"][2])
    x, w = (tensor.clone().requires_grad_() for tensor in pair)
    (right,) = torch.autograd.grad(doubled(x, w), w, torch.ones(3, 4, dtype=x.dtype))
    (off,) = torch.autograd.grad(doubled(x, w), w, torch.ones((), dtype=x.dtype).expand(3, 4))
    finding = the(gv.check(doubled, *pair), "G101")
    assert finding.evidence["relative_error"] == pytest.approx(float((off - right).norm() / right.norm()))
    assert finding.evidence["layouts"] == ("expanded", "expanded-rows")


@pytest.mark.parametrize("name", ["ones in place of the cotangent", "constant added"])
def test_a_gradient_that_is_right_only_for_the_cotangent_of_a_loss_is_found(pair, name):
    """The loss is the function itself, so that 1 comes in from above: slopes see nothing."""

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.square().sum()

        @staticmethod
        def backward(ctx, cotangent):
            (x,) = ctx.saved_tensors
            return 2 * x if name.startswith("ones") else cotangent * (2 * x + 1) - 1

    report = gv.check(Loss.apply, pair[0])
    likely = the(report, "G101").evidence["likely"]
    assert likely == ("ignores-cotangent" if name.startswith("ones") else "nonzero-at-zero")


def test_what_is_kept_in_the_class_is_found_by_a_call_in_between(pair):
    x, w = (tensor.clone().requires_grad_() for tensor in pair)
    first = KeptInClass.apply(x, w)
    KeptInClass.apply(x + 1, w)
    assert not torch.allclose(torch.autograd.grad(first.sum(), w)[0], x)  # it is a mistake indeed
    finding = the(gv.check(KeptInClass.apply, *pair), "G101")
    assert (finding.evidence["likely"], finding.evidence["tensors"]) == ("call-between", ("x", "w"))


def test_forward_mode_is_held_against_reverse_mode(pair):
    assert gv.check(with_forward_mode(1), *pair).verdict is Verdict.PASS
    finding = the(gv.check(with_forward_mode(2), *pair), "G101")
    assert (finding.evidence["likely"], finding.evidence["tensors"]) == ("forward-reverse-differ", ("w",))


def test_several_outputs_are_sent_cotangents_of_every_layout(pair):
    def both(x, w):
        return sound(x, w), product(WRONG["taken for contiguous"][2])(x, w)

    assert the(gv.check(both, *pair), "G101").evidence["likely"] == "cotangent-strides"


def test_images_arrive_with_channels_last(pair):
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(_ctx, x):
            return 2 * x

        @staticmethod
        def backward(_ctx, cotangent):
            if cotangent.is_contiguous(memory_format=torch.channels_last) and not cotangent.is_contiguous():
                return 3 * cotangent
            return 2 * cotangent

    finding = the(gv.check(Doubled.apply, torch.randn(2, 3, 4, 5)), "G101")
    assert (finding.evidence["likely"], finding.evidence["layouts"]) == ("cotangent-strides", ("channels-last",))


# ---- fragile --------------------------------------------------------------------------------------------------------


def test_writing_into_the_cotangent_is_found_for_it_spoils_what_stands_beside(pair):
    def in_place(_ctx, g, x, w):
        dw = g * x
        return g.mul_(w), dw

    spoilt = product(in_place)
    x, w, skipped = (tensor.clone().requires_grad_() for tensor in (*pair, pair[0]))
    beside = torch.autograd.grad(spoilt(x, w) + skipped, (x, skipped), torch.ones_like(x))[1]
    assert not torch.equal(beside, torch.ones_like(beside))  # it does spoil another branch's gradient
    report = gv.check(spoilt, *pair)
    finding = the(report, "G110")
    assert (finding.evidence["likely"], finding.severity) == ("modifies-cotangent", Severity.ERROR)
    assert {status for status, _ in statuses(report).values()} == {"right"}


def test_a_view_of_the_cotangent_raises_where_it_is_not_contiguous(pair):
    finding = the(gv.check(product(lambda _, g, x, w: (g.view(-1).view(3, 4) * w, g * x)), *pair), "G110")
    assert finding.evidence["likely"] == "raises-on-strides"
    assert str(finding.evidence["raised"]).startswith("RuntimeError: view size is not compatible")
    assert "view size is not compatible" in describe(finding).text


def test_a_view_of_a_saved_input_is_a_warning(pair):
    finding = the(gv.check(product(lambda _, g, x, w: (g * w.view(-1).view(3, 4), g * x)), *pair), "G110")
    assert (finding.evidence["likely"], finding.severity) == ("raises-on-strided-inputs", Severity.WARNING)


def test_saved_tensors_that_are_written_spoil_a_second_backward_pass(pair):
    def writes(_ctx, g, x, w):
        dx = g * w
        w.data.mul_(2)
        return dx, g * x

    x, w = pair
    report = gv.check(lambda x: product(writes)(x, w.clone()), x)
    finding = the(report, "G110")
    assert (finding.evidence["likely"], finding.severity) == ("second-pass", Severity.WARNING)


def test_a_function_that_reads_memory_as_it_lies_is_a_warning(pair):
    report = gv.check(lambda x: torch.as_strided(x, (3, 2), (2, 1)), pair[0])
    assert report.verdict is Verdict.WARN
    assert the(report, "G110").evidence["likely"] == "value-strides"


# ---- repeatability --------------------------------------------------------------------------------------------------


def alternating(share):
    """Every second gradient of x is larger by a share."""
    calls = []

    def backward(_ctx, g, x, w):
        calls.append(1)
        return g * w * (1 + share * (len(calls) % 2)), g * x

    return product(backward)


def test_a_gradient_that_does_not_repeat_itself_is_unresolved_above_the_sensitivity(pair):
    finding = the(gv.check(alternating(0.1), *pair), "G105")
    assert (finding.severity, finding.evidence["likely"]) == (Severity.UNRESOLVED, "gradient")
    assert finding.evidence["spread"] == pytest.approx(0.1, rel=0.1)


def test_a_gradient_that_repeats_itself_within_rounding_is_a_note(pair):
    report = gv.check(alternating(1e-12), *pair)
    assert report.verdict is Verdict.PASS
    assert the(report, "G105").severity is Severity.INFO


# ---- NumPy and JAX --------------------------------------------------------------------------------------------------


def rectified(x, w):
    return np.maximum(x @ w, 0), (x, w, x @ w > 0)


def backward_with(treat):
    def backward(dout, cache):
        x, w, positive = cache
        dz = treat(dout, positive)
        return dz @ w.T, x.T @ dz

    return backward


@pytest.mark.parametrize(
    ("treat", "likely"),
    [
        (lambda dout, positive: np.ones_like(dout) * positive, "ignores-cotangent"),
        (lambda dout, positive: np.abs(dout) * positive, "not-linear"),
        (lambda dout, positive: dout.ravel(order="K").reshape(dout.shape) * positive, "cotangent-strides"),
        (lambda dout, positive: dout * positive * (2 if 0 in dout.strides else 1), "cotangent-expanded"),
    ],
)
def test_a_numpy_layer_is_sent_strided_and_broadcast_arrays(treat, likely):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(4, 3)), rng.normal(size=(3, 5))
    assert the(gv.check(rectified, x, w, vjp=backward_with(treat)), "G101").evidence["likely"] == likely
    assert gv.check(rectified, x, w, vjp=backward_with(np.multiply)).findings == ()


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_expanded_cotangent_counted_twice_is_found_where_the_first_output_lies_on_a_kink(dtype):
    class Positive(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.relu()

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            return (2 if 0 in gradient.stride() else 1) * gradient * (x > 0)

    x = torch.tensor([0.0, 0.5, 0.9, -1.5, 2.0], dtype=dtype, requires_grad=True)
    report = gv.check(Positive.apply, x, precision="native")
    assert the(report, "G106")
    assert the(report, "G101").evidence["likely"] == "cotangent-expanded"


def test_a_numpy_layer_that_writes_into_its_cotangent_is_a_note_for_nobody_else_has_it():
    def in_place(dout, positive):
        dout[~positive] = 0
        return dout

    rng = np.random.default_rng(0)
    report = gv.check(rectified, rng.normal(size=(4, 3)), rng.normal(size=(3, 5)), vjp=backward_with(in_place))
    assert report.verdict is Verdict.PASS
    assert the(report, "G110").evidence["likely"] == "modifies-cotangent"


def test_a_jax_rule_that_ignores_its_cotangent_is_found_though_the_loss_sends_one():
    jax = pytest.importorskip("jax")

    @jax.custom_vjp
    def energy(x):
        return (x**2).sum()

    energy.defvjp(lambda x: (energy(x), x), lambda x, _: (2 * x,))
    report = gv.check(energy, jax.numpy.linspace(1.0, 2.0, 4))
    assert the(report, "G101").evidence["likely"] == "ignores-cotangent"


# ---- nothing remains ------------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    def __init__(self, backward):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(1, 2, 4))
        self.apply_function = product(backward)

    def forward(self, x):
        return self.apply_function(x, self.weight.expand_as(x))


def test_an_interrupt_inside_the_examination_leaves_everything_as_it_was():
    def interrupts(_ctx, g, x, w):
        if not g.any():
            raise KeyboardInterrupt
        return g * w, g * x

    model = Scaled(interrupts)
    model.weight.grad = torch.full((4,), 7.0)
    before, state = model.weight.detach().clone(), torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        gv.check(model, torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(model.weight, before)
    assert torch.equal(model.weight.grad, torch.full((4,), 7.0))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_a_spent_budget_leaves_the_structure_out(pair):
    assert gv.check(sound, *pair, budget=12).cost["cotangents"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_operators_of_pytorch_have_no_structural_finding(dtype):
    from gradvitals.frameworks import as_case, opened
    from gradvitals.gradients.measure_structure import examine_structure
    from oracles import operators

    found = []
    for name, info in list(operators.operators(dtype).items())[:60]:
        for case in operators.cases(name, info, dtype):
            if isinstance(case, operators.Unusable):
                continue
            with opened(as_case("check", case.function, case.inputs)) as problem:
                value, rng = problem.value({}), np.random.default_rng(0)
                w = problem.representable(rng.choice((-1.0, 1.0), value.size) * rng.uniform(0.5, 1, value.size))
                structure = examine_structure(problem, w, problem.gradient(w), rng, value=value)
            found += [(name, fault) for fault in structure.faults if fault.kind != "value-strides"]
    assert found == []


def test_the_contiguous_reading_of_the_oracle_differs_where_it_should():
    tensor = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(wrong_structures.as_contiguous(tensor), tensor)
    assert not torch.equal(wrong_structures.as_contiguous(tensor.T), tensor.T)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: torch.nn.functional.dropout(x, 0.3), id="dropout"),
        pytest.param(lambda x: x + torch.randn_like(x) * x, id="noise"),
    ],
)
def test_random_numbers_that_are_dealt_out_in_the_order_of_memory_are_no_fault(function):
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    report = gv.check(function, x)
    assert report.verdict is Verdict.PASS, str(report)
    assert not [finding for finding in report.findings if finding.code == "G110"]


# ---- one of several outputs -----------------------------------------------------------------------------------------


def split_product(backward):
    """``(x * w, x + w)`` with a backward pass ``(of_product, of_sum, x, w) -> (dx, dw)``; None where none comes."""

    class Split(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(x, w)
            return x * w, x + w

        @staticmethod
        def backward(ctx, of_product, of_sum):
            return backward(of_product, of_sum, *ctx.saved_tensors)

    return Split.apply


def _each_as_it_comes(g, h, x, w):
    g, h = (torch.zeros_like(x) if part is None else part for part in (g, h))
    return g * w + h, g * x + h


def _each_by_itself(g, h, x, w):
    return (g * w, g * x) if h is None else (h, h) if g is None else (g * w + h, g * x + h)


def _wrong_without_the_sum(g, h, x, w):
    return (g * x, g * w) if h is None else _each_as_it_comes(g, h, x, w)


@pytest.mark.parametrize("backward", [_each_as_it_comes, _each_by_itself])
def test_outputs_that_are_used_alone_are_no_finding_where_each_is_treated_as_it_comes(pair, backward):
    report = gv.check(split_product(backward), *pair)
    assert report.verdict is Verdict.PASS, str(report)


def test_a_gradient_that_is_wrong_where_only_one_output_is_used_is_reported(pair):
    report = gv.check(split_product(_wrong_without_the_sum), *pair)
    found = the(report, "G101")
    assert (found.evidence["likely"], found.evidence["tensors"]) == ("output-alone", ("x", "w"))
    assert statuses(report) == {"x": ("wrong", "output-alone"), "w": ("wrong", "output-alone")}


def test_a_backward_pass_that_raises_where_only_one_output_is_used_is_fragile(pair):
    report = gv.check(split_product(lambda g, h, x, w: (g * w + h, g * x + h)), *pair)
    found = the(report, "G110")
    assert found.evidence["likely"] == "raises-on-one-output"
    assert "NoneType" in found.evidence["raised"]


def test_outputs_of_an_operator_that_needs_all_of_them_are_told():
    torch.manual_seed(0)
    x, w, b = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, 4, 3), (4,), (4,)))
    report = gv.check(lambda x, w, b: torch.native_group_norm(x, w, b, 2, 4, 3, 2, 1e-5), x, w, b)
    assert report.verdict is not Verdict.PASS
