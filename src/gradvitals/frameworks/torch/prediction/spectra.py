"""Signals whose units know of one another: what a Fourier transform over units left, as the real part of it.

For moments units are independent of one another. Half of those of a real part are the others once more, which a product
with weights forgets, but another Fourier transform of the units doesn't (every other layer of FNet).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradvitals.frameworks.torch.prediction.operation import Operation
from gradvitals.frameworks.torch.prediction.values import Node, nested_tensors
from gradvitals.maths.field import Role

#: Products with weights: other units, which know nothing of one another.
_MIXING = frozenset({"mm", "addmm", "linear", "bmm", "baddbmm", "convolution", "_trilinear"})


class AlikeUnitsError(Exception):
    """A function of all units of a signal some of which are the same."""

    def __init__(self) -> None:
        super().__init__("a second Fourier transform over units, of which some are the same")


def refuse_second(operation: Operation, values: Sequence[Any]) -> None:
    """Stop before a Fourier transform of units that are the real part of one.

    Raises
    ------
    AlikeUnitsError
        If so.

    """
    forwards = operation.name in {"aten::_fft_r2c", "aten::_fft_c2c"}
    drawn = any(isinstance(value, Node) and value.is_drawn for value in values)
    if forwards and not drawn and any(_known(operation, values)) and _over_units(operation, values):
        raise AlikeUnitsError


def remember(operation: Operation, values: Sequence[Any]) -> None:
    """Note of what an operation made whether it comes out of a Fourier transform of units, and became real since."""
    name = operation.name.removeprefix("aten::")
    spectral = operation.trace.spectral
    known = _known(operation, values)
    if not known and not (name.startswith("_fft") and _over_units(operation, values)):
        return
    if name in _MIXING:
        return
    for tensor in nested_tensors(operation.output):
        value = operation.trace.value(tensor)
        if isinstance(value, Node):
            spectral[value.key] = any(known) or not tensor.is_complex()


def _known(operation: Operation, values: Sequence[Any]) -> list[bool]:
    """Of signals that come out of a Fourier transform of units whether they became real."""
    spectral = operation.trace.spectral
    return [spectral[value.key] for value in values if isinstance(value, Node) and value.key in spectral]


def _over_units(operation: Operation, values: Sequence[Any]) -> bool:
    layout = next((value.layout for value in values if isinstance(value, Node)), ())
    dims = [d for d in operation.args[1] if -len(layout) <= d < len(layout)]
    return any(axis.role is Role.UNIT for d in dims for axis in layout[d])
