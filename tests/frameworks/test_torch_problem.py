"""Torch code behind the seam: points, values, gradients, and nothing changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradvitals.frameworks import Case, opened
from gradvitals.frameworks.torch.problem import TorchProblem
from gradvitals.vocabulary.errors import InputError, ModelError, UsageError


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def linear():
    return nn.Linear(3, 2).double(), torch.randn(4, 3, dtype=torch.float64)


def flat(tensor):
    return tensor.detach().double().reshape(-1).numpy()


def test_tensors_are_described(linear):
    model, x = linear
    weight, bias, given = TorchProblem(Case(model, (x,))).tensors
    assert (weight.path, weight.role, weight.shape, weight.dtype) == ("weight", "parameter", (2, 3), "float64")
    assert (bias.path, bias.roundoff) == ("bias", 2.0**-53)
    assert (given.path, given.role) == ("input", "input")


def test_points_values_and_gradients_are_those_of_torch(linear):
    model, x = linear
    problem = TorchProblem(Case(model, (x,)))
    assert np.array_equal(problem.point(0), flat(model.weight))
    assert np.array_equal(problem.value({}), flat(model(x)))
    cotangent = np.random.default_rng(0).normal(size=8)
    projected = (model(x) * torch.from_numpy(cotangent).reshape(4, 2)).sum()
    truth = torch.autograd.grad(projected, [model.weight, model.bias])
    found = problem.gradient(cotangent)
    assert np.allclose(found[0].value, flat(truth[0]), rtol=1e-14)
    assert np.allclose(found[1].value, flat(truth[1]), rtol=1e-14)
    assert model.weight.grad is None


def test_moving_one_tensor_leaves_the_model_and_the_others_alone(linear):
    model, x = linear
    weight = model.weight.detach().clone()
    problem = TorchProblem(Case(model, (x,)))
    moved = problem.value({0: problem.point(0) + 1})
    assert np.allclose(moved, flat(nn.functional.linear(x, weight + 1, model.bias)), rtol=1e-14)
    assert torch.equal(model.weight, weight)
    assert np.array_equal(problem.value({}), flat(model(x)))


def test_the_gradient_follows_to_a_point_beside_and_the_model_comes_back(linear):
    model, x = linear
    before = model.weight.detach().clone()
    problem = TorchProblem(Case(model, (x,), loss=lambda out: out.pow(3).sum()))
    here = problem.gradient(np.ones(1))
    there = problem.gradient(np.ones(1), {0: problem.point(0) * 1.5})
    assert not np.allclose(here[0].value, there[0].value)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision_is_evaluated_in_float64_where_that_gives_the_same_value(dtype):
    x = torch.randn(5).to(dtype)
    problem = TorchProblem(Case(torch.tanh, (x,)))
    shadow = problem.shadow()
    assert problem.roundoff == problem.tensors[0].roundoff == torch.finfo(dtype).eps / 2
    assert shadow.roundoff == 2.0**-53
    assert np.array_equal(problem.value({}), flat(torch.tanh(x)))
    assert np.array_equal(shadow.value({}), flat(torch.tanh(x.double())))
    assert np.array_equal(shadow.representable(np.full(5, 0.1)), flat(torch.full((5,), 0.1, dtype=dtype)))
    there = problem.point(0) + 1e-10
    assert np.array_equal(problem.rounded(0, there), flat(torch.from_numpy(there).to(dtype)))
    assert np.array_equal(shadow.rounded(0, there), there)


def test_models_that_make_a_state_of_their_own_can_be_evaluated_in_float64():
    problem = TorchProblem(Case(nn.LSTM(3, 4), (torch.randn(2, 1, 3),)))
    assert problem.shadow().roundoff == 2.0**-53
    assert torch.get_default_dtype() == torch.float32


def test_buffers_are_not_moved_by_evaluations():
    model = nn.BatchNorm1d(3)
    with opened(Case(model, (torch.randn(5, 3),))) as problem:
        found = [problem.value({}) for _ in range(20)]
    assert all(np.array_equal(found[0], again) for again in found)
    assert torch.equal(model.running_mean, torch.zeros(3))
    assert int(model.num_batches_tracked) == 0


def test_evaluations_start_from_the_same_random_state():
    problem = TorchProblem(Case(nn.Dropout(0.5), (torch.randn(50),)))
    first = problem.value({})
    torch.rand(3)
    assert np.array_equal(first, problem.value({}))


def test_hooks_on_parameters_count_as_part_of_the_backward_pass(linear):
    model, x = linear
    handle = model.weight.register_hook(lambda g: 2 * g)
    problem = TorchProblem(Case(model, (x,), loss=lambda out: out.sum()))
    doubled = problem.gradient(np.ones(1))[0].value
    handle.remove()
    assert np.allclose(
        doubled, 2 * TorchProblem(Case(model, (x,), loss=lambda out: out.sum())).gradient(np.ones(1))[0].value
    )


def test_sample_sizes_are_the_rows_of_matrices(linear):
    model, x = linear
    assert TorchProblem(Case(model, (x,))).sample_sizes == (4,)
    assert TorchProblem(Case(model, (x,), loss=lambda out: out.mean())).sample_sizes == (4, 12)


@pytest.mark.parametrize(("loss", "kind"), [(lambda out: out.sum(), "loss"), (None, "random")])
def test_the_objective_is_said(linear, loss, kind):
    model, x = linear
    assert TorchProblem(Case(model, (x,), loss=loss)).objective == kind


def test_wrt_chooses_and_refuses(linear):
    model, x = linear
    assert [tensor.path for tensor in TorchProblem(Case(model, (x,)), ["weight"]).tensors] == ["weight"]
    with pytest.raises(UsageError, match="wieght"):
        TorchProblem(Case(model, (x,)), ["wieght"])


def test_outputs_without_floating_tensors_are_refused(linear):
    model, x = linear
    with pytest.raises(InputError, match="no floating-point tensor"):
        TorchProblem(Case(lambda x: model(x).argmax(1), (x,)))


def test_errors_of_the_model_are_the_users(linear):
    model, _ = linear
    with pytest.raises(ModelError, match="Linear"):
        TorchProblem(Case(model, (torch.randn(4, 7, dtype=torch.float64),)))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_gradients_through_a_re_entrant_checkpoint_are_those_without_one_and_leave_no_trace():
    first, second, x = nn.Linear(4, 6), nn.Linear(6, 3), torch.randn(5, 4)
    first.weight.grad = torch.ones(6, 4)
    kept, stepped = first.weight.grad, []
    first.weight.register_post_accumulate_grad_hook(stepped.append)
    model = nn.Sequential(first, nn.Tanh(), second)

    def checkpointed(x):
        return second(checkpoint(lambda h: torch.tanh(first(h)), x, use_reentrant=True))

    cotangent = np.linspace(-1, 1, 15)
    truth = TorchProblem(Case(model, (x,))).gradient(cotangent)
    with opened(Case(checkpointed, (x,)), [first, second, "x"]) as problem:
        found = problem.gradient(cotangent)
    assert all(np.array_equal(one.value, other.value) for one, other in zip(found, truth, strict=True))
    assert first.weight.grad is kept
    assert torch.equal(kept, torch.ones(6, 4))
    assert second.weight.grad is None
    assert not stepped


def test_channels_last_inputs_keep_their_strides_wherever_they_are_moved():
    seen = set()

    def strided(x):
        seen.add(x.stride())
        return x * 2

    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    problem = TorchProblem(Case(strided, (x,)))
    problem.value({0: problem.point(0) + 1})
    problem.gradient(np.ones(x.numel()))
    assert seen == {x.stride()}


def test_outputs_have_their_sizes_and_dtypes():
    problem = TorchProblem(Case(lambda x: (x.double(), x * 1j), (torch.randn(3),)))
    assert problem.output_sizes == (3, 6)
    assert problem.output_dtypes == (torch.float64, torch.complex64)
    assert problem.output_roundoff.tolist() == [2.0**-53] * 3 + [2.0**-24] * 6


def test_under_autocast_the_roundoff_is_that_of_autocast():
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        problem = TorchProblem(Case(model, (x,)))
        assert problem.roundoff == problem.tensors[0].roundoff == 2.0**-8
        assert problem.tensors[0].dtype == "float32"
        moved = problem.point(0) * 2
        with torch.no_grad():
            truth = nn.functional.linear(x, model.weight.detach() * 2, model.bias)
        assert np.array_equal(problem.value({0: moved}), flat(truth))
        assert np.array_equal(problem.value({}), flat(model(x)))
        shadow = problem.shadow()
        exact = x.double() @ model.weight.double().T + model.bias.double()
        assert np.allclose(shadow.value({}), flat(exact), rtol=1e-14)
