"""Entries of a layer's parameters measured where they enter: at the layer's output.

A displaced weight changes the output of its layer by a known amount. Added there, under ``torch.func.vmap``, it leaves
everything before the layer, and all other weights, without a batch. Where a layer has fewer outputs than weights, its
outputs are displaced instead, and the slopes along the weights follow by the layer's own linearity.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradvitals.frameworks.problem import Array
from gradvitals.frameworks.sweep import exact_displacements
from gradvitals.frameworks.torch.batched import CACHED, LARGEST_CHUNK, Evaluated, same_values, without_fallback
from gradvitals.frameworks.torch.designs import KINDS, Design, design_of
from gradvitals.frameworks.torch.masks import SameMasks

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from gradvitals.frameworks.sweep import Indices

#: Tensors as large as the layer's output that a run holds for each displacement: what is added, the sum, what follows.
_HELD = 6
#: Entrances at which a way in is tried before it is used.
_TRIED = 2


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

    """

    def __init__(self, problem: Evaluated, leaf: _Leaf) -> None:
        self._problem, self._leaf = problem, leaf
        rows, _, terms, spots = leaf.design.terms.shape
        self.tensors = tuple(at for at in (leaf.weight, leaf.bias) if at >= 0)
        # Numbers of the terms that a unit's weights belong to; the bias comes behind them.
        weights, bias = range(terms) if leaf.weight >= 0 else (), [terms] if leaf.bias >= 0 else ()
        self._columns = torch.tensor([*weights, *bias])
        self._shape = (rows, leaf.design.units, spots)
        self._by_outputs = rows * spots < len(self._columns)
        self.size = leaf.output.numel() if self._by_outputs else leaf.design.units * len(self._columns)
        moved = leaf.output if self._by_outputs else leaf.layer.weight
        rms = float(moved.detach().double().square().mean().sqrt())
        self._scale = 2.0 ** round(np.log2(rms)) if rms > 0 else 1.0

    def displacements(self, step: float) -> Array:
        if not self._by_outputs:  # they enter multiplied by what the layer was given
            return np.full(self.size, step * self._scale)
        output = self._leaf.output
        flat = output.double().reshape(self._shape).reshape(-1).numpy()
        return exact_displacements(flat, step * self._scale, torch.finfo(output.dtype).eps / 2)

    def works(self) -> bool:
        """Whether the function, entered here without a displacement, has its plain value."""
        try:
            found, roundoff = self._run(np.arange(min(_TRIED, self.size)), torch.zeros(min(_TRIED, self.size)))
        except Exception:  # noqa: BLE001 - wherever vmap can't go there are other ways
            return False
        plain = self._problem.value({})
        return all(same_values(row, plain, roundoff) for row in found)

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
        given = self._displaced(torch.from_numpy(entrances), displacements.to(self._leaf.output.dtype))

        def entered(output: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with _running(self._leaf.layer, lambda *_, **__: output):
                return tuple(self._problem.outputs_at({}))

        with torch.no_grad(), SameMasks(), without_fallback():
            outputs = torch.func.vmap(entered, randomness="same")(given)
        rows = [output.to("cpu", torch.float64).reshape(len(entrances), -1).numpy() for output in outputs]
        return np.concatenate(rows, axis=1), max(torch.finfo(output.dtype).eps / 2 for output in outputs)

    def _displaced(self, entrances: torch.Tensor, displacements: torch.Tensor) -> torch.Tensor:
        """The layer's output with each displacement, of shape (K, *shape)."""
        leaf, count = self._leaf, len(entrances)
        given = leaf.output.expand(count, *leaf.output.shape).contiguous()
        every = torch.arange(count)
        if self._by_outputs:
            given.view(count, -1)[every, entrances] += displacements
            return given
        terms = leaf.design.terms
        unit, column = entrances // len(self._columns), self._columns[entrances % len(self._columns)]
        group = unit // (leaf.design.units // terms.shape[1])
        is_weight = (column < terms.shape[2])[:, None, None]
        seen = terms[:, group, column.clamp(max=terms.shape[2] - 1)].permute(1, 0, 2)
        added = torch.where(is_weight, seen, 1.0).to(given.dtype) * displacements[:, None, None]
        given.view(count, *self._shape)[every, :, unit] += added
        return given


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
    every = {id(module): module for root in modules for module in root.modules()}.values()
    owners = Counter(id(p) for module in every for p in module._parameters.values() if p is not None)  # noqa: SLF001
    layers = [
        module
        for module in every
        if type(module) in KINDS
        and "forward" not in vars(module)
        and any(id(p) in numbers for p in module.parameters(recurse=False))
        and all(owners[id(p)] == 1 for p in module.parameters(recurse=False))
    ]
    found = []
    for layer, (x, output) in _recorded(problem, layers):
        design = design_of(layer, x, output)
        if design is not None:
            weight, bias = (numbers.get(id(getattr(layer, name, None)), -1) for name in ("weight", "bias"))
            found.append(LeafSweep(problem, _Leaf(layer, design, output, weight, bias)))
    return tuple(sweep for sweep in found if sweep.works())


def _recorded(
    problem: Evaluated, layers: Sequence[torch.nn.Module]
) -> list[tuple[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]]]:
    """Input and output of the layers that run once, in one evaluation."""
    calls: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {id(layer): [] for layer in layers}

    def recorder(at: int) -> Callable[..., Any]:
        def forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            x = (*args, *kwargs.values())[0]
            given = x.detach().clone()  # an activation may work in place
            output = original(*args, **kwargs)
            calls[at].append((given, output.detach().clone()))
            return output

        return forward

    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_running(layer, recorder(id(layer))))
        problem.outputs_at({})
    return [(layer, calls[id(layer)][0]) for layer in layers if len(calls[id(layer)]) == 1]


@contextlib.contextmanager
def _running(layer: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """The layer's forward pass handed to another function, inside its hooks."""
    original = layer.forward
    vars(layer)["forward"] = lambda *args, **kwargs: forward(original, *args, **kwargs)
    try:
        yield
    finally:
        del vars(layer)["forward"]
