"""Many points at once: the same values as one by one, and one by one wherever vmap can't go."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from gradvitals.frameworks import Case
from gradvitals.frameworks.problem import values_one_by_one
from gradvitals.frameworks.torch.problem import TorchProblem
from gradvitals.frameworks.torch.state import preserved

FLOAT64_UNITS = 256 * 2.0**-53


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def points(problem, count=12, *, tensors=None, step=1e-3):
    rng = np.random.default_rng(0)
    chosen = range(len(problem.tensors)) if tensors is None else tensors
    return [
        {at: problem.point(at) + step * rng.standard_normal(problem.tensors[at].size) for at in chosen}
        for _ in range(count)
    ]


def both(model, *inputs, loss=None, count=12, step=1e-3):
    """The values at some points as they come, and one by one, and how they were evaluated."""
    with preserved(model, inputs):
        problem = TorchProblem(Case(model, inputs, loss=loss))
        asked = points(problem, count, step=step)
        found = problem.values(asked)
        return found, values_one_by_one(problem, asked, found.shape[1]), problem.evaluation


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class Counts(nn.Module):
    """Calls a function in its forward pass."""

    def __init__(self, function):
        super().__init__()
        self.weight = nn.Parameter(double(5))
        self.function = function

    def forward(self, x):
        return self.function(self, x * self.weight)


BATCHED = {
    "linear": (nn.Linear(5, 3), (double(2, 5),)),
    "convolution": (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), (double(2, 2, 5, 5),)),
    "grouped convolution": (nn.Conv1d(4, 8, 3, groups=2, stride=2), (double(2, 4, 9),)),
    "batch norm that is done training": (nn.BatchNorm1d(5).eval(), (double(4, 5),)),
    "layer norm": (nn.LayerNorm(5), (double(4, 5),)),
    "embedding": (nn.Embedding(7, 3), (torch.tensor([[1, 2], [1, 6]]),)),
    "several outputs": (lambda x: {"a": x.sin(), "b": (x.sum(), x @ x)}, (double(4, 4),)),
    "output without batch": (lambda x: (x.sin(), torch.ones(2, dtype=torch.float64)), (double(3),)),
    "attention": (nn.MultiheadAttention(8, 2, batch_first=True), (double(2, 3, 8),) * 3),
    "complex numbers": (lambda x: torch.view_as_real(x * x).sum(0), (torch.randn(5, dtype=torch.complex128),)),
}


@pytest.mark.parametrize("name", BATCHED)
def test_a_run_of_many_points_gives_what_each_gives_alone(name):
    model, inputs = BATCHED[name]
    found, alone, evaluation = both(model.double() if isinstance(model, nn.Module) else model, *inputs)
    assert evaluation == "batched"
    assert np.abs(found - alone).max() <= FLOAT64_UNITS * np.abs(alone).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_precision_is_the_users(dtype):
    found, alone, evaluation = both(nn.Linear(5, 3).to(dtype), double(2, 5).to(dtype))
    assert evaluation == "batched"
    assert np.array_equal(found, torch.from_numpy(found).to(dtype).double().numpy())
    assert np.abs(found - alone).max() <= 8 * torch.finfo(dtype).eps * np.abs(alone).max()


def test_the_shadow_is_batched_in_float64():
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    problem = TorchProblem(Case(model, (torch.randn(3, 5),))).shadow()
    asked = points(problem)
    found = problem.values(asked)
    assert problem.evaluation == "batched"
    assert np.abs(found - values_one_by_one(problem, asked, 6)).max() <= FLOAT64_UNITS * np.abs(found).max()


@pytest.mark.parametrize("shape", [lambda x: x, lambda x: x.transpose(0, 1), lambda x: x.permute(2, 0, 1)])
def test_dropout_drops_what_it_drops_one_by_one(shape):
    dropout = nn.Dropout(0.4)
    found, alone, evaluation = both(lambda x: dropout(shape(x)), double(3, 4, 5))
    assert evaluation == "batched"
    assert (alone == 0).any()
    assert np.allclose(found, alone, rtol=1e-14, atol=0)


def test_a_transformer_with_dropout_is_batched():
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True).double()
    found, alone, evaluation = both(model, double(2, 3, 8))
    assert evaluation == "batched"
    assert np.abs(found - alone).max() <= FLOAT64_UNITS * np.abs(alone).max()


OBSTACLES = {
    "custom-function": (Squared.apply, (double(5),)),
    "no-batching-rule": (nn.LSTM(3, 4).double(), (double(2, 1, 3),)),
    "writes-in-place": (nn.BatchNorm1d(5).double(), (double(4, 5),)),
    "reads-values": (lambda x: x if x.sum() > 100 else -x, (double(5),)),
    "shape-depends-on-values": (lambda x: torch.unique(x.abs() > 0) * x.sum(), (double(5),)),
}


@pytest.mark.parametrize("reason", OBSTACLES)
def test_where_vmap_cannot_go_points_are_evaluated_one_by_one(reason):
    model, inputs = OBSTACLES[reason]
    found, alone, evaluation = both(model, *inputs)
    assert evaluation == f"sequential: {reason}"
    assert np.array_equal(found, alone)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: x * float(x.sum().item()),
        lambda self, x: torch.from_numpy(x.detach().numpy() ** 2),
        lambda self, x: x * torch.tensor(x.tolist(), dtype=torch.float64),
        lambda self, x: torch.zeros(5, dtype=torch.float64).add_(x),
        lambda self, x: torch.utils.checkpoint.checkpoint(Squared.apply, x, use_reentrant=True),
        lambda self, x: nn.functional.ctc_loss(
            x.log_softmax(0).repeat(4, 1, 1), torch.tensor([[1]]), torch.tensor([4]), torch.tensor([1])
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whatever_else_vmap_refuses_is_evaluated_one_by_one(function):
    found, alone, evaluation = both(Counts(function), double(5))
    assert evaluation.startswith("sequential: ")
    assert np.array_equal(found, alone)


def test_compiled_code_is_not_compiled_anew():
    compiled = torch.compile(nn.Linear(5, 3).double(), backend="eager")
    assert TorchProblem(Case(compiled, (double(2, 5),))).evaluation == "sequential: compiled"


def test_a_vmap_rule_that_is_wrong_is_found_out():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, grad):
            return 2 * ctx.saved_tensors[0] * grad

        @staticmethod
        def vmap(info, in_dims, x):
            return x * x * 1.0001, in_dims[0]

    found, alone, evaluation = both(Wrong.apply, double(5))
    assert evaluation == "sequential: values-differ"
    assert np.array_equal(found, alone)


def test_only_the_points_that_fail_are_lost():
    matrix = torch.eye(3, dtype=torch.float64)
    problem = TorchProblem(Case(torch.linalg.cholesky, (matrix,)))
    asked = points(problem)
    asked[3] = {0: -matrix.reshape(-1).numpy()}
    found = problem.values(asked)
    assert np.isnan(found[3]).all()
    assert np.isfinite(np.delete(found, 3, axis=0)).all()
    assert not problem.evaluation.startswith("sequential: ")
    problem.values(points(problem))
    assert problem.evaluation == "batched"


def test_points_may_move_different_tensors_and_none():
    model = nn.Linear(5, 3).double()
    problem = TorchProblem(Case(model, (double(2, 5),)))
    asked = [*points(problem, tensors=[0]), {}, *points(problem, tensors=[1, 2]), *points(problem, 2, tensors=[2])]
    found = problem.values(asked)
    assert problem.evaluation == "batched"
    assert np.abs(found - values_one_by_one(problem, asked, 6)).max() <= FLOAT64_UNITS * np.abs(found).max()


def test_chunks_put_together_are_in_order():
    problem = TorchProblem(Case(torch.sin, (double(3),)))
    asked = points(problem, 600)
    assert np.allclose(problem.values(asked), np.sin([point[0] for point in asked]), rtol=1e-14, atol=0)


def test_few_points_and_much_work_are_evaluated_one_by_one():
    few = TorchProblem(Case(torch.sin, (double(3),)))
    few.values(points(few, 3))
    much = TorchProblem(Case(torch.sin, (double(200_000),)))
    much.values(points(much, 12))
    assert (few.evaluation, much.evaluation) == ("sequential", "sequential")


def test_a_tensor_that_a_module_keeps_is_not_one_of_vmaps():
    def keep(self, x):
        self.last = x.detach()
        return x.sin()

    model = Counts(keep)
    problem = TorchProblem(Case(model, (double(5),)))
    problem.values(points(problem))
    assert problem.evaluation == "batched"
    kept = getattr(model, "last", None)
    assert kept is None or not torch._C._functorch.is_functorch_wrapped_tensor(kept)
    assert np.isfinite(problem.value({})).all()


def test_an_interrupted_run_leaves_nothing_behind():
    calls = []

    def interrupted(self, x):
        calls.append(None)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return x.sin()

    model = Counts(interrupted)
    before = model.weight.detach().clone()
    with preserved(model), contextlib.suppress(KeyboardInterrupt):
        problem = TorchProblem(Case(model, (double(5),)))
        for _ in range(5):
            problem.values(points(problem))
    assert len(calls) > 4
    assert torch._C._functorch.maybe_current_level() is None
    assert torch._C._functorch._is_vmap_fallback_enabled()
    assert torch.equal(model.weight, before)


def test_random_numbers_are_the_same_at_every_point_of_a_run():
    found, alone, evaluation = both(lambda x: x + torch.rand(5, dtype=torch.float64), double(5), step=0.0)
    assert evaluation == "batched"
    assert np.array_equal(found, alone)
    assert (found == found[0]).all()


def test_noise_that_vmap_cannot_repeat_is_evaluated_one_by_one():
    found, alone, evaluation = both(lambda x: nn.functional.rrelu(x, training=True), double(5))
    assert evaluation.startswith("sequential: ")
    assert np.array_equal(found, alone)
