"""The arguments of one call, made anew each time, so that code that works in place does no harm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.entries import wider
from gradvitals.frameworks.tree import leaves, rebuilt
from gradvitals.frameworks.user_code import argument_names


class Arguments:
    """A case's inputs with their names.

    Examples
    --------
    >>> made = Arguments(Case(torch.add, (torch.ones(2), {"scale": torch.zeros(2)})))
    >>> [path for path, _ in made.tensors()]
    ['input0', 'input1.scale']
    >>> made.at({"input0": torch.full((2,), 3.0)})[0][0]
    tensor([3., 3.])

    """

    def __init__(self, case: Case) -> None:
        function = case.model.forward if isinstance(case.model, torch.nn.Module) else case.model
        names, keywords = argument_names(function, case.args, case.keywords)
        #: Pairs of name and input, which may be nested.
        self.roots = [*zip(names, case.args, strict=True), *((keywords[k], v) for k, v in case.keywords.items())]
        self._count = len(case.args)
        self._keywords = list(case.keywords)
        self._kinds = [_kind(tree, root) for root, tree in self.roots]

    def tensors(self) -> list[tuple[str, torch.Tensor]]:
        """All tensors among them, with their paths."""
        return [(p, v) for root, tree in self.roots for p, v in leaves(tree, root) if isinstance(v, torch.Tensor)]

    def at(self, inputs: Mapping[str, torch.Tensor], *, wide: bool = False) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments, some tensors replaced, the others copied (widened to float64 if wanted)."""

        def leaf(path: str, value: Any) -> Any:
            if path in inputs:
                # A leaf that requires gradients can't be written in place, a copy of it can.
                made_here = inputs[path].is_leaf and inputs[path].requires_grad
                return inputs[path].clone() if made_here else inputs[path]
            return copied(value, wide=wide) if isinstance(value, torch.Tensor) else value

        made = [
            leaf(root, tree) if kind == "tensor" else rebuilt(tree, root, leaf) if kind == "nest" else tree
            for kind, (root, tree) in zip(self._kinds, self.roots, strict=True)
        ]
        return tuple(made[: self._count]), dict(zip(self._keywords, made[self._count :], strict=True))


def copied(tensor: torch.Tensor, *, wide: bool) -> torch.Tensor:
    """A copy outside any graph."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    return tensor.to(wider(tensor.dtype), copy=True) if wide else tensor.clone()


def _kind(tree: Any, root: str) -> str:
    """Containers without tensors (a config object that happens to be a mapping) are handed over as they are."""
    if isinstance(tree, torch.Tensor):
        return "tensor"
    return "nest" if any(isinstance(value, torch.Tensor) for _, value in leaves(tree, root)) else "other"
