"""Dropout's masks under ``torch.func.vmap``, drawn as a plain evaluation draws them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch._functorch.pyfunctorch import temporarily_pop_interpreter_stack
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
                return _dropped(x, p)
        elif function is torch.dropout and not kwargs:
            x, p, training = args
            if training and 0 < p < 1:
                return _dropped(x, p)
        return function(*args, **(kwargs or {}))


def _dropped(x: torch.Tensor, p: float) -> torch.Tensor:
    """What a plain dropout makes of one point, for all points."""
    strides = x.stride()
    order = sorted(range(x.ndim), key=lambda axis: (-strides[axis], axis))
    shape, places = [x.shape[axis] for axis in order], [order.index(axis) for axis in range(x.ndim)]
    if x.device.type == "cpu":
        drawn = torch.empty(shape, dtype=x.dtype, device="cpu").bernoulli_(1 - p)
        return x * drawn.div_(1 - p).permute(places)
    # A GPU has a kernel of its own for it, with random numbers in an order of its own, which vmap doesn't use.
    with temporarily_pop_interpreter_stack():
        _, mask = torch.native_dropout(torch.ones(shape, dtype=x.dtype, device=x.device), p, train=True)
    return x * mask.permute(places) * (1 / (1 - p))
