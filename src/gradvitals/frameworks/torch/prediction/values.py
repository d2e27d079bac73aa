"""What is known of a tensor while a model is traced: its values, the moments of its values, or how it was drawn."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from gradvitals.frameworks.torch.prediction.draws import Call, Drawing
from gradvitals.frameworks.torch.prediction.transformed import Function, Transformed
from gradvitals.maths.alignment import alike
from gradvitals.maths.field import Field, Layout

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

    from gradvitals.frameworks.torch.prediction.kinship import Kin

    Array: TypeAlias = NDArray[np.float64]

_keys = itertools.count()

#: Of a distribution that is drawn from: probabilities are kept to a hundredth of a per cent.
_QUANTILES = 10_000
#: Entries that are read at once: as float64 they stay in the processor's second cache.
_PIECE = 2**14
#: Mean squares below this are of entries whose squares may leave the range of float32.
_LEAST = 1e-30
#: Types that NumPy knows.
_PLAIN = (torch.float32, torch.float64)


def nested_tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in nested tuples, lists and dictionaries; quicker than a general tree for what operations take."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in nested_tensors(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in nested_tensors(item)]
    return []


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A tensor whose values are known: a parameter, an input, or what was made of such or of nothing.

    Parameters
    ----------
    held : torch.Tensor
        Where the model has it, on any device.
    learned : bool
        It is a parameter or was made of one: its entries count as random.
    data : bool
        It is a floating-point input or was made of one.
    owned : bool
        It was made while tracing, so that it may be changed in place.
    name : str or None
        The parameter's path.
    chosen_by : frozenset of int
        Signals, by their keys, on whose values in this batch it depends.

    """

    held: torch.Tensor
    learned: bool = False
    data: bool = False
    owned: bool = True
    name: str | None = None
    chosen_by: frozenset[int] = frozenset()
    _moments: list[tuple[float, float]] = field(default_factory=list)
    _here: list[torch.Tensor] = field(default_factory=list)

    @property
    def value(self) -> torch.Tensor:
        """The values on the CPU, where theory is worked out; from elsewhere they are fetched when first asked for."""
        if self.held.device.type == "cpu":
            return self.held
        if not self._here:
            self._here.append(self.held.detach().cpu())
        return self._here[0]

    @property
    def mean_and_square(self) -> tuple[float, float]:
        """E[w] and E[w²] over the entries, read once."""
        if not self._moments:
            self._moments.append(_moments(self.held.detach()))
        return self._moments[0]

    def seen_as(self, view: torch.Tensor) -> Constant:
        """The same values in another shape: what was read of them needn't be read again."""
        return replace(self, held=view, _here=[])

    def changed_to(self, values: torch.Tensor) -> Constant:
        """Other values made of these."""
        return replace(self, held=values, _moments=[], _here=[])


def _moments(value: torch.Tensor) -> tuple[float, float]:
    """The mean and mean square of a tensor's entries: piece by piece, as a whole copy takes twice as long.

    Pieces of float32 are summed in float32, four times as fast and right to six digits, where no square leaves its
    range; else, and any other type, in float64. Of complex entries E[Re w] and E[|w|²].
    """
    with torch.no_grad():
        if value.is_complex():
            wide = value.to(torch.complex128)
            return float(wide.real.mean()), float(wide.abs().square().mean())
        if value.device.type != "cpu":  # where it is, without a copy
            root = float(torch.linalg.vector_norm(value, dtype=torch.float64))
            return float(value.mean(dtype=torch.float64)), root * root / max(value.numel(), 1)
        if value.dtype not in _PLAIN:
            value = value.to(torch.float64)
        dense = value.is_contiguous() or value.dim() != 2
        entries = (value if dense else value.t()).reshape(-1).numpy()
    ones, room = np.ones(_PIECE, entries.dtype), np.empty(_PIECE)
    total = squares = 0.0
    for start in range(0, len(entries), _PIECE):
        piece = entries[start : start + _PIECE]
        with np.errstate(over="ignore", invalid="ignore"):
            square = float(piece @ piece)
        if not _LEAST * len(piece) < square < math.inf:
            piece = room[: len(piece)]
            np.copyto(piece, entries[start : start + _PIECE])
            square = float(piece @ piece)
        total += float(piece @ ones[: len(piece)])
        squares += square
    count = max(len(entries), 1)
    return total / count, squares / count


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A parameter without values (on the meta device): its shape and moments."""

    shape: tuple[int, ...]
    second: float
    mean: float = 0.0
    name: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Noise:
    """Entries drawn independently of all others (a dropout mask), by the quantiles of their distribution."""

    quantiles: Array

    @property
    def mean(self) -> float:
        """E[x]."""
        return float(self.quantiles.mean())

    @property
    def second(self) -> float:
        """E[x²]."""
        return float(np.square(self.quantiles).mean())

    @classmethod
    def of_two(cls, low: float, high: float, share: float) -> Noise:
        """One of two numbers, the higher with a probability."""
        many = round(_QUANTILES * share)
        return cls(np.concatenate([np.full(_QUANTILES - many, low), np.full(many, high)]))

    @classmethod
    def uniform(cls, low: float, high: float) -> Noise:
        """Evenly between two numbers."""
        return cls(low + (high - low) * (np.arange(_QUANTILES) + 0.5) / _QUANTILES)

    @classmethod
    def normal(cls, mean: float, deviation: float) -> Noise:
        """Gaussian."""
        evenly = torch.from_numpy((np.arange(_QUANTILES) + 0.5) / _QUANTILES)
        standard = torch.special.ndtri(evenly).numpy()
        return cls(mean + deviation * standard / np.sqrt(np.square(standard).mean()))


@dataclass(slots=True, eq=False)
class Node:
    """A signal: its moments, and the operation on one other signal that it is, if it is elementwise.

    A chain of elementwise operations is one function of the signal at its start, which is nearly Gaussian: so that
    ``x * sigmoid(x)`` is evaluated as what it is, and not as a product of strangers.

    ``call`` and ``at`` say which output of which operation it is, where that can be repeated on draws; a node that
    ``is_drawn`` has its moments from those.
    """

    _field: Field | None
    source: Node | None = None
    function: Function | None = None
    tags: dict[str, object] = field(default_factory=dict)
    key: int = field(default_factory=lambda: next(_keys))
    _transformed: Transformed | None = None
    call: Call | None = None
    at: int = 0
    is_drawn: bool = False
    drawing: Drawing | None = None
    drawn_layout: Layout = ()
    kin: Kin | None = None

    @property
    def field(self) -> Field:
        """Its moments, evaluated when they are first asked for."""
        if self._field is None and self.is_drawn and self.call is not None and self.drawing is not None:
            self._field = self.call.measured(self.drawing, self.at, self.drawn_layout)
        if self._field is None:
            self._field = self.transformed.forwards()
        return self._field

    @property
    def layout(self) -> Layout:
        """Its layout; the moments of what is drawn needn't be measured for it."""
        return self.drawn_layout if self._field is None and self.is_drawn else self.field.layout

    @property
    def transformed(self) -> Transformed:
        """The evaluation of its function."""
        if self._transformed is None:
            if self.source is None or self.function is None:
                raise ValueError("a node needs moments, or a source and a function")
            self._transformed = Transformed(self.source.field, self.function)
        return self._transformed

    def backwards(self, gradient: Field) -> Field:
        """The gradient with respect to its source, of the samples that both hold."""
        transformed = self.transformed
        if self.source is not None and self.function is not None:
            field, gradient = alike(self.source.field, gradient)
            if field is not self.source.field:
                transformed = Transformed(field, self.function)
        return transformed.backwards(gradient)

    @property
    def is_known(self) -> bool:
        """Whether there is something to tell its moments from."""
        return self._field is not None or self.source is not None or self.is_drawn

    @property
    def root(self) -> Node:
        """The signal that it is a function of: itself, where no function is known."""
        return self if self.source is None else self.source

    @property
    def root_function(self) -> Function:
        """The function of its root."""
        return self.function if self.function is not None else _identity

    @property
    def lasting_tags(self) -> dict[str, object]:
        """What stays true of a function of it, or of its entries in another order."""
        return {name: value for name, value in self.tags.items() if name not in {"terms", "joined"}}

    def replaced(self, new: Field) -> Node:
        """The same history with other moments (a layout that changed)."""
        return Node(new, tags=self.lasting_tags)


def _identity(x: torch.Tensor) -> torch.Tensor:
    return x


Value: TypeAlias = "Constant | Weight | Noise | Node | object"
