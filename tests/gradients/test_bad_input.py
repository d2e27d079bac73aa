"""Bad input is refused in three parts, what, where with the actual values, what to do, and nothing is changed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import gradvitals as gv
from gradvitals.vocabulary.errors import GradvitalsError, InputError, ModelError, UsageError


def refused(kind, call, *fragments):
    """The error that the call raises, with all three parts and the fragments in it."""
    with pytest.raises(kind) as caught:
        call()
    error = caught.value
    assert isinstance(error, GradvitalsError)
    parts = (error.what, error.where, error.remedy)
    assert all(part and part.strip() for part in parts)
    assert str(error).splitlines()[1].startswith("  where: ")
    assert "\n  do:    " in str(error)
    for fragment in fragments:
        assert fragment in str(error), str(error)
    return error


def model_and_input():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), torch.randn(5, 4)


@pytest.fixture
def untouched():
    """A model, its input, and on leaving the assurance that neither has changed."""
    model, x = model_and_input()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x_before, randomness = x.clone(), torch.get_rng_state()
    yield model, x
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(x, x_before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), randomness)
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


# ---- losses --------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_scalar_is_refused_with_its_shape(untouched):
    model, x = untouched
    refused(InputError, lambda: gv.check(model, x, loss=lambda out: out), "not a scalar", "(5, 3)", ".mean()")


def test_a_loss_that_is_a_python_number_is_refused(untouched):
    model, x = untouched
    refused(InputError, lambda: gv.check(model, x, loss=lambda out: out.sum().item()), "not a tensor", "float")


def test_a_loss_that_is_a_whole_number_is_refused(untouched):
    model, x = untouched
    refused(InputError, lambda: gv.check(model, x, loss=lambda out: out.argmax()), "int64")


def test_a_loss_that_raises_is_named_as_the_loss(untouched):
    model, x = untouched

    def loss(out):
        return nn.functional.cross_entropy(out, torch.tensor([0, 1]))

    error = refused(ModelError, lambda: gv.check(model, x, loss=loss), "the loss raised", "ValueError", "(5, 3)")
    assert isinstance(error.__cause__, ValueError)


def test_a_numpy_value_that_is_no_scalar_is_refused_where_grad_was_given():
    x = np.ones(3)
    refused(InputError, lambda: gv.check(lambda x: x**2, x, grad=lambda x: 2 * x), "not a scalar", "(3,)", "vjp=")


@pytest.mark.parametrize("value", ["text", None, 1 + 2j, [object()]])
def test_a_numpy_value_that_is_no_number_is_refused(value):
    refused(InputError, lambda: gv.check(lambda x: value, np.ones(3), grad=np.ones(3)), "not a real number")


# ---- nothing to differentiate --------------------------------------------------------------------------------------


def test_no_floating_point_tensor_is_refused_naming_what_there_is(untouched):
    refused(
        InputError,
        lambda: gv.check(lambda index: index * 2, torch.tensor([1, 2])),
        "no floating-point tensor",
        "index: Tensor",
    )


def test_a_frozen_model_on_token_ids_is_refused():
    model = nn.Embedding(5, 3).requires_grad_(requires_grad=False)
    refused(InputError, lambda: gv.check(model, torch.tensor([1, 2])), "no parameter that requires a gradient")


def test_a_model_without_parameters_is_checked_on_its_input():
    assert gv.check(nn.Tanh(), torch.randn(3, 2)).verdict is gv.Verdict.PASS
    refused(InputError, lambda: gv.check(nn.Identity(), torch.tensor([1, 2])), "no floating-point tensor")


def test_a_call_without_inputs_is_refused_where_there_is_nothing_to_move():
    refused(InputError, lambda: gv.check(lambda: 3.0, grad=lambda: 0.0), "no floating-point tensor", "inputs: none")


def test_numpy_inputs_without_a_number_are_refused():
    refused(InputError, lambda: gv.check(lambda x: 1.0, "text", grad=lambda x: 0.0), "no floating-point", "x (str)")


def test_an_output_without_a_floating_tensor_is_refused(untouched):
    model, x = untouched
    refused(InputError, lambda: gv.check(lambda x: model(x).argmax(1), x), "no floating-point tensor", "Tensor")
    refused(InputError, lambda: gv.check(lambda x: "text", x), "str")


# ---- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_torch_input_that_is_not_finite_is_refused(value):
    model, x = model_and_input()
    x[1, 2] = value
    before = model[1].running_mean.clone()
    refused(InputError, lambda: gv.check(model, x), "not finite", "'input'", "(1, 2)")
    assert torch.equal(model[1].running_mean, before)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numpy_input_that_is_not_finite_is_refused(value):
    x = np.array([1.0, value, 3.0])
    refused(InputError, lambda: gv.check(lambda x: x.sum(), x, grad=np.ones(3)), "not finite", "x has 1 ", "of 3")


def test_empty_batch_is_refused(untouched):
    model, _ = untouched
    refused(InputError, lambda: gv.check(model, torch.ones(0, 4)), "the batch is empty", "(0, 4)")
    refused(InputError, lambda: gv.check(lambda x: x.sum(), np.ones((0, 4)), grad=np.ones((0, 4))), "(0, 4)")


def test_an_output_without_entries_is_refused(untouched):
    refused(InputError, lambda: gv.check(lambda x: x[:0], torch.ones(3)), "empty")
    refused(InputError, lambda: gv.check(lambda x: x[:0], np.ones(3), vjp=lambda dout: np.zeros(3)), "empty")


def test_inference_mode_is_refused(untouched):
    model, x = untouched
    with torch.inference_mode():
        refused(InputError, lambda: gv.check(model, x), "inference mode is on")
        inside = torch.ones(5, 4)
    refused(InputError, lambda: gv.check(model, inside), "inference-mode tensor", "'input'")


def test_meta_tensors_are_refused(untouched):
    model, _ = untouched
    refused(InputError, lambda: gv.check(model, torch.ones(5, 4, device="meta")), "meta", "'input'")
    refused(InputError, lambda: gv.check(nn.Linear(4, 2, device="meta"), torch.ones(5, 4)), "meta", "weight")


# ---- the call itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "nearest"), [("los", "loss"), ("grads", "grad"), ("sensitvity", "sensitivity"), ("Seed", "seed")]
)
def test_a_misspelt_keyword_names_the_nearest_one(untouched, keyword, nearest):
    model, x = untouched
    refused(UsageError, lambda: gv.check(model, x, **{keyword: None}), f"'{keyword}'", f"did you mean '{nearest}'")


def test_a_keyword_of_the_models_own_is_sent_to_kwargs(untouched):
    model, x = untouched
    refused(UsageError, lambda: gv.check(model, x, attention_mask=x), "kwargs={...}")


def test_what_cannot_be_called_is_refused(untouched):
    refused(UsageError, lambda: gv.check(torch.ones(3), torch.ones(3)), "can't be called", "Tensor")


def test_numpy_without_a_gradient_or_with_two_is_refused():
    x = np.ones(3)
    refused(UsageError, lambda: gv.check(np.sum, x), "no gradient to check", "grad=")
    refused(UsageError, lambda: gv.check(np.sum, x, grad=x, vjp=lambda dout: x), "either grad= or vjp=")


def test_grad_and_vjp_go_with_numpy_only(untouched):
    model, x = untouched
    refused(UsageError, lambda: gv.check(model, x, grad=x), "NumPy")


def test_a_case_with_inputs_behind_it_is_refused(untouched):
    model, x = untouched
    refused(UsageError, lambda: gv.check(gv.Case(model, (x,)), x), "Case")


def test_a_name_in_wrt_that_fits_nothing_lists_what_there_is(untouched):
    model, x = untouched
    refused(UsageError, lambda: gv.check(model, x, wrt="0.wieght"), "'0.wieght'", "0.weight", "1.bias")
    refused(UsageError, lambda: gv.check(model, x, wrt=["0.weight", "encoder.*"]), "'encoder.*'")


@pytest.mark.parametrize("sensitivity", [0.0, 1.0, -1e-3, 2.0, math.nan])
def test_a_sensitivity_that_is_no_relative_error_is_refused(untouched, sensitivity):
    model, x = untouched
    refused(InputError, lambda: gv.check(model, x, sensitivity=sensitivity), "between 0 and 1")


# ---- the user's code raises ----------------------------------------------------------------------------------------


def test_a_model_that_raises_is_named_with_its_line(untouched):
    def broken(x):
        raise RuntimeError("the flux capacitor is empty")

    error = refused(
        ModelError, lambda: gv.check(broken, torch.ones(3)), "broken() raised RuntimeError", "flux", "test_bad_input.py"
    )
    assert isinstance(error.__cause__, RuntimeError)
    refused(ModelError, lambda: gv.check(broken, np.ones(3), grad=np.ones(3)), "broken() raised RuntimeError")


def test_inputs_of_the_wrong_shape_are_the_models_own_error(untouched):
    model, _ = untouched
    refused(ModelError, lambda: gv.check(model, torch.ones(5, 7)), "raised RuntimeError")


def test_a_backward_pass_that_raises_is_named_as_such(untouched):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, dout):
            raise RuntimeError("not today")

    refused(ModelError, lambda: gv.check(Broken.apply, torch.ones(3)), "backward", "not today")

    def backward(dout):
        raise KeyError("W1")

    refused(ModelError, lambda: gv.check(np.sin, np.ones(3), vjp=backward), "the backward pass of sin", "KeyError")
    refused(ModelError, lambda: gv.check(np.sum, np.ones(3), grad=backward), "the gradient of sum", "KeyError")


# ---- gradients that cannot be matched ------------------------------------------------------------------------------


def test_too_few_gradients_are_refused_naming_the_inputs():
    x, w = np.ones((2, 3)), np.ones((3, 2))
    refused(InputError, lambda: gv.check(np.matmul, x, w, vjp=lambda dout: dout @ w.T), "1 gradient(s)", "2 floating")
    refused(InputError, lambda: gv.check(np.dot, x, w, vjp=lambda dout: (x, w, x)), "3 gradient(s)")


def test_a_dict_of_gradients_without_a_known_name_is_refused():
    parameters = {"W1": np.ones(3)}
    refused(
        InputError,
        lambda: gv.check(lambda p: p["W1"].sum(), parameters, grad={"dW7": np.ones(3)}),
        "dW7",
        "W1",
        "'dW1'",
    )


@pytest.mark.parametrize("bad", ["text", object(), [[1.0], [1.0, 2.0]], 1j])
@pytest.mark.parametrize("at", [3.0, np.ones(2)], ids=["number", "array"])
def test_a_gradient_that_is_no_real_array_is_refused(bad, at):
    refused(InputError, lambda: gv.check(lambda x: np.sum(x**2), at, grad=lambda x: bad))


def test_nothing_that_was_handed_in_is_changed_by_a_refusal():
    parameters = {"W1": np.ones(3), "b1": 2}
    before = {"W1": np.ones(3), "b1": 2}
    refused(InputError, lambda: gv.check(lambda p: p["W1"], parameters, grad={"dW1": np.ones(3)}), "not a scalar")
    assert list(parameters) == list(before)
    assert np.array_equal(parameters["W1"], before["W1"])
    assert parameters["b1"] == 2


# ---- arguments of the wrong kind -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"sensitivity": "1e-3"},
        {"budget": "60"},
        {"budget": 60.5},
        {"seed": "0"},
        {"seed": 1.5},
        {"burn_in": "3"},
        {"ratio": "2"},
        {"kwargs": [1]},
    ],
)
def test_an_argument_of_the_wrong_kind_is_refused_by_its_name(untouched, options):
    model, x = untouched
    ((name, value),) = options.items()
    refused(InputError, lambda: gv.check(model, x, **options), f"{name} is not a", f"{name}={value!r}")


@pytest.mark.parametrize("outputs", [1.5, ["logits", None]])
def test_outputs_that_are_neither_names_nor_places_are_refused(untouched, outputs):
    model, x = untouched
    refused(UsageError, lambda: gv.check(model, x, outputs=outputs), "names something that is no output")


def test_an_output_whose_size_changes_beside_the_point_ends_in_no_bare_exception():
    x = torch.tensor([0.01, -0.01, 0.02, 1.0, -0.02, -1.0], dtype=torch.float64)
    report = gv.check(lambda x: 2 * x[x > 0], x)
    assert report.verdict is not gv.Verdict.FAIL, str(report)


@pytest.mark.parametrize("keyword", ["eps", "atol", "rtol"])
def test_tolerances_of_other_checkers_are_refused_with_what_takes_their_place(keyword):
    with pytest.raises(UsageError, match="sensitivity="):
        gv.check(lambda x: x.sin(), torch.ones(3), **{keyword: 1e-3})
