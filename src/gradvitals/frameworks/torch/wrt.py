"""Which tensors are differentiated: parameters of the model and of modules that it closes over, and inputs."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.problem import matching
from gradvitals.frameworks.torch.behind import modules_behind
from gradvitals.frameworks.torch.entries import can_be_moved
from gradvitals.frameworks.tree import leaves
from gradvitals.vocabulary.errors import InputError, UsageError

Key = tuple[str, str]
#: What torch.compile puts into the names of a compiled module's parameters.
_COMPILED = "_orig_mod."


def own_module(case: Case) -> torch.nn.Module | None:
    """The module that a case runs, also by one of its methods."""
    for candidate in (case.model, getattr(case.model, "__self__", None)):
        if isinstance(candidate, torch.nn.Module):
            return candidate
    return None


def involved(case: Case, wrt: Any = None) -> list[torch.nn.Module]:
    """Every module that running a case may touch, the roots only."""
    chosen = wrt.values() if isinstance(wrt, Mapping) else _listed(wrt)
    trees = [*case.args, *case.keywords.values(), *(item for item in chosen if not isinstance(item, str))]
    given = [value for tree in trees for _, value in leaves(tree, "") if isinstance(value, torch.nn.Module)]
    found = [*(module for _, module in modules_behind(case.model, case.loss)), *given]
    if isinstance(wrt, torch.nn.ModuleDict):
        found.append(wrt)
    return list({id(module): module for module in found}.values())


def differentiated(case: Case, roots: Sequence[tuple[str, Any]], wrt: Any) -> dict[Key, torch.Tensor]:
    """The tensors to differentiate, by role and path.

    Parameters
    ----------
    case : Case
    roots : sequence of (name, input)
    wrt : str, module, parameter, sequence of them, mapping of names to modules, or None
        Names or patterns; a module stands for its parameters. By default all parameters of the model that require
        gradients and all floating-point inputs; the parameters of modules that a plain function closes over where it
        has no such input.

    Raises
    ------
    InputError
        When nothing can be differentiated.
    UsageError
        When a name fits nothing, or a module named has nothing to differentiate.

    """
    model = own_module(case)
    found: dict[Key, torch.Tensor] = {}
    if model is not None:
        found |= {("parameter", path): parameter for path, parameter in _trainable(model, "")}
    inputs = {
        ("input", path): value for root, tree in roots for path, value in leaves(tree, root) if can_be_moved(value)
    }
    found |= inputs
    behind = {
        ("parameter", path): parameter
        for name, module in modules_behind(case.model, case.loss)
        if module is not model
        for path, parameter in _trainable(module, name)
        if not any(parameter is known for known in found.values())
    }
    found = found or behind if wrt is None else _chosen(found, behind, wrt)
    if not found:
        kinds = [f"{root}: {type(value).__name__}" for root, tree in roots for _, value in leaves(tree, root)]
        raise InputError(
            "there is no floating-point tensor to differentiate",
            f"{case.subject} has no parameter that requires a gradient; inputs: {', '.join(kinds) or 'none'}",
            "pass a floating-point input, or unfreeze a parameter with requires_grad_()",
        )
    return found


def _chosen(found: dict[Key, torch.Tensor], behind: dict[Key, torch.Tensor], wrt: Any) -> dict[Key, torch.Tensor]:
    chosen: dict[Key, torch.Tensor] = {}
    patterns: list[str] = []
    for name, item in _named(wrt):
        if isinstance(item, str):
            patterns.append(item)
        elif isinstance(item, (torch.nn.Module, torch.Tensor)):
            chosen |= _of_module(name, item, found, behind)
        else:
            raise UsageError(
                "wrt= names something that is no tensor",
                f"it holds {type(item).__name__}",
                "give names or patterns ('encoder.*'), modules, parameters, or a mapping of names to modules",
            )
    if patterns:
        # What a function closes over counts where a pattern is meant for it.
        known = found | {k: v for k, v in behind.items() if any(fnmatch.fnmatchcase(k[1], p) for p in patterns)}
        names = set(matching([path for _, path in known], patterns))
        chosen |= {key: tensor for key, tensor in known.items() if key[1] in names}
    return chosen


def _of_module(
    name: str, item: torch.nn.Module | torch.Tensor, found: dict[Key, torch.Tensor], behind: dict[Key, torch.Tensor]
) -> dict[Key, torch.Tensor]:
    """A module's trainable parameters, under the names that they have already, else under the one given."""
    if isinstance(item, torch.Tensor):
        wanted = [(name, item)] if can_be_moved(item) and item.requires_grad else []
        label = f"a tensor of shape {tuple(item.shape)}"
    else:
        wanted, label = list(_trainable(item, name or type(item).__name__)), type(item).__name__
    if not wanted:
        raise UsageError(
            "wrt= names something that has no parameter to differentiate",
            f"{name or label}: {label}",
            "unfreeze it with requires_grad_(), or leave it out",
        )
    known = {id(tensor): key for key, tensor in (behind | found).items()}
    given = {id(tensor): ("parameter", path) for path, tensor in wanted}
    # A name that the user gives goes before the one that the code has for a closed-over module.
    own = {id(tensor) for tensor in found.values()}
    return {
        (known[at] if at in known and (at in own or not name) else given[at]): tensor
        for at, tensor in ((id(tensor), tensor) for _, tensor in wanted)
    }


def _named(wrt: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(wrt, (Mapping, torch.nn.ModuleDict)):
        yield from ((str(name), item) for name, item in wrt.items())
    else:
        yield from (("", item) for item in _listed(wrt))


def _listed(wrt: Any) -> Iterable[Any]:
    """Several things as they are, one thing as a list of one."""
    if wrt is None:
        return []
    return [wrt] if isinstance(wrt, (str, torch.nn.Module, torch.Tensor)) or not isinstance(wrt, Iterable) else wrt


def _trainable(module: torch.nn.Module, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    for path, parameter in module.named_parameters():
        if parameter.requires_grad and not torch.nn.parameter.is_lazy(parameter):
            plain = path.replace(_COMPILED, "")
            yield (f"{prefix}.{plain}" if prefix else plain), parameter
