"""The operation that makes NaN or infinity of what was finite: forwards by watching every kernel, backwards every node.

A second pass, run only where the first one met something that isn't finite: looking at every operation is slow.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from gradvitals.frameworks.capture import Producer
from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch import causes
from gradvitals.frameworks.torch.layers import written
from gradvitals.frameworks.torch.moments import Health, health, is_readable
from gradvitals.frameworks.torch.objective import cotangents, output_tensors, scalar
from gradvitals.frameworks.torch.stance import run_eagerly
from gradvitals.frameworks.torch.state import preserved, seed_everything

#: Kernels that only write −∞ where they are told to, or move values about.
_MASKING = frozenset({"masked_fill", "masked_fill_", "where", "full", "full_like", "fill", "fill_", "copy_", "zero_"})


def find_producer(case: Case, *, seed: int = 0) -> Producer | None:
    """Run a case again and name the operation that first makes NaN or infinity of finite values.

    Parameters
    ----------
    case : Case
        Its model is a ``torch.nn.Module`` whose pass has been run before without an error.
    seed : int
        As of that pass.

    Returns
    -------
    Producer or None
        None where everything stays finite, or nothing that is executed can be seen (inside a scripted module).

    """
    model = getattr(case.model, "_orig_mod", case.model)
    with preserved(model, (case.args, case.keywords)), torch.enable_grad(), run_eagerly(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first pass has shown them
        seed_everything(seed)
        with _Where(model) as where:
            watch = _Kernels(where, [*model.parameters(), *model.buffers()])
            nodes = _Nodes(where)
            where.note = nodes.note
            with nodes, watch:
                output = model(*case.args, **case.keywords)
                where.leave_model()
                value, _ = scalar(output, case.loss)
        roots = [value] if value is not None else [tensor for _, tensor in output_tensors(output)]
        if health(roots) > Health.FINITE and watch.first is not None:
            return watch.first
        return _backwards([root for root in roots if root.requires_grad], value is None, seed, nodes) or watch.found


class _Where:
    """Knows which module is running."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._stack: list[str] = []
        self._handles: list[Any] = []
        self._outside = ""
        self.note: Callable[[Any], None] = lambda _: None  # told of what goes in and out, while its maker still runs

    def __enter__(self) -> Self:
        for path, module in self._model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                continue
            self._handles.append(module.register_forward_pre_hook(self._enter(written(path))))
            self._handles.append(module.register_forward_hook(self._leave, always_call=True))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def path(self) -> str:
        """The innermost module; the model's class of the model itself, ``"loss"`` behind it."""
        return (self._stack[-1] if self._stack else self._outside) or type(self._model).__name__

    def call(self, path: str, operation: str) -> str:
        """A function's call as captures write it, by the module that it stands in."""
        return f"{operation}()" if path in {"", type(self._model).__name__} else f"{path}.{operation}()"

    def leave_model(self) -> None:
        """From here on it is the loss that runs."""
        self._stack.clear()
        self._outside = "loss"

    def _enter(self, path: str) -> Callable[..., None]:
        def entered(_: nn.Module, args: tuple[Any, ...]) -> None:
            self.note(args)
            self._stack.append(path)

        return entered

    def _leave(self, _: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        self.note(output)
        if self._stack:
            self._stack.pop()


class _Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at what goes into every kernel and comes out of it, until one makes NaN or +∞."""

    def __init__(self, where: _Where, weights: list[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Producer | None = None
        self._where = where
        self._weights = {_memory(tensor) for tensor in weights} - {None}
        self._suspects: list[tuple[torch.Tensor, Producer]] = []  # −∞ that no mask put there, with its maker

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.found is not None:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        flat = tree_flatten((args, dict(kwargs)))[0]
        before = _worst(flat)
        writes_over = name.endswith("_") and isinstance(args[0], torch.Tensor)
        given = (args[0].clone(), *args[1:]) if writes_over else args
        output = func(*args, **kwargs)
        after = _worst(tree_flatten(output)[0])
        if after == Health.BROKEN and before < Health.BROKEN:
            self.found = self._suspect(flat) or self._producer(func, name, given, kwargs, output)
        elif after == Health.BROKEN and self._breaks_by_weights(flat, output):
            self.found = self._made(name, output, "bad-weights")
        elif after == Health.MASKED and name not in _MASKING:
            self._remember(func, name, given, kwargs, output, flat, before)
        return output

    @property
    def first(self) -> Producer | None:
        """Who made NaN or +∞, or else the first −∞ that no mask put there."""
        return self.found or (self._suspects[0][1] if self._suspects else None)

    def _breaks_by_weights(self, flat: list[Any], output: Any) -> bool:
        """Whether only weights that went in weren't finite, and more came out than another view of them."""
        is_view = all(_memory(x) in self._weights for x in tree_flatten(output)[0] if isinstance(x, torch.Tensor))
        others = [x for x in flat if not isinstance(x, torch.Tensor) or _memory(x) not in self._weights]
        return not is_view and _worst(others) < Health.BROKEN

    def _remember(
        self, func: Any, name: str, args: Any, kwargs: Any, output: Any, flat: list[Any], before: Health
    ) -> None:
        """Keep who made −∞ of finite values (a logarithm of zero), and what it was handed on to."""
        maker = self._producer(func, name, args, kwargs, output) if before == Health.FINITE else self._suspect(flat)
        if maker is not None:
            self._suspects += [(x, maker) for x in tree_flatten(output)[0] if isinstance(x, torch.Tensor)]

    def _suspect(self, flat: list[Any]) -> Producer | None:
        tensors = [x for x in flat if isinstance(x, torch.Tensor)]
        return next(
            (maker for kept, maker in self._suspects if any(_memory(kept) == _memory(x) for x in tensors)), None
        )

    def _producer(self, func: Any, name: str, args: Any, kwargs: Any, output: Any) -> Producer:
        cause, largest = causes.of_kernel(func, name.strip("_"), args, kwargs)
        return self._made(name, output, cause, largest)

    def _made(self, name: str, output: Any, cause: str, largest: float | None = None) -> Producer:
        where = self._where.path
        call = self._where.call(where, name.strip("_"))
        return Producer(
            name.strip("_"), where, call, backward=False, cause=cause, dtype=_dtype(output), largest=largest
        )


class _Nodes(TorchFunctionMode):
    """Notes in which module each node of the graph was made."""

    def __init__(self, where: _Where) -> None:
        super().__init__()
        self._where = where
        self._made: dict[Any, str] = {}

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if not getattr(func, "__name__", "").startswith("__get"):
            self.note(output)
        return output

    def path(self, node: Any) -> str:
        """Where a node was made; of one made unseen, where what it feeds was."""
        return self._made.get(node, "")

    def call(self, path: str, operation: str) -> str:
        """As captures write the call of a function."""
        return self._where.call(path, operation)

    def note(self, value: Any) -> None:
        """All nodes behind the tensors of a value that nobody has claimed yet are the running module's."""
        with torch._C.DisableTorchFunction():  # noqa: SLF001
            waiting = [x.grad_fn for x in tree_flatten(value)[0] if isinstance(x, torch.Tensor)]
        while waiting:
            node = waiting.pop()
            if node is None or node in self._made:
                continue
            self._made[node] = self._where.path
            waiting += [behind for behind, _ in node.next_functions if behind is not None]


def _backwards(roots: list[torch.Tensor], is_random: bool, seed: int, nodes: _Nodes) -> Producer | None:
    """Send the gradient back, and stop at the first node that makes of a finite gradient one that isn't."""
    found: list[Producer] = []
    if not roots:
        return None
    with _hooked(roots, nodes, found):
        sent = cotangents(roots, seed) if is_random else None
        with contextlib.suppress(RuntimeError):  # re-entrant checkpoints only run under backward()
            leaves = _leaves(roots)
            if leaves:
                torch.autograd.grad(roots, leaves, sent, retain_graph=True, allow_unused=True)
    return found[0] if found else None


@contextlib.contextmanager
def _hooked(roots: list[torch.Tensor], nodes: _Nodes, found: list[Producer]) -> Iterator[None]:
    def hook(node: Any) -> Callable[..., None]:
        def came(outgoing: Any, incoming: Any) -> None:
            if found or _worst(list(incoming)) > Health.FINITE or _worst(list(outgoing)) == Health.FINITE:
                return
            cause, largest = causes.of_node(node, incoming, outgoing)
            name = causes.operation_of(node)
            where, dtype = nodes.path(node), _dtype(outgoing)
            call = nodes.call(where, name)
            found.append(Producer(name, where, call, backward=True, cause=cause, dtype=dtype, largest=largest))

        return came

    handles = [node.register_hook(hook(node)) for node in _graph(roots)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _graph(roots: list[torch.Tensor]) -> list[Any]:
    waiting, seen = [root.grad_fn for root in roots], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [behind for behind, _ in node.next_functions if behind is not None]
    return list(seen)


def _leaves(roots: list[torch.Tensor]) -> list[torch.Tensor]:
    """The leaves that the gradient is accumulated at."""
    return [node.variable for node in _graph(roots) if hasattr(node, "variable")]


def _worst(values: list[Any]) -> Health:
    tensors = [x for x in values if isinstance(x, torch.Tensor) and x.is_floating_point() and not x.is_meta]
    return max((health(x) for x in tensors if is_readable(x) and x.numel()), default=Health.FINITE)


def _memory(tensor: torch.Tensor) -> Any:
    """What tells tensors that share their memory; None where a tensor has none of its own to speak of."""
    if tensor.layout != torch.strided or not tensor.numel():
        return None
    return tensor.device, tensor.untyped_storage().data_ptr()


def _dtype(output: Any) -> str:
    tensors = [x for x in tree_flatten(output)[0] if isinstance(x, torch.Tensor) and x.is_floating_point()]
    return str(tensors[0].dtype).removeprefix("torch.") if tensors else ""
