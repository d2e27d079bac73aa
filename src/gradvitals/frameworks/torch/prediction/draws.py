"""Signals as draws of their moments: for operations whose moments no formula gives, run as they are on what is drawn.

A wide network's units are draws of a Gaussian process, so that a few copies of a tensor in its own shape say what any
function makes of them, also of several signals that know of one another (a largest one and the exponentials that it is
taken out of). The gradient goes back through the same draws by the operation's own backward pass; it is measured again
where an operation with a formula made the signal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import torch

from gradvitals.frameworks.torch.prediction.measured import MOST_KEPT, measured_as
from gradvitals.maths.field import Axis, Field, Layout, Role, shape_of
from gradvitals.maths.scatter import NONE, Scatter

if TYPE_CHECKING:
    from gradvitals.frameworks.torch.prediction.values import Node

#: Copies of a tensor that are drawn at most, and entries of all copies of the first that is drawn: the RMS of as many
#: independent ones is known to a thousandth.
_MOST_COPIES, _ENOUGH = 64, 2**18
#: Copies by whose mean squares it is told how far all entries of one depart together.
_ENOUGH_COPIES = 16
#: Entries beyond which nothing is drawn: half a gigabyte.
_LARGEST = 2**26
#: Of a kernel's eigenvalues, relative to the largest: what is below zero by rounding.
_ROUNDING = 1e-12

#: A gradient's draws, and how its size departs.
Arrived: TypeAlias = "tuple[torch.Tensor, Scatter]"
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class Drawing:
    """How many copies are drawn, and all that were; with ``allowed`` unset, none ever are."""

    copies: int | None = None
    allowed: bool = True
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    known: dict[int, torch.Tensor] = field(default_factory=dict)
    _worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def apart(self, work: Callable[[], Result]) -> Result:
        """Do something where PyTorch records gradients: inside an operation that is being dispatched it doesn't."""
        return self._worker.submit(work).result()

    def close(self) -> None:
        """End the thread that works apart."""
        self._worker.shutdown()

    def of(self, node: Node) -> torch.Tensor:
        """A signal's draws, (copies, …): by the operation that made it, or of its moments."""
        found = self.known.get(node.key)
        if found is None:
            call = node.call
            found = call.results(self)[node.at] if call is not None else self.gaussian(node.field)
            self.known[node.key] = found
        return found

    def room(self, shape: Sequence[int]) -> int:
        """How many copies there are; told by the first shape.

        Raises
        ------
        NotImplementedError
            Where a tensor is too large, or draws aren't allowed.

        """
        entries = max(math.prod(shape), 1)
        if not self.allowed:
            raise NotImplementedError("this would take draws, which weren't asked for")
        if self.copies is None:
            self.copies = min(max(_ENOUGH // entries, 1), _MOST_COPIES)
        if self.copies * entries > _LARGEST:
            raise NotImplementedError(f"a function of several signals with {entries} entries")
        return self.copies

    def gaussian(self, given: Field) -> torch.Tensor:
        """Draws of entries with a field's means and kernel; samples that it doesn't hold repeat those that it does."""
        shape = shape_of(given.layout)
        copies = self.room(shape)
        mean, deviations = _deviations(given)
        axes = given.axes
        sizes: list[int] = []
        m = 0
        for axis in axes:
            if axis.is_mapped:
                sizes.append(given.second.shape[m])
                m += 1
            else:
                sizes.append(axis.size if axis.role is Role.UNIT else 1)
        places = [at for at, axis in enumerate(axes) if axis.role is Role.PLACE]
        others = [at for at in range(len(axes)) if at not in places]
        common, own = deviations
        n = len(common)
        pixels = [at for at, axis in enumerate(axes) if axis.role is Role.PIXEL]
        rest = [sizes[at] for at in others]
        shared = [1 if at in pixels else sizes[at] for at in others]
        order = [*places, *others]
        back = [1 + order.index(at) for at in range(len(axes))]

        def arranged(drawn: torch.Tensor, trailing: Sequence[int]) -> torch.Tensor:
            held = [sizes[at] for at in places]
            return drawn.reshape(copies, *held, *trailing).permute(0, *back)

        normal = torch.randn(copies, n, math.prod(shared), generator=self.generator, dtype=torch.float64, device="cpu")
        drawn = arranged(torch.from_numpy(common) @ normal, shared)
        if pixels:
            alone = torch.randn(copies, n, math.prod(rest), generator=self.generator, dtype=torch.float64, device="cpu")
            scale = torch.from_numpy(own.reshape([s if a.is_mapped else 1 for s, a in zip(sizes, axes, strict=True)]))
            drawn = drawn + arranged(alone, rest) * scale
        drawn = drawn + torch.from_numpy(
            mean.reshape([s if a.is_mapped else 1 for s, a in zip(sizes, axes, strict=True)])
        )
        for at, axis in enumerate(axes):
            if drawn.shape[1 + at] != axis.size:
                index = torch.arange(axis.size, device="cpu") % drawn.shape[1 + at]
                drawn = drawn.index_select(1 + at, index)
        return drawn.reshape(copies, *shape)


def _deviations(given: Field) -> tuple[Any, tuple[Any, Any]]:
    """The means; a root of the kernel between places; and by place and pixel the deviation of what isn't shared."""
    n = math.prod(given.kernel.shape[: given.places])
    kernel = (given.kernel - given.outer_mean()).reshape(n, n)
    values, vectors = np.linalg.eigh((kernel + kernel.T) / 2)
    top = max(float(values.max(initial=0.0)), 0.0)
    root = vectors * np.sqrt(np.where(values > _ROUNDING * top, values, 0.0))
    if not given.has_pixels:
        return given.mean, (root, None)
    by_place = [s if a.role is Role.PLACE else 1 for s, a in zip(given.second.shape, given.mapped, strict=True)]
    own = np.maximum(given.second - given.mean**2 - np.diagonal(kernel).reshape(by_place), 0.0)
    return given.mean, (root, np.sqrt(own))


def measured_draws(drawn: torch.Tensor, layout: Layout) -> Field:
    """The field of a signal from its draws."""
    if drawn.is_complex():
        one, two = (measured_draws(part, layout) for part in (drawn.real, drawn.imag))
        return replace(one, second=one.second + two.second, kernel=one.kernel + two.kernel, kurtosis=2.0)
    places = [axis.size for axis in layout[0]] if layout else []
    drawn = torch.nan_to_num(drawn.double(), posinf=0.0, neginf=0.0)
    kept = drawn
    if len(places) == 1 and layout[0][0].role is Role.PLACE:
        others = math.prod(axis.size for dim in layout[1:] for axis in dim if axis.role is Role.PLACE)
        kept = drawn[:, : max(2, MOST_KEPT // max(others, 1))]
    copies = (Axis(drawn.shape[0], Role.UNIT),) if drawn.shape[0] > 1 else ()
    found = measured_as(kept.movedim(0, -1), (*layout, copies)).with_layout(layout)
    squares = drawn.square()
    squares = squares / max(float(squares.mean()), 1e-300)
    kurtosis = min(max(float(squares.square().mean()), 1.0), 1e3)
    # What one unit adds to the variance of log E[x²]: how its own mean square over all places varies.
    axes = [axis for dim in layout for axis in dim]
    by_axis = squares.reshape(len(drawn), *(axis.size for axis in axes))
    mapped = [1 + at for at, axis in enumerate(axes) if axis.role is not Role.UNIT]
    by_unit = by_axis.mean(mapped) if mapped else by_axis
    own = float(by_unit.var()) if by_unit.numel() > 1 else None
    if own is not None and len(drawn) >= _ENOUGH_COPIES:  # what all units have in common (a gate) doesn't average out
        own = max(own, float(squares.flatten(1).mean(1).var()) * by_unit[0].numel())
    return replace(found, kurtosis=kurtosis, own=own)


@dataclass(slots=True, eq=False)
class Later:
    """A tensor that is made when it is asked for: most operations that are kept are never repeated."""

    make: Callable[[], torch.Tensor]
    _made: torch.Tensor | None = None

    @property
    def value(self) -> torch.Tensor:
        """The tensor, made once."""
        if self._made is None:
            self._made = self.make()
        return self._made


@dataclass(slots=True, eq=False)
class Call:
    """An operation that made signals, to be repeated on draws of what went in.

    Parameters
    ----------
    function : callable
    arguments : object
        Its positional and keyword arguments; those that are drawn, or known tensors, as an :class:`At`.
    given : tuple of (Node, torch.Tensor or Later)
        Signals and known values.
    writes : bool
        Whether it writes into what it is given, which is copied first.
    joins : str
        ``"sum"`` or ``"product"`` of two signals.
    moves : frozenset of Role
        Of dimensions of which it leaves a part, or the entries in another order.
    chooses : bool
        Whether it picks entries by their size, and says where they were.
    loose : float
        How uncertain log E[x²] is, because what it joins are neighbours of which only the average is known.

    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    given: tuple[Any, ...]
    writes: bool = False
    joins: str = ""
    moves: frozenset[Role] = frozenset()
    chooses: bool = False
    loose: float = 0.0
    _made: list[torch.Tensor] | None = None
    _leaves: list[torch.Tensor] | None = None
    _inherited: dict[int, Scatter] = field(default_factory=dict)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The signals that went in."""
        return tuple(item for item in self.given if not isinstance(item, (torch.Tensor, Later)))

    def results(self, drawing: Drawing) -> list[torch.Tensor]:
        """Draws of the outputs."""
        if self._made is None:
            leaves: list[torch.Tensor] = []
            given: list[torch.Tensor] = []
            dims: list[int | None] = []
            for item in self.given:
                if isinstance(item, (torch.Tensor, Later)):
                    given.append(item.value if isinstance(item, Later) else item)
                    dims.append(None)
                    continue
                drawn = drawing.of(item).detach()
                if drawn.is_floating_point() or drawn.is_complex():
                    drawn = drawn.requires_grad_()
                leaves.append(drawn)
                given.append(drawn)
                dims.append(0)
            self._made = drawing.apart(lambda: self._run(given, dims))
            self._leaves = leaves
            if any(torch.isnan(made).any() for made in self._made if made.is_floating_point()):
                raise NotImplementedError("draws of it are no numbers")
        return [made.detach() for made in self._made]

    def _run(self, given: Sequence[torch.Tensor], dims: Sequence[int | None]) -> list[torch.Tensor]:
        def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            args, kwargs = self._filled([t.clone() for t in tensors] if self.writes else tensors)
            output = self.function(*args, **kwargs)
            outputs = output if isinstance(output, (tuple, list)) else (output,)
            return tuple(item for item in outputs if isinstance(item, torch.Tensor))

        copies = next(t.shape[0] for t, dim in zip(given, dims, strict=True) if dim == 0)
        if self.writes:
            given = [t if dim == 0 else t.expand(copies, *t.shape) for t, dim in zip(given, dims, strict=True)]
            dims = [0] * len(given)
        try:
            return list(torch.vmap(run, tuple(dims), randomness="different")(*given))
        except Exception:  # noqa: BLE001 - not every operation can be run on all copies at once
            each = [
                run(*(t[at] if dim == 0 else t for t, dim in zip(given, dims, strict=True))) for at in range(copies)
            ]
            return [torch.stack(parts) for parts in zip(*each, strict=True)]

    def _filled(self, tensors: Sequence[torch.Tensor]) -> tuple[Any, Any]:
        def filled(item: Any) -> Any:
            if isinstance(item, At):
                given = tensors[item.index]
                return given if item.dtype is None else given.to(item.dtype)
            if isinstance(item, (tuple, list)):
                return type(item)([filled(one) for one in item])
            if isinstance(item, dict):
                return {name: filled(one) for name, one in item.items()}
            return item

        args, kwargs = self.arguments
        return filled(args), filled(kwargs)

    def measured(self, drawing: Drawing, at: int, layout: Layout) -> Field:
        """The moments of an output."""
        return replace(measured_draws(self.results(drawing)[at], layout), inherited=self.inherited(drawing, at))

    def inherited(self, drawing: Drawing, at: int) -> Scatter:
        """How an output's size departs with those of the signals that went in: ∂ log E[y²] / ∂ log E[x²] of each."""
        if at in self._inherited:
            return self._inherited[at]
        self.results(drawing)
        made = (self._made or [])[at]
        values = torch.nan_to_num(made.detach(), posinf=0.0, neginf=0.0)  # what is hidden from an exponential
        square = _squares(values)
        if not made.requires_grad or square <= 0:
            return NONE
        total = Scatter.of(self.loose**2)
        for node, leaf, back in zip(
            self.nodes, self._leaves or [], drawing.apart(lambda: self._back(at, values)), strict=True
        ):
            if back is not None:
                total = total + _departure(node, drawing).times(_product(leaf.detach(), back) / square)
        self._inherited[at] = total
        return total

    def _back(self, at: int, gradient: torch.Tensor) -> list[torch.Tensor | None]:
        made, leaves = (self._made or [])[at], self._leaves or []
        asked = [leaf for leaf in leaves if leaf.requires_grad]
        if not made.requires_grad or not asked:
            return [None] * len(leaves)
        found = iter(torch.autograd.grad(made, asked, gradient.to(made.dtype), retain_graph=True, allow_unused=True))
        return [next(found) if leaf.requires_grad else None for leaf in leaves]

    def back(self, at: int, arrived: Arrived, drawing: Drawing) -> list[tuple[Node, Arrived]]:
        """From a gradient's draws at an output, those at the signals that went in."""
        self.results(drawing)
        gradient, scatter = arrived
        scatter = scatter + Scatter.of(self.loose**2) if self.loose else scatter
        found = []
        for node, back in zip(self.nodes, self._back(at, gradient), strict=True):
            if back is not None:
                found.append((node, (back, scatter)))
        return found


def _squares(draws: torch.Tensor) -> float:
    """Σ |x|², without a copy."""
    return float(torch.linalg.vector_norm(draws)) ** 2


def _product(values: torch.Tensor, gradient: torch.Tensor) -> float:
    """Σ x g over the entries that are finite."""
    if values.dtype == gradient.dtype:
        found = float(torch.vdot(gradient.reshape(-1), values.reshape(-1)).real)
        if math.isfinite(found):
            return found
    return float((torch.nan_to_num(values, posinf=0.0, neginf=0.0) * gradient.conj()).real.sum())


def _departure(node: Node, drawing: Drawing) -> Scatter:
    """How a signal departs by what came before: its own units' share is in the draws of what is made of it."""
    if node.call is not None:
        return node.call.inherited(drawing, node.at)
    return node.field.inherited


@dataclass(frozen=True, slots=True)
class At:
    """The place of a tensor among those that a call was given, and its type, where that isn't real numbers."""

    index: int
    dtype: torch.dtype | None = None


def added_draws(first: Arrived | None, second: Arrived) -> Arrived:
    """The sum of two gradients' draws."""
    if first is None:
        return second
    one, two = _squares(first[0]), _squares(second[0])
    both = max(one + two, 1e-300)
    return first[0] + second[0], first[1].times(one / both) + second[1].times(two / both)
