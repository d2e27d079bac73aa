"""Mistakes in an amount: a conjugate, a factor beside a penalty, one output's sign, the way through a statistic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gradvitals as gv


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def operation(forward, backward):
    class Op(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            out, ctx.saved = forward(*inputs)
            return out

        @staticmethod
        def backward(ctx, *grads):
            return backward(ctx.saved, *grads)

    return Op.apply


def finding(report):
    (found,) = (f for f in report.findings if f.code == "G101")
    return found.evidence


def test_a_forgotten_conjugate_is_called_so():
    product = operation(lambda a, b: (a * b, (a, b)), lambda saved, grad: (grad * saved[1], grad * saved[0].conj()))
    a, b = (normal(5, seed=seed, dtype=torch.complex64) for seed in (0, 1))
    found = finding(gv.check(product, a, b))
    assert (found["likely"], len(found["tensors"])) == ("conjugated", 1)


@pytest.mark.parametrize("penalty", [0.0, 0.02])
def test_a_forgotten_1_n_beside_a_penalty_is_one_mistake_of_all_layers(penalty):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(10, 4)), rng.integers(0, 3, 10)
    p = {"W1": rng.normal(size=(4, 6)), "b1": 0.1 * rng.normal(size=6), "W2": rng.normal(size=(6, 3))}

    def forward(p):
        hidden = np.tanh(x @ p["W1"] + p["b1"])
        powers = np.exp(hidden @ p["W2"])
        return hidden, powers / powers.sum(1, keepdims=True)

    def cost(p):
        shares = forward(p)[1]
        return -np.log(shares[np.arange(10), labels]).mean() + penalty / 2 * sum(
            (p[w] ** 2).sum() for w in ("W1", "W2")
        )

    def gradients(p):
        hidden, shares = forward(p)
        d = shares - np.eye(3)[labels]  # 1/N is forgotten
        dz = d @ p["W2"].T * (1 - hidden**2)
        return {
            "dW1": x.T @ dz + penalty * p["W1"],
            "db1": dz.sum(0),
            "dW2": hidden.T @ d + penalty * p["W2"],
        }

    found = finding(gv.check(cost, p, grad=gradients(p)))
    assert set(found["tensors"]) == {"W1", "b1", "W2"}
    assert found["likely"] in {"factor-extra", "factor-missing"}
    assert found["factor"].value == pytest.approx(0.1, rel=1e-3)


def test_the_sign_of_one_output_is_told_from_a_cut():
    def forward(x):
        shares = x.softmax(-1)
        return (shares, x.logsumexp(-1)), shares

    def backward(shares, grad, grad_log):
        return shares * (grad - (grad * shares).sum(-1, keepdim=True)) - grad_log[:, None] * shares

    both = operation(forward, backward)
    found = finding(gv.check(both, normal(5, 6)))
    assert (found["likely"], found["part"]) == ("output-factor", "output1")
    assert found["output_factor"].value == pytest.approx(-1, rel=0.02)


@pytest.mark.parametrize(("times", "likely"), [(8, "statistic-wrong"), (-1, "statistic-wrong"), (0, "detached")])
def test_a_norm_s_way_back_that_is_wrong_is_told_from_one_that_is_cut(times, likely):
    def forward(x):
        scale = (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return x * scale, (x, scale)

    def backward(saved, grad):
        x, scale = saved
        normed = x * scale
        return (grad - times * normed * (grad * normed).mean(-1, keepdim=True)) * scale

    norm = operation(forward, backward)
    found = finding(gv.check(norm, normal(6, 8)))
    assert (found["likely"], found["statistic"]) == (likely, "norm-or-variance")
