"""Refuse what no gradient can be taken of, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.objective import tensors_in
from gradvitals.frameworks.user_code import argument_names
from gradvitals.vocabulary.errors import InputError


def named_inputs(case: Case) -> list[tuple[str, torch.Tensor]]:
    """Every tensor among a case's inputs, named as the model's signature names its arguments.

    >>> [name for name, _ in named_inputs(Case(torch.nn.Linear(2, 2), (torch.ones(1, 2),)))]
    ['input']
    """
    return [found for name, value in _roots(case) for found in tensors_in(value, name)]


def _roots(case: Case) -> list[tuple[str, Any]]:
    function = case.model.forward if isinstance(case.model, torch.nn.Module) else case.model
    names, _ = argument_names(function, case.args, case.keywords)
    return [*zip(names, case.args, strict=True), *case.keywords.items()]


def validate(case: Case, roots: Sequence[tuple[str, Any]] | None = None, *, valueless: bool = False) -> None:
    """Refuse inputs and models that can't be worked with; ``valueless`` lets the meta device pass.

    Parameters
    ----------
    case : Case
    roots : sequence of (name, input), optional
        The inputs by their names, where these are known already.

    Raises
    ------
    InputError
        On an empty batch, NaN or infinity in an input (an additive mask of 0 and −∞ is fine), inference-mode or meta
        tensors among the inputs or parameters, a lazy layer that hasn't seen an input yet, or inside inference mode.

    """
    if torch.is_inference_mode_enabled():
        raise InputError(
            "inference mode is on",
            "the call stands inside torch.inference_mode()",
            "leave it: no gradient can be recorded there",
        )
    for name, value in _roots(case) if roots is None else roots:
        for path, tensor in tensors_in(value, name):
            _refuse_unusable(f"input {path!r}", tensor, valueless=valueless)
            if not tensor.is_meta:
                _refuse_bad_values(path, tensor)
    if isinstance(case.model, torch.nn.Module) and any(_is_unusable(t) for m in case.model.modules() for t in _own(m)):
        _refuse_model(case.model, valueless=valueless)


def _refuse_model(model: torch.nn.Module, *, valueless: bool) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor):
            raise InputError(
                "a lazy layer hasn't seen an input yet",
                f"{name!r} has no shape",
                "call the model once with these inputs, then ask again",
            )
        _refuse_unusable(f"{name!r} of the model", tensor, valueless=valueless)


def _own(module: torch.nn.Module) -> list[torch.Tensor]:
    held = (*module._parameters.values(), *module._buffers.values())  # noqa: SLF001 - naming all takes long
    return [tensor for tensor in held if tensor is not None]


def _is_unusable(tensor: torch.Tensor) -> bool:
    return torch.nn.parameter.is_lazy(tensor) or tensor.is_meta or tensor.is_inference()


def _refuse_unusable(what: str, tensor: torch.Tensor, *, valueless: bool) -> None:
    if not (tensor.is_meta or tensor.is_inference()):
        return
    where = f"{what} has shape {tuple(tensor.shape)}, {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.is_meta and not valueless:
        raise InputError(
            "a tensor on the meta device has no values",
            where,
            "give it values: model.to_empty(device='cpu') and initialise, or build it on a real device",
        )
    if tensor.is_inference():
        raise InputError(
            "an inference-mode tensor has no gradient",
            where,
            "make it outside torch.inference_mode(), or pass tensor.clone() made outside",
        )


def _refuse_bad_values(name: str, tensor: torch.Tensor) -> None:
    shape = tuple(tensor.shape)
    if tensor.numel() == 0:
        raise InputError("the batch is empty", f"input {name!r} has shape {shape}", "pass at least one sample")
    if tensor.layout != torch.strided or not (tensor.is_floating_point() or tensor.is_complex()):
        return
    finite = torch.isfinite(tensor)
    if bool(finite.all()) or _is_additive_mask(tensor, finite):
        return
    first = tuple(int(i) for i in (~finite).nonzero()[0])
    raise InputError(
        "an input is not finite",
        f"input {name!r} has {int((~finite).sum())} NaN or infinite value(s) of {tensor.numel()}, the first at {first}",
        "remove or replace them: every layer would pass them on",
    )


def _is_additive_mask(tensor: torch.Tensor, finite: torch.Tensor) -> bool:
    """An attention mask of 0 and −∞ is meant to be infinite."""
    return (
        bool((torch.isneginf(tensor.detach()) | (finite & (tensor == 0))).all())
        if tensor.is_floating_point()
        else False
    )
