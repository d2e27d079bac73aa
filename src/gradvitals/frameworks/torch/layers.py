"""What a module or function is to the signal: an activation, a layer with weights, the axis of its units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

#: Modules that hold other modules without calling them: one call, not a container.
_OPAQUE = (nn.MultiheadAttention,)
#: Two-dimensional weights that are looked up or scale elementwise, in place of mixing the inputs.
_NOT_MIXING = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.PReLU)

#: Class names (also of Hugging Face transformers) and function names to the names of ``gradvitals.maths.activations``.
_ACTIVATIONS: Mapping[str, str] = {
    **dict.fromkeys(("ReLU", "relu"), "relu"),
    **dict.fromkeys(("ReLU6", "relu6"), "relu6"),
    **dict.fromkeys(("LeakyReLU", "leaky_relu"), "leaky_relu"),
    **dict.fromkeys(("PReLU", "prelu"), "prelu"),
    **dict.fromkeys(("ELU", "elu"), "elu"),
    **dict.fromkeys(("CELU", "celu"), "celu"),
    **dict.fromkeys(("SELU", "selu"), "selu"),
    **dict.fromkeys(("GELU", "gelu", "GELUActivation"), "gelu"),
    **dict.fromkeys(("NewGELUActivation", "FastGELUActivation", "PytorchGELUTanh", "GELUTanh"), "gelu_tanh"),
    **dict.fromkeys(("SiLU", "silu", "SiLUActivation"), "silu"),
    **dict.fromkeys(("Mish", "mish"), "mish"),
    **dict.fromkeys(("Tanh", "tanh"), "tanh"),
    **dict.fromkeys(("Sigmoid", "sigmoid", "special_expit", "expit"), "sigmoid"),
    **dict.fromkeys(("LogSigmoid", "logsigmoid", "log_sigmoid"), "logsigmoid"),
    **dict.fromkeys(("Softplus", "softplus"), "softplus"),
    **dict.fromkeys(("Softsign", "softsign"), "softsign"),
    **dict.fromkeys(("Hardtanh", "hardtanh"), "hardtanh"),
    **dict.fromkeys(("Hardsigmoid", "hardsigmoid"), "hardsigmoid"),
    **dict.fromkeys(("Hardswish", "hardswish"), "hardswish"),
    **dict.fromkeys(("Softmax", "softmax"), "softmax"),
    **dict.fromkeys(("GLU", "glu"), "glu"),
}
#: By activation: its options' names here, and torch's names for them in the order of the function's arguments.
_OPTIONS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "leaky_relu": (("negative_slope", "negative_slope"),),
    "prelu": (("negative_slope", "weight"),),
    "elu": (("alpha", "alpha"),),
    "celu": (("alpha", "alpha"),),
    "softplus": (("beta", "beta"),),
    "hardtanh": (("low", "min_val"), ("high", "max_val")),
}
#: Ways of writing max(x, 0).
_CLAMPS = frozenset({"clamp", "clamp_min", "clip"})
#: Activations whose units can die: zero, with zero slope, on a half-line.
RECTIFYING = frozenset({"relu", "relu6"})
#: Products with a weight, by function name without underscores.
PRODUCTS = frozenset(
    {
        *("linear", "bilinear", "matmul", "rmatmul", "mm", "bmm", "mv", "addmm", "addbmm", "baddbmm", "einsum"),
        *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    }
)
#: Additions, by function name without underscores: where residual streams are joined.
ADDITIONS = frozenset({"add", "radd", "iadd"})
#: Layers in their functional form, by function name without underscores; those with weights that mix are products.
FUNCTIONAL = frozenset(
    {
        *("layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"),
        *("embedding", "embedding_bag", "dropout", "alpha_dropout", "feature_alpha_dropout"),
        *(f"{kind}{n}d" for kind in ("dropout", "avg_pool", "max_pool", "lp_pool") for n in (1, 2, 3)),
        *(f"adaptive_{kind}_pool{n}d" for kind in ("avg", "max") for n in (1, 2, 3)),
        "scaled_dot_product_attention",
    }
)
#: Share of the largest slope below which a bounded activation counts as flat: the sigmoid beyond ±5, where Wardat et
#: al. (2022, DeepDiagnosis) call it saturated; the tanh beyond ±2.5.
FLAT = 0.025


@dataclass(frozen=True, slots=True)
class ActivationKind:
    """An activation's name and its options."""

    name: str
    options: Mapping[str, float] = field(default_factory=dict)


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one call in a capture; a container's calls are those of what it holds."""
    children = [name for name, _ in module.named_children() if name != "parametrizations"]
    return not children or isinstance(module, _OPAQUE)


#: What ``torch.compile``, activation checkpoints and FSDP1 put between the parts of a name.
_BETWEEN = frozenset({"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"})


def written(path: str) -> str:
    """A qualified name as the user wrote it, without what wrappers of modules put in between.

    >>> written("encoder._orig_mod.0.weight")
    'encoder.0.weight'
    """
    return path if _BETWEEN.isdisjoint(parts := path.split(".")) else ".".join(p for p in parts if p not in _BETWEEN)


def parameters_by_path(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter once, by its name as the user wrote it."""
    return {written(path): parameter for path, parameter in model.named_parameters()}


def wrapped_at(model: nn.Module) -> str:
    """What a wrapper of the whole model (DataParallel, AveragedModel) puts before every name; ``""`` without one.

    >>> wrapped_at(nn.DataParallel(nn.Linear(2, 2))), wrapped_at(nn.Linear(2, 2))
    ('module.', '')
    """
    inner: nn.Module = getattr(model, "_orig_mod", model)
    only_one = [name for name, _ in inner.named_children()] == ["module"]
    if not only_one or next(inner.parameters(recurse=False), None) is not None:
        return ""
    return f"module.{wrapped_at(inner.get_submodule('module'))}"


def is_own_network(module: nn.Module) -> bool:
    """Whether a module without children is user code: as the whole model its functions are the layers."""
    return not _written(module).__module__.startswith("torch.nn.")


def kind_of(module: nn.Module) -> str:
    """The name of the class that the user wrote."""
    return _written(module).__name__


def _written(module: nn.Module) -> type:
    """The class that the user wrote, without the one that a parametrisation or FSDP puts in its place."""
    parametrised = nn.utils.parametrize.is_parametrized(module)
    kind: type = nn.utils.parametrize.type_before_parametrizations(module) if parametrised else type(module)
    if kind.__name__.startswith("FSDP") and kind.__mro__[1].__name__ == "FSDPModule":
        return kind.__mro__[2]
    return kind


def mixes(module: nn.Module) -> bool:
    """Whether it mixes its inputs by a weight of two or more dimensions, which a scale of shape (C, 1, 1) does not."""
    if isinstance(module, _NOT_MIXING):
        return False
    own = is_own_network(module)
    return any(p.ndim >= 2 and not (own and is_one_per_unit(p)) for p in module.parameters())


def is_one_per_unit(parameter: torch.Tensor) -> bool:
    """Whether all its dimensions but one are of size 1: a scale or a bias in a shape that broadcasts."""
    return sum(size > 1 for size in parameter.shape) <= 1


def activation_of_module(module: nn.Module) -> ActivationKind | None:
    """The activation that a module is, if it is one; subclasses count as what they derive from."""
    named = (_ACTIVATIONS[cls.__name__] for cls in type(module).__mro__ if cls.__name__ in _ACTIVATIONS)
    name = next(named, None)
    if name is None:
        return None
    options = {ours: _number(getattr(module, theirs)) for ours, theirs in _OPTIONS.get(name, ())}
    return _variant(name, options, getattr(module, "approximate", "none"))


def activation_of_function(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ActivationKind | None:
    """The activation that a function call is, if it is one; the name without underscores."""
    if name in _CLAMPS:
        low, high = (_argument(args, kwargs, at, key) for at, key in ((1, "min"), (2, "max")))
        return ActivationKind("relu") if high is None and isinstance(low, (int, float)) and low == 0 else None
    known = _ACTIVATIONS.get(name)
    if known is None:
        return None
    given = {
        ours: _argument(args, kwargs, at, theirs) for at, (ours, theirs) in enumerate(_OPTIONS.get(known, ()), start=1)
    }
    options = {key: _number(value) for key, value in given.items() if value is not None}
    return _variant(known, options, kwargs.get("approximate", "none"))


def unit_axis(module: nn.Module) -> int | None:
    """The (negative) axis of a layer's units: channels of a convolution, features of others; None: as its input's."""
    name = kind_of(module)
    for spatial in (1, 2, 3):
        if name.endswith(f"{spatial}d") and not isinstance(module, nn.BatchNorm1d):
            return -1 - spatial
    if isinstance(module, (nn.BatchNorm1d, nn.GroupNorm)):
        return None
    return -1 if mixes(module) or isinstance(module, (nn.LayerNorm, nn.RMSNorm, nn.Embedding)) else None


def product_axis(name: str) -> int:
    """The (negative) axis of the units of a product with a weight, by the function's name."""
    return -1 - int(name[-2]) if name.startswith("conv") else -1


def _variant(name: str, options: dict[str, float], approximate: Any) -> ActivationKind:
    return ActivationKind("gelu_tanh" if name == "gelu" and approximate == "tanh" else name, options)


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, name: str) -> Any:
    return args[position] if len(args) > position else kwargs.get(name)


def _number(value: Any) -> float:
    """A float of an option; PReLU's learned slopes by their mean."""
    return float(value.detach().double().mean()) if isinstance(value, torch.Tensor) else float(value)
