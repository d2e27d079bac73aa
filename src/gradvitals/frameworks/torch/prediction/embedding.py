"""Rows of a table, looked up by known numbers: where a model of tokens starts."""

from __future__ import annotations

import math

import numpy as np
import torch

from gradvitals.frameworks.torch.prediction.measured import MOST_KEPT, measured, place_roles
from gradvitals.frameworks.torch.prediction.operation import Operation, rule
from gradvitals.frameworks.torch.prediction.values import Constant, Node, Weight
from gradvitals.maths.field import Axis, Field, Layout, Role


@rule("embedding")
def _embedding(operation: Operation) -> None:
    table, index = operation.value(operation.args[0]), operation.value(operation.args[1])
    if not isinstance(index, Constant):
        raise NotImplementedError("a lookup by numbers that aren't known")
    shape = tuple(index.held.shape)
    lead = place_roles(shape) if shape else []
    if isinstance(table, Constant):
        at = index.held.reshape(-1).to(table.held.device)  # a large table stays where it is
        rows = table.held.detach().index_select(0, at).reshape(*shape, -1)
        operation.emit(None, node=Node(measured(rows, [*lead, Role.UNIT])))
        _learned(operation, table, index.value, lead)
        return
    if isinstance(table, Weight):
        operation.emit(_alike(table, index.value.numpy(), lead))
        _learned(operation, table, index.value, lead)
        return
    raise NotImplementedError("a lookup in a signal")


@rule("_embedding_bag", "_embedding_bag_forward_only")
def _bags(operation: Operation) -> None:
    """Sums, means or maxima of rows: a mixture of the table's rows that is the same for all units."""
    table, index, offsets = (operation.value(item) for item in operation.args[:3])
    mode = _MODES[operation.argument(4, "mode", 0)]
    weights = operation.argument(6, "per_sample_weights")
    if not isinstance(index, Constant) or not isinstance(offsets, Constant) or weights is not None:
        raise NotImplementedError("bags by numbers that aren't known")
    rows, units = (int(n) for n in operation.args[0].shape)
    count = int(operation.first.shape[0])
    ends = [*offsets.value.tolist(), index.held.numel()]
    skipped = int(operation.argument(8, "padding_idx", -1))
    shares = np.zeros((min(count, MOST_KEPT), rows))
    for bag in range(len(shares)):
        found = index.value[ends[bag] : ends[bag + 1]].numpy()
        found = found[found != skipped] if skipped >= 0 else found
        np.add.at(shares[bag], found, 1.0 if mode == "sum" else 1 / max(len(found), 1))
    layout = ((Axis(count, Role.PLACE),) if count > 1 else (), (Axis(units, Role.UNIT),))
    # Of the largest of several each unit has one row, by its share.
    own = shares.sum(axis=1) if mode == "max" else (shares * shares).sum(axis=1)
    used = _mixture(layout, shares @ shares.T, own)
    if isinstance(table, Constant):
        result = operation.function(table.value.detach(), index.value, offsets.value, *operation.args[3:])[0]
        operation.emit(None, node=Node(measured(result, [Role.PLACE, Role.UNIT])))
    elif isinstance(table, Weight) and mode != "max" and not table.mean:
        operation.emit(used.scaled(table.second))
    else:
        raise NotImplementedError("the largest of rows without values")
    operation.learns(table, used, times=1 / max(rows, 1))


_MODES = ("sum", "mean", "max")


def _mixture(layout: Layout, kernel: np.ndarray, own: np.ndarray) -> Field:
    """What mixtures of independent rows of mean square 1 have in common."""
    n = len(own)
    shape = (n,) if layout[0] else ()
    return Field(layout, np.zeros(shape), own.reshape(shape), kernel.reshape((*shape, *shape))).consistent()


def _learned(operation: Operation, table: Constant | Weight, index: torch.Tensor, lead: list[Role]) -> None:
    """A row's gradient is the sum over the places that look it up."""
    rows = operation.args[0].shape[0]
    one = Weight((rows, operation.args[0].shape[1]), 1.0)
    operation.learns(table, _alike(one, index.numpy(), lead), times=1 / max(rows, 1))


def _alike(table: Weight, index: np.ndarray, lead: list[Role]) -> Field:
    """Of a table without values: the same row is the same, different ones are independent."""
    positions = index.shape[1:]
    kept = max(2, MOST_KEPT // max(math.prod(positions) if Role.PIXEL not in lead else 1, 1))
    held = index[:kept]
    units = (Axis(table.shape[1], Role.UNIT),)
    layout = (*((Axis(n, role),) if n > 1 else () for n, role in zip(index.shape, lead, strict=True)), units)
    mapped = [n for n in held.shape if n > 1]
    same = held.reshape(-1)[:, None] == held.reshape(-1)[None, :]
    independent = table.mean**2
    kernel = independent + same * (table.second - independent)
    if Role.PIXEL in lead:
        b = held.shape[0]
        t = math.prod(positions)
        blocks = kernel.reshape(b, t, b, t).mean(axis=(1, 3))
        own = np.array(
            [(kernel.reshape(b, t, b, t)[i, :, i, :].sum() - t * table.second) / (t * (t - 1)) for i in range(b)]
        )
        np.fill_diagonal(blocks, own)
        kernel = blocks if b > 1 else blocks.reshape(())
        places = [b] if b > 1 else []
    else:
        places = mapped
    return Field(
        layout, np.full(mapped, table.mean), np.full(mapped, table.second), kernel.reshape((*places, *places))
    ).consistent()
