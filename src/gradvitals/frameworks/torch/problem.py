"""A PyTorch module or callable as a Problem: autograd's gradient is the claim, evaluations without autograd are the
truth.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.problem import Array, Gradient, Tensor, agree, matching, values_one_by_one
from gradvitals.frameworks.torch.inputs import validate
from gradvitals.frameworks.torch.objective import output_tensors, scalar
from gradvitals.frameworks.torch.state import RandomState
from gradvitals.frameworks.tree import leaves, rebuilt
from gradvitals.frameworks.user_code import argument_names, user_code
from gradvitals.vocabulary.errors import InputError, ModelError, UsageError

#: Autograd's own words when a Function's backward returns a gradient of a wrong shape.
_WRONG_SHAPE = re.compile(
    r"invalid gradient at index \d+ - got \[([\d, ]*)\] but expected shape compatible with \[([\d, ]*)\]"
)

#: Coarser than float64.
_WIDE_ROUNDOFF = 1e-12


class TorchProblem:
    """A module or callable with its inputs.

    The module runs by ``torch.func.functional_call`` on copies of its parameters and buffers, so that its own are
    never written. Modes and contexts (training, autocast) are those at the call.

    Parameters
    ----------
    case : Case
    wrt : sequence of str, optional
        Names or patterns (``"encoder.*"``) of the tensors to differentiate; all parameters that require gradients and
        all floating-point inputs when not given.

    Raises
    ------
    InputError
        From ``validate``; when nothing can be differentiated, or the output holds no floating-point tensor.
    UsageError
        When a name in ``wrt`` fits nothing, or ``grad=`` or ``vjp=`` come with torch tensors.

    """

    def __init__(self, case: Case, wrt: Sequence[str] | None = None) -> None:
        if case.grad is not None or case.vjp is not None:
            raise UsageError(
                "grad= and vjp= are for NumPy functions",
                f"check({case.subject}, ...) with torch tensors",
                "leave them out: autograd's gradient is checked; put a hand-written one in a torch.autograd.Function",
            )
        validate(case)
        self._case = case
        self._is_module = isinstance(case.model, torch.nn.Module)
        self._random = RandomState.capture()
        function = case.model.forward if self._is_module else case.model
        names, keywords = argument_names(function, case.args, case.keywords)
        self._roots = [*zip(names, case.args, strict=True), *((keywords[k], v) for k, v in case.keywords.items())]
        self._base, self.tensors = self._collected(wrt)
        self._keys = list(self._base)
        self._outputs: list[torch.Tensor] = []
        self.objective = "random"
        self.roundoff = max(tensor.roundoff for tensor in self.tensors)
        self.wide = False
        self.evaluation = "sequential"
        inputs = [v for root, tree in self._roots for _, v in leaves(tree, root) if isinstance(v, torch.Tensor)]
        self.sample_sizes = tuple(dict.fromkeys(int(t.shape[0]) for t in inputs if t.ndim >= 2))
        self._size = self.value({}).size
        if self.objective != "random":
            sizes = [t.numel() for t in inputs if t.is_floating_point()]
            self.sample_sizes = tuple(dict.fromkeys((*self.sample_sizes, *sizes)))

    def _collected(self, wrt: Sequence[str] | None) -> tuple[dict[tuple[str, str], torch.Tensor], tuple[Tensor, ...]]:
        found: dict[tuple[str, str], torch.Tensor] = {}
        if self._is_module:
            for path, parameter in self._case.model.named_parameters():
                if parameter.requires_grad:
                    found["parameter", path] = parameter
        for root, tree in self._roots:
            for path, value in leaves(tree, root):
                if isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex()):
                    found["input", path] = value
        chosen = set(matching([path for _, path in found], wrt))
        found = {key: tensor for key, tensor in found.items() if key[1] in chosen}
        if not found:
            kinds = [f"{root}: {type(value).__name__}" for root, tree in self._roots for _, value in leaves(tree, root)]
            raise InputError(
                "there is no floating-point tensor to differentiate",
                f"{self._case.subject} has no parameter that requires a gradient; inputs: {', '.join(kinds) or 'none'}",
                "pass a floating-point input, or unfreeze a parameter with requires_grad_()",
            )
        for (_, path), tensor in found.items():
            if tensor.is_complex():
                raise InputError(
                    "complex tensors can't be checked yet",
                    f"{path} is {tensor.dtype}",
                    "pass its real view: torch.view_as_real",
                )
        self._parameters = {key: tensor for key, tensor in found.items() if key[0] == "parameter"}
        base = {key: tensor.detach().clone() for key, tensor in found.items()}
        described = tuple(
            Tensor(path, role, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), _roundoff(tensor.dtype))
            for (role, path), tensor in base.items()
        )
        return base, described

    def shadow(self) -> TorchProblem | None:
        if self.roundoff < _WIDE_ROUNDOFF or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            return None
        native = self.value({})
        shadow = copy.copy(self)
        shadow.wide = True
        if not shadow.gives(native, self.roundoff):
            return None
        shadow.roundoff = 2.0**-53
        return shadow

    def gives(self, native: Array, roundoff: float) -> bool:
        """Whether evaluations are in float64 throughout and give the value that was computed natively."""
        try:
            same = agree(self.value({}), native, roundoff)
        except (ModelError, InputError):  # a kernel for one dtype, a constant of another
            return False
        return same and all(output.dtype == torch.float64 for output in self._outputs)

    def point(self, tensor: int) -> Array:
        return _flat(self._base[self._keys[tensor]])

    def rounded(self, tensor: int, values: Array) -> Array:
        dtype = self._base[self._keys[tensor]].dtype
        if self.wide or dtype == torch.float64:
            return values
        return _flat(torch.from_numpy(values).to(dtype))

    def value(self, moved: Mapping[int, Array]) -> Array:
        with torch.no_grad():
            if self.wide:
                with _default_dtype(torch.float64):
                    self._outputs = self._run(self._at(moved, wide=True), wide=True)
            else:
                self._outputs = self._run(self._at(moved))
        return np.concatenate([_flat(output) for output in self._outputs])

    def values(self, points: Sequence[Mapping[int, Array]]) -> Array:
        return values_one_by_one(self, points, self._size)

    @property
    def output_roundoff(self) -> Array:
        return np.concatenate([np.full(output.numel(), _roundoff(output.dtype)) for output in self._outputs])

    def representable(self, cotangent: Array) -> Array:
        with torch.no_grad():
            outputs = self._run(self._at({}))  # in the user's precision, in which the cotangent arrives
        return np.concatenate([_flat(part) for part in self._split(cotangent, outputs)])

    def gradient(self, cotangent: Array, moved: Mapping[int, Array] | None = None) -> tuple[Gradient, ...]:
        with torch.enable_grad(), self._parameters_at(moved or {}) as parameters:
            inputs = {key: tensor.detach().requires_grad_() for key, tensor in self._at(moved or {}).items()}
            point = inputs | parameters
            outputs = self._run(point)
            parts = self._split(cotangent, outputs)
            live = [(out, part) for out, part in zip(outputs, parts, strict=True) if out.requires_grad]
            if not live:
                return (Gradient(None),) * len(self._keys)
            try:
                found = self._pulled_back(live, list(point.values()))
            except RuntimeError as error:
                fault = _WRONG_SHAPE.search(str(error))
                if fault is None:
                    raise
                return self._misshapen(
                    *(tuple(int(n) for n in sizes.split(",") if n.strip()) for sizes in fault.groups())
                )
        return tuple(Gradient(None if g is None else _flat(g)) for g in found)

    @contextlib.contextmanager
    def _parameters_at(self, moved: Mapping[int, Array]) -> Iterator[dict[tuple[str, str], torch.Tensor]]:
        """The module's own parameters, for hooks on them are part of its backward pass; moved for a while."""
        elsewhere = {self._keys[at]: values for at, values in moved.items()}
        try:
            for key, parameter in self._parameters.items():
                if key in elsewhere:
                    values = torch.from_numpy(elsewhere[key]).reshape(parameter.shape)
                    parameter.data.copy_(values)
            yield dict(self._parameters)
        finally:
            for key, parameter in self._parameters.items():
                if key in elsewhere:
                    parameter.data.copy_(self._base[key])

    def _pulled_back(self, live: list[tuple[torch.Tensor, torch.Tensor]], point: list[torch.Tensor]) -> tuple[Any, ...]:
        outputs, cotangents = zip(*live, strict=True)
        try:
            return torch.autograd.grad(outputs, point, cotangents, allow_unused=True)
        except RuntimeError as error:
            if _WRONG_SHAPE.search(str(error)):
                raise
            with user_code(f"the backward pass of {self._case.subject}"):
                raise
        except Exception:
            with user_code(f"the backward pass of {self._case.subject}"):
                raise

    def _misshapen(self, got: tuple[int, ...], expected: tuple[int, ...]) -> tuple[Gradient, ...]:
        """Autograd names the shapes and not the tensor: it is the one of that shape, or something inside the
        function.
        """
        fits = [tensor.shape == expected for tensor in self.tensors]
        if not any(fits):
            return (Gradient(None, got),) * len(fits)
        return tuple(Gradient(None, got) if fit else Gradient(None, stopped=True) for fit in fits)

    def _at(self, moved: Mapping[int, Array], *, wide: bool = False) -> dict[tuple[str, str], torch.Tensor]:
        """Copies of the tensors, some of them moved; a function that works in place writes into the copies."""
        point = {}
        for at, (key, base) in enumerate(self._base.items()):
            dtype = torch.float64 if wide else base.dtype
            if at in moved:
                point[key] = torch.from_numpy(moved[at]).to(base.device, dtype, copy=True).reshape(base.shape)
            elif wide or key[0] == "input":
                point[key] = base.to(dtype, copy=True)
            else:
                point[key] = base
        return point

    def _run(self, point: Mapping[tuple[str, str], torch.Tensor], *, wide: bool = False) -> list[torch.Tensor]:
        """Outputs at a point, or the one scalar that they become; the random state is that of the start."""
        inputs = {path: tensor for (role, path), tensor in point.items() if role == "input"}

        def leaf(path: str, value: Any) -> Any:
            if path in inputs:
                # A leaf that requires gradients can't be written in place, a copy of it can.
                return inputs[path].clone() if inputs[path].requires_grad else inputs[path]
            return _copied(value, wide=wide) if isinstance(value, torch.Tensor) else value

        made = [rebuilt(tree, root, leaf) if _holds_tensor(tree, root) else tree for root, tree in self._roots]
        count = len(self._case.args)
        args, keywords = tuple(made[:count]), dict(zip(self._case.keywords, made[count:], strict=True))
        self._random.restore()
        with user_code(f"{self._case.subject}()"):
            if self._is_module:
                weights = {path: tensor for (role, path), tensor in point.items() if role == "parameter"}
                model = self._case.model
                others = [*model.named_buffers(), *(model.named_parameters() if wide else ())]
                state = {path: _copied(tensor, wide=wide) for path, tensor in others if path not in weights}
                output = torch.func.functional_call(model, {**state, **weights}, args, keywords)
            else:
                output = self._case.model(*args, **keywords)
        value, self.objective = scalar(output, self._case.loss)
        tensors = [value] if value is not None else [tensor for _, tensor in output_tensors(output)]
        if not tensors:
            raise InputError(
                "the output holds no floating-point tensor",
                f"{self._case.subject} returned {type(output).__name__}",
                "give a loss= that makes a scalar of it",
            )
        return tensors

    @staticmethod
    def _split(cotangent: Array, outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        parts, start = [], 0
        for output in outputs:
            part = torch.from_numpy(cotangent[start : start + output.numel()].copy())
            parts.append(part.to(output.device, output.dtype).reshape(output.shape))
            start += output.numel()
        return parts


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """What a model makes by itself (an initial state, a mask) comes in this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _copied(tensor: torch.Tensor, *, wide: bool) -> torch.Tensor:
    return (
        tensor.detach().to(torch.float64, copy=True) if wide and tensor.is_floating_point() else tensor.detach().clone()
    )


def _holds_tensor(tree: Any, root: str) -> bool:
    """Containers without tensors (a config object that happens to be a mapping) are handed over as they are."""
    return any(isinstance(value, torch.Tensor) for _, value in leaves(tree, root))


def _flat(tensor: torch.Tensor) -> Array:
    return tensor.detach().to("cpu", torch.float64).reshape(-1).numpy()


def _roundoff(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2
