"""Shapes that were asked for before are answered as PyTorch answers them."""

from __future__ import annotations

import tracemalloc

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import gradvitals as gv
from gradvitals.frameworks.torch.prediction.shapes import Shapes

aten = torch.ops.aten
OPERATIONS = {
    "addmm": lambda x, w: (aten.addmm.default, (w[0], x, w)),
    "view": lambda x, w: (aten.view.default, (x, [2, 2, 6])),
    "transpose": lambda x, w: (aten.transpose.int, (x, 0, 1)),
    "slice": lambda x, w: (aten.slice.Tensor, (x, 1, 2, 5)),
    "split": lambda x, w: (aten.split.Tensor, (x, 2, 1)),
    "cat": lambda x, w: (aten.cat.default, ([x, w],)),
    "mean": lambda x, w: (aten.mean.dim, (x, [1], True)),
    "layer norm": lambda x, w: (aten.native_layer_norm.default, (x, [6], w[0], w[1], 1e-5)),
    "compare": lambda x, w: (aten.gt.Scalar, (x, 0)),
    "arange": lambda x, w: (aten.arange.default, (7,)),
}


def _seen(output):
    outputs = output if isinstance(output, (tuple, list)) else [output]
    return [(tuple(t.shape), t.stride(), t.storage_offset(), t.dtype, t.device) for t in outputs]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("kind", ["fake", "meta"])
def test_a_remembered_shape_is_the_one_pytorch_gives(name, kind):
    x, w = torch.randn(4, 6), torch.randn(6, 6)
    if kind == "meta":
        x, w, fake = x.to("meta"), w.to("meta"), None
        func, args = OPERATIONS[name](x, w)
        shapes, direct = Shapes(None), _seen(func(*args))
        assert [_seen(shapes.run(func, args, {})) for _ in range(3)] == [direct] * 3
        return
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        x = fake.from_tensor(x)
        func, args = OPERATIONS[name](x, w)
        shapes, direct = Shapes(fake), _seen(func(*args))
        assert [_seen(shapes.run(func, args, {})) for _ in range(3)] == [direct] * 3


def test_a_remembered_view_shares_the_memory_that_it_looks_at():
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        x, other, shapes = fake.from_tensor(torch.randn(4, 6)), fake.from_tensor(torch.randn(4, 6)), Shapes(fake)
        for given in (x, other):
            view = shapes.run(aten.select.int, (given, 0, 1), {})
            assert view.untyped_storage()._cdata == given.untyped_storage()._cdata
            assert view.storage_offset() == 6


def test_what_writes_into_its_argument_returns_that_argument():
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        x, shapes = fake.from_tensor(torch.randn(4)), Shapes(fake)
        assert all(shapes.run(aten.relu_.default, (x,), {}) is x for _ in range(3))


def test_other_numbers_and_types_are_other_questions():
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        x, shapes = fake.from_tensor(torch.randn(4, 6)), Shapes(fake)
        assert [shapes.run(aten.slice.Tensor, (x, 1, 0, n), {}).shape[1] for n in (1, 2, 1)] == [1, 2, 1]
        assert shapes.run(aten.mul.Tensor, (x, 1), {}).dtype == torch.float32
        assert shapes.run(aten.mul.Tensor, (x.double(), 1), {}).dtype == torch.float64
        assert shapes.run(aten.mul.Tensor, (x.long(), 1), {}).dtype == torch.int64
        assert shapes.run(aten.mul.Tensor, (x.long(), 1.0), {}).dtype == torch.float32


def test_a_large_batch_takes_no_more_memory_than_the_samples_that_are_kept():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
    labels = torch.zeros(100_000, dtype=torch.long)
    tracemalloc.start()
    report = gv.predict(model, torch.randn(100_000, 16), loss=lambda y: nn.functional.cross_entropy(y, labels))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.findings == ()
    assert most < 2**27


def test_more_positions_than_can_be_held_by_pairs_are_predicted_without_the_memory_for_them():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)), torch.randn(2, 30_000, 16)
    tracemalloc.start()
    report = gv.predict(model, x, against="probe")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.findings == ()
    assert most < 2**28
    few = gv.predict(model, x[:, :200], against="probe")
    for row, other in zip(report.table("agreement").records(), few.table("agreement").records(), strict=True):
        assert row["forward_predicted"] == pytest.approx(other["forward_predicted"], rel=0.03)
