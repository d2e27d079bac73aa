"""A kernel beside its reference: errors, ratio, verdict, and what is said of mistakes."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import gradvitals as gv
from gradvitals import Severity, Verdict
from gradvitals.gradients.tally import Tally, spacing
from gradvitals.vocabulary.errors import InputError, ModelError, UsageError
from oracles.kernels import attention, causal_attention, flash, inputs

SHAPES = [(2, 48, 8)] * 3


def rows(report):
    return {row["path"]: row for row in report.table("tensors").records()}


def finding(report, code="G101"):
    return next(f for f in report.findings if f.code == code)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class TestNumbers:
    def test_the_truth_is_the_function_at_exactly_the_rounded_inputs(self):
        x = normal(7, dtype=torch.bfloat16)
        report = gv.check(torch.sin, x, reference=torch.sin)
        with mpmath.workdps(40):
            truth = [mpmath.sin(mpmath.mpf(float(value))) for value in x]
            off = [mpmath.mpf(float(mine)) - right for mine, right in zip(torch.sin(x), truth, strict=True)]
        # Trials take place nearby: one of them is at the inputs themselves, all are alike.
        once = float(mpmath.norm(off) / mpmath.norm(truth))
        assert rows(report)["output"]["relative_error"] == pytest.approx(once, rel=0.5)

    def test_the_spacing_is_that_of_the_dtype(self):
        for dtype, name in ((torch.float32, "float32"), (torch.float16, "float16"), (torch.bfloat16, "bfloat16")):
            x = torch.rand(50, generator=torch.Generator().manual_seed(0)).add(0.01).to(dtype)
            above = torch.nextafter(x, torch.full_like(x, math.inf)).double() - x.double()
            assert np.array_equal(spacing(x.double().numpy(), name), above.numpy()), name

    def test_the_condition_of_a_power_is_its_exponent(self):
        report = gv.check(lambda x: x**5, normal(200) + 5, reference=lambda x: x**5)
        assert rows(report)["output"]["conditioning"] == pytest.approx(5, rel=0.15)

    def test_the_ratio_is_that_of_rms_errors(self):
        rng = np.random.default_rng(0)
        tally = Tally((40, 30), "float32")
        truth = rng.standard_normal(1200)
        kernels, eagers = rng.standard_normal((2, 12, 1200)) * np.array([3e-5, 1e-5])[:, None, None]
        for kernel, eager in zip(kernels, eagers, strict=True):
            tally.add(truth + kernel, truth + eager, truth)
        slow = math.sqrt(np.sum(kernels**2) / np.sum(eagers**2))
        assert tally.ratio.value == pytest.approx(slow, rel=1e-6)
        assert tally.ratio.error == pytest.approx(
            3 / math.sqrt(12 * 1200), rel=0.6
        )  # of √(ΣK/ΣE), relative 1/√(2N) each

    def test_a_lucky_exact_reference_is_granted_a_few_roundings(self):
        tally = Tally((1,), "float32")
        for _ in range(8):
            tally.add(np.array([1 + 2.0**-23]), np.array([1.0]), np.array([1.0]))
        assert 0.5 < tally.ratio.value < 2

    def test_without_randomness_in_the_call_the_report_is_the_same_again(self):
        tensors = inputs(SHAPES, torch.bfloat16, 0)
        one, other = (gv.check(flash(), *tensors, reference=attention, seed=3) for _ in range(2))
        assert one.tables == other.tables


class TestMistakes:
    @pytest.mark.parametrize(
        ("mistake", "path", "likely"),
        [
            ("factor 1.01", "q", "factor-extra"),
            ("dk transposed", "k", "transposed"),
            ("tile skipped backwards", "k", "kernel-region"),
            ("one row", "v", "kernel-region"),
            ("one entry", "v", "kernel-region"),
            ("accumulated in bfloat16", "q", "low-precision"),
        ],
    )
    def test_a_wrong_gradient_is_named(self, mistake, path, likely):
        report = gv.check(flash(mistake), *inputs(SHAPES, torch.float32, 0), reference=attention)
        assert report.verdict is Verdict.FAIL
        assert rows(report)[path]["likely"] == likely
        found = next(f for f in report.findings if f.code == "G101" and path in f.evidence["tensors"])
        assert found.evidence["ratio"] > 100
        assert found.evidence["kernel_error"] > 100 * found.evidence["eager_error"]

    def test_only_the_gradients_that_are_wrong_are_called_so(self):
        report = gv.check(flash("factor 1.01"), *inputs(SHAPES, torch.float32, 0), reference=attention)
        assert {path: row["status"] for path, row in rows(report).items()} == {
            "output": "right", "q": "wrong", "k": "right", "v": "right",
        }  # fmt: skip

    def test_the_factor_and_the_region_are_given(self):
        report = gv.check(flash("factor 1.05"), *inputs(SHAPES, torch.bfloat16, 0), reference=attention)
        assert finding(report).evidence["factor"].value == pytest.approx(1 / 1.05, rel=2e-3)
        report = gv.check(flash("tile skipped backwards"), *inputs(SHAPES, torch.bfloat16, 0), reference=attention)
        regions = {f.evidence.get("kernel_region") for f in report.findings}
        assert "[:, 16:32, :]" in regions

    def test_a_wrong_value_is_a_finding_of_its_own(self):
        report = gv.check(flash("scale missing"), *inputs(SHAPES, torch.float32, 0), reference=attention)
        assert finding(report, "G109").evidence["tensors"] == ("output",)
        assert finding(report, "G101").evidence["value_wrong"] is True

    def test_a_mask_that_is_off_by_one_is_caught(self):
        kernel = flash("mask off by one", causal=True)
        report = gv.check(kernel, *inputs(SHAPES, torch.bfloat16, 0), reference=causal_attention)
        assert rows(report)["output"]["status"] == "wrong"

    def test_nan_where_the_reference_is_finite_is_counted(self):
        report = gv.check(flash("nan in one row"), *inputs(SHAPES, torch.float32, 0), reference=attention)
        found = finding(report, "G109")
        assert (found.evidence["likely"], found.evidence["count"], found.evidence["total"]) == (
            "kernel-not-finite", 16, 768,
        )  # fmt: skip
        assert found.site.index[:2] == (0, 47)

    def test_a_row_that_is_masked_entirely_may_be_whatever_the_kernel_likes(self):
        hidden = torch.zeros(6, 6, dtype=torch.bool)
        hidden[2] = True

        def reference(x):
            return torch.softmax(x.masked_fill(hidden, -math.inf), -1)

        report = gv.check(lambda x: torch.nan_to_num(reference(x)), normal(6, 6), reference=reference)
        assert rows(report)["output"]["status"] == "right"

    def test_arithmetic_in_bfloat16_inside_a_float32_kernel_is_precision(self):
        def kernel(a, b):
            return (a.bfloat16() @ b.bfloat16()).float()

        report = gv.check(kernel, normal(12, 64), normal(64, 9, seed=1), reference=torch.matmul)
        assert {row["likely"] for row in rows(report).values()} == {"low-precision"}
        assert abs(finding(report, "G109").evidence["bits"] - 9) <= 2

    def test_a_gradient_that_does_not_come_is_missing(self):
        report = gv.check(lambda x, y: x * y.detach(), normal(4), normal(4, seed=1), reference=lambda x, y: x * y)
        found = finding(report, "G102")
        assert found.severity is Severity.ERROR
        assert (found.evidence["tensors"], found.evidence["likely"]) == (("y",), "only-in-reference")

    def test_the_verdict_follows_the_ratio_that_is_asked_for(self):
        def kernel(x):
            return x + 6e-6 * torch.randn(x.shape)  # about ten times the granted roundings, the same each time

        x = normal(4000)
        assert gv.check(kernel, x, reference=lambda x: x * 1).verdict is Verdict.FAIL
        assert gv.check(kernel, x, reference=lambda x: x * 1, ratio=1000).verdict is Verdict.PASS


class TestUndecided:
    def test_what_a_roundoff_moves_by_its_own_size_is_unresolved(self):
        def wild(x):
            return torch.sin(1e9 * x)

        report = gv.check(lambda x: 1.01 * wild(x), normal(50), reference=wild)
        assert report.verdict is Verdict.INCONCLUSIVE
        assert finding(report, "G111").evidence["likely"] == "ill-conditioned"

    def test_a_kernel_that_is_far_off_fails_even_there(self):
        report = gv.check(lambda x: 1e6 * torch.sin(1e9 * x), normal(50), reference=lambda x: torch.sin(1e9 * x))
        assert report.verdict is Verdict.FAIL

    def test_a_reference_that_loses_everything_itself_proves_nothing(self):
        report = gv.check(lambda x: x * 1, normal(50), reference=lambda x: (x + 1e8) - 1e8)
        assert finding(report, "G111").evidence["likely"] == "reference-differs"

    @pytest.mark.parametrize("bias", [normal(8), torch.zeros(8)])
    def test_a_gradient_that_is_zero_by_design_is_right_when_it_is_rounding(self, bias):
        def keyed(q, k, bias, v):
            return attention(q, k + bias, v)

        def kernel(q, k, bias, v):
            return flash()(q, k + bias, v)

        q, k, v = inputs([(2, 16, 8)] * 3, torch.float32, 0)
        report = gv.check(kernel, q, k, bias, v, reference=keyed)
        assert report.verdict is Verdict.PASS
        assert rows(report)["bias"]["relative_error"] is None

    def test_any_sub_gradient_is_right_at_a_kink_but_nothing_beyond(self):
        x = torch.tensor([[-1.0, 0.0, 2.0]])
        assert gv.check(lambda x: x.clamp(min=0), x, reference=torch.relu).verdict is Verdict.PASS
        steep = gv.check(lambda x: x.clamp(min=0) + torch.where(x == 0, 3 * x, 0), x, reference=torch.relu)
        assert steep.verdict is Verdict.FAIL

    def test_ties_may_be_broken_in_another_way(self):
        x = normal(50, 64, dtype=torch.bfloat16)
        report = gv.check(lambda x: x.amax(-1), x, reference=lambda x: x.max(-1).values)
        assert report.verdict is Verdict.PASS


class Block(nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(8, 12), nn.LayerNorm(12), nn.Linear(12, 4)
        self.factor = factor
        self.register_buffer("shift", torch.zeros(12))

    def forward(self, x):
        return self.second(self.norm(functional.gelu(self.first(x) * self.factor + self.shift)))


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return functional.dropout(self.linear(x), 0.5)


class TestModules:
    def test_values_are_copied_from_the_kernel_by_name(self):
        torch.manual_seed(0)
        kernel, reference = Block(), Block()
        before = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
        report = gv.check(kernel, normal(6, 8), reference=reference)
        assert report.verdict is Verdict.PASS
        assert [row["role"] for row in rows(report).values()].count("parameter") == 6
        for name, tensor in reference.state_dict().items():
            assert torch.equal(tensor, before[name])

    def test_buffers_are_the_kernels_too(self):
        torch.manual_seed(0)
        kernel, reference = Block(), Block()
        kernel.shift.fill_(1.0)
        assert gv.check(kernel, normal(6, 8), reference=reference).verdict is Verdict.PASS

    def test_a_wrong_module_fails(self):
        torch.manual_seed(0)
        report = gv.check(Block(1.02), normal(6, 8), reference=Block())
        assert rows(report)["first.weight"]["status"] == "wrong"

    def test_a_function_of_the_very_same_parameters_is_a_reference(self):
        torch.manual_seed(0)
        linear = nn.Linear(8, 4)

        def reference(x):
            return x @ linear.weight.T + linear.bias

        report = gv.check(linear, normal(6, 8), reference=reference)
        assert set(rows(report)) == {"output", "weight", "bias", "input"}
        assert report.verdict is Verdict.PASS

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_dropout_draws_the_same_masks_in_all_three(self, dtype):
        torch.manual_seed(0)
        report = gv.check(Dropped().to(dtype), normal(6, 8, dtype=dtype), reference=Dropped().to(dtype))
        assert report.verdict is Verdict.PASS

    def test_a_loss_gives_the_gradient(self):
        torch.manual_seed(0)
        target = torch.arange(6) % 4
        report = gv.check(Block(), normal(6, 8), reference=Block(), loss=lambda y: functional.cross_entropy(y, target))
        assert report.verdict is Verdict.PASS
        assert report.settings["objective"] == "loss"

    def test_nothing_of_it_remains(self):
        torch.manual_seed(0)
        kernel, reference = Block(), Block()
        x = normal(6, 8)
        kernel(x).sum().backward()
        state = [t.clone() for t in (*kernel.state_dict().values(), *reference.state_dict().values())]
        grads = [p.grad.clone() for p in kernel.parameters()]
        random = torch.get_rng_state()
        gv.check(kernel, x, reference=reference)
        after = (*kernel.state_dict().values(), *reference.state_dict().values())
        assert all(torch.equal(a, b) for a, b in zip(state, after, strict=True))
        assert all(torch.equal(p.grad, g) for p, g in zip(kernel.parameters(), grads, strict=True))
        assert all(p.grad is None for p in reference.parameters())
        assert torch.equal(torch.get_rng_state(), random)
        assert torch.get_default_dtype() is torch.float32

    @pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
    def test_nothing_remains_after_a_failure(self, error):
        torch.manual_seed(0)
        kernel, reference, calls = Block(), Block(), []

        def raising(x):
            calls.append(x)
            if len(calls) > 6:
                raise error
            return reference(x)

        before = {name: tensor.clone() for name, tensor in kernel.state_dict().items()}
        x = normal(6, 8)
        with pytest.raises((ModelError, KeyboardInterrupt)):
            gv.check(kernel, x, reference=raising, wrt="x")
        assert all(torch.equal(before[name], tensor) for name, tensor in kernel.state_dict().items())
        assert torch.get_default_dtype() is torch.float32


class StridesIgnored(torch.autograd.Function):
    """sin x, whose backward pass reads the memory of x as if it were contiguous."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.as_strided(x.shape, torch.empty(x.shape).stride()).cos()


class CotangentStridesIgnored(torch.autograd.Function):
    """2 x, whose backward pass reads the memory of the incoming gradient as if it were contiguous."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad.as_strided(grad.shape, torch.empty(grad.shape).stride())


class TestInputs:
    def test_a_gradient_from_above_may_lie_in_memory_in_any_way(self):
        report = gv.check(CotangentStridesIgnored.apply, normal(5, 3), reference=lambda x: 2 * x)
        kinds = {f.evidence["likely"] for f in report.findings}
        assert kinds == {"cotangent-strides", "cotangent-expanded"}
        assert rows(report)["x"]["status"] == "wrong"

    @pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
    def test_inputs_lie_in_memory_as_they_were_given(self, layout):
        made = {"contiguous": normal(5, 3), "transposed": normal(3, 5).T, "sliced": normal(5, 6)[:, ::2]}
        report = gv.check(StridesIgnored.apply, made[layout], reference=torch.sin)
        assert (report.verdict is Verdict.PASS) == (layout == "contiguous")

    def test_whole_numbers_masks_and_several_outputs_are_taken(self):
        def kernel(index, table, mask):
            rows_ = functional.embedding(index, table) * mask
            return rows_, {"squares": rows_**2, "largest": rows_.argmax()}

        def reference(index, table, mask):
            return [table[index] * mask, table[index].square() * mask]

        mask = torch.tensor([[True], [False], [True]])
        report = gv.check(kernel, torch.tensor([1, 2, 2]), normal(4, 3), mask, reference=reference)
        assert list(rows(report)) == ["output[0]", "output[1].squares", "table"]
        assert report.verdict is Verdict.PASS

    def test_an_additive_mask_stays_as_it_is(self):
        q, k, v = inputs([(2, 6, 8)] * 3, torch.float32, 0)
        mask = torch.zeros(6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf)

        def kernel(q, k, v, mask):
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)

        report = gv.check(
            kernel, q, k, v, mask, reference=lambda q, k, v, mask: torch.softmax(q @ k.mT / 8**0.5 + mask, -1) @ v
        )
        assert list(rows(report)) == ["output", "q", "k", "v"]
        assert report.verdict is Verdict.PASS

    def test_complex_numbers_are_taken(self):
        z = torch.randn(5, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
        assert gv.check(lambda z: (z * z.conj()).real, z, reference=lambda z: z.abs() ** 2).verdict is Verdict.PASS
        assert gv.check(lambda z: 1.01 * z.abs() ** 2, z, reference=lambda z: z.abs() ** 2).verdict is Verdict.FAIL

    def test_casts_to_float32_inside_the_reference_do_not_blur_the_truth(self):
        def reference(x):
            return torch.softmax(x.float(), -1, dtype=torch.float32).to(x.dtype)

        report = gv.check(softmax_kernel, normal(5, 20), reference=reference)
        assert rows(report)["output"]["eager_error"] > 1e-9  # were the truth rounded to float32 too, it would be zero

    def test_another_shape_is_a_finding(self):
        report = gv.check(lambda x: x.sum(0, keepdim=True), normal(4, 3), reference=lambda x: x.sum(0))
        found = finding(report, "G109")
        assert (found.evidence["likely"], found.evidence["got"], found.evidence["expected"]) == (
            "shape",
            "(1, 3)",
            "(3,)",
        )

    def test_another_dtype_is_a_warning_and_is_compared(self):
        x = normal(4, 3, dtype=torch.bfloat16)
        report = gv.check(torch.sin, x, reference=lambda x: x.float().sin())
        assert report.verdict is Verdict.WARN
        assert rows(report)["output"]["status"] == "right"


def softmax_kernel(x):
    return torch.softmax(x, -1)


class TestBadInput:
    @pytest.mark.parametrize(
        ("error", "said", "options"),
        [
            (UsageError, "a ratio compares with a reference", {"ratio": 2.0}),
            (InputError, "multiple of the reference's error", {"reference": torch.sin, "ratio": 0.5}),
            (UsageError, "can't be combined", {"reference": torch.sin, "sensitivity": 1e-3}),
            (UsageError, "can't be combined", {"reference": torch.sin, "order": 2}),
            (UsageError, "can't be called", {"reference": 3}),
            (InputError, "returns 1 tensor", {"reference": lambda x: (x, x)}),
            (ModelError, "the reference raised", {"reference": lambda x: x @ "x"}),
            (
                InputError,
                "doesn't compute in float64",
                {"reference": lambda x: torch.from_numpy(np.sin(x.detach().numpy()).astype(np.float32))},
            ),
            (InputError, "no gradient comes back", {"reference": lambda x: x.detach().sin()}),
        ],
    )
    def test_an_error_in_three_parts(self, error, said, options):
        with pytest.raises(error, match=said) as raised:
            gv.check(torch.sin, normal(3), **options)
        assert all((raised.value.what, raised.value.where, raised.value.remedy))

    def test_float64_has_no_finer_reference(self):
        with pytest.raises(InputError, match="in float64, where no reference is more exact"):
            gv.check(torch.sin, normal(3).double(), reference=torch.sin)

    def test_numpy_has_no_reference_yet(self):
        with pytest.raises(UsageError, match="hand-written gradient"):
            gv.check(np.sin, np.ones(3), vjp=lambda d: d, reference=np.sin)

    @pytest.mark.parametrize("reference", [nn.Linear(8, 4), nn.LayerNorm(8), lambda x: x[:, :4]])
    def test_parameters_without_a_counterpart_are_named(self, reference):
        with pytest.raises(UsageError, match="isn't one of") as raised:
            gv.check(Block(), normal(6, 8), reference=reference)
        assert "of shape" in raised.value.where
