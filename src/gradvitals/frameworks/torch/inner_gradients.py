"""Code that takes gradients itself on its way forwards: forces of an energy, a gradient penalty, an inner loop."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TypeVar

import torch

from gradvitals.vocabulary.errors import ModelError

_Key = TypeVar("_Key")
#: What autograd says where nothing was recorded.
_NOT_RECORDED = ("does not require grad", "does not have a grad_fn", "not have been used in the graph")


class InnerGradients:
    """Whether evaluations have to be recorded, for the code takes gradients in them; mostly they needn't.

    Examples
    --------
    >>> inner = InnerGradients()
    >>> with inner.allowed():
    ...     torch.is_grad_enabled()
    False

    """

    def __init__(self) -> None:
        self.wanted = False

    def are_wanted(self, error: ModelError) -> bool:
        """Whether an evaluation raised because nothing was recorded; from then on evaluations are."""
        cause = error.__cause__
        self.wanted = isinstance(cause, RuntimeError) and any(words in str(cause) for words in _NOT_RECORDED)
        return self.wanted

    def allowed(self) -> contextlib.AbstractContextManager[object]:
        """For the time of an evaluation."""
        return torch.enable_grad() if self.wanted else torch.no_grad()

    def leaves(self, point: Mapping[_Key, torch.Tensor]) -> dict[_Key, torch.Tensor]:
        """The tensors of a point, requiring gradients where evaluations are recorded."""
        return {key: tensor.requires_grad_() if self.wanted else tensor for key, tensor in point.items()}
