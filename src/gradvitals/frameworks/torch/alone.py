"""One call of a module, made again by itself."""

from __future__ import annotations

import contextlib
import glob
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.layer_calls import CannotReplay, View
from gradvitals.frameworks.problem import Array, Problem, agree
from gradvitals.frameworks.torch.entries import flat, unit_roundoff
from gradvitals.frameworks.torch.objective import tensors_in
from gradvitals.frameworks.torch.problem import TorchProblem
from gradvitals.frameworks.torch.state import preserved
from gradvitals.frameworks.torch.structures import with_tensors
from gradvitals.vocabulary.errors import GradvitalsError, InputError

if TYPE_CHECKING:
    from gradvitals.frameworks.torch.layer_calls import Record

#: What torch.compile puts into the names of a compiled module's parameters.
_COMPILED = "_orig_mod."
#: Numbers of this dtype are not scaled: its range is too small for the product.
_SMALL_RANGE = frozenset({torch.float16})
#: A child's attributes while what it gave stands in for it: its hooks belong to the child.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class ReplayedCall:
    """See :class:`gradvitals.frameworks.layer_calls.LayerCall`.

    Parameters
    ----------
    record : Record
        What was kept of the call.
    index : int
        Its position among all calls.
    upstream : sequence of frozenset of str
        Of each tensor that went in, the case's tensors behind it.
    known : mapping of id to str
        The case's names of its parameters.
    calls : list of ReplayedCall
        All calls of the pass.

    """

    def __init__(
        self,
        record: Record,
        index: int,
        upstream: Sequence[frozenset[str]],
        known: Mapping[int, str],
        calls: list[ReplayedCall],
    ) -> None:
        self.record = record
        self.path, self.call, self.kind, self.parent = record.path, record.call, record.kind, record.parent
        self.functions = record.functions
        self.inputs = [f"{self.path}({given.path})" for given in record.given]
        self.parameters = {
            name.replace(_COMPILED, ""): known.get(id(parameter), f"{self.path}.{name.replace(_COMPILED, '')}")
            for name, parameter in record.module.named_parameters()
            if parameter.requires_grad
        }
        own = set(known.values())
        self.upstream: dict[str, frozenset[str]] = {
            path: frozenset({path} & own) for path in self.parameters.values()
        } | dict(zip(self.inputs, upstream, strict=True))
        self._index = index
        self._calls = calls

    @property
    def children(self) -> list[ReplayedCall]:
        """The calls made in its own code."""
        return [call for call in self._calls if call.parent == self._index]

    @property
    def arrived(self) -> Array | None:
        scales = self.scales(list(self.record.live))
        parts = [self.record.gradients.get(path) for path in self.record.live]
        found = [
            np.zeros(flat(self.record.outputs[path]).size) if part is None else flat(part) / scale
            for path, part, scale in zip(self.record.live, parts, scales, strict=True)
        ]
        whole = np.concatenate(found) if found else np.zeros(0)
        return whole if np.isfinite(whole).all() and whole.any() else None

    @contextlib.contextmanager
    def opened(self, view: View = "alone") -> Iterator[Problem]:
        record = self.record
        if record.obstacle:
            raise CannotReplay(record.obstacle)
        if not record.outputs:
            raise CannotReplay("no-output")
        with self._as_at_the_call():
            try:
                problem = self._own_code() if view == "own-code" else self._alone(view)
            except InputError as error:
                raise CannotReplay("nothing-to-differentiate") from error
            except GradvitalsError as error:
                raise CannotReplay("raises") from error
            yield problem

    def scales(self, paths: Sequence[str]) -> list[float]:
        """Of each output the size of the gradient that came back to it, a power of two."""
        sizes = [_size(self.record.gradients.get(path)) for path in paths]
        usual = max((size for size in sizes if size > 0), default=1.0)
        return [
            1.0 if self.record.outputs[path].dtype in _SMALL_RANGE else 2.0 ** round(math.log2(size or usual))
            for path, size in zip(paths, sizes, strict=True)
        ]

    def _alone(self, view: View) -> TorchProblem:
        record = self.record
        live = list(record.live)
        paths = list(record.outputs) if view == "all-outputs" or not live else live
        if view == "arrived":
            if self.arrived is None:
                raise CannotReplay("no-gradient")
            again: _Again = _Again(self, live, arrived=[record.gradients.get(path) for path in live])
        else:
            # Put together, outputs that no gradient comes back from aren't told from the others.
            again = _Again(self, paths, joined=set(paths) != set(live))
        problem = self._problem(again)
        if view != "arrived":
            made = zip(paths, self.scales(paths), strict=True)
            expected = np.concatenate([scale * flat(record.outputs[path]) for path, scale in made])
            coarsest = max(unit_roundoff(record.outputs[path].dtype) for path in paths)
            value = problem.value({})
            if not np.isfinite(expected).all():
                raise CannotReplay("not-finite")
            if not agree(value, expected, coarsest):
                raise CannotReplay("replay-differs")
        return problem

    def _own_code(self) -> TorchProblem:
        if not self.children:
            raise CannotReplay("no-children")
        if any(child.record.obstacle for child in self.children):
            raise CannotReplay("children-not-captured")
        again = _OwnCode(self)
        every = self._problem(again)
        gradient = every.gradient(np.ones(every.value({}).size))
        # Parameters that only its children use are left out.
        own = {f"module.{name}" for name, _ in self.record.module.named_parameters(recurse=False)}
        keys = [*(f"module.{name}" for name in self.parameters), *(f"leaves[{at}]" for at in range(len(again.leaves)))]
        used = [
            key
            for key, found in zip(keys, gradient, strict=True)
            if found.value is not None or found.got_shape is not None or key in own or key.startswith("leaves[")
        ]
        return self._problem(again, used)

    def _problem(self, again: _Again, only: Sequence[str] | None = None) -> TorchProblem:
        case = Case(again, tuple(again.leaves), name=self.path)
        problem = TorchProblem(case, None if only is None else [glob.escape(key) for key in only])
        names = {f"module.{name}": path for name, path in self.parameters.items()}
        names |= {f"leaves[{at}]": path for at, path in enumerate(again.names)}
        problem.tensors = tuple(replace(tensor, path=names[tensor.path]) for tensor in problem.tensors)
        return problem

    @contextlib.contextmanager
    def _as_at_the_call(self) -> Iterator[None]:
        record = self.record
        with preserved(record.module):  # evaluations move running statistics, which the next call starts from
            for module, training in record.modes:
                module.training = training
            for holder, name, tensor in record.buffers:
                holder[name] = None if tensor is None else tensor.clone()
            record.random.restore()
            yield


class _Again(nn.Module):
    """Calls a module as it was called, but for the tensors given; its outputs come in the size of their gradients.

    Parameters
    ----------
    call : ReplayedCall
    paths : sequence of str
        The outputs that are wanted.
    joined : bool
        Whether to give them as one tensor.
    arrived : sequence of tensor or None, optional
        Gradients of the outputs that are sent back as they came, in value and layout; then the output is a scalar.

    """

    def __init__(
        self,
        call: ReplayedCall,
        paths: Sequence[str],
        *,
        joined: bool = False,
        arrived: Sequence[torch.Tensor | None] | None = None,
    ) -> None:
        super().__init__()
        record = call.record
        self.module = record.module
        self.training = record.module.training
        self._record = record
        self._paths = list(paths)
        self._joined = joined
        self._scales = call.scales(paths)
        self._arrived = None if arrived is None else [p for p in zip(paths, arrived, strict=True) if p[1] is not None]
        self._places: dict[int, int] = {}
        self._constants: dict[int, str] = {}
        self.leaves: list[torch.Tensor] = []
        self.names: list[str] = []
        for given, name in zip(record.given, call.inputs, strict=True):
            self._differentiate(given.copy, name)
        for args in (record.args, record.kwargs):
            for _, tensor in tensors_in(args, ""):
                if id(tensor) not in self._places and id(tensor) not in self._constants:
                    name = f"constant{len(self._constants)}"
                    self.register_buffer(name, tensor)  # a buffer is copied, and widened, where that is needed
                    self._constants[id(tensor)] = name

    def forward(self, *leaves: torch.Tensor) -> Any:
        """The outputs of the call with these tensors in it."""
        output = self._called(leaves)
        found = dict(tensors_in(output, "output"))
        if self._arrived is not None:
            parts = [(found[path], gradient) for path, gradient in self._arrived]
            return _Projected.apply([g for _, g in parts], *(o for o, _ in parts))  # type: ignore[no-untyped-call]
        outputs = [
            found[path] if scale == 1 else found[path] * scale
            for path, scale in zip(self._paths, self._scales, strict=True)
        ]
        return torch.cat([output.reshape(-1) for output in outputs]) if self._joined else tuple(outputs)

    def _called(self, leaves: Sequence[torch.Tensor]) -> Any:
        args, kwargs = (
            with_tensors(given, "", lambda _, tensor: self._now(tensor, leaves))
            for given in (self._record.args, self._record.kwargs)
        )
        with contextlib.ExitStack() as contexts:
            for device, dtype, enabled in self._record.autocast:
                contexts.enter_context(torch.autocast(device, dtype, enabled=enabled, cache_enabled=False))
            return self.module(*args, **kwargs)

    def _differentiate(self, tensor: torch.Tensor, name: str) -> None:
        """Make a leaf of a tensor; entries that aren't finite (a mask in attention's scores) stay as they are."""
        self._places[id(tensor)] = len(self.leaves)
        finite = torch.isfinite(tensor)
        if not bool(finite.all()):
            at = len(self.leaves)
            self.register_buffer(f"finite{at}", finite)
            self.register_buffer(f"fixed{at}", torch.where(finite, 0, tensor))
            tensor = torch.where(finite, tensor, 0)
        self.leaves.append(tensor)
        self.names.append(name)

    def _now(self, tensor: torch.Tensor, leaves: Sequence[torch.Tensor]) -> torch.Tensor:
        at = self._places.get(id(tensor))
        if at is not None:
            finite = getattr(self, f"finite{at}", None)
            return leaves[at] if finite is None else torch.where(finite, leaves[at], getattr(self, f"fixed{at}"))
        if id(tensor) in self._constants:
            constant: torch.Tensor = getattr(self, self._constants[id(tensor)]).clone()
            return constant
        return tensor.clone()


class _OwnCode(_Again):
    """The module's own code: what its children gave is put in, and what they are given comes out."""

    def __init__(self, call: ReplayedCall) -> None:
        record = call.record
        super().__init__(call, list(record.live or record.outputs), joined=True)
        self._children = [child.record for child in call.children]
        for child in call.children:
            for path in child.record.live:
                tensor = child.record.outputs[path]
                if id(tensor) not in self._places:
                    name = f"{child.path}{path.removeprefix('output')} →"
                    self._differentiate(tensor, name)
                    behind = [call.upstream.get(p, frozenset()) | child.upstream[p] for p in child.upstream]
                    call.upstream[name] = frozenset().union(*behind)

    def forward(self, *leaves: torch.Tensor) -> torch.Tensor:
        """One row of the outputs, and of what the children were given."""
        with self._stubbed(leaves) as passed:
            output = dict(tensors_in(self._called(leaves), "output"))
        found = [output[path] * scale for path, scale in zip(self._paths, self._scales, strict=True)] + passed
        return torch.cat([tensor.reshape(-1) for tensor in found])

    @contextlib.contextmanager
    def _stubbed(self, leaves: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
        passed: list[torch.Tensor] = []
        queues: dict[nn.Module, list[Record]] = {}
        for record in self._children:
            queues.setdefault(record.module, []).append(record)
        saved = [(module, dict(vars(module))) for module in queues]
        try:
            for module, queue in queues.items():
                for hooks in _HOOKS:
                    vars(module)[hooks] = OrderedDict()
                vars(module)["_compiled_call_impl"] = None
                vars(module)["forward"] = self._stub(queue, leaves, passed)
            yield passed
        finally:
            for module, attributes in saved:
                vars(module).clear()
                vars(module).update(attributes)

    def _stub(self, queue: Sequence[Record], leaves: Sequence[torch.Tensor], passed: list[torch.Tensor]) -> Any:
        count = 0

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            record = queue[count % len(queue)]  # a checkpoint calls again, on its way back
            if count < len(queue):
                given = [tensor for _, tensor in tensors_in((args, kwargs), "") if tensor.is_floating_point()]
                passed.extend(tensor.clone() for tensor in given)
            count += 1
            return with_tensors(record.output, "output", lambda _, tensor: self._now(tensor, leaves).clone())

        return forward


class _Projected(torch.autograd.Function):
    """⟨gradients, outputs⟩; sent back are the gradients themselves, laid out as they were."""

    @staticmethod
    def forward(ctx: Any, gradients: Sequence[torch.Tensor], *outputs: torch.Tensor) -> torch.Tensor:
        ctx.gradients = gradients
        dtype = torch.promote_types(outputs[0].dtype, torch.float32)
        products = [(g.double() * o.double()).sum() for g, o in zip(gradients, outputs, strict=True)]
        return torch.stack(products).sum().to(dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        (sent,) = grad_outputs
        return None, *(g if bool(sent == 1) else g * sent.to(g.dtype) for g in ctx.gradients)


def _size(gradient: torch.Tensor | None) -> float:
    """Its RMS; zero where there is none, or it isn't finite."""
    if gradient is None or gradient.numel() == 0:
        return 0.0
    size = float(gradient.detach().abs().double().square().mean().sqrt())
    return size if math.isfinite(size) else 0.0
