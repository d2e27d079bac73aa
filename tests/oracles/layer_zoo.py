"""One draw of every layer: inputs, hand-written NumPy and torch functions, and the mutations that count.

Sizes: ``small`` has tens of entries, ``medium`` a few thousand. Matrices are square where the layer lets them be, so
that a transposed gradient has the right shape and is really a trap.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from oracles import numpy_layers, torch_layers
from oracles.mutations import Mutation, mutations

#: Random cotangents over which a mutation's size is measured.
COTANGENTS = 32


@dataclass(frozen=True)
class Layer:
    """A layer with its inputs in float64, by name and in order; ``mean_over`` is N where it returns a mean over N."""

    name: str
    inputs: Mapping[str, np.ndarray]
    numpy_forward: Callable[..., Any]
    numpy_backward: Callable[..., Any]
    torch_function: Callable[..., Any]
    mean_over: int | None = None

    @property
    def is_scalar(self) -> bool:
        return self.mean_over is not None

    def arrays(self, dtype):
        return tuple(value.astype(dtype) for value in self.inputs.values())

    def tensors(self, dtype):
        return tuple(torch.tensor(value, dtype=getattr(torch, dtype)) for value in self.inputs.values())

    @functools.cached_property
    def gradients(self) -> dict[str, np.ndarray]:
        """Vector-Jacobian products in float64 for :data:`COTANGENTS` random cotangents, by input: (M, *shape)."""
        leaves = [tensor.requires_grad_() for tensor in self.tensors("float64")]
        outputs = self.torch_function(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        generator = torch.Generator().manual_seed(20260101)
        rows = []
        for _ in range(1 if self.is_scalar else COTANGENTS):
            cotangents = [torch.randn(out.shape, generator=generator, dtype=out.dtype) for out in outputs]
            cotangents = [torch.ones_like(outputs[0])] if self.is_scalar else cotangents
            rows.append(torch.autograd.grad(outputs, leaves, cotangents, retain_graph=True))
        return {name: np.stack([row[i].numpy() for row in rows]) for i, name in enumerate(self.inputs)}

    def mutations(self, tensor) -> dict[str, Mutation]:
        """The mutations of a tensor's gradient that count, by kind."""
        return {mutation.kind: mutation for mutation in mutations(self.gradients[tensor], self.mean_over)}


def _normal(rng, *shape):
    return rng.standard_normal(shape)


def _linear(rng, medium):
    n, d = (40, 40) if medium else (4, 4)
    return {"x": _normal(rng, n, d), "w": _normal(rng, d, d) / d**0.5, "b": _normal(rng, d)}


def _bias(rng, medium):
    n, d = (60, 50) if medium else (4, 4)
    return {"x": _normal(rng, n, d), "b": _normal(rng, d)}


def _square(rng, medium):
    return {"x": _normal(rng, *((50, 50) if medium else (5, 5)))}


def _away_from_zero(rng, medium):
    x = _square(rng, medium)["x"]
    return {"x": np.sign(x) * (0.25 + np.abs(x))}


def _batch_norm(rng, medium):
    n, d = (50, 50) if medium else (5, 5)
    return {
        "x": _normal(rng, n, d) * np.exp(_normal(rng, d) / 2) + _normal(rng, d),
        "gamma": 1 + _normal(rng, d) / 4,
        "beta": _normal(rng, d),
    }


def _conv2d(rng, medium):
    n, c, size = (3, 8, 12) if medium else (1, 2, 3)
    w = _normal(rng, c, c, 3, 3) / (9 * c) ** 0.5
    return {"x": _normal(rng, n, c, size, size), "w": w, "b": _normal(rng, c)}


def _max_pool(rng, medium):
    """No ties: the four entries of a window differ by at least 0.3."""
    n, c, size = (4, 8, 10) if medium else (1, 2, 4)
    windows = n * c * (size // 2) ** 2
    ranks = rng.permuted(np.tile(0.5 * np.arange(4.0), (windows, 1)), axis=1)
    blocks = ranks + rng.uniform(0, 0.2, ranks.shape) + _normal(rng, windows, 1)
    x = blocks.reshape(n, c, size // 2, size // 2, 2, 2).transpose(0, 1, 2, 4, 3, 5)
    return {"x": x.reshape(n, c, size, size)}


def _attention(rng, medium):
    size = 32 if medium else 4
    return {name: _normal(rng, size, size) for name in ("q", "k", "v")}


def _embedding(rng, medium):
    v, d = (60, 40) if medium else (5, 5)
    return {"table": _normal(rng, v, d)}


def _lstm_cell(rng, medium):
    n, d, h = (20, 16, 16) if medium else (2, 2, 2)
    return {
        "x": _normal(rng, n, d),
        "h": _normal(rng, n, h) / 2,
        "c": _normal(rng, n, h),
        "W": _normal(rng, d, 4 * h) / d**0.5,
        "U": _normal(rng, h, 4 * h) / h**0.5,
        "b": _normal(rng, 4 * h) / 2,
    }


def _cross_entropy(rng, medium):
    return {"logits": _normal(rng, *((60, 40) if medium else (5, 5)))}


def _softmax_regression(rng, medium):
    n, d, k = (40, 30, 30) if medium else (5, 4, 4)
    return {"x": _normal(rng, n, d), "w": _normal(rng, d, k) / d**0.5, "b": _normal(rng, k) / 2}


_DRAWS = {
    "linear": _linear,
    "bias": _bias,
    "relu": _away_from_zero,
    "sigmoid": _square,
    "tanh": _square,
    "batch_norm": _batch_norm,
    "layer_norm": _batch_norm,
    "conv2d": _conv2d,
    "max_pool": _max_pool,
    "attention": _attention,
    "embedding": _embedding,
    "lstm_cell": _lstm_cell,
    "cross_entropy": _cross_entropy,
    "softmax_regression": _softmax_regression,
}

LAYERS = tuple(_DRAWS)


@functools.cache
def draw(name, seed=0, size="small") -> Layer:
    """The layer of that name with inputs drawn from ``seed``."""
    rng = np.random.default_rng((LAYERS.index(name), seed))
    inputs = _DRAWS[name](rng, medium=size == "medium")
    written, eager = getattr(numpy_layers, name), getattr(torch_layers, name)
    if name in {"cross_entropy", "softmax_regression"}:
        first, last = next(iter(inputs.values())), next(reversed(inputs.values()))
        n, classes = len(first), last.shape[-1]
        labels = rng.integers(classes, size=n)
        return Layer(name, inputs, *written(labels), eager(labels), mean_over=n)
    if name == "embedding":
        rows = len(inputs["table"])
        indices = rng.integers(rows, size=2 * rows)
        return Layer(name, inputs, *written(indices), eager(indices))
    return Layer(name, inputs, written, getattr(numpy_layers, f"{name}_backward"), eager)
