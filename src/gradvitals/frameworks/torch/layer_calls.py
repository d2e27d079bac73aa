"""Watch one forward and one backward pass, and keep of every module's call what it takes to make it again."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.layer_calls import LayerCall
from gradvitals.frameworks.torch.alone import ReplayedCall
from gradvitals.frameworks.torch.arguments import Arguments
from gradvitals.frameworks.torch.behind import modules_behind
from gradvitals.frameworks.torch.entries import can_be_moved
from gradvitals.frameworks.torch.objective import cotangents, scalar, tensors_in
from gradvitals.frameworks.torch.reach import Reach
from gradvitals.frameworks.torch.state import RandomState, preserved
from gradvitals.frameworks.torch.structures import layout_kept, with_tensors
from gradvitals.frameworks.torch.widening import uncompiled
from gradvitals.frameworks.torch.wrt import differentiated, involved, own_module
from gradvitals.frameworks.user_code import argument_names, user_code

#: Of the random cotangent where there is no loss; its values don't matter, only that it reaches every layer.
_SEED = 0


@dataclass(slots=True)
class Given:
    """A tensor that went into a call: its place, a copy, and where it came from in the graph."""

    path: str
    copy: torch.Tensor
    source: Any = None


@dataclass(slots=True, eq=False)
class Record:
    """A call, as it is being watched.

    ``given`` are the tensors that were differentiated, ``args`` and ``kwargs`` copies of all inputs, ``outputs``
    copies by path, ``live`` the paths of those that a gradient can come back from.
    """

    module: nn.Module
    path: str
    call: int
    parent: int | None
    args: Any
    kwargs: Any
    given: list[Given]
    random: RandomState
    modes: list[tuple[nn.Module, bool]]
    buffers: list[tuple[MutableMapping[str, Any], str, torch.Tensor | None]]
    autocast: list[tuple[str, torch.dtype, bool]]
    span: tuple[int, int]
    obstacle: str = ""
    output: Any = None
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)
    live: list[str] = field(default_factory=list)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    functions: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return "function" if isinstance(self.module, _Function) else type(self.module).__name__


@contextlib.contextmanager
def torch_layer_calls(case: Case, wrt: Any = None) -> Iterator[tuple[LayerCall, ...]]:
    """See :func:`gradvitals.frameworks.layer_calls.layer_calls`."""
    with preserved(case.model, (case.args, case.keywords)):
        # Nested: calls are made again from where the pass began, in which running statistics moved on.
        with preserved(case.model, (case.args, case.keywords)), user_code(f"{case.subject}(), watched"):
            calls = _watched(case, wrt)
        yield calls


def _watched(case: Case, wrt: Any) -> tuple[ReplayedCall, ...]:
    arguments = Arguments(case)
    own = differentiated(case, arguments.roots, wrt)
    inputs = {path: layout_kept(tensor).requires_grad_() for (role, path), tensor in own.items() if role == "input"}
    names = {id(tensor): path for (role, path), tensor in own.items() if role == "parameter"}
    names |= {id(tensor): path for path, tensor in inputs.items()}
    paths = _named_modules(case, wrt)
    model = case.model if isinstance(case.model, nn.Module) else _Function(case.model)
    loss = None if case.loss is None else _Function(case.loss)
    paths |= {model: ""} | ({} if loss is None else {loss: "loss"})
    watch = _Watch(paths)
    leaves = [*inputs.values(), *(tensor for (role, _), tensor in own.items() if role == "parameter")]
    with contextlib.closing(watch), torch.enable_grad(), uncompiled():
        args, keywords = arguments.at(inputs)
        with watch.listening():
            output = model(*args, **keywords)
            value, _ = scalar(output, loss)
        targets = [value] if value is not None else [t for _, t in tensors_in(output, "") if can_be_moved(t)]
        roots = [tensor for tensor in targets if tensor.requires_grad]
        reach = Reach(names, roots)
        reach.add([given.source for record in watch.records for given in record.given])
        spans = [record.span for record in watch.records]
        for record, functions in zip(watch.records, reach.functions_within(spans), strict=True):
            record.functions = functions
        if roots:
            sent = None if value is not None else cotangents(roots, _SEED)
            # A backward pass that raises has, up to there, shown the gradients that arrived.
            with contextlib.suppress(RuntimeError):
                torch.autograd.grad(roots, leaves, sent, allow_unused=True)
    known = {id(tensor): path for (role, path), tensor in own.items() if role == "parameter"}
    calls: list[ReplayedCall] = []
    for index, record in enumerate(watch.records):
        upstream = [frozenset(reach.names_behind(given.source)) for given in record.given]
        record.path = record.path or case.subject
        calls.append(ReplayedCall(record, index, upstream, known, calls))
        for given in record.given:
            given.source = None  # the graph isn't needed any more
    return tuple(calls)


class _Function(nn.Module):
    """A plain function, so that its call is seen like a module's; the modules behind it are its parts."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        behind = [module for _, module in modules_behind(function) if module is not function]
        self.behind = nn.ModuleList(behind)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the function gives."""
        return self.function(*args, **kwargs)


def _named_modules(case: Case, wrt: Any) -> dict[nn.Module, str]:
    """Every module that the case may call, with its path; the case's own model has none before its parts."""
    model = own_module(case)
    named = dict.fromkeys([model] if model is not None else [], "")
    named |= {module: name for name, module in modules_behind(case.model, case.loss) if module is not model}
    named |= {module: type(module).__name__ for module in involved(case, wrt) if module not in named}
    paths: dict[nn.Module, str] = {}
    for root, name in named.items():
        for path, module in root.named_modules():
            paths.setdefault(module, f"{name}.{path}".strip("."))
    return paths


class _Watch:
    """Hooks on every module; records the calls of a forward pass inside :meth:`listening`, gradients until closed."""

    def __init__(self, paths: Mapping[nn.Module, str]) -> None:
        self.records: list[Record] = []
        self._paths = paths
        self._open: list[int] = []
        self._counts: dict[str, int] = {}
        self._copies: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self._handles: list[Any] = []
        self._is_forward = False
        self._at_start = {
            (id(holder), name): None if tensor is None else (tensor, tensor.detach().clone())
            for module in paths
            for holder, name, tensor in _buffers(module)
        }
        self._modes = {module: module.training for module in paths}
        self._contexts = _autocast()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        for module in self._paths:
            if isinstance(module, torch.jit.ScriptModule):
                continue  # it takes no hooks of this kind
            self._handles.append(module.register_forward_pre_hook(self._entered, prepend=True, with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._left, always_call=True))
        self._is_forward = True
        try:
            yield
        finally:
            self._is_forward = False
            self._copies.clear()

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _entered(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._is_forward:
            return
        path = self._paths[module]
        names, keywords = argument_names(module.forward, args, kwargs)
        given: list[Given] = []
        start = _sequence()

        def kept(where: str, tensor: torch.Tensor) -> torch.Tensor:
            copy = self._copy(tensor)
            if where and tensor.requires_grad and _is_plain(tensor) and all(copy is not known.copy for known in given):
                given.append(Given(where, copy, tensor.grad_fn or tensor))
            return copy

        obstacle = "transformed" if any(_is_wrapped(t) for _, t in tensors_in((args, kwargs), "")) else ""
        if not torch.is_grad_enabled():
            obstacle = obstacle or "no-grad"
        copies: tuple[Any, Any] = ((), {})
        if not obstacle:
            try:
                copies = (
                    tuple(with_tensors(item, name, kept) for name, item in zip(names, args, strict=True)),
                    {key: with_tensors(item, keywords[key], kept) for key, item in kwargs.items()},
                )
            except Exception:  # noqa: BLE001 - an input of a kind that can't be copied: whatever it raises
                obstacle = "input-not-copied"
        self._open.append(len(self.records))
        self.records.append(
            Record(
                module,
                path,
                self._counts.get(path, 0),
                self._open[-2] if len(self._open) > 1 else None,
                *copies,
                given,
                RandomState.capture(),
                [(m, m.training) for m in module.modules() if m in self._modes and m.training != self._modes[m]],
                [
                    (holder, name, None if tensor is None else tensor.detach().clone())
                    for m in module.modules()
                    for holder, name, tensor in _buffers(m)
                    if self._has_moved(holder, name, tensor)
                ],
                [now for now in _autocast() if now not in self._contexts],
                (start, start),
                obstacle,
            )
        )
        self._counts[path] = self._counts.get(path, 0) + 1

    def _left(self, module: nn.Module, _args: Any, output: Any) -> None:
        if not self._is_forward or not self._open or self.records[self._open[-1]].module is not module:
            return
        record = self.records[self._open.pop()]
        record.span = (record.span[0], _sequence())
        if output is None or record.obstacle:
            record.obstacle = record.obstacle or "no-output"  # it raised, and the model may have gone on
            return
        try:
            record.output = with_tensors(output, "output", lambda _, tensor: self._copy(tensor))
        except Exception:  # noqa: BLE001 - an output of a kind that can't be copied: whatever it raises
            record.obstacle = "input-not-copied"
            return
        for path, tensor in tensors_in(output, "output"):
            if not can_be_moved(tensor) or tensor.numel() == 0:
                continue
            record.outputs[path] = self._copy(tensor)
            if tensor.requires_grad:
                record.live.append(path)
                arrived = functools.partial(_arrived, record, path)
                self._handles.append(tensor.register_hook(arrived))  # type: ignore[no-untyped-call]

    def _has_moved(self, holder: Any, name: str, tensor: torch.Tensor | None) -> bool:
        """Whether a buffer isn't what it was at the start; batch norm writes behind the version counter."""
        start = self._at_start.get((id(holder), name))
        if start is None or tensor is None:
            return start is not None or tensor is not None
        return tensor is not start[0] or not torch.equal(tensor, start[1])

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """One copy of a tensor as it is now, however often it is passed on; the tensor is kept, so that ids hold."""
        key = (id(tensor), 0 if tensor.is_inference() else tensor._version)  # noqa: SLF001 - says what wrote in place
        if key not in self._copies:
            self._copies[key] = (tensor, layout_kept(tensor))
        return self._copies[key][1]


def _arrived(record: Record, path: str, gradient: torch.Tensor) -> None:
    record.gradients[path] = layout_kept(gradient)


def _is_plain(tensor: torch.Tensor) -> bool:
    return can_be_moved(tensor) and tensor.numel() > 0 and tensor.layout == torch.strided


def _is_wrapped(tensor: torch.Tensor) -> bool:
    """Whether it lives inside a torch.func transform, outside which it means nothing."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))  # noqa: SLF001 - there is no public name


def _sequence() -> int:
    """A number between those of the graph's nodes made before and after."""
    with torch.enable_grad():
        node: Any = torch.zeros((), requires_grad=True, device="cpu").clone().grad_fn
    return int(node._sequence_nr())  # noqa: SLF001 - documented for the profiler


def _buffers(module: nn.Module) -> Iterator[tuple[MutableMapping[str, Any], str, torch.Tensor | None]]:
    holder = module._buffers  # noqa: SLF001 - a forward pass may put another tensor there
    return ((holder, name, tensor) for name, tensor in holder.items())


def _autocast() -> list[tuple[str, torch.dtype, bool]]:
    devices = ["cpu", "cuda"] if torch.cuda.is_initialized() else ["cpu"]  # type: ignore[no-untyped-call]
    return [(device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)) for device in devices]
