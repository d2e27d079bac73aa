"""The layers of :mod:`oracles.numpy_layers` in torch: with torch's own autograd, and with one gradient spoilt.

Parameters have the NumPy layers' names and order, so that one draw serves both.
"""

from __future__ import annotations

import copy
import functools

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from oracles.numpy_layers import EPSILON


def linear(x, w, b):
    return x @ w + b


def bias(x, b):
    return x + b


def relu(x):
    return torch.relu(x)


def sigmoid(x):
    return torch.sigmoid(x)


def tanh(x):
    return torch.tanh(x)


def batch_norm(x, gamma, beta):
    return F.batch_norm(x, None, None, gamma, beta, training=True, eps=EPSILON)


def layer_norm(x, gamma, beta):
    return F.layer_norm(x, x.shape[-1:], gamma, beta, eps=EPSILON)


def conv2d(x, w, b):
    return F.conv2d(x, w, b, padding=1)


def max_pool(x):
    return F.max_pool2d(x, 2)


def attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def embedding(indices):
    indices = torch.as_tensor(indices)

    def forward(table):
        return F.embedding(indices, table)

    return forward


def lstm_cell(x, h, c, W, U, b):
    i, f, g, o = (x @ W + h @ U + b).chunk(4, dim=1)
    new_c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(new_c), new_c


def cross_entropy(labels):
    labels = torch.as_tensor(labels)

    def loss(logits):
        return F.cross_entropy(logits, labels)

    return loss


def softmax_regression(labels):
    labels = torch.as_tensor(labels)

    def loss(x, w, b):
        return F.cross_entropy(x @ w + b, labels)

    return loss


class Spoilt(torch.autograd.Function):
    """An eager function and its true vector-Jacobian product, except that one tensor's share goes through ``spoil``."""

    @staticmethod
    def forward(ctx, function, spoil, position, *inputs):
        ctx.function, ctx.spoil, ctx.position = function, spoil, position
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *cotangents):
        inputs = [t.detach().requires_grad_(t.is_floating_point()) for t in ctx.saved_tensors]
        with torch.enable_grad():
            outputs = ctx.function(*inputs)
        leaves = [t for t in inputs if t.requires_grad]
        found = iter(torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True))
        gradients = [next(found) if t.requires_grad else None for t in inputs]
        gradients[ctx.position] = ctx.spoil(gradients[ctx.position])
        return None, None, None, *gradients


def spoil_function(function, position, spoil):
    """The same function, argument names and all, with the gradient of the input at ``position`` spoilt."""

    @functools.wraps(function)
    def spoilt(*inputs):
        return Spoilt.apply(function, spoil, position, *inputs)

    return spoilt


def spoil_module(module, parameter, spoil):
    """A copy of the module, of the same parameter and argument names, with one parameter's gradient spoilt."""
    pure = copy.deepcopy(module)
    names = [name for name, _ in module.named_parameters()]

    class SpoiltModule(type(module)):
        @functools.wraps(type(module).forward)
        def forward(self, *inputs):
            def function(*tensors):
                parameters = dict(zip(names, tensors[len(inputs) :], strict=True))
                return torch.func.functional_call(pure, parameters, tensors[: len(inputs)])

            own = dict(self.named_parameters())
            return Spoilt.apply(
                function, spoil, len(inputs) + names.index(parameter), *inputs, *(own[name] for name in names)
            )

    spoilt = copy.deepcopy(module)
    spoilt.__class__ = SpoiltModule
    return spoilt
