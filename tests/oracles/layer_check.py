"""Run ``gradvitals.check`` on a layer of the zoo, in the ways that its users would call it."""

from __future__ import annotations

import functools

import gradvitals as gv
from oracles import torch_layers

#: What the likely mistake should be called; numeric is 0.5 × analytic where the gradient was doubled.
_CAUSES = {
    "sign": "sign",
    "double": "factor-extra",
    "transposed": "transposed",
    "missing-1/N": "factor-missing",
    "zero-largest": "entries",
    "zero-median": "entries",
}


def cause_of(kind):
    """The likely mistake that a report should name for a kind of mutation; None where any will do."""
    return _CAUSES.get(kind)


def check(layer, framework, dtype, tensor=None, mutation=None, *, seed=0):
    """Check the layer, correct or with the gradient of ``tensor`` spoilt by ``mutation``.

    ``framework`` is ``torch``, ``numpy`` (forward returns its cache, backward takes it) or ``object`` (a layer that
    remembers what it saw last).
    """
    position = None if tensor is None else list(layer.inputs).index(tensor)
    if framework == "torch":
        function = layer.torch_function
        if mutation is not None:
            function = torch_layers.spoil_function(function, position, mutation.spoil)
        return gv.check(function, *layer.tensors(dtype), seed=seed)
    backward = layer.numpy_backward if mutation is None else spoil_backward(layer.numpy_backward, position, mutation)
    form = {"grad": backward} if layer.is_scalar else {"vjp": backward}
    forward = layer.numpy_forward
    if framework == "object" and not layer.is_scalar:
        forward, form["vjp"] = remembering(forward, backward)
    return gv.check(forward, *layer.arrays(dtype), seed=seed, **form)


def remembering(forward, backward):
    """The layer as a pair that shares what the latest ``forward`` saw: ``backward(dout)`` refers to that."""
    cache = None

    @functools.wraps(forward)
    def remember(*inputs):
        nonlocal cache
        out, cache = forward(*inputs)
        return out

    def recall(dout):
        return backward(dout, cache)

    return remember, recall


def spoil_backward(backward, position, mutation):
    """The hand-written backward pass with the gradient at ``position`` spoilt."""

    @functools.wraps(backward)
    def spoilt(*arguments):
        gradients = backward(*arguments)
        if not isinstance(gradients, tuple):
            return mutation.spoil(gradients)
        return tuple(mutation.spoil(g) if at == position else g for at, g in enumerate(gradients))

    return spoilt


def wrong_findings(report):
    return [finding for finding in report.findings if finding.code == "G101"]


def tensors_called_wrong(report):
    """All tensors that the report calls wrong, in its table or in a finding."""
    table = {row["path"] for row in report.table("tensors").records() if row["status"] == "wrong"}
    return table.union(*(finding.evidence["tensors"] for finding in wrong_findings(report)))
