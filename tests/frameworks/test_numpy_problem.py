"""NumPy functions behind the seam: points, values, gradients, and nothing changed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradvitals.frameworks import Case, framework_of, opened
from gradvitals.frameworks.numpy import NumpyProblem
from gradvitals.vocabulary.errors import InputError, ModelError

RNG = np.random.default_rng(0)
X, W = RNG.normal(size=(4, 3)), RNG.normal(size=(3, 2))


def matmul(x, w):
    return x @ w


def matmul_backward(dout):
    return dout @ W.T, X.T @ dout


def layer(**options):
    return NumpyProblem(Case(matmul, (X, W), vjp=matmul_backward, **options))


def test_numpy_code_is_told_from_torch_code():
    import torch

    assert framework_of(Case(matmul, (X, W))) == "numpy"
    assert framework_of(Case(matmul, (torch.ones(1), 2))) == "torch"
    assert framework_of(Case(matmul, ({"deep": [torch.ones(1)]}, 2))) == "torch"
    assert framework_of(Case(torch.nn.Identity(), (X,))) == "torch"


def test_tensors_are_described():
    x, w = layer().tensors
    assert (x.path, x.role, x.shape, x.dtype, x.size) == ("x", "input", (4, 3), "float64", 12)
    assert (w.path, w.shape, w.roundoff) == ("w", (3, 2), 2.0**-53)


def test_points_and_values_are_flat_float64():
    problem = layer()
    assert np.array_equal(problem.point(0), X.ravel())
    assert problem.point(0).dtype == np.float64
    assert np.array_equal(problem.value({}), (X @ W).ravel())


def test_moving_one_tensor_leaves_the_other():
    problem = layer()
    there = problem.point(1) + 1
    assert np.allclose(problem.value({1: there}), (X @ (W + 1)).ravel(), rtol=1e-15)
    assert np.array_equal(problem.value({}), (X @ W).ravel())


@given(st.integers(0, 2**32 - 1))
def test_the_gradient_is_that_of_the_projection_on_the_cotangent(seed):
    cotangent = np.random.default_rng(seed).normal(size=8)
    dx, dw = layer().gradient(cotangent)
    assert np.allclose(dx.value, (cotangent.reshape(4, 2) @ W.T).ravel())
    assert np.allclose(dw.value, (X.T @ cotangent.reshape(4, 2)).ravel())


def test_a_points_memory_is_no_window_into_the_users_arrays():
    problem = layer()
    before = X.copy()
    problem.point(0)[:] = 7
    assert np.array_equal(X, before)
    assert np.array_equal(problem.value({}), (X @ W).ravel())


def test_evaluations_start_from_the_same_random_state():
    problem = NumpyProblem(Case(lambda x: x * np.random.rand(3), (np.ones(3),), vjp=lambda dout: dout))
    assert np.array_equal(problem.value({}), problem.value({}))


def test_float32_is_evaluated_in_float64_where_that_gives_the_same_value():
    x = X.astype(np.float32)
    problem = NumpyProblem(Case(np.tanh, (x,), vjp=lambda dout: dout))
    shadow = problem.shadow()
    assert problem.roundoff == problem.tensors[0].roundoff == 2.0**-24
    assert shadow.roundoff == 2.0**-53
    assert np.array_equal(shadow.value({}), np.tanh(x.astype(np.float64)).ravel())
    assert (shadow.output_roundoff == 2.0**-53).all()


def test_a_layers_gradient_can_be_had_in_float64():
    x = X.astype(np.float32)
    kept = {}

    def forward(x):
        kept["x"] = x
        return np.tanh(x)

    problem = NumpyProblem(Case(forward, (x,), vjp=lambda dout: dout * (1 - np.tanh(kept["x"]) ** 2)))
    cotangent = np.linspace(-1, 1, x.size)
    truth = cotangent * (1 - np.tanh(x.astype(np.float64)).ravel() ** 2)
    assert problem.wide_gradient(cotangent) is None
    assert np.array_equal(problem.shadow().wide_gradient(cotangent)[0].value, truth)
    assert not np.array_equal(problem.gradient(cotangent)[0].value, truth)


def test_a_functions_gradient_can_be_had_in_float64_unless_it_was_computed_before():
    x = X.astype(np.float32)
    shadow = NumpyProblem(Case(lambda x: (x**3).sum(), (x,), grad=lambda x: 3 * x**2)).shadow()
    assert np.array_equal(shadow.wide_gradient(np.ones(1))[0].value, 3 * x.astype(np.float64).ravel() ** 2)
    assert NumpyProblem(Case(lambda x: (x**3).sum(), (x,), grad=3 * x**2)).shadow().wide_gradient(np.ones(1)) is None


def test_float32_stays_where_the_function_insists_on_it():
    x = X.astype(np.float32)
    problem = NumpyProblem(Case(lambda x: np.tanh(x.astype(np.float32)), (x,), vjp=lambda dout: dout))
    assert problem.roundoff == 2.0**-24
    assert (problem.output_roundoff == 2.0**-24).all()
    there = problem.point(0) + 1e-9
    assert np.array_equal(problem.rounded(0, there), there.astype(np.float32).astype(np.float64))


def test_float32_stays_where_float64_gives_another_function():
    x = X.astype(np.float32)
    problem = NumpyProblem(Case(lambda x: x * (2 if x.dtype == np.float64 else 1), (x,), vjp=lambda dout: dout))
    assert problem.roundoff == 2.0**-24
    assert np.array_equal(problem.value({}), x.astype(np.float64).ravel())


def test_the_cotangent_comes_in_the_outputs_shape_and_dtype():
    seen = []

    def backward(dout):
        seen.append((dout.shape, dout.dtype.name))
        return dout

    x = X.astype(np.float32)
    problem = NumpyProblem(Case(np.sin, (x,), vjp=backward))
    problem.gradient(problem.representable(np.full(12, 0.1)))
    assert set(seen) == {((4, 3), "float32")}
    assert (problem.representable(np.full(12, 0.1)) == np.float32(0.1)).all()


def test_a_gradient_of_another_shape_is_told_and_not_raised():
    problem = NumpyProblem(Case(np.sin, (X,), vjp=lambda dout: dout.T))
    (gradient,) = problem.gradient(np.ones(12))
    assert gradient.value is None
    assert gradient.got_shape == (3, 4)


def test_a_missing_gradient_is_none():
    problem = NumpyProblem(Case(matmul, (X, W), vjp=lambda dout: (None, X.T @ dout)))
    dx, dw = problem.gradient(np.ones(8))
    assert (dx.value, dx.got_shape) == (None, None)
    assert dw.value is not None


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_gradient_of_one_entry_fits_a_number_whatever_its_axes(shape):
    problem = NumpyProblem(Case(lambda t: t**2, (3.0,), grad=np.full(shape, 6.0)))
    (gradient,) = problem.gradient(np.ones(1))
    assert gradient.value == pytest.approx([6.0])


def test_the_number_of_samples_is_guessed_from_the_inputs():
    assert layer().sample_sizes == (4,)
    columns = (RNG.normal(size=(3, 7)), RNG.normal(size=(1, 7)))
    problem = NumpyProblem(
        Case(lambda X, Y: np.sum(X * Y), columns, grad=lambda X, Y: (Y * np.ones_like(X), X.sum(0)[None]))
    )
    assert problem.sample_sizes == (7,)


def test_domain_errors_of_floating_point_are_no_warnings():
    problem = NumpyProblem(Case(lambda x: np.log(x).sum(), (np.ones(3),), grad=lambda x: 1 / x))
    assert np.isnan(problem.value({0: np.full(3, -1.0)})).all()


def interrupted(problem):
    problem.value({})
    np.random.rand(5)
    raise KeyboardInterrupt


def test_opened_puts_the_generators_back_after_success_and_failure():
    case = Case(lambda x: float(np.random.rand() + x.sum()), (np.ones(2),), grad=np.ones(2))
    before = np.random.get_state()[1].copy()
    with opened(case) as problem:
        problem.value({})
    assert (np.random.get_state()[1] == before).all()
    with pytest.raises(KeyboardInterrupt), opened(case) as problem:
        interrupted(problem)
    assert (np.random.get_state()[1] == before).all()


def test_errors_of_the_function_are_the_users():
    with pytest.raises(ModelError, match="matmul"):
        NumpyProblem(Case(matmul, (X, X), vjp=matmul_backward))
    with pytest.raises(InputError, match="not a scalar"):
        NumpyProblem(Case(matmul, (X, W), grad=lambda x, w: (x, w)))


def test_a_value_that_is_known_to_be_off_may_differ_from_float64():
    def cancelling(x):
        return (x + x.dtype.type(1e4)) - x.dtype.type(1e4)

    x = np.array([1e-3, 2e-3, -1e-3], np.float32)
    problem = NumpyProblem(Case(cancelling, (x,), vjp=lambda dout: dout))
    off = np.abs(cancelling(x) - x).astype(np.float64)
    assert problem.shadow() is None
    assert problem.shadow(0.5 * off) is None
    assert problem.shadow(1.01 * off).roundoff == 2.0**-53
