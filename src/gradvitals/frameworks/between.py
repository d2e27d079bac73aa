"""What stands between one product with a weight and the next, as numbers: plain data, the same for every framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Between:
    """A function that treats every output of a layer alike and alone, before another layer takes it.

    Parameters
    ----------
    path, call : str, int
        Of the weight that gives, and how many times it was used before.
    next_path, next_call : str, int
        Of the weight that takes.
    inputs, values : array
        The function, at rising inputs.
    precision : float
        Distance from 1 to the next number in the precision of the values.

    """

    path: str
    call: int
    next_path: str
    next_call: int
    inputs: Array
    values: Array
    precision: float
