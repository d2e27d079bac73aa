"""A kernel beside its reference: how its backward pass treats what comes from above, and what it writes into."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

import gradvitals as gv
from gradvitals import Severity, Verdict

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LABELS = torch.arange(24) % 11


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def kernel(forward, backward):
    class Op(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            out, ctx.saved = forward(*inputs)
            return out

        @staticmethod
        def backward(ctx, grad):
            return backward(ctx.saved, grad)

    return Op.apply


def cross_entropy(x, w):
    return functional.cross_entropy((x @ w.mT).float(), LABELS)


def fused_cross_entropy(backward):
    """Linear layer and cross-entropy in chunks, the gradients computed on the way forwards."""

    def forward(x, w):
        loss, dx, dw = torch.zeros(()), torch.zeros_like(x), torch.zeros(w.shape)
        for start in range(0, len(x), 10):
            rows, labels = x[start : start + 10], LABELS[start : start + 10]
            scores = (rows @ w.mT).float()
            loss += functional.cross_entropy(scores, labels, reduction="sum") / len(x)
            off = (scores.softmax(-1) - functional.one_hot(labels, len(w))) / len(x)
            dx[start : start + 10] = off.to(x.dtype) @ w
            dw += (off.to(x.dtype).mT @ rows).float()
        return loss, (dx, dw.to(w.dtype))

    return kernel(forward, backward)


def found(report):
    return {(f.code, f.evidence["likely"], len(f.evidence["tensors"])) for f in report.findings}


class TestCotangents:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_loss_kernel_that_multiplies_by_what_comes_passes(self, dtype):
        fused = fused_cross_entropy(lambda saved, grad: tuple(grad * g for g in saved))
        x, w = normal(24, 16, dtype=dtype), normal(11, 16, seed=1, dtype=dtype)
        report = gv.check(fused, x, w, reference=cross_entropy)
        assert report.verdict is Verdict.PASS, str(report)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_loss_kernel_that_takes_what_comes_for_1_is_named(self, dtype):
        fused = fused_cross_entropy(lambda saved, _: saved)
        x, w = normal(24, 16, dtype=dtype), normal(11, 16, seed=1, dtype=dtype)
        report = gv.check(fused, x, w, reference=cross_entropy)
        assert report.verdict is Verdict.FAIL
        assert found(report) == {("G101", "ignores-cotangent", 2)}

    @pytest.mark.parametrize("bent", [torch.abs, torch.square, torch.trunc, lambda g: g.clamp(-1, 1)])
    def test_a_scalar_s_gradient_is_linear_in_what_comes(self, bent):
        op = kernel(lambda x: (x.square().mean(), x), lambda x, grad: 2 * x / x.numel() * bent(grad))
        report = gv.check(op, normal(12, 8), reference=lambda x: x.square().mean())
        assert found(report) == {("G101", "not-linear", 1)}

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_same_is_said_of_an_output_that_is_no_scalar(self, dtype):
        ignoring = kernel(lambda x: (x.sin(), x), lambda x, _: x.cos())
        report = gv.check(ignoring, normal(12, 8, dtype=dtype), reference=torch.sin)
        assert found(report) == {("G101", "ignores-cotangent", 1)}

    def test_what_is_computed_too_coarsely_is_not_called_bent(self):
        op = kernel(
            lambda x: (x.sin(), x),
            lambda x, grad: ((grad.bfloat16() * 0.3).bfloat16() * x.cos().bfloat16()).float() / 0.3,
        )
        report = gv.check(op, normal(12, 8), reference=torch.sin)
        assert found(report) == {("G101", "low-precision", 1)}


class TestWriting:
    def test_a_backward_pass_that_writes_into_what_comes_is_noted(self):
        op = kernel(lambda x: (x.sin(), x), lambda x, grad: grad.mul_(x.cos()))
        report = gv.check(op, normal(12, 8), reference=torch.sin)
        assert found(report) == {("G110", "modifies-cotangent", 1)}
        assert report.findings[0].severity is Severity.ERROR

    @pytest.mark.parametrize("strides", ["contiguous", "transposed"])
    def test_a_kernel_that_leaves_its_gradient_in_its_input_is_noted(self, strides):
        def forward(x):
            out, shares = torch.logsumexp(x, -1), torch.softmax(x, -1)
            x.copy_(shares)
            return out, shares

        op = kernel(forward, lambda shares, grad: grad[:, None] * shares)
        x = normal(6, 8) if strides == "contiguous" else normal(8, 6).T
        report = gv.check(op, x, reference=lambda x: torch.logsumexp(x, -1))
        assert found(report) == {("G110", "modifies-input", 1)}
        assert report.verdict is Verdict.WARN

    def test_a_layer_that_writes_in_place_by_autograd_s_own_operations_is_not(self):
        report = gv.check(torch.nn.ReLU(inplace=True), normal(6, 8), reference=torch.relu)
        assert report.verdict is Verdict.PASS, str(report)

    def test_complex_numbers_that_stay_are_not_called_written(self):
        x = torch.complex(normal(5), normal(5, seed=1))
        assert gv.check(lambda x: x * x, x, reference=lambda x: x**2).verdict is Verdict.PASS


class TestSmallMistakesInCoarseTypes:
    @pytest.mark.parametrize("seed", range(3))
    def test_one_entry_that_is_half_is_a_place_and_no_rounding(self, seed):
        def backward(x, grad):
            found = (grad * x.cos()).clone()
            found[5, 7] *= 0.5
            return found

        op = kernel(lambda x: (x.sin(), x), backward)
        x = normal(64, 64, seed=seed, dtype=torch.bfloat16)
        report = gv.check(op, x, reference=torch.sin, seed=seed)
        assert [f.evidence.get("kernel_region") for f in report.findings] == ["[5, 7]"]

    @pytest.mark.parametrize("seed", range(3))
    def test_a_tail_with_a_formula_of_its_own_is_no_rounding(self, seed):
        def backward(x, grad):
            return grad * torch.where(x > 2.5, torch.ones_like(x), x.sigmoid())

        op = kernel(lambda x: (functional.softplus(x), x), backward)
        x = normal(64, 64, seed=seed, dtype=torch.bfloat16)
        report = gv.check(op, x, reference=functional.softplus, seed=seed)
        (finding,) = report.findings
        assert finding.evidence["likely"] == "kernel-entries"
        assert 0 < finding.evidence["wrong_count"] <= int((x > 2).sum())

    def test_one_forgotten_scale_has_one_name_in_all_tensors(self):
        scale = 1 / math.sqrt(16)

        def attention(q, k, v):
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
            return torch.softmax(q @ k.mT * scale, -1) @ v

        def forward(q, k, v):
            return attention(q, k, v), (q, k, v)

        def backward(saved, grad):
            with torch.enable_grad():
                q, k, v = (x.detach().requires_grad_() for x in saved)
                dq, dk, dv = torch.autograd.grad(attention(q, k, v), (q, k, v), grad)
            return dq / scale, dk / scale, dv

        inputs = normal(2, 4, 12, 16), normal(2, 2, 12, 16, seed=1), normal(2, 2, 12, 16, seed=2)
        op = kernel(forward, backward)
        report = gv.check(op, *inputs, reference=attention)
        (finding,) = report.findings
        assert (len(finding.evidence["tensors"]), finding.evidence["likely"]) == (2, "factor-missing")
        assert finding.evidence["name"] == "1/√d (d = 16)"
