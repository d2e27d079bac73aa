"""Losses inside a model: scalars of outputs that are drawn from their moments, differentiated as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gradvitals.frameworks.torch.prediction.measured import first_samples, measured_as
from gradvitals.frameworks.torch.prediction.objective import drawn_from
from gradvitals.frameworks.torch.prediction.operation import Operation, rule
from gradvitals.frameworks.torch.prediction.values import Constant, Node
from gradvitals.maths.field import Field, constant_field

#: Of the draws for a loss: it is one of many that are as good.
_SEED = 0


@rule(
    *("nll_loss_forward", "nll_loss2d_forward", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div"),
    *("binary_cross_entropy", "binary_cross_entropy_with_logits", "soft_margin_loss", "multi_margin_loss"),
    *("multilabel_margin_loss_forward",),
)
def _loss(operation: Operation) -> None:
    generator = torch.Generator().manual_seed(_SEED)
    drawn: dict[int, torch.Tensor] = {}
    signals: list[tuple[Node, torch.Tensor, Node]] = []
    for item in operation.args:
        node = operation.value(item)
        if not isinstance(node, Node):
            continue
        before = node.tags.get("log-softmax-of")
        origin = before if isinstance(before, Node) else node
        sample = drawn_from(origin.field, tuple(item.shape), generator).to(item.dtype)
        drawn[id(item)] = sample
        signals.append((origin, sample, node))
    if not signals:
        raise NotImplementedError("a loss of something that is no signal")
    arguments = [_real(operation, item, drawn) for item in operation.args]
    keywords = {key: _real(operation, item, drawn) for key, item in operation.kwargs.items()}
    through = {id(sample): origin is not node for origin, sample, node in signals}
    with torch.no_grad():
        value = _called(operation, arguments, keywords, through)
    layout = ((),) * value.dim()
    if value.numel() != 1:
        raise NotImplementedError("a loss of each sample by itself")
    made = constant_field(layout, float(value) ** 2, float(value))
    nodes = [origin for origin, _, _ in signals]

    def pullback(gradient: Field) -> Sequence[Field]:
        with torch.enable_grad():
            leaves = [sample.requires_grad_() for _, sample, _ in signals]
            result = _called(operation, arguments, keywords, through)
            found = torch.autograd.grad(result, leaves)
        return [
            measured_as(first_samples(g, node.field), node.field.layout).scaled(gradient.mean_square)
            for g, node in zip(found, nodes, strict=True)
        ]

    operation.emit(made, nodes, pullback)
    for output in operation.output[1:] if isinstance(operation.output, (tuple, list)) else ():
        operation.trace.bind(output, Constant(torch.ones(output.shape, dtype=output.dtype, device="cpu")))


def _called(
    operation: Operation, arguments: Sequence[Any], keywords: Mapping[str, Any], through: Mapping[int, bool]
) -> torch.Tensor:
    given = [torch.log_softmax(item, 1) if through.get(id(item)) else item for item in arguments]
    result = operation.function(*given, **keywords)
    return torch.as_tensor(result[0] if isinstance(result, tuple) else result, device="cpu")


def _real(operation: Operation, item: Any, drawn: Mapping[int, torch.Tensor]) -> Any:
    """An argument with values."""
    if not isinstance(item, torch.Tensor):
        return item
    if id(item) in drawn:
        return drawn[id(item)]
    known = operation.value(item)
    if isinstance(known, Constant):
        return known.value.detach().to(item.dtype)
    raise NotImplementedError("a loss with something unknown")


@rule("_log_softmax", "log_softmax")
def _log_softmax(operation: Operation) -> None:
    """The signal less the logarithm of a sum, which many units make certain."""
    x = operation.node(operation.args[0])
    dim = operation.args[1] % operation.args[0].dim()
    before = x.field
    from gradvitals.frameworks.torch.prediction.softmax import log_total

    shift = log_total(before, dim)
    cross = _outer(before, shift)
    made = Field(
        before.layout,
        before.mean - shift,
        before.second - 2 * before.mean * shift + shift**2,
        before.kernel + cross,
        before.inherited,
        before.kurtosis,
        before.profile,
    ).consistent()

    def pullback(gradient: Field) -> Sequence[Field]:
        return [gradient]

    node = Node(made, tags={"log-softmax-of": x} if dim == 1 else {})
    operation.emit(made, [x], pullback, node=node)


def _outer(field: Field, shift: Any) -> Any:
    """What a shift by place adds to the kernel."""
    import numpy as np

    from gradvitals.frameworks.torch.prediction.normalisation import by_place

    mean, by = by_place(field, field.mean), by_place(field, shift)
    return np.multiply.outer(by, by) - np.multiply.outer(mean, by) - np.multiply.outer(by, mean)
