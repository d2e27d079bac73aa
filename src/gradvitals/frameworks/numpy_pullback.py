"""A forward pass of a NumPy layer whose backward pass takes several cotangents, in any memory layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradvitals.frameworks.problem import Array, Gradient, Tensor
from gradvitals.frameworks.pullback import Pull
from gradvitals.vocabulary.errors import GradvitalsError, InputError

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

#: Of cotangents; see :class:`~gradvitals.frameworks.pullback.Pullable`.
LAYOUTS = ("transposed", "sliced", "expanded", "expanded-rows")


class NumpyPullback:
    """Outputs, and what takes their cotangents back.

    Parameters
    ----------
    outputs : sequence of arrays
    back : callable
        Makes gradients of the outputs' cotangents.
    runs_anew : bool
        Whether it runs the forward pass first: a layer without a cache keeps in itself what it needs in between.

    """

    #: A layer may keep in itself what it needs between the two passes: no other call may come in between.
    own_backward = False
    own_forward_mode = False
    draws = False  # NumPy's generators don't ask how memory lies

    def __init__(
        self,
        outputs: Sequence[NDArray[Any]],
        back: Callable[[list[NDArray[Any]]], tuple[Gradient, ...]],
        *,
        runs_anew: bool,
    ) -> None:
        self.value = np.concatenate([out.astype(np.float64).reshape(-1) for out in outputs])
        self._outputs = outputs
        self._back = back
        self.runs_anew = runs_anew

    def send(self, cotangent: Array, layout: str = "plain") -> Pull:
        parts = [laid_out(part, layout) for part in split(cotangent, self._outputs)]
        before = [part.copy() for part in parts]
        sent = np.concatenate([part.astype(np.float64).reshape(-1) for part in before])
        try:
            found = self._back(parts)
        except GradvitalsError as error:
            return Pull((), sent, raised=str(error.__cause__ or error).partition("\n")[0].rstrip("."))
        copies = tuple(Gradient(None if g.value is None else g.value.copy(), g.got_shape) for g in found)
        kept = all(np.array_equal(part, was, equal_nan=True) for part, was in zip(parts, before, strict=True))
        return Pull(copies, sent, modified=not kept)


def judgeable(found: Any, tensor: Tensor, factor: float) -> Gradient:
    """A gradient as it was returned, times a factor, as what can be judged: its values, or its wrong shape."""
    if found is None:
        return Gradient(None)
    try:
        array = np.asarray(found)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        raise InputError(
            "a gradient is not an array of real numbers",
            f"the gradient of {tensor.path} is {type(found).__name__} of {array.dtype}",
            f"return a real array of shape {tensor.shape}",
        )
    if array.shape != tensor.shape and not (array.size == 1 == tensor.size):
        return Gradient(None, array.shape)
    return Gradient(array.astype(np.float64).reshape(-1) * factor)


def split(cotangent: Array, outputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """The part of a flat cotangent that belongs to each output, in its dtype."""
    parts, start = [], 0
    for out in outputs:
        parts.append(cotangent[start : start + out.size].reshape(out.shape).astype(out.dtype))
        start += out.size
    return parts


def laid_out(array: NDArray[Any], layout: str) -> NDArray[Any]:
    """An array in another layout; as it is where the layout doesn't fit its shape.

    >>> laid_out(np.zeros((2, 3)), "transposed").strides, laid_out(np.zeros((2, 3)), "expanded").strides
    ((8, 16), (0, 0))
    """
    if layout == "strided":
        layout = "transposed" if array.ndim >= 2 and array.shape[0] > 1 and array.shape[-1] > 1 else "sliced"
    if array.size <= 1:
        return array
    if layout == "transposed" and array.ndim >= 2:
        return np.swapaxes(np.ascontiguousarray(np.swapaxes(array, 0, -1)), 0, -1)
    if layout == "sliced":
        others = -array - np.copysign(np.abs(array).max(), array)
        beside: NDArray[Any] = np.stack((others, array), axis=-1)[..., 1]
        return beside
    if layout == "expanded":
        return np.broadcast_to(array.reshape(-1)[0], array.shape)
    if layout == "expanded-rows" and array.ndim >= 2:
        return np.broadcast_to(array[:1], array.shape)
    return array
