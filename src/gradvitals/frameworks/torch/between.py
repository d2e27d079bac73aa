"""Find what a model does elementwise between its layers, however it is written: by sending known numbers through.

In one forward pass the output of every product with a weight is replaced by numbers of a grid, each at many places in
random order. Where equal numbers arrive at the next product as equal numbers, what stands between is a function of
each of them alone, and is read off. Nothing is compared by name: ``x * torch.sigmoid(x)`` is found like a module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from gradvitals.frameworks.between import Between
from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.inputs import validate
from gradvitals.frameworks.torch.layers import is_own_network
from gradvitals.frameworks.torch.products import Products, name_of
from gradvitals.frameworks.torch.shards import resharded
from gradvitals.frameworks.torch.stance import run_eagerly
from gradvitals.frameworks.torch.state import preserved, seed_everything

#: How far the grid reaches: what a well-started layer gives lies within, and no activation overflows.
_REACH = 8.0
#: Entries of the grid at most; finer near zero, where activations bend.
_ENTRIES, _STRETCH = 4001, 3.0
#: Kinks of activations in use lie here.
_KINKS = np.arange(-_REACH, _REACH + 0.5, 0.5)
#: Fewer outputs tell too little, and more take memory and time.
_FEWEST, _MOST = 256, 1 << 22
#: Of the largest value, in steps of its precision: what rounding makes of equal numbers.
_ROUNDING = 64
#: Layers back that a signal is looked for: those that run side by side come in between.
_BACK = 8
#: Functions that drop entries at random: in this pass they keep all of them.
_DROPPING = frozenset(
    {"dropout", "alpha_dropout", "feature_alpha_dropout", "feature_dropout", *(f"dropout{n}d" for n in (1, 2, 3))}
)


class _TooLongError(Exception):
    """The model multiplies far more often than on its own numbers."""


def functions_between(case: Case, paths: Iterable[str], *, most: int, seed: int = 0) -> tuple[Between, ...] | None:
    """Find every elementwise function between two products with weights, by one forward pass; nothing is changed.

    A model that holds nothing but modules of torch.nn isn't run: its functions are known by name. A model that
    raises on such numbers has none that are found, nor one whose loop waits for something that they don't do.

    Parameters
    ----------
    case : Case
        With inputs.
    paths : iterable of str
        Weights to look at.
    most : int
        Products after which it is given up.
    seed : int
        Of the numbers, and of the random generators for the pass.

    Returns
    -------
    tuple of Between, or None
        None where the model wasn't run.

    """
    validate(case)
    model: nn.Module = getattr(case.model, "_orig_mod", case.model)
    if not any(is_own_network(module) for module in model.modules()):
        return None
    with preserved(model, (case.args, case.keywords)), torch.enable_grad():
        seed_everything(seed)
        sender = _Sender(model, frozenset(paths), seed, most)
        try:
            with run_eagerly(), resharded(model), sender:
                model(*case.args, **case.keywords)
        except Exception:  # noqa: BLE001 - numbers that the user's code never meets: whatever it raises
            return ()
        finally:
            sender.close()
    return tuple(sender.found)


@dataclass(frozen=True, slots=True)
class _Sent:
    """Which entries of the grid a product's output was replaced by."""

    path: str
    call: int
    places: torch.Tensor


class _Sender(Products):
    """Puts numbers in the place of outputs, and looks at what arrives."""

    def __init__(self, model: nn.Module, wanted: frozenset[str], seed: int, most: int) -> None:
        super().__init__(model, wanted)
        self.found: list[Between] = []
        self._sent: list[_Sent] = []
        self._counts: Counter[str] = Counter()
        self._most = most
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if name_of(func) in _DROPPING and args:
            return args[0]
        output = func(*args, **(kwargs or {}))
        found = self.product(func, args, kwargs or {})
        if found is None or not isinstance(output, torch.Tensor):
            return output
        with torch._C.DisableTorchFunction():  # noqa: SLF001
            call = self._counts[found.path]
            self._counts[found.path] += 1
            if self._counts.total() > self._most:
                raise _TooLongError
            if found.signal is not None:
                self._arrived(found.path, call, found.signal.detach())
            return self._replaced(found.path, call, output)

    def _replaced(self, path: str, call: int, output: torch.Tensor) -> torch.Tensor:
        if not output.is_floating_point() or not _FEWEST <= output.numel() <= _MOST or output.is_meta:
            return output
        grid = _grid(output.numel() // 2)
        places = torch.randint(len(grid), (output.numel(),), generator=self._generator, device="cpu")
        self._sent.append(_Sent(path, call, places))
        return torch.from_numpy(grid)[places].reshape(output.shape).to(output)

    def _arrived(self, path: str, call: int, signal: torch.Tensor) -> None:
        if not signal.is_floating_point():
            return
        precision = torch.finfo(signal.dtype).eps
        for sent in reversed(self._sent[-_BACK:]):
            if len(sent.places) != signal.numel():
                continue
            curve = _curve(sent.places, signal.reshape(-1).cpu(), precision)
            if curve is not None:
                self.found.append(Between(sent.path, sent.call, path, call, *curve, precision))
                return


def _curve(
    places: torch.Tensor, arrived: torch.Tensor, precision: float
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]]] | None:
    """What every entry of the grid became; None where that isn't one number, or one for all."""
    values = arrived.double()
    scale = float(values.abs().max())
    if not np.isfinite(scale):
        return None
    grid = _grid(len(places) // 2)
    counts = torch.bincount(places, minlength=len(grid))
    means = torch.bincount(places, weights=values, minlength=len(grid)) / counts
    if float((values - means[places]).abs().max()) > _ROUNDING * precision * scale or not scale:
        return None
    met = (counts > 0).numpy()
    return grid[met], means.numpy()[met]


def _grid(entries: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Rising numbers, finer near zero."""
    even = np.linspace(-_STRETCH, _STRETCH, min(entries, _ENTRIES))
    return np.union1d(np.round(_REACH * np.sinh(even) / np.sinh(_STRETCH), 6), _KINKS)
