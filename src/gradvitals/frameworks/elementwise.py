"""Activations as users give them: a name, a NumPy or torch function, a torch module."""

from __future__ import annotations

import copy
import difflib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gradvitals.maths.activations import NAMES, Activation, activation
from gradvitals.vocabulary.errors import UsageError

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

#: Where kinks are looked for, and how finely: an activation bends within a few units of zero.
_REACH, _GRID = 12.0, 4801
#: Bisections of a bend: the slope across a smooth one shrinks by half each time, that across a kink stays.
_BISECTIONS, _STAYS = 12, 0.5
#: Slopes that differ by less than this share of the largest are the same.
_SAME = 1e-3
#: Step of a central difference of fourth order in float64, relative to max(1, |x|): its error is near 1e-12.
_STEP = 1e-3


def as_activation(given: Any) -> Activation:
    """An activation from its name, a function of arrays or tensors, or a module.

    Raises
    ------
    UsageError
        On an unknown name, or something that isn't an elementwise function.

    Examples
    --------
    >>> import numpy as np
    >>> as_activation("relu").kinks, as_activation(lambda x: np.maximum(x, 1.0)).kinks
    ((0.0,), (1.0,))

    """
    if isinstance(given, Activation):
        return given
    if isinstance(given, str):
        if given not in NAMES:
            near = difflib.get_close_matches(given.lower(), NAMES, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UsageError("no activation has this name", repr(given), f"{hint}Known: {', '.join(NAMES)}")
        return activation(given)
    if not callable(given):
        raise UsageError(
            "an activation is a name or a function",
            f"got {type(given).__name__}",
            "give its name ('gelu'), or a function of an array or tensor",
        )
    value = _on_arrays(given)
    probe = np.array([-1.0, 0.5, 2.0])
    try:
        result = np.asarray(value(probe), dtype=np.float64)
        alone = np.asarray(value(probe[1:2]), dtype=np.float64)
    except Exception as error:
        raise UsageError(
            "this function can't be called on an array",
            f"{type(error).__name__}: {error}",
            "give an elementwise function of a NumPy array or a torch tensor",
        ) from error
    if result.shape != probe.shape or not np.allclose(alone, result[1:2], equal_nan=True):
        raise UsageError(
            "this function isn't elementwise",
            f"of shape {probe.shape} it made {result.shape}; an entry alone gives {alone}, all together {result}",
            "give a function that treats every entry alike and alone",
        )
    name = str(getattr(given, "__name__", type(given).__name__))
    slope = _slope(value)
    return Activation(name, value, slope, _kinks(slope))


def _on_arrays(given: Callable[[Any], Any]) -> Callable[[Array], Array]:
    """A function of float64 arrays, whether it is written for NumPy or for torch."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return lambda x: np.asarray(given(x), dtype=np.float64)
    if isinstance(given, torch.nn.Module) and next(given.parameters(), None) is not None:
        given = copy.deepcopy(given).double()
    try:
        if not isinstance(given(np.zeros(1)), torch.Tensor):
            return lambda x: np.asarray(given(x), dtype=np.float64)
    except Exception:  # noqa: BLE001, S110 - written for torch, then
        pass

    def call(x: Array) -> Array:
        with torch.no_grad():
            return np.asarray(given(torch.from_numpy(np.ascontiguousarray(x))).double().numpy())

    return call


def _slope(value: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def slope(x: Array) -> Array:
        h = _STEP * np.maximum(1.0, np.abs(x))
        outer = value(x + 2 * h) - value(x - 2 * h)
        inner = value(x + h) - value(x - h)
        return np.asarray((8 * inner - outer) / (12 * h))

    return slope


def _kinks(slope: Callable[[Array], Array]) -> tuple[float, ...]:
    """Where the slope jumps."""
    grid = np.linspace(-_REACH, _REACH, _GRID) + 1e-7  # beside round numbers, where kinks are
    slopes = slope(grid)
    scale = max(float(np.abs(slopes).max()), 1e-300)
    at = np.nonzero(np.abs(np.diff(slopes)) > _SAME * scale)[0]
    low, high = grid[at] - 3 * _STEP * 12, grid[at + 1] + 3 * _STEP * 12
    before = np.abs(slope(high) - slope(low))
    kinks = _bisected(slope, low, high)
    near = 6 * _STEP * np.maximum(1.0, np.abs(kinks))
    after = np.abs(slope(kinks + near) - slope(kinks - near))
    stays = (after > _STAYS * before) & (after > _SAME * scale)
    found: list[float] = []
    for kink, apart in zip(kinks[stays].tolist(), near[stays].tolist(), strict=True):
        if not any(abs(kink - k) < apart for k in found):
            found.append(round(kink, 4) if abs(kink - round(kink, 4)) < 2 * _STEP else kink)
    return tuple(0.0 if abs(k) < 2 * _STEP else round(k, 2) if abs(k - round(k, 2)) < 2 * _STEP else k for k in found)


def _bisected(slope: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Halve intervals towards the larger change of slope."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        a, b, c = slope(low), slope(middle), slope(high)
        left = np.abs(b - a) > np.abs(c - b)
        low, high = np.where(left, low, middle), np.where(left, middle, high)
    return np.asarray((low + high) / 2)
