"""Watch one forward and backward pass of an unmodified module.

Modules are seen by hooks. A TorchFunctionMode sees the functions between them: activations and products with a weight
become calls of their own, and through all the others it follows which call's output reaches which call's input.
Gradients are read by hooks on the output tensors: full backward hooks of modules crash on in-place code.
"""

from __future__ import annotations

import contextlib
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from gradvitals.frameworks.capture import Attention, Call, Moments, Stream
from gradvitals.frameworks.torch import attention, layers
from gradvitals.frameworks.torch.dataflow import NOWHERE, Dataflow, Origin
from gradvitals.frameworks.torch.functions import Functions
from gradvitals.frameworks.torch.gates import flat_share
from gradvitals.frameworks.torch.held_back import held_back_share
from gradvitals.frameworks.torch.moments import Health, is_readable, moments, rms
from gradvitals.frameworks.torch.objective import output_tensors
from gradvitals.frameworks.torch.observation import (
    NOTHING,
    Before,
    Layer,
    describe,
    look,
    spread_of_positions,
    spread_of_samples,
)
from gradvitals.frameworks.torch.shards import is_sharded
from gradvitals.frameworks.torch.steps import RecurrentCall
from gradvitals.frameworks.torch.streams import Ancestry, Join


@dataclass(frozen=True, slots=True)
class _Frame:
    """A module that is being called, and what went in."""

    module: nn.Module
    path: str
    leaf: bool
    origin: Origin
    health: Health
    before: Before


#: Among the last so many additions, earlier ones of the same path are counted: a long loop stays linear.
_RECENT = 4096


class Recorder:
    """Records the calls of a forward pass inside :meth:`listening`, then the gradients until :meth:`close`.

    Parameters
    ----------
    model : torch.nn.Module
    inputs : list of torch.Tensor
        The case's input tensors.
    keep : callable, optional
        Given each call's path, number and kind with its output, and ``"gradient"`` in place of the kind with the
        gradient that came back to it.
    hold : callable, optional
        Given each node (a call ``i``, a residual addition ``-1 - k``) with its output in the graph.

    """

    def __init__(
        self,
        model: nn.Module,
        inputs: list[torch.Tensor],
        keep: Callable[[str, int, str, torch.Tensor], None] | None = None,
        hold: Callable[[int, torch.Tensor], None] | None = None,
    ) -> None:
        self._model = model
        self._keep = keep
        self._hold = hold
        self._paths = {module: layers.written(path) for path, module in model.named_modules()}
        self._names = {id(parameter): layers.written(name) for name, parameter in model.named_parameters()}
        self.batch = next((len(tensor) for tensor in inputs if tensor.ndim), 0)
        self.recurrent: list[RecurrentCall] = []
        self._dataflow = Dataflow()
        for number, tensor in enumerate(inputs):
            self._dataflow.follow(tensor, Origin(inputs=frozenset({number})))
        for parameter in model.parameters():
            self._dataflow.follow(parameter, Origin(parameters=frozenset({self._names[id(parameter)]})))
        spread = [(name, parameter) for name, parameter in model.named_parameters() if is_sharded(parameter)]
        self._sharded = {layers.written(name): parameter for name, parameter in spread}
        self.gathered: dict[int, torch.Tensor] = {}  # by the id of the parameter that it stood for
        self._ancestry = Ancestry()
        self._calls: list[Call] = []
        self._streams: list[Stream] = []
        self._attention: Attention | None = None
        self._axes: list[int] = []
        self._by_path: dict[str, list[int]] = defaultdict(list)
        self._gradients: dict[int, dict[int, Moments]] = defaultdict(dict)
        self._held_back: dict[int, float | None] = {}
        self._frames: list[_Frame] = []
        self._leaves = 0  # how many of the frames are leaf modules
        self._running = model
        self._handles: list[Any] = []
        self._is_forward = False

    @property
    def calls(self) -> tuple[Call, ...]:
        """What was recorded; of several outputs the first that a gradient reached stands for the gradient."""
        return tuple(
            replace(call, gradient=self._gradient(index), held_back=self._held_back.get(index))
            for index, call in enumerate(self._calls)
        )

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The residual additions that were recorded."""
        return tuple(replace(sum_, gradient=self._gradient(-1 - at)) for at, sum_ in enumerate(self._streams))

    def _gradient(self, node: int) -> Moments | None:
        found = self._gradients.get(node)
        return found[min(found)] if found else None

    @property
    def innermost(self) -> str:
        """The module that was running when the model raised."""
        path = self._paths.get(self._running, "")
        return f"{path} ({layers.kind_of(self._running)})" if path else "the model itself"

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Record the forward pass that runs inside."""
        for module in self._paths:
            if isinstance(module, torch.jit.ScriptModule):  # takes no hooks; the report says that it isn't seen
                continue
            self._handles.append(module.register_forward_pre_hook(self._entered, with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._left, always_call=True))
        self._is_forward = True
        try:
            with Functions(self._function):
                yield
        finally:
            self._is_forward = False

    def close(self) -> None:
        """Remove every hook."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _entered(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._is_forward:
            return
        leaf = layers.is_leaf(module) and not (module is self._model and layers.is_own_network(module))
        if self._sharded:
            self._meet_gathered(module, leaf=leaf)
        origin, state, before = NOWHERE, Health.FINITE, NOTHING
        if leaf and not self._inside_leaf():
            with _unseen():
                origin, state = self._dataflow.of((args, kwargs)), self._dataflow.health((args, kwargs))
                before = look(layers.activation_of_module(module), args)
                self._attention = None
                if isinstance(module, nn.Softmax) and args:
                    self._attention = attention.of_call("softmax", args[:1], {"dim": module.dim})
                elif isinstance(module, nn.RNNBase):
                    self.recurrent.append(
                        RecurrentCall(self._paths[module] or layers.kind_of(module), module, args, kwargs)
                    )
        self._frames.append(_Frame(module, self._paths[module], leaf, origin, state, before))
        self._leaves += leaf
        self._running = module

    def _meet_gathered(self, module: nn.Module, *, leaf: bool) -> None:
        """FSDP puts a whole tensor in place of each sharded parameter while a module runs."""
        for name, parameter in module.named_parameters(recurse=leaf):
            if id(parameter) not in self._names:
                path = layers.written(f"{self._paths[module]}.{name}".lstrip("."))
                self._names[id(parameter)] = path
                self._dataflow.follow(parameter, Origin(parameters=frozenset({path})))
                self.gathered[id(self._sharded[path])] = parameter

    def _left(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._is_forward:
            self._recomputed(module, output)
            return
        if not self._frames or self._frames[-1].module is not module:
            return  # a pre-hook of the user's raised before ours was reached
        frame = self._frames.pop()
        self._leaves -= frame.leaf
        if output is None:  # it raised (or returned nothing); the model may catch that and go on
            return
        self._running = self._frames[-1].module if self._frames else module
        if not frame.leaf or self._inside_leaf():
            return
        kind = layers.kind_of(module)
        with _unseen():
            gates = flat_share(module, args, output)
            self._record(
                output,
                Layer(
                    path=frame.path or kind,
                    kind=kind,
                    origin=frame.origin,
                    health=frame.health,
                    parameters=tuple(self._names[id(parameter)] for parameter in _parameters(module)),
                    has_weights=layers.mixes(module),
                    activation=layers.activation_of_module(module),
                    axis=layers.unit_axis(module),
                    before=frame.before if gates is None else Before(saturated=gates),
                    attention=self._attention,
                ),
            )

    def _function(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function that is called between the modules, and record it or pass its inputs' origin on."""
        name = getattr(func, "__name__", "").strip("_")
        if self._inside_leaf():
            self._attention = attention.of_call(name, args, kwargs) or self._attention
            return func(*args, **kwargs)
        given = (args, kwargs)
        origin, state, before, looked = self._dataflow.of(given), Health.FINITE, NOTHING, None
        weights = self._dataflow.weights(given) if name in layers.PRODUCTS and origin.is_signal else []
        activation = layers.activation_of_function(name, args, kwargs) if origin.is_signal else None
        join, added = self._join(args) if name in layers.ADDITIONS else (None, 0.0)
        if origin.is_signal:
            state = self._dataflow.health(given)  # now: it may change its inputs in place
            before = look(activation, args)
            looked = attention.of_call(name, args, kwargs)
        output = func(*args, **kwargs)
        if weights:
            path = min(self._dataflow.of(weights[0]).parameters)
        elif origin.is_signal and (
            activation
            or looked
            or name in layers.FUNCTIONAL
            or (name != "get" and self._dataflow.health(output) > state)
        ):
            path = self._local(f"{name}()")
        else:
            if join is not None:
                origin = self._record_join(output, origin, join, added)
            self._dataflow.follow(output, origin)
            if _changes_in_place(func) and args:
                self._dataflow.follow(args[0], origin)
            return output
        layer = Layer(
            path,
            name,
            origin,
            state,
            parameters=tuple(sorted(self._dataflow.of(weights or self._dataflow.weights(given)).parameters)),
            has_weights=bool(weights),
            activation=activation,
            axis=layers.product_axis(name) if weights else None,
            before=before,
            attention=looked,
        )
        self._record(output, layer)
        return output

    def _local(self, name: str) -> str:
        """The path of something in the code of the module that is running."""
        return f"{self._frames[-1].path if self._frames else ''}.{name}".lstrip(".")

    def _join(self, args: tuple[Any, ...]) -> tuple[Join | None, float]:
        """Whether an addition joins a branch with its stream, and the RMS of what the branch adds."""
        if len(args) < 2 or not all(isinstance(x, torch.Tensor) and x.is_floating_point() for x in args[:2]):
            return None, 0.0
        first, second = args[:2]
        if first.shape != second.shape or not is_readable(first) or not is_readable(second) or not first.numel():
            return None, 0.0
        origins = self._dataflow.of(first), self._dataflow.of(second)
        join = self._ancestry.join(*origins) if all(origin.is_signal for origin in origins) else None
        return join, rms(second if join.first_is_main else first) if join else 0.0

    def _record_join(self, output: torch.Tensor, origin: Origin, join: Join, added: float) -> Origin:
        """Add a residual addition; returns where what it gave comes from."""
        node, path = -1 - len(self._streams), self._local("+")
        self._ancestry.add(node, origin)
        self._streams.append(
            Stream(
                path=path,
                call=sum(sum_.path == path for sum_ in self._streams[-_RECENT:]),
                after=len(self._calls),
                main=tuple(sorted(join.main)),
                branch=tuple(sorted(join.branch)),
                has_shortcut=join.has_shortcut,
                forward=moments(output),
                branch_rms=added,
                sample_spread=spread_of_samples(output, self.batch),
                position_spread=spread_of_positions(output, -1, self.batch),
            )
        )
        self._watch(node, [output])
        return replace(origin, nodes=frozenset({node}))

    def _record(self, output: Any, layer: Layer) -> None:
        """Add a call; an output without a real tensor (a shape, token ids) only passes its origin on."""
        tensors = [tensor for _, tensor in output_tensors(output)]
        values = next((tensor.detach() for tensor in tensors if is_readable(tensor)), None)
        if values is None or values.numel() == 0:
            self._dataflow.follow(output, layer.origin)
            return
        axis = self._axis(values, layer)
        index = len(self._calls)
        call = describe(values, layer, axis, batch=self.batch, number=len(self._by_path[layer.path]))
        forward = call.forward
        self._calls.append(call)
        if len(tensors) == 1:
            state = Health.BROKEN if forward.nonfinite > forward.masked else Health(int(forward.masked > 0))
            self._dataflow.note_health(tensors[0], state)
        if self._keep is not None:
            self._keep(layer.path, call.call, layer.kind, values)
        self._ancestry.add(index, layer.origin)
        self._axes.append(axis)
        self._by_path[layer.path].append(index)
        self._dataflow.follow(output, Origin(calls=frozenset({index}), nodes=frozenset({index})))
        self._watch(index, tensors)
        if call.activation is not None and _is_flat(call) and tensors[0].requires_grad and self._hold is None:
            kept = functools.partial(self._held, index, call.activation, values)
            self._handles.append(tensors[0].register_hook(kept))  # type: ignore[no-untyped-call]

    def _held(self, index: int, activation: str, output: torch.Tensor, gradient: torch.Tensor) -> None:
        self._held_back[index] = held_back_share(activation, output, gradient.detach())

    def _axis(self, output: torch.Tensor, layer: Layer) -> int:
        """The axis of the units, that of a source where the layer has none of its own."""
        inherited = (self._axes[i] for i in sorted(layer.origin.calls) if len(self._calls[i].shape) == output.ndim)
        axis = next(inherited, None) if layer.axis is None else layer.axis
        if axis is None:
            axis = 1 - output.ndim if output.ndim > 3 else -1
        return axis if -axis <= output.ndim else -1

    def _inside_leaf(self) -> bool:
        return self._leaves > 0

    def _watch(self, index: int, tensors: list[torch.Tensor]) -> None:
        if self._hold is not None:
            self._hold(index, tensors[0])
            return
        for position, tensor in enumerate(tensors):
            if tensor.requires_grad:
                hook = functools.partial(self._arrived, index, position)
                self._handles.append(tensor.register_hook(hook))  # type: ignore[no-untyped-call]

    def _arrived(self, index: int, position: int, gradient: torch.Tensor) -> None:
        if self._keep is not None and index >= 0 and not self._gradients[index]:
            self._keep(self._calls[index].path, self._calls[index].call, "gradient", gradient.detach())
        self._gradients[index][position] = moments(gradient, underflow=True)

    def _recomputed(self, module: nn.Module, output: Any) -> None:
        """A checkpointed module runs again in the backward pass: only now may its outputs have a gradient."""
        indices = self._by_path.get(self._paths[module], [])
        if len(indices) == 1 and indices[0] not in self._gradients:
            self._watch(indices[0], [tensor for _, tensor in output_tensors(output)])


def _is_flat(call: Call) -> bool:
    """Whether most of a bounded activation's values, or of a softmax's rows, are flat."""
    share = call.saturated_share if call.attention is None else call.attention.sharp_share
    return share is not None and share > 0.5


def _parameters(module: nn.Module) -> Iterable[nn.Parameter]:
    """A module's parameters; of one without children, as most layers are, without a walk through the module."""
    if module._modules:  # noqa: SLF001 - the public iterators take a tenth of a millisecond
        return module.parameters()
    return {id(p): p for p in module._parameters.values() if p is not None}.values()  # noqa: SLF001


def _unseen() -> contextlib.AbstractContextManager[None]:
    """Our own arithmetic, behind the mode's back."""
    return torch._C.DisableTorchFunction()  # noqa: SLF001


def _changes_in_place(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
