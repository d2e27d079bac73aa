"""The gradient that is sent back: of a loss on outputs drawn from their moments, or random of unit RMS."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gradvitals.frameworks.torch.objective import output_tensors, scalar
from gradvitals.frameworks.torch.prediction.knowledge import Trace, is_fake
from gradvitals.frameworks.torch.prediction.measured import first_samples, measured_as
from gradvitals.frameworks.torch.prediction.values import Constant, Node
from gradvitals.maths.alignment import cut, gathered_to
from gradvitals.maths.field import MOST_PAIRED, Axis, Field, Role, constant_field
from gradvitals.maths.roles import with_role
from gradvitals.maths.scatter import Scatter
from gradvitals.vocabulary.errors import ModelError

#: Draws of the outputs that a loss is asked about, of so many entries in all but for one more.
_DRAWS, _ROOM = 16, 2**19
#: Places whose correlations are drawn exactly; of more, each has a part in common with all others.
_MOST_DRAWN = 1024


def gradients_at_outputs(
    output: Any, trace: Trace, loss: Callable[[Any], Any] | None, seed: int, home: torch.device
) -> tuple[dict[Node, Field], str]:
    """The gradient with respect to each signal among the outputs, and what it is of.

    The loss is called where the outputs would be, on ``home``, as it has its labels there.

    Raises
    ------
    ModelError
        When the loss raises on outputs of random values.
    InputError
        When the loss isn't a scalar.

    """
    tensors = [tensor for _, tensor in output_tensors(output)]
    if loss is None:
        own = scalar(output, None)[0]
        if own is not None:
            node = trace.value(own) if id(own) in trace.values else _of_scalar(output, trace)
            return (
                {node: constant_field(node.field.layout, 1.0, held=node.field.second.shape)}
                if isinstance(node, Node)
                else {}
            ), "output-loss"
        roots: dict[Node, Field] = {}
        for tensor in tensors:
            value = trace.value(tensor)
            if isinstance(value, Node) and tensor.requires_grad:
                white = constant_field(value.field.layout, 1.0, held=value.field.second.shape)
                roots[value] = replace(white, blur=1 / max(white.units, 1), kurtosis=1.0)
        return roots, "random"
    known = {id(tensor): trace.value(tensor) for tensor in tensors if isinstance(trace.value(tensor), Node)}
    if not known:
        return {}, "loss"
    generator = torch.Generator().manual_seed(seed)
    draws = {id(tensor): _outputs(known[id(tensor)].field, tensor) for tensor in tensors if id(tensor) in known}
    found: dict[Node, Field] = {}
    sizes: dict[Node, list[float]] = {}
    for _ in range(min(_DRAWS, 1 + _ROOM // sum(tensor.numel() for tensor in tensors))):
        drawn = {at: draw(generator).to(home).requires_grad_() for at, draw in draws.items()}
        for at, gradient in _slopes(_swapped(output, drawn, trace, home), loss, drawn).items():
            if known[at] not in found:
                found[known[at]] = _kept(gradient, known[at].field)
            sizes.setdefault(known[at], []).append(float(gradient.double().square().mean()))
    return {node: _of_average_size(field, sizes[node]) for node, field in found.items()}, "loss"


def _outputs(field: Field, tensor: torch.Tensor) -> Callable[[torch.Generator], torch.Tensor]:
    """Draws what one network might return: of the finite width of the layers before, its size departs, too."""
    spread = field.inherited.variance
    draw = _draws(field, tuple(tensor.shape))

    def one(generator: torch.Generator) -> torch.Tensor:
        departs = math.sqrt(spread) / 2 * float(torch.randn((), generator=generator, device="cpu")) - spread / 4
        return (draw(generator) * math.exp(departs)).to(tensor.dtype)

    return one


def _slopes(output: Any, loss: Callable[[Any], Any], drawn: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """The gradients of a loss with respect to drawn outputs, where there are any."""
    with torch.enable_grad():
        number, _ = scalar(output, loss)
    if number is None or not number.requires_grad:
        return {}
    try:
        found = torch.autograd.grad(number, list(drawn.values()), allow_unused=True)
    except Exception as error:
        raise ModelError(
            "the backward pass of the loss raised",
            f"{type(error).__name__}: {error}",
            "call loss.backward() by hand to see it fail",
        ) from error
    return {at: gradient for at, gradient in zip(drawn, found, strict=True) if gradient is not None}


def _of_average_size(field: Field, sizes: list[float]) -> Field:
    """One draw's gradient in the mean square that all have on average, which departs as theirs do."""
    if len(sizes) == 1 or min(sizes) <= 0:
        return field
    scatter = Scatter.of(statistics.variance(math.log(size) for size in sizes))
    return replace(field.scaled(statistics.fmean(sizes) / sizes[0]), inherited=scatter)


def _of_scalar(output: Any, trace: Trace) -> Any:
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", output)
    return trace.value(own) if isinstance(own, torch.Tensor) else None


def _kept(gradient: torch.Tensor, field: Field) -> Field:
    """The gradient's field, of the samples that the arrays hold; what two samples have in common is that of all."""
    if math.prod(axis.size for axis in field.axes if axis.role is Role.PLACE) > MOST_PAIRED:
        return measured_as(first_samples(gradient, field), field.layout)
    whole = measured_as(gradient, field.layout)
    if whole.second.shape == field.second.shape:
        return whole
    part = cut(whole, field.second.shape)
    held = part.kernel.shape[0] if part.places else 1
    if held < 2:
        return part
    n = math.prod(part.kernel.shape[: part.places])
    apart = np.kron(1 - np.eye(held), np.ones((n // held, n // held)))
    kernel = part.kernel.reshape(n, n)
    kernel = kernel + apart * (_across(whole) - _across(part))
    return replace(part, kernel=kernel.reshape(part.kernel.shape))


def _across(field: Field) -> float:
    """The mean of E[g_p g_q] over places of two different samples."""
    held = field.kernel.shape[0]
    n = math.prod(field.kernel.shape[: field.places])
    pairs = field.kernel.reshape(held, n // held, held, n // held).sum(axis=(1, 3))
    return (float(pairs.sum()) - float(pairs.trace())) / float(n * n - held * (n // held) ** 2)


def drawn_from(field: Field, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Gaussian entries with a field's moments: independent over units, with its kernel over places.

    Samples beyond those that the field's arrays hold are drawn like them, by themselves.
    """
    return _draws(field, shape)(generator)


def _draws(field: Field, shape: tuple[int, ...]) -> Callable[[torch.Generator], torch.Tensor]:
    """The same, any number of times: what draws have in common is worked out once."""
    sizes = [axis.size for axis in field.axes]
    held = list(field.second.shape)
    mapped = [at for at, axis in enumerate(field.axes) if axis.is_mapped]
    places = [at for at, axis in enumerate(field.axes) if axis.role is Role.PLACE]
    n = math.prod(held[mapped.index(at)] for at in places)
    all_places = [sizes[at] for at in places]
    if n > _MOST_DRAWN or held[1:] != all_places[1:] or field.has_pixels:
        return lambda generator: _roughly(field, generator).reshape(shape)
    covariance = field.kernel.reshape(n, n) - field.outer_mean().reshape(n, n)
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    # The symmetric root: eigenvectors alone turn round at the last digit, which isn't the same everywhere.
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    units = [at for at, axis in enumerate(field.axes) if axis.role is Role.UNIT]
    copies = [at for at, axis in enumerate(field.axes) if axis.role is Role.COPY]
    times = -(-all_places[0] // held[0]) if places else 1
    order = places + units + copies
    means = np.concatenate([field.mean] * times)[: all_places[0]] if places else field.mean
    mean = means.reshape([sizes[at] if field.axes[at].is_mapped else 1 for at in range(len(sizes))])

    def draw(generator: torch.Generator) -> torch.Tensor:
        entries = times * math.prod(sizes[at] for at in units)
        noise = torch.randn((n, entries), generator=generator, dtype=torch.float64, device="cpu").numpy()
        blocks = (root @ noise).reshape(n, times, -1).swapaxes(0, 1)
        if places:
            blocks = blocks.reshape(times * held[0], -1)[: all_places[0]]
        flat = blocks.reshape(*all_places, *(sizes[at] for at in units), *(1 for _ in copies))
        flat = flat.transpose(np.argsort(order)) if order else flat
        return torch.from_numpy(np.array(np.broadcast_to(flat + mean, sizes))).reshape(shape)

    return draw


def _roughly(field: Field, generator: torch.Generator) -> torch.Tensor:
    """Of very many places: each has a part in common with all others."""
    shared = max(min(field.all_pairs() / max(field.mean_square, 1e-300), 1.0), 0.0)
    common = torch.randn([1 if axis.is_mapped else axis.size for axis in field.axes], generator=generator, device="cpu")
    own = torch.randn([axis.size for axis in field.axes], generator=generator, device="cpu")
    scale = math.sqrt(field.mean_square)
    return (scale * (math.sqrt(shared) * common + math.sqrt(1 - shared) * own)).double()


def _swapped(output: Any, drawn: Mapping[int, torch.Tensor], trace: Trace, home: torch.device) -> Any:
    """The output with drawn tensors in place of those without values, and zeros where nothing is known."""
    if isinstance(output, torch.Tensor):
        if id(output) in drawn:
            return drawn[id(output)]
        known = trace.values.get(id(output))
        if isinstance(known, Constant):
            return known.value.to(home)
        return torch.zeros(output.shape, dtype=output.dtype, device=home) if is_fake(output) else output
    if isinstance(output, Mapping):
        items = {key: _swapped(item, drawn, trace, home) for key, item in output.items()}
        try:
            return type(output)(**items)
        except TypeError:
            return items
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(_swapped(item, drawn, trace, home) for item in output))
    if isinstance(output, (tuple, list)):
        return type(output)(_swapped(item, drawn, trace, home) for item in output)
    return output


__all__ = ["Axis", "drawn_from", "gathered_to", "gradients_at_outputs", "with_role"]
