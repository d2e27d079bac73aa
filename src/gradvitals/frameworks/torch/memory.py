"""A parameter's own memory, which is written and put back at every evaluation of a function elsewhere."""

from __future__ import annotations

from typing import Any

import torch

from gradvitals.frameworks.problem import Array
from gradvitals.frameworks.torch.entries import write

#: NumPy rounds float64 to these as torch does; to float16 torch rounds by way of float32.
_DTYPES = frozenset({torch.float32, torch.float64})
_KINDS = frozenset({torch.Tensor, torch.nn.Parameter})


class Memory:
    """Where a dense tensor's numbers lie, with the numbers to be put back.

    Through NumPy where that can reach them: a small tensor takes a tenth of the time then. Changes stay behind the
    version counter: a graph that the user holds stays usable.

    Parameters
    ----------
    tensor : torch.Tensor
    base : torch.Tensor
        A copy with the numbers that :meth:`restore` puts back.

    Examples
    --------
    >>> import numpy as np
    >>> tensor = torch.zeros(2)
    >>> memory = Memory(tensor, tensor.clone())
    >>> memory.write(np.array([1.0, 2.0]))
    >>> tensor
    tensor([1., 2.])
    >>> memory.restore()
    >>> tensor
    tensor([0., 0.])

    """

    def __init__(self, tensor: torch.Tensor, base: torch.Tensor) -> None:
        self._tensor = tensor
        self._base = base
        self._view: Any = None
        plain = type(tensor) in _KINDS and tensor.device.type == "cpu" and tensor.layout == torch.strided
        if plain and tensor.dtype in _DTYPES and tensor.is_contiguous() and base.is_contiguous():
            self._view = tensor.detach().reshape(-1).numpy()
            self._kept = base.reshape(-1).numpy()
            self._at = tensor.data_ptr()

    def write(self, entries: Array) -> None:
        """Change the tensor's entries in place: flat, of shape (size,)."""
        # The tensor may lie elsewhere by now: code may give it other memory by ``.data = ``.
        if self._view is not None and self._tensor.data_ptr() == self._at:
            self._view[:] = entries
        else:
            write(self._tensor, entries)

    def restore(self) -> None:
        """Put the numbers of the base back."""
        if self._view is not None and self._tensor.data_ptr() == self._at:
            self._view[:] = self._kept
        else:
            self._tensor.data.copy_(self._base)
