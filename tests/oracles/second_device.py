"""A second device for machines without one: the CPU's memory, kept apart as a GPU's is.

Its tensors can't meet those of the CPU (but numbers without an axis, indices, and copies), nor become NumPy arrays.
Registering a device is for a whole process, so that tests with it run in one of their own.
"""

from __future__ import annotations

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_aten = torch.ops.aten
#: What takes tensors of both, as on a GPU: copies, and indices from the CPU.
_MEETING = frozenset({_aten.copy_, _aten._to_copy, _aten.index, _aten.index_put, _aten.index_put_})
#: What gives Python values.
_ASKING = frozenset({_aten._local_scalar_dense, _aten.equal, _aten.is_nonzero})


class _There(torch.Tensor):
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=torch.device("second", 0)
        )

    def __init__(self, inner):
        self.inner = inner

    def numpy(self, **_):
        raise TypeError("can't convert a tensor of the second device to numpy; copy it to the CPU first")

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _done(function, args, kwargs or {})


class _Devices(TorchDispatchMode):
    """Factories have no tensor to be told by."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _done(function, args, kwargs or {})


def _done(function, args, kwargs):
    kind = function.overloadpacket
    tensors = [item for item in tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, _There)]
    strangers = [tensor for tensor in tensors if not isinstance(tensor, _There) and tensor.ndim]
    if there and strangers and kind not in _MEETING:
        raise RuntimeError(f"expected all tensors on the same device: {function} got one of both")
    if kind is _aten.index and there and not isinstance(args[0], _There):
        raise RuntimeError("indices should be on the CPU or where the tensor is")
    given = next((item for item in args if isinstance(item, torch.device)), None)
    asked = given if given is not None else kwargs.get("device")
    if given is not None:
        args = tuple(torch.device("cpu") if isinstance(item, torch.device) else item for item in args)
    elif asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if kind is _aten.native_dropout and there and args[2]:  # random numbers in an order of its own, as on a GPU
        kept = torch.empty_like(args[0].inner).uniform_() < 1 - args[1]
        return _There(args[0].inner * kept * (1 / (1 - args[1]))), _There(kept)
    found = function(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if kind in _ASKING or (asked is None and not there):
        return found
    if asked is not None and torch.device(asked).type == "cpu":
        return found
    if kind in {_aten.copy_, _aten.index_put_} and not isinstance(args[0], _There):
        return args[0]
    known = {id(tensor.inner): tensor for tensor in there}
    return tree_map(lambda item: _outer(item, known), found)


def _outer(item, known):
    """What was written in place stays the object that it was."""
    if not isinstance(item, torch.Tensor):
        return item
    return known[id(item)] if id(item) in known else _There(item)


def _inner(item):
    return item.inner if isinstance(item, _There) else item


@contextlib.contextmanager
def second_device():
    """Inside, ``tensor.to("second")`` and ``device="second"`` work."""
    if torch.utils.backend_registration._privateuse1_backend_name != "second":
        _setup_privateuseone_for_python_backend("second")
    with _Devices():
        yield
