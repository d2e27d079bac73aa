"""Two models, or two ways to run one: how far they lie apart at every call, beside what rounding makes there."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from gradvitals.frameworks.capture import Apart
from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch import layers
from gradvitals.frameworks.torch.inputs import named_inputs, validate
from gradvitals.frameworks.torch.objective import cotangents, output_tensors, scalar
from gradvitals.frameworks.torch.recorder import Recorder
from gradvitals.frameworks.torch.stance import run_eagerly
from gradvitals.frameworks.torch.state import preserved, seed_everything
from gradvitals.vocabulary.errors import InputError, ModelError

#: Runs with moved inputs and weights: the larger of two distances is a bound that one in a few runs alone would miss.
_MOVED_RUNS = 2

_Key = tuple[str, int]


@dataclass(slots=True)
class _Run:
    """Everything that one run showed, by path and number of the call."""

    values: dict[_Key, torch.Tensor] = field(default_factory=dict)
    gradients: dict[_Key, torch.Tensor] = field(default_factory=dict)
    kinds: dict[_Key, str] = field(default_factory=dict)

    def keep(self, path: str, call: int, kind: str, tensor: torch.Tensor) -> None:
        """What a recorder hands over."""
        if kind == "gradient":
            self.gradients[path, call] = tensor.clone()
        else:
            self.values[path, call], self.kinds[path, call] = tensor.clone(), kind


def compare(case: Case, against: Any, *, seed: int = 0) -> tuple[Apart, ...]:
    """Run both on the same batch with the same random numbers, and say how far they lie apart, in execution order.

    Parameters
    ----------
    case : Case
        Its model is a ``torch.nn.Module``.
    against : torch.nn.Module, Case or torch.dtype
        Another model, which gets the same inputs (in its own floating-point type) and loss; a case of its own; or a
        type in which the model runs under autocast.
    seed : int
        Of the random generators for every run, and of random cotangents.

    Returns
    -------
    tuple of Apart
        One per call that both sides show under the same path, then the outputs, then the parameters from the loss back.

    Raises
    ------
    InputError
        When either model isn't a module, or they have no call in common.
    ModelError
        When a model, its loss or its backward pass raises.

    Notes
    -----
    A compiled module is run compiled: a copy with hooks that are traced into its graph, so that the values of its
    layers come out; fusion may differ a little from the graph without them. Inside, gradients show at parameters only.

    """
    other, context = _other(case, against)
    for side in (case, other):
        if not isinstance(side.model, nn.Module):
            raise InputError(
                "the layers of this model can't be seen",
                f"got {type(side.model).__name__} {side.subject!r}",
                "pass a torch.nn.Module on both sides",
            )
        validate(side)
    first = _run(case, seed)
    with context():
        second = _run(other, seed)
    keys = [key for key in first.values if key in second.values]
    if not any(kind not in {"output", "parameter"} for kind in (first.kinds[key] for key in keys)):
        keys = [key for key in keys if first.kinds[key] in {"output", "parameter"}]
    if not keys:
        raise InputError(
            "the two models have nothing in common",
            f"no layer of {case.subject} has a counterpart of the same name in {other.subject}",
            "compare two versions of one model, whose layers have the same names",
        )
    roundoff = _coarser(first, second)
    moved = [_run(_moved(case, roundoff, seed + number), seed, roundoff) for number in range(_MOVED_RUNS)]
    weights = _weights_apart(case.model, other.model, roundoff)
    modes = _modes_apart(case.model, other.model)
    return tuple(
        Apart(
            path=key[0],
            call=key[1],
            kind=first.kinds[key],
            forward=None if first.kinds[key] == "parameter" else _distance(first.values[key], second.values[key]),
            gradient=_apart(first.gradients.get(key), second.gradients.get(key)),
            forward_noise=max(roundoff, *(_distance(first.values[key], run.values.get(key)) for run in moved)),
            gradient_noise=max(
                roundoff, *(_apart(first.gradients.get(key), r.gradients.get(key)) or 0.0 for r in moved)
            ),
            weights_differ=any(_belongs(name, key[0], first.kinds[key]) for name in weights),
            modes_differ=key[0] in modes,
        )
        for key in keys
    )


def _other(case: Case, against: Any) -> tuple[Case, Callable[[], Any]]:
    """The other side as a case, and the context that it runs in."""
    if isinstance(against, torch.dtype):
        device = next((x.device.type for _, x in named_inputs(case)), "cpu")
        return replace(case, name=str(against)), lambda: torch.autocast(device, dtype=against)
    if isinstance(against, Case):
        return against, contextlib.nullcontext
    dtypes = (
        {x.dtype for x in against.parameters() if x.is_floating_point()} if isinstance(against, nn.Module) else set()
    )
    args, kwargs = case.args, case.kwargs
    if len(dtypes) == 1:
        (dtype,) = dtypes
        args, kwargs = (
            tree_map(lambda x: x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x, given)
            for given in (args, kwargs)
        )
    return Case(against, args, kwargs, loss=case.loss, name=None), contextlib.nullcontext


def _run(case: Case, seed: int, moved: float = 0.0) -> _Run:
    """One forward and backward pass, keeping everything."""
    run = _Run()
    model: nn.Module = case.model
    compiled = hasattr(model, "_orig_mod")
    with preserved(model, (case.args, case.keywords)), torch.enable_grad():
        if moved:
            _move_weights(model, moved, seed)
        seed_everything(seed)
        watching = _traced(model, run) if compiled else _recorded(model, case, run)
        try:
            with watching as runnable:
                output = runnable(*case.args, **case.keywords)
                value, _ = scalar(output, case.loss)
                _send_back(runnable, output, value, seed, run)
        except (InputError, ModelError):
            raise
        except Exception as error:
            raise ModelError(
                "a model raised while two were compared",
                f"{case.subject}: {type(error).__name__}: {error}",
                "probe it alone to see where it fails",
            ) from error
    return run


def _send_back(model: nn.Module, output: Any, value: torch.Tensor | None, seed: int, run: _Run) -> None:
    """Keep outputs, and the gradients at the parameters."""
    outputs = output_tensors(output)
    for path, tensor in outputs:
        run.values[path, 0], run.kinds[path, 0] = tensor.detach().clone(), "output"
    named = [
        (layers.written(name), parameter) for name, parameter in model.named_parameters() if parameter.requires_grad
    ]
    roots = [x for x in ([value] if value is not None else [x for _, x in outputs]) if x.requires_grad]
    if not roots or not named:
        return
    sent = None if value is not None else cotangents(roots, seed)
    found = torch.autograd.grad(roots, [parameter for _, parameter in named], sent, allow_unused=True)
    for (name, parameter), gradient in reversed(list(zip(named, found, strict=True))):
        if gradient is not None:
            run.values[name, 0], run.kinds[name, 0] = parameter.detach().clone(), "parameter"
            run.gradients[name, 0] = gradient.detach()


@contextlib.contextmanager
def _recorded(model: nn.Module, case: Case, run: _Run) -> Iterator[nn.Module]:
    """Watched by a recorder, with what is compiled inside run as it is written."""
    inputs = [tensor for _, tensor in named_inputs(case)]
    with contextlib.closing(Recorder(model, inputs, run.keep)) as recorder, run_eagerly():

        class Watched(nn.Module):
            def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
                return model.named_parameters(*args, **kwargs)

            def forward(self, *args: Any, **kwargs: Any) -> Any:
                with recorder.listening():
                    return model(*args, **kwargs)

        yield Watched()


@contextlib.contextmanager
def _traced(model: nn.Module, run: _Run) -> Iterator[nn.Module]:
    """A compiled copy whose leaf modules hand out their outputs: hooks are traced into the graph."""
    compiled: Any = model
    inner = copy.deepcopy(compiled._orig_mod)  # noqa: SLF001 - a copy: the user's graph isn't compiled anew
    came: list[tuple[_Key, str, torch.Tensor]] = []
    for path, module in inner.named_modules():
        if layers.is_leaf(module) and path:
            module.register_forward_hook(_hand_out(came, path, layers.kind_of(module)))
    yield type(compiled)(inner, compiled.dynamo_ctx)
    counts: dict[str, int] = {}
    for (path, _), kind, tensor in came:
        run.keep(path, counts.setdefault(path, 0), kind, tensor.detach())
        counts[path] += 1


def _hand_out(came: list[tuple[_Key, str, torch.Tensor]], path: str, kind: str) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            came.append(((path, 0), kind, output.clone()))  # an activation in place may overwrite it

    return hook


def _coarser(first: _Run, second: _Run) -> float:
    """Half the spacing at 1 of the coarsest type that either run had."""
    values = [*first.values.values(), *second.values.values()]
    return max(torch.finfo(x.dtype).eps for x in values if x.is_floating_point()) / 2


def _moved(case: Case, size: float, seed: int) -> Case:
    """The same case with every floating-point input moved by a rounding."""
    generator = torch.Generator().manual_seed(seed)

    def move(x: Any) -> Any:
        return _moved_by(x, size, generator) if isinstance(x, torch.Tensor) and x.is_floating_point() else x

    return replace(case, args=tree_map(move, case.args), kwargs=tree_map(move, case.kwargs))


def _move_weights(model: nn.Module, size: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.copy_(_moved_by(parameter, size, generator))


def _moved_by(x: torch.Tensor, size: float, generator: torch.Generator) -> torch.Tensor:
    """Each value times 1 ± up to one rounding, at random; in its own type at least to the neighbouring number."""
    noise = torch.empty(x.shape, dtype=torch.float32, device="cpu").uniform_(-1, 1, generator=generator).to(x.device)
    own = torch.finfo(x.dtype).eps
    return (x.detach().double() * (1 + 2 * max(size, own) * noise.double())).to(x.dtype).requires_grad_(x.requires_grad)


def _weights_apart(first: nn.Module, second: nn.Module, roundoff: float) -> set[str]:
    """Names of parameters and buffers that differ by more than the coarser of the two types rounds."""
    others = {layers.written(name): x for name, x in second.state_dict().items()}
    return {
        name
        for name, x in ((layers.written(name), x) for name, x in first.state_dict().items())
        if name in others and isinstance(x, torch.Tensor) and _distance(x, others[name]) > 2 * roundoff
    }


def _modes_apart(first: nn.Module, second: nn.Module) -> set[str]:
    others: Mapping[str, nn.Module] = {layers.written(path): module for path, module in second.named_modules()}
    return {
        path
        for path, module in ((layers.written(path), module) for path, module in first.named_modules())
        if path in others and others[path].training is not module.training
    }


def _belongs(name: str, path: str, kind: str) -> bool:
    """Whether a parameter is a layer's own; a model that is one layer goes by its class."""
    return name == path or name.startswith(f"{path}.") or (path == kind and "." not in name)


def _apart(first: torch.Tensor | None, second: torch.Tensor | None) -> float | None:
    return None if first is None or second is None else _distance(first, second)


def _distance(first: torch.Tensor, second: torch.Tensor | None) -> float:
    """‖a − b‖ / max(‖a‖, ‖b‖), over what is finite; infinite where the two aren't finite at the same places."""
    if second is None or first.shape != second.shape:
        return math.inf
    a, b = (x.to_dense() if x.layout != torch.strided else x for x in (first.detach(), second.detach()))
    a, b = a.double(), b.to(a.device).double()
    finite = torch.isfinite(a)
    if not torch.equal(finite, torch.isfinite(b)):
        return math.inf
    if not bool(finite.all()):
        a, b = a[finite], b[finite]
    size = max(float(torch.linalg.vector_norm(a)), float(torch.linalg.vector_norm(b)))
    return float(torch.linalg.vector_norm(a - b)) / size if size > 0 else 0.0
