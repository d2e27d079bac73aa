"""Complex and sparse tensors: right ones pass, wrong ones are found, and both look like the user's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import gradvitals as gv
from gradvitals import Verdict
from gradvitals.frameworks import Case, opened

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def rows(report):
    return {row[0]: row for row in report.table("tensors").rows}


FUNCTIONS = {
    "holomorphic": lambda z: torch.exp(z) * z,
    "conjugate": lambda z: z * z.conj(),
    "to real": lambda z: z.abs(),
    "parts": lambda z: (z.real, torch.sin(z.imag)),
    "transform": torch.fft.fft,
    "loss": lambda z: (z.abs() ** 2).mean(),
    "lazy conjugate": torch.conj,
}


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_right_gradients_pass_and_are_shown_as_complex(name, dtype):
    report = gv.check(FUNCTIONS[name], torch.randn(4, 3, dtype=dtype))
    assert report.verdict is Verdict.PASS, str(report)
    (row,) = report.table("tensors").rows
    assert row[2:4] == ((4, 3), str(dtype).removeprefix("torch."))


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (torch.fft.rfft, (torch.linspace(-1, 1, 6),)),
        (torch.polar, (torch.rand(4) + 1, torch.randn(4))),
        (lambda x, z: x * z, (torch.randn(4), torch.randn(4, dtype=torch.complex64))),
    ],
    ids=["rfft", "polar", "mixed"],
)
def test_real_inputs_may_have_complex_outputs(function, inputs):
    assert gv.check(function, *inputs).verdict is Verdict.PASS


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))

    def forward(self, x):
        return torch.fft.fft(x.to(torch.complex64) @ self.weight)


def test_complex_parameters_are_checked_beside_real_inputs():
    report = gv.check(Mixer(), torch.randn(5, 3))
    assert report.verdict is Verdict.PASS
    assert [row[:4] for row in rows(report).values()] == [
        ("weight", "parameter", (3, 2), "complex64"),
        ("x", "input", (5, 3), "float32"),
    ]


class NotConjugated(torch.autograd.Function):
    """z² with the derivative of textbooks: torch wants its conjugate."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z * z

    @staticmethod
    def backward(ctx, dout):
        (z,) = ctx.saved_tensors
        return 2 * z * dout


class ImaginaryLost(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return z * 2

    @staticmethod
    def backward(ctx, dout):
        return 2 * dout.real.to(dout.dtype)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("function", [NotConjugated, ImaginaryLost])
def test_wrong_complex_gradients_are_found(function, dtype):
    report = gv.check(function.apply, torch.randn(6, dtype=dtype))
    assert report.verdict is Verdict.FAIL
    assert report.findings[0].code == "G101"


def test_gradients_are_those_of_real_and_imaginary_parts():
    z = torch.randn(3, dtype=torch.complex128)
    with opened(Case(lambda z: z**3, (z,))) as problem:
        cotangent = np.random.default_rng(0).normal(size=6)
        found = problem.gradient(cotangent)[0].value.reshape(3, 2)
    upstream = cotangent.reshape(3, 2) @ [1, 1j]
    truth = np.conj(3 * z.numpy() ** 2) * upstream
    assert np.allclose(found @ [1, 1j], truth, rtol=1e-14)


def test_points_and_values_alternate_between_real_and_imaginary():
    z = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
    with opened(Case(lambda z: 2 * z, (z,))) as problem:
        assert problem.point(0).tolist() == [1, 2, 3, -4]
        assert problem.value({}).tolist() == [2, 4, 6, -8]
        assert problem.value({0: np.array([0.0, 1, 0, 0])}).tolist() == [0, 2, 0, 0]
        assert problem.tensors[0].size == 4
        assert problem.roundoff == 2.0**-24
        assert np.array_equal(problem.representable(np.full(4, 0.1)), np.full(4, np.float32(0.1), dtype=np.float64))


# Sparse


@pytest.mark.parametrize("bag", [False, True])
def test_sparse_gradients_of_embeddings_are_checked(bag):
    embedding = nn.EmbeddingBag(9, 4, mode="sum", sparse=True) if bag else nn.Embedding(9, 4, sparse=True)
    report = gv.check(nn.Sequential(embedding, nn.Tanh(), nn.Linear(4, 2)), torch.tensor([[1, 2], [3, 3]]))
    assert report.verdict is Verdict.PASS, str(report)
    assert "0.weight" in rows(report)


class SparseLookup(torch.autograd.Function):
    """Rows of a table with a sparse gradient, its values scaled."""

    factor = 1.0

    @staticmethod
    def forward(ctx, table, ids):
        ctx.save_for_backward(ids)
        ctx.shape = table.shape
        return table[ids]

    @staticmethod
    def backward(ctx, dout):
        (ids,) = ctx.saved_tensors
        values = dout * SparseLookup.factor
        return torch.sparse_coo_tensor(ids[None], values, ctx.shape, check_invariants=True), None


@pytest.mark.parametrize(("factor", "status"), [(1.0, "right"), (1.1, "wrong")])
def test_sparse_gradients_of_own_functions_are_densified(monkeypatch, factor, status):
    monkeypatch.setattr(SparseLookup, "factor", factor)
    ids = torch.tensor([1, 3, 3])  # one row twice: its gradients add up
    report = gv.check(SparseLookup.apply, torch.randn(5, 2), ids)
    assert rows(report)["table"][4] == status
    assert ("G101" in [finding.code for finding in report.findings]) is (status == "wrong")


LAYOUTS = {
    "coo": lambda dense: dense.to_sparse_coo(),
    "csr": lambda dense: dense.to_sparse_csr(),
    "csc": lambda dense: dense.to_sparse_csc(),
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_values_of_sparse_inputs_are_checked(layout):
    matrix = LAYOUTS[layout](torch.relu(torch.randn(5, 4)))
    report = gv.check(lambda a, b: torch.tanh(a @ b), matrix, torch.randn(4, 3))
    assert report.verdict is Verdict.PASS, str(report)
    assert rows(report)["a"][2] == (matrix.values().numel() if layout != "coo" else matrix._nnz(),)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_gradients_of_sparse_inputs_are_in_the_order_of_their_values(layout):
    dense = torch.relu(torch.randn(5, 4, dtype=torch.float64))
    weights = torch.randn(5, 3, dtype=torch.float64)
    right = torch.randn(4, 3, dtype=torch.float64)
    matrix = LAYOUTS[layout](dense)
    with opened(Case(lambda a: a @ right, (matrix,))) as problem:
        found = problem.gradient(weights.reshape(-1).numpy())[0].value
        point = problem.point(0)
    truth = weights @ right.T
    by_hand = {float(value): float(truth[at]) for at, value in np.ndenumerate(dense.numpy()) if value}
    assert [by_hand[value] for value in point] == pytest.approx(list(found), rel=1e-14)


def test_a_wrong_gradient_of_a_sparse_input_is_found():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            ctx.save_for_backward(b)
            return a.to_dense() @ b

        @staticmethod
        def backward(ctx, dout):
            (b,) = ctx.saved_tensors
            return 2 * dout @ b.T, None

    matrix = torch.relu(torch.randn(5, 4)).to_sparse_coo()
    assert gv.check(Wrong.apply, matrix, torch.randn(4, 3), wrt="a").verdict is Verdict.FAIL


def test_sparse_parameters_are_checked():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.adjacency = nn.Parameter(torch.relu(torch.randn(4, 4)).to_sparse_coo())

        def forward(self, x):
            return torch.sparse.mm(self.adjacency, x)

    model = Graph()
    before = model.adjacency
    report = gv.check(model, torch.randn(4, 3))
    assert report.verdict is Verdict.PASS, str(report)
    assert model.adjacency is before
