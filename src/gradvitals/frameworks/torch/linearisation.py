"""One forward pass whose graph stays, so that the Jacobian of any stretch of it can be multiplied with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from gradvitals.frameworks.capture import Capture
from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.capture import forward
from gradvitals.frameworks.torch.inputs import named_inputs, validate
from gradvitals.frameworks.torch.jacobian import TorchJacobian
from gradvitals.frameworks.torch.objective import output_tensors
from gradvitals.frameworks.torch.recorder import Recorder
from gradvitals.frameworks.torch.stance import run_eagerly
from gradvitals.frameworks.torch.state import preserved, seed_everything, without_our_noise
from gradvitals.vocabulary.errors import GradvitalsError, InputError, ModelError

#: Of a batch this share is looked at, so many samples and entries of the input at most: a product costs as much less.
_SHARE, _SAMPLES, _ENTRIES = 0.25, 8, 2**21
#: Outputs of the first samples run alone are theirs where they differ by rounding only.
_SAME = 1e-3


@dataclass(frozen=True, slots=True)
class Linearised:
    """The graph of one forward pass, and what was seen on the way.

    Parameters
    ----------
    capture : Capture
        The calls and residual additions; nothing was sent back.
    source, target : str
        What is differentiated: the first input, or of token ids the layer that makes numbers of them; and the
        first floating-point output.
    start, end : torch.Tensor
        The tensors of these.
    nodes : dict of int to torch.Tensor
        What each call and addition gave.
    samples : mapping of int to int
        How many samples there may be along which axis of ``start``.
    spared : float
        How many times fewer samples were looked at than the batch holds.
    independent : bool
        Whether the batch holds several samples, none of which depends on another.

    """

    capture: Capture
    source: str
    target: str
    start: torch.Tensor
    end: torch.Tensor
    nodes: dict[int, torch.Tensor]
    samples: Mapping[int, int]
    _tangent: Any
    spared: float = 1.0
    independent: bool = False

    def jacobian(self, start: int | None = None, end: int | None = None) -> TorchJacobian | None:
        """That of node ``end`` (or the output) with respect to node ``start`` (or the input); None where the one
        wasn't computed from the other.
        """
        first, last = self.start if start is None else self.nodes[start], self.end if end is None else self.nodes[end]
        if first is last or not first.requires_grad or not last.requires_grad:
            return None
        tangent = self._tangent if start is None and end is None else None
        found = TorchJacobian(first, last, self.samples, tangent)
        return found if found.is_connected else None


@contextlib.contextmanager
def linearised(case: Case, *, seed: int = 0) -> Iterator[Linearised]:
    """Run a module forwards once and keep the graph, leaving no trace.

    The model runs in its mode, with its random numbers seeded. Of a batch whose samples don't depend on one another the
    first are run alone, where that gives what they gave in the batch.

    Parameters
    ----------
    case : Case
        Its model is a ``torch.nn.Module``.
    seed : int

    Raises
    ------
    InputError
        When there is no output that can be differentiated with respect to the first input.
    ModelError
        When the model raises.

    """
    model = getattr(case.model, "_orig_mod", case.model)
    validate(case)
    with preserved(model, (case.args, case.keywords)), torch.enable_grad(), _twice_differentiable(model):
        point = _recorded(model, case, seed)
        whole = point.jacobian()
        if whole is None:
            raise _not_connected(case, point)
        samples = whole.inputs.samples
        kept = max(1, min(int(_SHARE * samples), _SAMPLES, _ENTRIES // max(whole.inputs.size, 1)))
        if samples > kept:
            point, whole = _first_samples(model, case, seed, point, whole, kept) or (point, whole)
        # Stages that work position by position must not take positions for samples.
        kept = whole.inputs.samples
        yield replace(point, samples={whole.inputs.axis: kept}, independent=samples > 1)


def _recorded(model: nn.Module, case: Case, seed: int) -> Linearised:
    """Run it with a recorder; the first input is a leaf, or all weights are where it holds token ids."""
    tensors = named_inputs(case)
    if not tensors:
        raise InputError(
            "there is no input to differentiate with respect to",
            f"{case.subject} was given no tensor",
            "pass the model's inputs as tensors",
        )
    name, first = tensors[0]
    floating = first.is_floating_point()
    leaf = first.detach().clone().requires_grad_(floating)
    for parameter in model.parameters():
        parameter.requires_grad_(not floating and parameter.is_floating_point())
    given = _replaced(case, first, leaf.clone())
    nodes: dict[int, torch.Tensor] = {}
    inputs = [tensor for _, tensor in named_inputs(given)]
    seed_everything(seed)
    with contextlib.closing(Recorder(model, inputs, hold=nodes.__setitem__)) as recorder:
        with run_eagerly():
            output = forward(model, given, recorder)
        calls, streams = recorder.calls, recorder.streams
    outputs = [(path, tensor) for path, tensor in output_tensors(output) if tensor.requires_grad]
    large = [(path, tensor) for path, tensor in outputs if tensor.numel() > 1]
    target, end = next(iter((*large, *outputs)), ("output", leaf))
    start = leaf
    if not floating:
        name, start = next(
            ((call.path, nodes[at]) for at, call in enumerate(calls) if not call.parents and nodes[at].requires_grad),
            (name, leaf),
        )
    capture = Capture(calls, (), (), None, "random", streams=streams)

    def tangent(moved: torch.Tensor) -> torch.Tensor:
        return _forward_mode(model, case, first, target, moved, seed)

    return Linearised(
        capture, name, target, start, end, nodes, dict(enumerate(first.shape[:2])), tangent if floating else None
    )


def _replaced(case: Case, old: torch.Tensor, new: torch.Tensor) -> Case:
    """The same case with another tensor in the place of one."""
    args, kwargs = tree_map(lambda item: new if item is old else item, (case.args, dict(case.keywords)))
    return replace(case, args=args, kwargs=kwargs)


def _forward_mode(
    model: nn.Module, case: Case, first: torch.Tensor, target: str, moved: torch.Tensor, seed: int
) -> torch.Tensor:
    """J·v by dual numbers through another forward pass with the same random numbers."""
    seed_everything(seed)
    try:
        with run_eagerly(), forward_ad.dual_level():
            dual = forward_ad.make_dual(first.detach().clone(), moved)  # type: ignore[no-untyped-call]
            given = _replaced(case, first, dual)
            output = dict(output_tensors(model(*given.args, **given.keywords)))[target]
            found = forward_ad.unpack_dual(output).tangent  # type: ignore[no-untyped-call]
            return torch.zeros_like(output) if found is None else found.detach()
    except Exception as error:
        raise ModelError(
            "neither the backward pass can be differentiated nor is there a forward mode",
            f"{type(error).__name__}: {error}",
            "give custom functions a differentiable backward() or a jvp(); the rest of the report needs neither",
        ) from error


def _first_samples(
    model: nn.Module, case: Case, seed: int, point: Linearised, whole: TorchJacobian, kept: int
) -> tuple[Linearised, TorchJacobian] | None:
    """The first samples run alone; None where they don't give what they gave in the batch."""
    axis, total = whole.inputs.axis, whole.inputs.samples

    def narrowed(item: Any) -> Any:
        holds = isinstance(item, torch.Tensor) and item.ndim > axis and item.shape[axis] == total
        return item.detach().narrow(axis, 0, kept) if holds else item

    args, kwargs = tree_map(narrowed, (case.args, dict(case.keywords)))
    try:
        fewer = _recorded(model, replace(case, args=args, kwargs=kwargs), seed)
        alone = fewer.jacobian()
    except GradvitalsError:
        return None
    if alone is None or alone.inputs.samples != kept or len(fewer.nodes) != len(point.nodes):
        return None
    in_batch, by_themselves = whole.outputs.apart(point.end)[:kept], alone.outputs.apart(fewer.end)
    if in_batch.shape != by_themselves.shape:
        return None
    scale = float(np.abs(in_batch).max(initial=0.0))
    same = bool((np.abs(in_batch - by_themselves) <= _SAME * scale).all())
    return (replace(fewer, spared=total / kept), alone) if same else None


@contextlib.contextmanager
def _twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Kernels whose backward pass has one of its own: not those of fused attention, nor of recurrent layers."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with contextlib.ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(without_our_noise())
        if recurrent:
            stack.enter_context(_without_onednn())
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    core: Any = torch._C  # noqa: SLF001 - torch.backends.mkldnn.flags() sets more than this, and warns
    before = core._get_mkldnn_enabled()  # noqa: SLF001
    core._set_mkldnn_enabled(False)  # noqa: SLF001, FBT003
    try:
        yield
    finally:
        core._set_mkldnn_enabled(before)  # noqa: SLF001


def _not_connected(case: Case, point: Linearised) -> InputError:
    return InputError(
        "the output can't be differentiated with respect to the input",
        f"{case.subject}: no gradient comes from {point.target} back to {point.source}",
        "look for detach(), torch.no_grad() or integers on the way; the probe without spectrum=True needs no such path",
    )
