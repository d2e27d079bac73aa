"""Run a model on tensors without values, and follow what each operation makes of the moments.

The mode sees the operations that PyTorch really runs, also those of compiled C++ code and of functions that no hook
sees. What depends on nothing random is computed with its real values on the side: masks, positions, indices; so that
code that branches on such values runs as it would.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map

from gradvitals.frameworks.torch.prediction import repeated, routes, spectra, writing
from gradvitals.frameworks.torch.prediction.host import made_here, with_values
from gradvitals.frameworks.torch.prediction.knowledge import Overwritten, Trace, Unmodelled
from gradvitals.frameworks.torch.prediction.operation import ELEMENTWISE, Operation, rule_for
from gradvitals.frameworks.torch.prediction.parameter_gradients import Use
from gradvitals.frameworks.torch.prediction.shapes import Shapes
from gradvitals.frameworks.torch.prediction.starting import starts, take_back
from gradvitals.frameworks.torch.prediction.values import Constant, Node, Noise, Weight, nested_tensors

#: Where a tensor is: asked for far more often than anything is done with it.
_DEVICE = torch.ops.prim.device.default
#: Constants larger than this aren't computed on the side: they are masks and tables, not signals.
_LARGEST_CONSTANT = 2**26
#: Operations that draw entries independently of one another.
_DRAWING = frozenset(
    {
        "aten::bernoulli_",
        "aten::bernoulli",
        "aten::rand",
        "aten::randn",
        "aten::rand_like",
        "aten::randn_like",
        "aten::uniform_",
        "aten::normal_",
        "aten::native_dropout",
    }
)
#: Operations that make a tensor of nothing but a shape, by another tensor's.
_LIKE = frozenset(
    {
        "aten::empty_like",
        "aten::zeros_like",
        "aten::ones_like",
        "aten::full_like",
        "aten::new_zeros",
        "aten::new_ones",
        "aten::new_empty",
        "aten::new_full",
        "aten::new_empty_strided",
    }
)
#: Operations that show the same entries in another shape.
_SAME_ENTRIES = frozenset(
    f"aten::{name}" for name in ("t", "transpose", "permute", "view", "unsqueeze", "squeeze", "detach", "alias")
)


class Tracing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the operations that run inside; ``shapes`` runs those on tensors without values."""

    def __init__(self, trace: Trace, shapes: Shapes | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace
        self._shapes = shapes

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is compiled, and telling PyTorch so at every operation takes longer than the operation."""
        return False

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is _DEVICE and isinstance(args[0], FakeTensor):
            return args[0].fake_device
        kwargs = made_here(dict(kwargs or {}))
        name = func._schema.name  # noqa: SLF001
        tensors = nested_tensors((args, kwargs))
        values = [self.trace.value(tensor) for tensor in tensors]
        if name in {"aten::_local_scalar_dense", "aten::item"}:
            return self._number(func, args, kwargs, values)
        if name.startswith("prim::"):
            return func(*args, **kwargs)
        output = func(*args, **kwargs) if self._shapes is None else self._shapes.run(func, args, kwargs)
        if name in {"aten::select", "aten::slice"}:
            view = writing.view_of(name, func, args)
            if view is not None and isinstance(output, torch.Tensor):
                self.trace.views[id(output)] = view
        signal = [v for v in values if not isinstance(v, Constant)]
        made = nested_tensors(output)
        if not made:
            return output
        values = [self._read(value) for value in values]
        if any(v is None for v in values) and name not in _LIKE:  # behind an operation without a rule
            for tensor in made:
                self.trace.bind(tensor, None)
            for tensor in _mutated(func, args, kwargs):  # what it is a part of isn't known any more
                self.trace.overwrite(tensor, name)
            return output
        if len(values) == 1 and isinstance(values[0], Weight) and name.removeprefix("aten::") in _UNCHANGED | _PARTS:
            for tensor in made:
                self.trace.bind(tensor, replace(values[0], shape=tuple(tensor.shape)))
            return output
        if name in _DRAWING or any(isinstance(v, Noise) for v in signal):
            if self._noise(name, func, args, kwargs, values, made):
                return output
        elif name in _LIKE or (not signal and not starts(self.trace, name, args, values, made)):
            if name in _SAME_ENTRIES and len(values) == 1 and isinstance(values[0], Constant):
                with _unwatched(), torch.no_grad():
                    view = func(values[0].held, *args[1:], **kwargs)
                self.trace.bind(made[0], values[0].seen_as(view))
            else:
                self._constant(func, args, kwargs, values, made)
            return output
        if name in routes.BY_MASK and self._shapes is None:
            routes.take_masks(self.trace, nested_tensors(args))
        self._ruled(name, func, args, kwargs, output, made)
        take_back(self.trace)
        return output

    def _read(self, value: Any) -> Any:
        """What is known of an argument; that it was written into elsewhere is told when it is used."""
        if not isinstance(value, Overwritten):
            return value
        self.trace.unmodelled.append(Unmodelled(value.name, value.path, value.reason))
        return None

    # ---- what is known by value ----

    def _constant(
        self, func: Any, args: Any, kwargs: Any, values: Sequence[Constant], made: Sequence[torch.Tensor]
    ) -> None:
        """Run the operation on the real values on the side, and bind the results."""
        if any(tensor.numel() > _LARGEST_CONSTANT for tensor in made):
            for tensor in made:
                self.trace.bind(tensor, None)
            return
        mutated = _mutated(func, args, kwargs)
        real: dict[int, torch.Tensor] = {}
        for tensor in nested_tensors((args, kwargs)):
            known = self.trace.value(tensor)
            if isinstance(known, Constant):
                real[id(tensor)] = known.value
            else:  # zeros_like of a signal: only its shape counts
                real[id(tensor)] = torch.empty(0, device="cpu")
        with _unwatched(), torch.no_grad():
            for tensor in mutated:
                known = self.trace.value(tensor)
                if isinstance(known, Constant) and not known.owned:
                    real[id(tensor)] = known.value.detach().clone()
            if any(not isinstance(self.trace.value(t), Constant) for t in nested_tensors((args, kwargs))):
                results = [_like(func, args, kwargs, tensor) for tensor in made]
            else:
                swapped = tree_map(lambda item: _swapped(item, real), (args, kwargs))
                results = nested_tensors(func(*swapped[0], **with_values(swapped[1])))
        known_values = [v for v in values if isinstance(v, Constant)]
        if len(known_values) < len(values):
            known_values = []  # zeros like a signal are no signal
        by = routes.chosen_by(known_values)
        learned, data = any(v.learned for v in known_values), any(v.data for v in known_values)
        changed = {id(tensor) for tensor in mutated}
        owned = not _is_view(func) or all(v.owned for v in known_values)
        for tensor, result in zip(made, results, strict=True):
            mine = owned or id(tensor) in changed
            self.trace.bind(tensor, Constant(result, learned, data, mine, _name(values), by))
        for tensor in mutated:
            if id(tensor) in real and not any(tensor is t for t in made):
                self.trace.bind(tensor, Constant(real[id(tensor)], learned, data, chosen_by=by))

    def _number(self, func: Any, args: Any, kwargs: Any, values: Sequence[Any]) -> Any:
        known = values[0] if values else None
        if isinstance(known, Constant):
            with _unwatched():
                return known.value.detach().item()
        return func(*args, **kwargs)

    def _noise(self, name: str, func: Any, args: Any, kwargs: Any, values: Any, made: Any) -> bool:
        """Whether the result is noise."""
        first = values[0] if values else None
        if name in _DRAWING and name != "aten::native_dropout":
            self.trace.bind(made[0], _drawn(name, args, kwargs, first))
            return True
        noises = [value for value in values if isinstance(value, Noise)]
        others = [value for value in values if value is not noises[0]] if noises else []
        if len(noises) != 1 or len(made) != 1:
            return False
        if not all(isinstance(v, Constant) and v.held.numel() == 1 for v in others):
            return False
        operator = name.removesuffix("_").removeprefix("aten::")
        if operator in _UNCHANGED:
            self.trace.bind(made[0], noises[0])
            return True
        if not (operator in ELEMENTWISE or operator in _OF_TWO):
            return False
        return self._of_noise(args, kwargs, made[0], func, noises[0])

    def _of_noise(self, args: Any, kwargs: Any, made: torch.Tensor, func: Any, noise: Noise) -> bool:
        """An elementwise function of noise and numbers is noise."""

        def real(item: Any) -> Any:
            if not isinstance(item, torch.Tensor):
                return item
            known = self.trace.value(item)
            return torch.from_numpy(noise.quantiles.copy()) if known is noise else known.value.double()

        with _unwatched(), torch.no_grad():
            result = func(*(real(item) for item in args), **{key: real(item) for key, item in kwargs.items()})
            changed = Noise(result.double().numpy())
        self.trace.bind(made, changed)
        return True

    # ---- what is known by its moments ----

    def _ruled(self, name: str, func: Any, args: Any, kwargs: Any, output: Any, made: Sequence[torch.Tensor]) -> None:
        operation = Operation(self.trace, name, func, args, kwargs, output)
        found = rule_for(name)
        steps = len(self.trace.steps)
        values = [self.trace.value(tensor) for tensor in nested_tensors((args, kwargs))]
        try:
            routes.refuse_own_choice(values)
            spectra.refuse_second(operation, values)
            if found is None:
                raise NotImplementedError("no rule")  # noqa: TRY301
            with _unwatched():
                if not repeated.goes_on(operation):
                    found(operation)
                    repeated.remember(operation, steps)
            spectra.remember(operation, values)
            self._learn(operation)
            self._written(func, args, kwargs, operation.first, name)
        except Exception as error:  # noqa: BLE001 - whatever a rule stumbles over is reported as S209
            self.trace.pending.clear()
            is_hopeless = isinstance(error, (routes.ChosenByItselfError, spectra.AlikeUnitsError))
            with _unwatched():
                reason = str(error) if is_hopeless else repeated.attempt(operation)
            if reason is None:
                spectra.remember(operation, values)
                self._written(func, args, kwargs, operation.first, name)
                return
            if any(_has_fractions(tensor) for tensor in made):
                self.trace.unmodelled.append(Unmodelled(name, self.trace.where(), str(error)))
            for tensor in made:
                self.trace.bind(tensor, self._unknown(operation, tensor, str(error)))
            for tensor in _mutated(func, args, kwargs):
                self.trace.overwrite(tensor, name)

    def _unknown(self, operation: Operation, made: torch.Tensor, reason: str) -> Any:
        if _has_fractions(made):
            return None
        return routes.positions(operation, made, reason, real=self._shapes is None)

    def _written(self, func: Any, args: Any, kwargs: Any, made: torch.Tensor, name: str) -> None:
        for tensor in _mutated(func, args, kwargs):
            value = self.trace.value(made)
            self.trace.bind(tensor, value)
            known, base = value, tensor
            wholes: list[tuple[torch.Tensor, Any]] = []
            while known is not None and id(base) in self.trace.views:
                view = self.trace.views[id(base)]
                base = view.base
                try:
                    with _unwatched():
                        known = writing.written(self.trace, view, self.trace.value(base), known)
                except (NotImplementedError, ValueError, IndexError):
                    known = None
                if known is not None:
                    wholes.append((base, known))
            self.trace.overwrite(tensor, name)
            for whole, node in wholes:
                self.trace.bind(whole, node)

    def _learn(self, operation: Operation) -> None:
        """Note which parameters the rule said that it used, now that the output is known."""
        made = self.trace.value(operation.first) if self.trace.pending else None
        if isinstance(made, Node):
            for name, inputs, entries, times in self.trace.pending:
                self.trace.uses.append(Use(name, made, inputs, entries, times))
        self.trace.pending.clear()


#: Elementwise operations of two tensors, one of which may be noise.
_OF_TWO = frozenset(
    {"add", "sub", "rsub", "mul", "div", "true_divide", "pow", "lt", "gt", "le", "ge", "maximum", "minimum", "where"}
)
#: Operations that leave noise noise.
_UNCHANGED = frozenset(
    {
        "view",
        "clone",
        "_to_copy",
        "expand",
        "detach",
        "alias",
        "reshape",
        "unsqueeze",
        "squeeze",
        "permute",
        "transpose",
        "to",
        "contiguous",
        "_unsafe_view",
    }
)
#: Operations by which a weight without values becomes one of another shape, or several: any part of it is like all.
_PARTS = frozenset({"t", "numpy_T", "mT", "select", "slice", "narrow", "split", "split_with_sizes", "chunk", "unbind"})


def _unwatched() -> contextlib.AbstractContextManager[Any]:
    """Where no mode sees what is computed; asking whether there is one is far quicker than putting none aside."""
    return _disable_current_modes() if torch._C._len_torch_dispatch_stack() else _NOTHING  # noqa: SLF001


_NOTHING: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()


def _drawn(name: str, args: Any, kwargs: Any, first: Any) -> Any:
    if "bernoulli" in name:
        p = args[1] if len(args) > 1 and isinstance(args[1], (int, float)) else kwargs.get("p")
        if p is None and name == "aten::bernoulli_":  # its default, which doesn't arrive
            p = 0.5
        if p is None and isinstance(first, Constant):
            with _unwatched():
                p = float(first.value.double().mean())
        return Noise.of_two(0.0, 1.0, float(p)) if p is not None else None
    if "randn" in name:
        return Noise.normal(0.0, 1.0)
    if "normal_" in name:
        return Noise.normal(*_two(args[1:3]))
    return Noise.uniform(*(_two(args[1:3]) if name == "aten::uniform_" else (0.0, 1.0)))


def _two(given: Sequence[Any]) -> tuple[float, float]:
    """Two numbers, 0 and 1 where they aren't given."""
    first = float(given[0]) if given else 0.0
    return first, float(given[1]) if len(given) > 1 else 1.0


def _like(func: Any, args: Any, kwargs: Any, made: torch.Tensor) -> torch.Tensor:
    """A constant made by another tensor's shape."""
    name = func._schema.name  # noqa: SLF001
    number = (args[2] if "new_" in name else args[1]) if "full" in name else 1 if "ones" in name else 0
    del kwargs
    return torch.full(made.shape, number, dtype=made.dtype, device="cpu")


def _swapped(item: Any, real: Mapping[int, torch.Tensor]) -> Any:
    return real.get(id(item), item) if isinstance(item, torch.Tensor) else item


def _has_fractions(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _is_view(func: Any) -> bool:
    return any(a.alias_info is not None and not a.alias_info.is_write for a in func._schema.arguments)  # noqa: SLF001


def _mutated(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The arguments that an operation writes into."""
    found = []
    for at, argument in enumerate(func._schema.arguments):  # noqa: SLF001
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[at] if at < len(args) else kwargs.get(argument.name)
            found += nested_tensors(given)
    return found


def _name(values: Sequence[Any]) -> str | None:
    return next((v.name for v in values if getattr(v, "name", None)), None)
