"""Dropout's masks under ``torch.func.vmap``, drawn as a plain evaluation draws them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_SIGNATURE = inspect.signature(torch.nn.functional.dropout)


class SameMasks(TorchFunctionMode):
    """Draws masks in the order of memory.

    A plain dropout fills its mask in the order in which its input lies in memory, and ``randomness="same"`` in the
    order of its indices: after a transposition the same random numbers fall on other entries.

    Examples
    --------
    >>> x = torch.ones(3, 2, 4)
    >>> def drop(x):
    ...     return torch.nn.functional.dropout(x.mT)
    >>> _ = torch.manual_seed(0)
    >>> plain = drop(x[0])
    >>> _ = torch.manual_seed(0)
    >>> with SameMasks():
    ...     batched = torch.func.vmap(drop, randomness="same")(x)
    >>> torch.equal(plain, batched[0]), torch.equal(plain, batched[2])
    (True, True)

    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if function is torch.nn.functional.dropout:
            given = _SIGNATURE.bind(*args, **(kwargs or {}))
            given.apply_defaults()
            x, p, training, inplace = given.args
            if training and 0 < p < 1 and not inplace:
                return x * _mask(x, p)
        elif function is torch.dropout and not kwargs:
            x, p, training = args
            if training and 0 < p < 1:
                return x * _mask(x, p)
        return function(*args, **(kwargs or {}))


def _mask(x: torch.Tensor, p: float) -> torch.Tensor:
    """Zeros and 1 / (1 − p), for one point: of the logical shape, in the logical order of strides."""
    strides = x.stride()
    order = sorted(range(x.ndim), key=lambda axis: (-strides[axis], axis))
    drawn = torch.empty([x.shape[axis] for axis in order], dtype=x.dtype, device=x.device).bernoulli_(1 - p)
    return drawn.div_(1 - p).permute([order.index(axis) for axis in range(x.ndim)])
