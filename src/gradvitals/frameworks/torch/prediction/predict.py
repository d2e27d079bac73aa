"""Predict one forward and backward pass of a case: no data, no values where tensors can do without."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.prediction import (
    Predicted,
    PredictedCall,
    PredictedParameter,
    Prediction,
    UnmodelledOperation,
)
from gradvitals.frameworks.torch.inputs import validate
from gradvitals.frameworks.torch.layers import written
from gradvitals.frameworks.torch.objective import output_tensors, tensors_in
from gradvitals.frameworks.torch.prediction import rules  # noqa: F401 - fills the table of rules
from gradvitals.frameworks.torch.prediction.backward import sent_back
from gradvitals.frameworks.torch.prediction.caches import caches_emptied
from gradvitals.frameworks.torch.prediction.calls import Calls, Row
from gradvitals.frameworks.torch.prediction.graph import graph_of
from gradvitals.frameworks.torch.prediction.host import home_of, parameters_on_host
from gradvitals.frameworks.torch.prediction.knowledge import Overwritten, Trace, Unmodelled
from gradvitals.frameworks.torch.prediction.objective import gradients_at_outputs
from gradvitals.frameworks.torch.prediction.parameter_gradients import parameter_gradients, said
from gradvitals.frameworks.torch.prediction.shapes import Shapes
from gradvitals.frameworks.torch.prediction.trace import Tracing
from gradvitals.frameworks.torch.prediction.values import Constant, Node, Weight
from gradvitals.frameworks.torch.prediction.weights import meta_weights
from gradvitals.frameworks.torch.state import RandomState, preserved, seed_everything
from gradvitals.maths.field import Field
from gradvitals.vocabulary.errors import InputError, ModelError


def predict(
    case: Case, *, seed: int = 0, weight_rms: Mapping[str, float] | None = None, draws: bool = True
) -> Prediction:
    """Follow the moments of a model's signal and gradient through its operations.

    Parameters
    ----------
    case : Case
        Its model is a ``torch.nn.Module``.
    seed : int
        Of outputs drawn for the loss.
    weight_rms : mapping of str to float, optional
        The RMS of parameters by name, in place of that of their values; those on the meta device have no others.
    draws : bool
        Whether operations that have no formula may be run on draws of their signals, which can take long.

    Raises
    ------
    InputError
        On a model that isn't a module, an empty batch, inputs or weights that aren't finite, or sizes whose fourth
        powers leave the range of float64.
    ModelError
        When the model or the loss raises.

    """
    model = getattr(case.model, "_orig_mod", case.model)
    if not isinstance(model, nn.Module):
        raise InputError(
            "the layers of this model can't be seen",
            f"got {type(model).__name__} {case.subject!r}",
            "pass a torch.nn.Module; a plain function has no weights to predict from",
        )
    validate(case, valueless=True)
    kinds = ["meta"] if _is_meta(model, case) else ["fake", "real"]
    state = RandomState.capture()
    try:
        for kind in kinds:
            quiet = np.errstate(over="ignore", invalid="ignore")  # what leaves the range is told once, by an error
            with caches_emptied(model), _kept(model, case, kind), quiet:
                trace = Trace()
                trace.drawing.allowed = draws
                try:
                    try:
                        calls, output, assumed = _followed(model, case, trace, kind, seed, weight_rms or {})
                    except ModelError:  # some code looks at values: then on real tensors
                        if kind == kinds[-1]:
                            raise
                        continue
                    return _predicted(model, case, kind, seed, trace, calls, output, assumed)
                except OverflowError as error:
                    raise InputError(
                        "sizes leave the range of numbers",
                        f"{case.subject}: squares of squares beyond 1e308 ({error})",
                        "look at the inputs' and weights' sizes with gradvitals.probe, and bring them nearer to one",
                    ) from error
                finally:
                    trace.drawing.close()
    finally:
        state.restore()
    raise ValueError(f"no kind of tensors among {kinds}")


def _is_meta(model: nn.Module, case: Case) -> bool:
    given = [tensor for _, tensor in tensors_in((case.args, case.keywords), "input")]
    return any(tensor.is_meta for tensor in (*model.parameters(), *given))


def _followed(
    model: nn.Module, case: Case, trace: Trace, kind: str, seed: int, weight_rms: Mapping[str, float]
) -> tuple[Calls, Any, list[str]]:
    """Trace the forward pass: its calls, the output, and the parameters whose size had to be assumed."""
    assumed = _announce(model, trace, weight_rms)
    args, kwargs = case.args, case.keywords
    # Some code takes an input's gradient into its own hands, which a gradient that is asked for here would prevent.
    asks = not any(parameter.requires_grad for parameter in model.parameters())
    inputs = {id(tensor): _input(tensor) for _, tensor in tensors_in((args, kwargs), "input")}
    with (
        _tensors(kind) as (convert, shapes),
        parameters_on_host(model, trace, convert),
        torch.enable_grad(),
        _spelled_out(),
    ):
        seed_everything(seed)
        mode = Tracing(trace, shapes)
        calls = Calls(model, trace)
        trace.where = lambda: calls.innermost
        trace.layer = lambda: calls.layer

        def stand_in(item: Any) -> Any:
            if not isinstance(item, torch.Tensor):
                return item
            made = convert(item)
            if asks and made.is_floating_point() and not made.requires_grad:
                made = made.detach().requires_grad_()
            trace.bind(made, inputs[id(item)] if id(item) in inputs else Constant(item.detach(), owned=False))
            return made

        args, kwargs = tree_map(stand_in, (args, kwargs))
        try:
            with calls.listening(), mode:
                output = model(*args, **kwargs)
        except OverflowError:  # ours: theory squares squares
            raise
        except Exception as error:
            raise ModelError(
                "the model raised in its forward pass",
                f"in {calls.innermost or 'the model itself'}: {type(error).__name__}: {error}",
                "call it by hand with these inputs to see it fail; on the meta device no code may look at values",
            ) from error
    return calls, output, assumed


def _predicted(
    model: nn.Module, case: Case, kind: str, seed: int, trace: Trace, calls: Calls, output: Any, assumed: list[str]
) -> Prediction:
    """What follows from a forward pass, and from sending a gradient back."""
    home = home_of(model, [tensor for _, tensor in tensors_in((case.args, case.keywords), "input")])
    roots, objective = gradients_at_outputs(output, trace, case.loss, seed, home)
    asked = {node.key for row in calls.rows for node in row.outputs}
    asked |= {use.output.key for use in trace.uses}
    gradients, troubles = sent_back(trace.steps, roots, trace.drawing, asked=asked)
    matters = bool(troubles) or _is_missed(trace, calls.rows, output)
    trace.unmodelled += [Unmodelled(name, "", f"on the way back: {reason}") for name, reason in troubles]
    graph = graph_of(trace.steps, calls.rows)
    return Prediction(
        calls=tuple(
            _call(row, sources, gradients, graph.depths) for row, sources in zip(calls.rows, graph.sources, strict=True)
        ),
        parameters=tuple(_parameters(model, trace, gradients)),
        unmodelled=tuple(_unmodelled(trace.unmodelled, matters=matters)),
        objective=objective,
        tensors=kind,
        operations=len(trace.steps),
        assumed=tuple(assumed),
        streams=graph.streams,
    )


@contextlib.contextmanager
def _kept(model: nn.Module, case: Case, kind: str) -> Iterator[None]:
    """Leave no trace; without values, parameters can't change and need no copy."""
    if kind == "real":
        with preserved(model, (case.args, case.keywords)):
            yield
        return
    modules = [(module, module.training, dict(vars(module))) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if not buffer.is_meta]
    registered = [(module, dict(module._buffers)) for module in model.modules()]  # noqa: SLF001
    try:
        yield
    finally:
        for module, training, attributes in modules:
            vars(module).clear()
            vars(module).update(attributes)
            module.training = training
        for module, known in registered:
            module._buffers.clear()  # noqa: SLF001
            module._buffers.update(known)  # noqa: SLF001
        for buffer, values in buffers:
            if not torch.equal(buffer, values):
                buffer.data.copy_(values)


@contextlib.contextmanager
def _spelled_out() -> Iterator[None]:
    """Without oneDNN, which runs a recurrent net in one operation, its steps are seen."""
    enabled = bool(torch.backends.mkldnn.enabled)
    torch._C._set_mkldnn_enabled(False)  # noqa: SLF001, FBT003 - the public context manager warns of TF32
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)  # noqa: SLF001


def _tensors(kind: str) -> Any:
    """What makes tensors of a kind of others, on the CPU or on meta, and what runs operations on those."""

    @contextlib.contextmanager
    def context() -> Any:
        if kind == "fake":
            from torch._subclasses.fake_tensor import FakeTensorMode

            log = logging.getLogger("torch._subclasses.fake_tensor")
            level = log.level
            log.setLevel(logging.CRITICAL)  # where an operation has no fake form, real tensors are tried next
            try:
                fake = FakeTensorMode(allow_non_fake_inputs=True)
                shapes = Shapes(fake)
                yield shapes.stand_in, shapes
            finally:
                log.setLevel(level)
        elif kind == "meta":
            yield lambda tensor: tensor.to("meta"), Shapes(None)
        else:
            yield lambda tensor: tensor.detach().to("cpu", copy=True), None

    return context()


def _announce(model: nn.Module, trace: Trace, weight_rms: Mapping[str, float]) -> list[str]:
    """Bind parameters and buffers; returns the paths of those whose size had to be assumed."""
    names = {
        name: next((key for key in (name, written(name)) if key in weight_rms), "")
        for name, _ in model.named_parameters()
    }
    weight_rms = {name: weight_rms[key] for name, key in names.items() if key}
    known, assumed = meta_weights(model, weight_rms)
    for name, parameter in model.named_parameters():
        if parameter.is_meta or name in weight_rms:
            second, mean = known[name]
            trace.bind(parameter, Weight(tuple(parameter.shape), second, mean, name))
        else:
            weights = Constant(parameter.detach(), learned=True, owned=False, name=name)
            _require_finite(weights, name)
            trace.bind(parameter, weights)
    for name, buffer in model.named_buffers():
        if buffer.is_meta:
            value = torch.ones(buffer.shape, dtype=buffer.dtype, device="cpu") if name.endswith("running_var") else None
            value = torch.zeros(buffer.shape, dtype=buffer.dtype, device="cpu") if value is None else value
            trace.bind(buffer, Constant(value, owned=True))
        else:
            trace.bind(buffer, Constant(buffer.detach(), owned=False))
    return assumed


def _require_finite(value: Constant, name: str) -> None:
    """Of weights that aren't finite theory says nothing."""
    if math.isfinite(value.mean_and_square[1]):
        return
    broken = int((~torch.isfinite(value.held)).sum())
    if broken:
        raise InputError(
            f"the weights of {name} are not finite",
            f"{broken} of {value.held.numel()} entries are NaN or infinite",
            "gradvitals.probe says what comes of them; draw them anew, or give their size by weight_rms",
        )


def _input(tensor: torch.Tensor) -> Constant:
    """An input's values; of one on the meta device, standard normal ones, and no two tokens alike."""
    if not tensor.is_meta:
        is_data = tensor.is_floating_point() and not _is_mask(tensor)
        return Constant(tensor.detach().clone(), data=is_data)
    generator = torch.Generator().manual_seed(0)
    if tensor.is_floating_point():
        return Constant(torch.randn(tensor.shape, generator=generator, device="cpu"), data=True)
    if tensor.dtype == torch.bool:
        return Constant(torch.ones(tensor.shape, dtype=torch.bool, device="cpu"))
    return Constant(torch.arange(tensor.numel(), device="cpu").reshape(tensor.shape).to(tensor.dtype))


def _is_mask(tensor: torch.Tensor) -> bool:
    """Floating-point ones and zeros, or zeros and very negative numbers, say what may be seen."""
    values = tensor.detach()
    ones = bool(((values == 0) | (values == 1)).all()) and tensor.dim() <= 2
    added = bool(((values == 0) | (values < -1e4)).all())
    return (ones and bool((values == 1).any())) or (added and bool((values < 0).any()))


def _call(
    row: Row, sources: tuple[int, ...], gradients: Mapping[int, Field], depths: Mapping[int, int]
) -> PredictedCall:
    forward = gradient = cosine = None
    depth = 0
    if isinstance(row.value, Node) and row.value.is_known:
        field = row.value.field
        forward, cosine = _said(field), _cosine(field)
        found = next((gradients[node.key] for node in row.outputs if node.key in gradients), None)
        gradient = _said(found) if found is not None else None
        depth = depths.get(row.value.key, 0)
    elif isinstance(row.value, Constant) and row.value.held.is_floating_point():
        entries = row.value.value.detach().double()
        forward = Predicted(float(entries.square().mean().sqrt()), 0.0, float(entries.mean()))
    return PredictedCall(
        row.path,
        row.call,
        row.kind,
        row.shape,
        row.has_weights,
        row.activation.name if row.activation else None,
        depth,
        forward,
        gradient,
        cosine,
        sources,
        row.parameters,
        row.activation.options if row.activation else {},
    )


def _said(field: Field) -> Predicted:
    """The typical RMS, and one standard deviation of one draw: log E[x²] is nearly normal over weights."""
    spread = field.spread
    chance = max(spread - field.inherited.variance + field.inherited.chance, 0.0)
    typical = math.sqrt(max(field.mean_square, 0.0)) * math.exp(-chance / 4)
    error, alone = math.sqrt(spread) / 2, math.sqrt(chance) / 2
    return Predicted(typical, error, float(field.mean.mean()), alone if alone < error else None)


def _cosine(field: Field) -> float | None:
    axes = field.axes
    if not axes or axes[0].role.value != "place" or field.places == 0 or field.kernel.shape[0] < 2:
        return None
    kernel, second = field.kernel, field.second
    places = field.places
    n = kernel.shape[0]
    own = second.reshape(n, -1).mean(axis=1)
    matched = kernel
    for _ in range(places - 1):
        matched = matched.diagonal(axis1=1, axis2=matched.ndim // 2 + 1).mean(-1) if matched.ndim > 2 else matched
    if matched.shape != (n, n) or not (own > 0).all():
        return None
    inverse = own**-0.5
    cosines = inverse @ matched @ inverse - (matched.diagonal() * inverse**2).sum()
    return float(min(1.0, cosines / (n * (n - 1))))


def _parameters(model: nn.Module, trace: Trace, gradients: Mapping[int, Field]) -> Iterator[PredictedParameter]:
    learned = parameter_gradients(trace.uses, gradients)
    for name, parameter in model.named_parameters():
        value = trace.values.get(id(parameter))
        if isinstance(value, Weight):
            mean, second = value.mean, value.second
        else:
            mean, second = (value if isinstance(value, Constant) else Constant(parameter)).mean_and_square
        known = learned.get(name) if parameter.requires_grad else None
        gradient = None if known is None else said(known[0], known[1], parameter.numel())
        std = math.sqrt(max(second - mean**2, 0.0))
        yield PredictedParameter(written(name), math.sqrt(second), gradient, std, tuple(parameter.shape))


def _is_missed(trace: Trace, rows: list[Row], output: Any) -> bool:
    """Whether a call or an output of the model depends on what isn't known."""
    outputs = [trace.value(tensor) for _, tensor in output_tensors(output)]
    return any(value is None or isinstance(value, Overwritten) for value in (*outputs, *(row.value for row in rows)))


def _unmodelled(found: list[Unmodelled], *, matters: bool) -> Iterator[UnmodelledOperation]:
    by_name: dict[str, list[Unmodelled]] = {}
    for item in found:
        by_name.setdefault(item.name, []).append(item)
    for name, items in by_name.items():
        paths = tuple(dict.fromkeys(item.path for item in items))
        yield UnmodelledOperation(name, paths, len(items), items[0].reason, matters)
