"""The oracles themselves: the hand-written layers against torch's autograd, the mutations against their definition."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from oracles import layer_zoo, mutations, torch_layers


def _vjps(layer, dtype, seed=0):
    """Output, cotangent and gradients by the hand-written backward and by torch, in float64 arrays."""
    arrays = layer.arrays(dtype)
    leaves = [tensor.requires_grad_() for tensor in layer.tensors("float64")]
    outputs = layer.torch_function(*leaves)
    eager = torch.cat(outputs, dim=1) if isinstance(outputs, tuple) else outputs
    if layer.is_scalar:
        out, cotangent = layer.numpy_forward(*arrays), np.ones(())
        written = layer.numpy_backward(*arrays)
    else:
        out, cache = layer.numpy_forward(*arrays)
        cotangent = np.random.default_rng(seed).standard_normal(out.shape)
        written = layer.numpy_backward(cotangent.astype(dtype), cache)
    written = written if isinstance(written, tuple) else (written,)
    truth = torch.autograd.grad(eager, leaves, torch.as_tensor(cotangent))
    return (out, *written), (eager.detach().numpy(), *(gradient.numpy() for gradient in truth))


@pytest.mark.parametrize("size", ["small", "medium"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", layer_zoo.LAYERS)
def test_hand_written_layer_is_autograds_and_keeps_its_dtype(name, dtype, size):
    for seed in range(3):
        written, truth = _vjps(layer_zoo.draw(name, seed, size), dtype, seed)
        for got, expected in zip(written, truth, strict=True):
            assert got.dtype == dtype
            assert got.shape == expected.shape
            limit = (1e-12 if dtype == "float64" else 1e-5) * np.abs(expected).max()
            np.testing.assert_allclose(got, expected, rtol=0, atol=limit)


@pytest.mark.parametrize("name", layer_zoo.LAYERS)
def test_spoilt_function_differs_in_one_gradient_only_and_by_the_stated_size(name):
    layer = layer_zoo.draw(name)
    leaves = [tensor.requires_grad_() for tensor in layer.tensors("float64")]
    for position, tensor in enumerate(layer.inputs):
        for mutation in layer.mutations(tensor).values():
            spoilt = torch_layers.spoil_function(layer.torch_function, position, mutation.spoil)
            assert list(inspect.signature(spoilt).parameters) == list(layer.inputs)
            outputs, eager = spoilt(*leaves), layer.torch_function(*leaves)
            outputs, eager = (out if isinstance(out, tuple) else (out,) for out in (outputs, eager))
            cotangents = [torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape) for out in eager]
            wrong = torch.autograd.grad(outputs, leaves, cotangents)
            right = torch.autograd.grad(eager, leaves, cotangents)
            for at, (got, truth) in enumerate(zip(wrong, right, strict=True)):
                torch.testing.assert_close(got, mutation.spoil(truth) if at == position else truth)
            assert mutation.counts(layer.gradients[tensor])


def test_spoilt_module_keeps_its_names_and_the_other_gradients():
    module = torch.nn.Linear(3, 3).double()
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spoilt = torch_layers.spoil_module(module, "weight", lambda g: -g)
    assert list(inspect.signature(spoilt.forward).parameters) == ["input"]
    assert [name for name, _ in spoilt.named_parameters()] == ["weight", "bias"]
    module(x).square().sum().backward()
    spoilt(x).square().sum().backward()
    torch.testing.assert_close(spoilt.weight.grad, -module.weight.grad)
    torch.testing.assert_close(spoilt.bias.grad, module.bias.grad)


@pytest.mark.parametrize(
    ("name", "tensor", "expected"),
    [
        ("linear", "w", {"sign", "double", "percent", "zero-largest", "zero-median", "transposed"}),
        ("bias", "b", {"sign", "double", "percent", "zero-largest", "zero-median"}),
        ("conv2d", "w", {"sign", "double", "percent", "zero-largest", "zero-median"}),
        ("softmax_regression", "w", {"sign", "double", "percent", "zero-largest", "transposed", "missing-1/N"}),
    ],
)
def test_the_mistakes_that_count_are_the_expected_ones(name, tensor, expected):
    assert set(layer_zoo.draw(name).mutations(tensor)) == expected


def test_a_mutation_that_hardly_changes_the_gradient_does_not_count():
    symmetric = np.array([[[1.0, 2.0], [2.0, 1.0]]])
    assert "transposed" not in {mutation.kind for mutation in mutations.mutations(symmetric)}
    lopsided = np.array([[1.0, 1e-6, 1e-6]])
    assert "zero-median" not in {mutation.kind for mutation in mutations.mutations(lopsided)}


def test_a_shuffled_error_has_the_stated_size_in_both_frameworks():
    g = np.random.default_rng(0).standard_normal((4, 5))
    mutation = mutations.shuffled("random", 0.1, g.shape)
    assert np.linalg.norm(mutation.spoil(g) - g) == pytest.approx(0.1 * np.linalg.norm(g))
    np.testing.assert_array_equal(mutation.spoil(torch.tensor(g)).numpy(), mutation.spoil(g))


def test_an_error_added_to_one_entry_is_relative_to_the_rms_in_both_frameworks():
    g = np.array([[3.0, 4.0], [0.0, 0.0]])
    mutation = mutations.entry_added("entry", (1, 0), 0.1)
    np.testing.assert_allclose(mutation.spoil(g), [[3.0, 4.0], [0.25, 0.0]])
    np.testing.assert_array_equal(mutation.spoil(torch.tensor(g)).numpy(), mutation.spoil(g))
