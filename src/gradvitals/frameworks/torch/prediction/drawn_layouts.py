"""The layouts of what operations make that are run on draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from gradvitals.frameworks.torch.prediction.operation import Operation
from gradvitals.frameworks.torch.prediction.values import Constant, Node
from gradvitals.maths.alignment import common_layout
from gradvitals.maths.field import Axis, Layout, Role

#: Operations that have the input's dimensions, one of them maybe of another size.
_SAME_RANK = frozenset(
    {
        *("topk", "sort", "kthvalue", "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "gather", "scatter"),
        *("scatter_add", "scatter_reduce", "index_add", "index_copy", "index_put", "index_fill", "_softmax", "softmax"),
        *("_log_softmax", "_fft_r2c", "_fft_c2r", "_fft_c2c", "tril", "triu", "renorm", "grid_sampler_2d", "argsort"),
        *("linalg_inv_ex", "_conj", "conj_physical", "real", "imag", "select_scatter", "slice_scatter", "roll", "flip"),
        *("linalg_solve_triangular", "linalg_matrix_exp", "masked_scatter", "clone", "_to_copy", "contiguous"),
    }
)
#: Operations that take a dimension away, or leave it with one entry.
REDUCING = frozenset(
    {
        *("sum", "mean", "amax", "amin", "max", "min", "logsumexp", "prod", "var", "std", "linalg_vector_norm", "norm"),
        *("argmax", "argmin", "any", "all", "median", "nansum", "nanmean", "count_nonzero"),
    }
)


def layout_of_drawn(operation: Operation, name: str, nodes: Sequence[Node], output: torch.Tensor) -> Layout:
    """The layout of what an operation makes."""
    shape = tuple(output.shape)
    layouts = [node.layout for node in nodes]
    widest = max(layouts, key=len)
    if name in REDUCING:
        return _reduced(operation, layouts[0], shape)
    if name in {"bmm", "matmul", "baddbmm"} and len(layouts) > 1:
        return _fitted((*layouts[-2][:-1], layouts[-1][-1]), shape)
    if name == "index":
        return _indexed(operation, nodes[0].layout, shape)
    if name in {"one_hot", "view_as_real", "embedding"}:
        return _fitted((*widest, ()), shape)
    if name == "view_as_complex":
        return _fitted(widest[:-1], shape)
    if name not in _SAME_RANK:
        try:
            return _fitted(common_layout(layouts), shape)
        except ValueError as error:
            raise NotImplementedError("dimensions that aren't known") from error
    return _fitted(layouts[0] if len(layouts[0]) == len(shape) else widest, shape)


def _indexed(operation: Operation, layout: Layout, shape: tuple[int, ...]) -> Layout:
    """The layout behind an index: of neighbouring dimensions their positions in their place, else in front."""
    given = [item if isinstance(item, torch.Tensor) else None for item in operation.args[1]]
    if isinstance(operation.value(operation.args[0]), Constant) or any(
        item is not None and item.dtype == torch.bool for item in given
    ):
        raise NotImplementedError("dimensions that aren't known")
    at = [d for d, item in enumerate(given) if item is not None]
    added = max(item.dim() for item in given if item is not None)
    start = at[0] if at == list(range(at[0], at[0] + len(at))) else 0
    roles = {axis.role for d in at for axis in layout[d]}
    role = next((r for r in (Role.PLACE, Role.PIXEL) if r in roles), Role.UNIT)
    kept = [dim for d, dim in enumerate(layout) if d not in at]
    new = [(Axis(n, role),) if n > 1 else () for n in shape[start : start + added]]
    return _fitted((*kept[:start], *new, *kept[start:]), shape)


def _reduced(operation: Operation, layout: Layout, shape: tuple[int, ...]) -> Layout:
    rank = len(layout)
    given = next((a for a in operation.args[1:] if isinstance(a, (int, list, tuple)) and not isinstance(a, bool)), None)
    given = operation.kwargs.get("dim", given)
    dims = range(rank) if given is None or given == [] else given if isinstance(given, (list, tuple)) else [given]
    gone = {d % rank for d in dims}
    if len(shape) == rank:
        return tuple(() if d in gone else dim for d, dim in enumerate(layout))
    return tuple(dim for d, dim in enumerate(layout) if d not in gone)


def _fitted(layout: Layout, shape: tuple[int, ...]) -> Layout:
    """A layout for a shape: where a size differs, one axis in the role of the old ones."""
    if len(layout) > len(shape):
        raise NotImplementedError("dimensions that aren't known")
    layout = ((),) * (len(shape) - len(layout)) + tuple(layout)
    made: list[tuple[Axis, ...]] = []
    for at, (dim, size) in enumerate(zip(layout, shape, strict=True)):
        if math.prod(axis.size for axis in dim) == size:
            made.append(tuple(Axis(a.size, Role.UNIT if a.role is Role.COPY else a.role) for a in dim))
            continue
        roles = [axis.role for axis in dim]
        role = next((r for r in (Role.PLACE, Role.PIXEL, Role.UNIT) if r in roles), None)
        if role is None:
            role = Role.UNIT if at == len(shape) - 1 else Role.PLACE
        made.append((Axis(size, role),) if size > 1 else ())
    return tuple(made)
