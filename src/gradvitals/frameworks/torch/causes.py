"""Why a kernel, or a node on the way back, gave something that isn't finite: told from what went in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

#: Kernels by what can go wrong in them.
_DIVISIONS = frozenset({"div", "true_divide", "reciprocal", "rsqrt", "floor_divide", "remainder", "fmod"})
_LOGARITHMS = frozenset({"log", "log2", "log10", "log1p", "xlogy", "logit"})
_ROOTS = frozenset({"sqrt", "rsqrt", "pow", "float_power"})
_BOUNDED_DOMAIN = frozenset({"acos", "asin", "acosh", "atanh", "logit", "lgamma", "digamma"})
_SOFTMAXES = frozenset({"softmax", "log_softmax", "safe_softmax", "logsumexp"})
_STATISTICS = frozenset({"var", "std", "var_mean", "std_mean", "mean", "native_batch_norm"})
#: What a node keeps for its backward pass, where its slope may be infinite.
_KEPT = ("_saved_self", "_saved_result", "_saved_other", "_saved_input", "_saved_exponent")
#: Operations whose slope is infinite at a point of their domain.
_STEEP = frozenset(
    {"sqrt", "rsqrt", "pow", "log", "log2", "log10", "log1p", "div", "reciprocal", "acos", "asin", "acosh", "atanh"}
    | {"std", "var", "norm", "linalgvectornorm", "atan2", "logit", "xlogy", "cdist", "prod", "cumprod"}
)


def of_kernel(func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str, float | None]:
    """The cause, as in ``Producer``, and of an overflow the largest magnitude that went in."""
    tensors = [x for x in tree_flatten((args, dict(kwargs)))[0] if _is_float(x)]
    with torch.no_grad():
        by_name = _by_name(name, args, tensors)
        if by_name is not None:
            return by_name, None
        if _fits_in_double(func, args, kwargs) or _is_large(tensors):
            return "overflow", max((_largest(x) for x in tensors), default=None)
        if any(bool(torch.isinf(x).any()) for x in tensors):
            product = name in {"mul", "mm", "bmm", "addmm", "baddbmm", "dot", "matmul", "convolution"}
            return "zero-times-infinity" if product else "infinity-minus-infinity", None
        if name in {"exp", "expm1", "exp2", "sinh", "cosh"}:
            return "overflow", max((_largest(x) for x in tensors), default=None)
        return "unexplained", None


def _by_name(name: str, args: tuple[Any, ...], tensors: list[torch.Tensor]) -> str | None:
    if not tensors:
        return None
    first, second = tensors[0], tensors[1] if len(tensors) > 1 else None
    if name in _SOFTMAXES or "attention" in name:
        return "masked-row"
    if name in _LOGARITHMS:
        shifted = first + 1 if name == "log1p" else first
        return "log-of-negative" if bool((shifted < 0).any()) else "log-of-zero" if bool((shifted == 0).any()) else None
    if name in _ROOTS and bool((first < 0).any()) and not _is_whole(args):
        return "root-of-negative"
    if name in {"rsqrt", "reciprocal"} or (name == "pow" and bool((first == 0).any())):
        return "division-by-zero" if bool((first == 0).any()) else None
    if name in _DIVISIONS:
        zero = second == 0 if second is not None else torch.tensor(args[1] == 0, device="cpu")
        if bool(zero.any()):
            numerator = first if isinstance(args[0], torch.Tensor) else torch.as_tensor(args[0], device="cpu")
            return "zero-over-zero" if bool(((numerator == 0) & zero).any()) else "division-by-zero"
        return None
    if name in _BOUNDED_DOMAIN:
        return "outside-domain"
    return "too-few-values" if name in _STATISTICS and not _is_large(tensors) else None


def _is_whole(args: tuple[Any, ...]) -> bool:
    """Whether the exponent of a power is a whole number, of which negative bases have powers."""
    exponent = args[1] if len(args) > 1 else 0.5
    if isinstance(exponent, torch.Tensor):
        return bool((exponent == exponent.round()).all())
    return float(exponent).is_integer()


def _fits_in_double(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the same kernel gives finite values in float64: then its own dtype was too narrow."""
    try:
        if any(isinstance(x, torch.dtype) for x in tree_flatten((args, dict(kwargs)))[0]):
            return False
        again = func(*_doubled(args), **_doubled(dict(kwargs)))
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return False
    return all(bool(torch.isfinite(x).all()) for x in tree_flatten(again)[0] if _is_float(x))


def _doubled(value: Any) -> Any:
    return tree_map(lambda x: x.double() if _is_float(x) else x, value)


def _is_large(tensors: list[torch.Tensor]) -> bool:
    """Whether squares or products of what went in leave the range of its type."""
    return any(_largest(x) > torch.finfo(x.dtype).max ** 0.5 for x in tensors)


def _largest(tensor: torch.Tensor) -> float:
    finite = tensor[torch.isfinite(tensor)]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def operation_of(node: Any) -> str:
    """The operation of a node: ``sqrt`` of SqrtBackward0.

    >>> operation_of(torch.ones(1, requires_grad=True).sqrt().grad_fn)
    'sqrt'
    """
    name = re.sub(r"Backward\d*$", "", str(node.name()).rpartition("::")[2])
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def of_node(node: Any, incoming: Any, outgoing: Any) -> tuple[str, float | None]:
    """The cause of a gradient that isn't finite, and of an overflow the largest magnitude that came in."""
    name = operation_of(node).replace("_", "")
    kept = [x for x in (_saved(node, key) for key in _KEPT) if _is_float(x)]
    with torch.no_grad():
        if name in {"softmax", "logsoftmax", "safesoftmax"}:
            return "masked-row", None
        if any(bool(torch.isinf(x).any()) for x in kept):
            return "zero-times-infinity", None
        arrived = [x for x in incoming if _is_float(x)]
        largest = max((_largest(x) for x in arrived), default=0.0)
        if name in _STEEP and _is_steep(name, kept):
            return "infinite-slope", None
        narrow = any(x.dtype == torch.float16 for x in (*arrived, *(y for y in outgoing if _is_float(y))))
        wide = any(largest > torch.finfo(x.dtype).max ** 0.5 for x in arrived)
        if narrow or wide or any(_largest(x) > torch.finfo(x.dtype).max ** 0.5 for x in kept):
            return "overflow", largest
        return ("infinite-slope" if name in _STEEP else "unexplained"), None


def _is_steep(name: str, kept: list[torch.Tensor]) -> bool:
    """Whether a point was kept where the slope is infinite: zero, or the ends of a domain."""
    ends = (-1.0, 1.0) if name in {"acos", "asin", "atanh"} else (-1.0,) if name == "log1p" else (0.0,)
    return any(bool((x == end).any()) for x in kept for end in ends)


def _saved(node: Any, key: str) -> Any:
    try:
        return getattr(node, key, None)
    except RuntimeError:  # freed already, or changed in place since
        return None
