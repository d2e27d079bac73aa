"""The slow obvious truth about singular values: write every sample's Jacobian down in float64, and decompose it."""

from __future__ import annotations

import copy

import numpy as np
import torch


def jacobians(function, x, axis=0):
    """Each sample's own ∂output/∂input, samples lying along one axis of either: of shape (samples, outputs, inputs)."""
    found = []
    for n in range(x.shape[axis]):
        of_sample = torch.autograd.functional.jacobian(lambda v, n=n: function(v).select(axis, n), x)
        outputs = of_sample.shape[: of_sample.ndim - x.ndim].numel()
        found.append(of_sample.select(axis - x.ndim, n).reshape(outputs, -1).numpy())
    return np.stack(found)


def of_batch(function, x):
    """The Jacobian of the whole batch as one matrix, of shape (1, outputs, inputs)."""
    whole = torch.autograd.functional.jacobian(function, x)
    return whole.reshape(1, -1, x.numel()).numpy()


def in_float64(model):
    """A copy in float64."""
    return copy.deepcopy(model).double()


def truth(matrices):
    """The largest singular value, the mean and the relative variance of the squares, and the worst condition."""
    values = np.linalg.svd(matrices, compute_uv=False)
    squares = values**2
    mean = squares.mean()
    return {
        "sigma_max": values.max(),
        "mean_square": mean,
        "square_variance": squares.var() / mean**2 if mean > 0 else np.nan,
        "condition": np.inf if not values[:, -1].all() else (values[:, 0] / values[:, -1]).max(),
    }
