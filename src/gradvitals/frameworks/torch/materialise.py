"""Give a model that was built on the meta device its memory, and the modules' own starting values."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from gradvitals.frameworks.torch.draws import generator_for
from gradvitals.frameworks.torch.layers import kind_of, wrapped_at, written
from gradvitals.frameworks.torch.shards import is_sharded, own_values, write
from gradvitals.frameworks.torch.state import RandomState, seed_everything

#: By these methods modules start their own tensors anew; ``_init_weights(module)`` of a model around them does as well
#: (Hugging Face, timm).
_RESETS = ("reset_parameters", "_reset_parameters", "reset_running_stats")


def is_on_meta(model: nn.Module) -> bool:
    """Whether any parameter or buffer has no memory."""
    return any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def device_of(inputs: Iterable[torch.Tensor]) -> torch.device:
    """Where a model belongs: with its inputs, else on torch's default device, and never on meta."""
    found = next((tensor.device for tensor in inputs if not tensor.is_meta), torch.get_default_device())
    return found if found.type != "meta" else torch.device("cpu")


def still_unset(model: nn.Module, unset: Iterable[str]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Path, owner's class and shape of tensors that have no value after all; integers never show that they have."""
    left = []
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        if written(path) in unset and (not tensor.is_floating_point() or _has_gap(tensor)):
            left.append((written(path), kind_of(model.get_submodule(path.rpartition(".")[0])), tuple(tensor.shape)))
    return left


def reset(model: nn.Module, seed: int) -> None:
    """Let every module start its tensors anew in its own way, with random numbers of its own, under ``no_grad``.

    Frozen parameters stay.
    """
    frozen = [(parameter, parameter.clone()) for parameter in model.parameters() if not parameter.requires_grad]
    for prefix, module in model.named_modules():
        if _tensors(module, recurse=False):
            seed_everything(_own_seed(model, prefix, seed))
            _reset_itself(module)
    for parameter, values in frozen:
        parameter.copy_(values)


@contextlib.contextmanager
def materialised(model: nn.Module, device: torch.device, *, seed: int = 0) -> Iterator[tuple[str, ...]]:
    """Give every tensor on the meta device memory elsewhere; they go back when the ``with`` block raises.

    Modules that can, then start their tensors by their own methods, each with random numbers of its own (``seed`` and
    its path), so that the order of construction doesn't matter. What no module sets is NaN, or 0 where there is none.

    Parameters
    ----------
    model : torch.nn.Module
        Tied parameters stay tied; sharded ones (FSDP2) get memory for the part that lies here.
    device : torch.device
    seed : int

    Yields
    ------
    tuple of str
        Parameters and buffers that no module has set.

    """
    kept = [(registry, dict(registry)) for module in model.modules() for registry in _registries(module)]
    randomness = RandomState.capture()
    try:
        fresh = _given_memory(model, device)
        blank = {id(tensor): tensor._version for tensor in fresh.values()}  # noqa: SLF001
        with torch.no_grad():
            _start(model, fresh, blank, seed)
        randomness.restore()
        yield tuple(written(path) for path, tensor in fresh.items() if _is_unset(tensor, blank))
    except BaseException:
        for registry, tensors in kept:
            registry.clear()
            registry.update(tensors)
        _tell_fsdp(model)
        raise
    finally:
        randomness.restore()


def _registries(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    return module._parameters, module._buffers  # noqa: SLF001


def _given_memory(model: nn.Module, device: torch.device) -> dict[str, torch.Tensor]:
    """New tensors in place of those on meta, by path; each once."""
    made: dict[int, torch.Tensor] = {}
    fresh: dict[str, torch.Tensor] = {}
    for prefix, module in model.named_modules():
        for registry in _registries(module):
            for name, tensor in registry.items():
                if tensor is None or not tensor.is_meta:
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = _like(tensor, device)
                    fresh[f"{prefix}.{name}".lstrip(".")] = made[id(tensor)]
                registry[name] = made[id(tensor)]
    _tell_fsdp(model)
    return fresh


def _like(tensor: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
    with torch.no_grad():
        blank = torch.empty_like(tensor, device=device, requires_grad=False)
        blank.fill_(math.nan if blank.is_floating_point() or blank.is_complex() else 0)
    if not isinstance(tensor, nn.Parameter):
        return blank
    parameter = nn.Parameter(blank, requires_grad=tensor.requires_grad)
    vars(parameter).update(vars(tensor))
    return parameter


def _tell_fsdp(model: nn.Module) -> None:
    """FSDP remembers its shards, and looks for new ones when a module's tensors are converted."""
    for module in model.modules():
        if hasattr(module, "set_requires_gradient_sync"):  # an FSDPModule
            module._apply(lambda tensor: tensor)  # type: ignore[no-untyped-call]  # noqa: SLF001


def _start(model: nn.Module, fresh: Mapping[str, torch.Tensor], blank: Mapping[int, int], seed: int) -> None:
    """Let every module that owns a new tensor start it in its own way."""
    owners = {path.rpartition(".")[0] for path in fresh}
    for prefix, module in model.named_modules():
        if prefix not in owners:
            continue
        seed_everything(_own_seed(model, prefix, seed))
        loaded = [tensor for tensor in _tensors(module, recurse=True) if id(tensor) not in blank]
        values = [tensor.clone() for tensor in loaded]
        with _in_one_piece(module, blank) as known:
            _reset_itself(module)
            starter = _starter(model, prefix)
            if starter is not None and any(_is_unset(tensor, known) for tensor in _tensors(module, recurse=False)):
                starter(module)
        for tensor, value in zip(loaded, values, strict=True):
            tensor.copy_(value)


def _own_seed(model: nn.Module, prefix: str, seed: int) -> int:
    """The seed of one module: that of its name inside of wrappers."""
    name = f"{written(prefix)}.".removeprefix(wrapped_at(model)).removesuffix(".")
    return generator_for(name, seed).initial_seed() % 2**32


def _reset_itself(module: nn.Module) -> None:
    for method in (getattr(module, name, None) for name in _RESETS):
        if callable(method):
            method()


@contextlib.contextmanager
def _in_one_piece(module: nn.Module, blank: Mapping[int, int]) -> Iterator[dict[int, int]]:
    """Whole tensors in place of a module's new sharded ones while it starts them: so they start as on one process.

    Yields the versions of all that are still blank. One module at a time is held whole.
    """
    sharded = [
        (registry, name, tensor)
        for registry in _registries(module)
        for name, tensor in registry.items()
        if tensor is not None and id(tensor) in blank and is_sharded(tensor)
    ]
    known = dict(blank)
    stand_ins = []
    for registry, name, tensor in sharded:
        plain = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        stand_in = _like(nn.Parameter(plain, tensor.requires_grad) if registry is module._parameters else plain)  # noqa: SLF001
        registry[name] = stand_in
        known[id(stand_in)] = stand_in._version  # noqa: SLF001
        stand_ins.append(stand_in)
    try:
        yield known
    finally:
        for (registry, name, tensor), stand_in in zip(sharded, stand_ins, strict=True):
            registry[name] = tensor
            write(tensor, stand_in)


def _tensors(module: nn.Module, *, recurse: bool) -> list[torch.Tensor]:
    return [*module.parameters(recurse), *module.buffers(recurse)]


def _starter(model: nn.Module, prefix: str) -> Any:
    """The method of the nearest model around a module that starts single modules."""
    parts = prefix.split(".") if prefix else []
    around = (model.get_submodule(".".join(parts[:end])) for end in range(len(parts), -1, -1))
    return next((method for method in (getattr(outer, "_init_weights", None) for outer in around) if method), None)


def _is_unset(tensor: torch.Tensor, blank: Mapping[int, int]) -> bool:
    """Whether nothing has written to a new tensor, or not to all of it."""
    if id(tensor) not in blank:
        return False
    if tensor.is_floating_point() or tensor.is_complex():
        return _has_gap(tensor)
    return tensor._version == blank[id(tensor)]  # noqa: SLF001


def _has_gap(tensor: torch.Tensor) -> bool:
    return bool(own_values(tensor.detach()).isnan().any())
