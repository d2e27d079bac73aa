"""Entries of a layer's parameters measured where they enter: at the layer's output.

A displaced weight changes the output of its layer by a known amount. Added there, under ``torch.func.vmap``, it leaves
everything before the layer, and all other weights, without a batch. Where a layer has fewer outputs than weights, its
outputs are displaced instead, and the slopes along the weights follow by the layer's own linearity.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradvitals.frameworks.problem import Array
from gradvitals.frameworks.sweep import exact_displacements
from gradvitals.frameworks.torch.ahead import Ahead, is_activation
from gradvitals.frameworks.torch.batched import CACHED, LARGEST_CHUNK, Evaluated, same_values, without_fallback
from gradvitals.frameworks.torch.behind import every_module
from gradvitals.frameworks.torch.designs import KINDS, Design, design_of
from gradvitals.frameworks.torch.masks import SameMasks

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from gradvitals.frameworks.sweep import Indices

#: Tensors as large as the layer's output that a run holds for each displacement: what is added, the sum, what follows.
_HELD = 6
#: Entrances at which a way in is tried before it is used.
_TRIED = 4
#: How far they are displaced, relative to their scale: what goes another way as well shows far above rounding.
_TRIED_STEP = 2.0**-6


@dataclass(frozen=True, slots=True, eq=False)
class _Leaf:
    """A layer and what its output is made of; weight and bias by their numbers, -1 where they aren't checked."""

    layer: Any
    design: Design
    output: torch.Tensor
    weight: int
    bias: int


class LeafSweep:
    """Ways in at the output of one layer, to the entries of its weight and bias.

    Parameters
    ----------
    problem : Evaluated
    leaf : _Leaf
    ahead : Ahead, optional
        What its displacements do to the layer behind, where they go there alone; that is tried before it is believed.

    """

    def __init__(self, problem: Evaluated, leaf: _Leaf, ahead: Ahead | None = None) -> None:
        self._problem, self._leaf, self._ahead = problem, leaf, None
        rows, _, terms, spots = leaf.design.terms.shape
        self.tensors = tuple(at for at in (leaf.weight, leaf.bias) if at >= 0)
        # Numbers of the terms that a unit's weights belong to; the bias comes behind them.
        weights, bias = range(terms) if leaf.weight >= 0 else (), [terms] if leaf.bias >= 0 else ()
        self._columns = torch.tensor([*weights, *bias], device="cpu")
        self._shape = (rows, leaf.design.units, spots)
        self._by_outputs = rows * spots < len(self._columns)
        self.size = leaf.output.numel() if self._by_outputs else leaf.design.units * len(self._columns)
        moved = leaf.output if self._by_outputs else leaf.layer.weight
        rms = float(moved.detach().double().square().mean().sqrt())
        self._scale = 2.0 ** round(np.log2(rms)) if rms > 0 else 1.0
        if ahead is not None and self.works():
            self._ahead = self._tried(ahead)

    def displacements(self, step: float) -> Array:
        if not self._by_outputs:  # they enter multiplied by what the layer was given
            return np.full(self.size, step * self._scale)
        output = self._leaf.output
        flat = output.double().reshape(self._shape).reshape(-1).numpy()
        return exact_displacements(flat, step * self._scale, torch.finfo(output.dtype).eps / 2)

    def works(self) -> bool:
        """Whether the function, entered here without a displacement, has its plain value."""
        try:
            found, roundoff = self._run(
                np.arange(min(_TRIED, self.size)), torch.zeros(min(_TRIED, self.size), device="cpu")
            )
        except Exception:  # noqa: BLE001 - wherever vmap can't go there are other ways
            return False
        plain = self._problem.value({})
        return all(same_values(row, plain, roundoff) for row in found)

    def _tried(self, ahead: Ahead) -> Ahead | None:
        """What is ahead, where displacements that enter there do the same as those that enter here."""
        some = np.linspace(0, self.size - 1, min(_TRIED, self.size)).astype(np.int64)
        displacements = torch.from_numpy(self.displacements(_TRIED_STEP)[some])
        try:
            here, roundoff = self._run(some, displacements)
            self._ahead = ahead
            there, _ = self._run(some, displacements)
        except Exception:  # noqa: BLE001
            return None
        return ahead if all(same_values(*pair, roundoff) for pair in zip(there, here, strict=True)) else None

    def values(self, entrances: Indices, displacements: Array) -> Array:
        chunk = max(_TRIED, min(LARGEST_CHUNK, CACHED // (_HELD * 8 * self._leaf.output.numel())))
        parts = []
        for start in range(0, len(entrances), chunk):
            some = entrances[start : start + chunk]
            try:
                parts.append(self._run(some, torch.from_numpy(displacements[start : start + chunk]))[0])
            except Exception:  # noqa: BLE001 - a point that the function refuses: each is looked at again, alone
                parts.append(np.full((len(some), 1), np.nan))
        width = max(part.shape[1] for part in parts)
        return np.concatenate([np.broadcast_to(part, (len(part), width)) for part in parts])

    def entries(self, slopes: Array) -> Mapping[int, Array]:
        return self._pulled(torch.from_numpy(slopes), self._leaf.design)

    def errors(self, errors: Array) -> Mapping[int, Array]:
        squared = self._pulled(torch.from_numpy(errors).square(), self._leaf.design.squared())
        return {at: np.sqrt(values) for at, values in squared.items()}

    def _pulled(self, slopes: torch.Tensor, design: Design) -> dict[int, Array]:
        leaf, found = self._leaf, dict[int, Array]()
        count = leaf.layer.weight.numel()
        if self._by_outputs:
            by_output = slopes.reshape(self._shape)
            weight, bias = design.pulled(by_output, count), by_output.sum(dim=(0, 2))
        else:
            by_column = slopes.reshape(design.units, -1)
            weight = by_column[:, : design.places.shape[1]] if leaf.weight >= 0 else by_column[:, :0]
            weight, bias = design.placed(weight, count) if leaf.weight >= 0 else weight, by_column[:, -1]
        if leaf.weight >= 0:
            found[leaf.weight] = weight.numpy()
        if leaf.bias >= 0:
            found[leaf.bias] = bias.numpy()
        return found

    def _run(self, entrances: Indices, displacements: torch.Tensor) -> tuple[Array, float]:
        """F at each displacement, and the unit roundoff of its coarsest output."""
        layer, given = self._entered(torch.from_numpy(entrances), displacements.to(self._leaf.output.dtype))

        def entered(output: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with _running(layer, lambda *_, **__: output):
                return tuple(self._problem.outputs_at({}))

        with torch.no_grad(), SameMasks(), without_fallback():
            outputs = torch.func.vmap(entered, randomness="same")(given)
        rows = [output.to("cpu", torch.float64).reshape(len(entrances), -1).numpy() for output in outputs]
        return np.concatenate(rows, axis=1), max(torch.finfo(output.dtype).eps / 2 for output in outputs)

    def _entered(self, entrances: torch.Tensor, displacements: torch.Tensor) -> tuple[torch.nn.Module, torch.Tensor]:
        """A layer, and its output with each displacement, of shape (K, *shape)."""
        output, count = self._leaf.output, len(entrances)
        unit, added = self._added(entrances, displacements)
        with torch.no_grad():
            if self._ahead is not None:
                outputs = output.view(self._shape)[:, unit].permute(1, 0, 2)
                return self._ahead.layer, self._ahead.displaced(outputs, added, unit)
            given = output.expand(count, *output.shape).contiguous()
            given.view(count, *self._shape)[torch.arange(count, device="cpu"), :, unit] += added
            return self._leaf.layer, given

    def _added(self, entrances: torch.Tensor, displacements: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The unit that each displacement is one of, (K,), and what it adds there, (K, R, S)."""
        rows, units, spots = self._shape
        every = torch.arange(len(entrances), device="cpu")
        if self._by_outputs:
            unit = entrances // spots % units
            added = torch.zeros(len(entrances), rows, spots, dtype=displacements.dtype, device="cpu")
            added[every, entrances // (spots * units), entrances % spots] = displacements
            return unit, added
        terms = self._leaf.design.terms
        unit, column = entrances // len(self._columns), self._columns[entrances % len(self._columns)]
        group = unit // (units // terms.shape[1])
        is_weight = (column < terms.shape[2])[:, None, None]
        seen = terms[:, group, column.clamp(max=terms.shape[2] - 1)].permute(1, 0, 2)
        return unit, torch.where(is_weight, seen, 1.0).to(displacements.dtype) * displacements[:, None, None]


def leaf_sweeps(
    problem: Evaluated, modules: Sequence[torch.nn.Module], numbers: Mapping[int, int]
) -> tuple[LeafSweep, ...]:
    """Ways in at the outputs of those layers that are linear in their parameters and run once.

    Parameters
    ----------
    problem : Evaluated
    modules : sequence of torch.nn.Module
        Roots.
    numbers : mapping
        The number of each checked tensor by the id of the parameter.

    """
    every = every_module(modules)
    owners = Counter(id(p) for module in every for p in module._parameters.values() if p is not None)  # noqa: SLF001
    layers = [
        module
        for module in every
        if type(module) in KINDS
        and "forward" not in vars(module)
        and any(id(p) in numbers for p in module.parameters(recurse=False))
        and all(owners[id(p)] == 1 for p in module.parameters(recurse=False))
    ]
    calls = _recorded(problem, [*layers, *(module for module in every if is_activation(module))])
    found = []
    for layer in layers:
        call = calls.get(id(layer))
        design = None if call is None else design_of(layer, call.x, call.output)
        if call is not None and design is not None:
            weight, bias = (numbers.get(id(getattr(layer, name, None)), -1) for name in ("weight", "bias"))
            leaf = _Leaf(layer, design, call.output, weight, bias)
            found.append(LeafSweep(problem, leaf, _ahead(call, design, calls.values())))
    return tuple(sweep for sweep in found if sweep.works())


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A module that ran once: copies of what it was given and gave, and the very objects."""

    module: torch.nn.Module
    x: torch.Tensor
    output: torch.Tensor
    given: torch.Tensor
    made: torch.Tensor


def _recorded(problem: Evaluated, modules: Sequence[torch.nn.Module]) -> dict[int, _Call]:
    """The calls of modules that run once in an evaluation, by the modules' ids."""
    calls: dict[int, list[_Call]] = {id(module): [] for module in modules}

    def recorder(module: torch.nn.Module) -> Callable[..., Any]:
        def forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            given = (*args, *kwargs.values())[0]
            x = given.detach().clone()  # an activation may work in place
            made = original(*args, **kwargs)
            calls[id(module)].append(_Call(module, x, made.detach().clone(), given, made))
            return made

        return forward

    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.enter_context(_running(module, recorder(module)))
        problem.outputs_at({})
    return {at: several[0] for at, several in calls.items() if len(several) == 1}


def _ahead(call: _Call, design: Design, calls: Collection[_Call]) -> Ahead | None:
    """What a layer's output goes to, where that is one other layer, straight or through an activation."""
    activation: torch.nn.Module = torch.nn.Identity()
    followers = [other for other in calls if other.given is call.made]
    if len(followers) == 1 and is_activation(followers[0].module):
        activation, made = followers[0].module, followers[0].made
        followers = [other for other in calls if other.given is made]
    if len(followers) != 1 or is_activation(followers[0].module):
        return None
    ahead = Ahead(call.output.shape, activation, followers[0].module, followers[0].output)
    return ahead if ahead.has_columns_for(design.units) else None


@contextlib.contextmanager
def _running(layer: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """The layer's forward pass handed to another function, inside its hooks."""
    original = layer.forward
    vars(layer)["forward"] = lambda *args, **kwargs: forward(original, *args, **kwargs)
    try:
        yield
    finally:
        del vars(layer)["forward"]
