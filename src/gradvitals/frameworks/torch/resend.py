"""A forward pass of a module or callable whose graph takes several cotangents back, in any memory layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from gradvitals.frameworks.problem import Array, Gradient, Tensor
from gradvitals.frameworks.pullback import ALONE, Pull
from gradvitals.frameworks.torch.entries import flat, moved_to
from gradvitals.frameworks.torch.layouts import laid_out, with_equal_rows
from gradvitals.frameworks.torch.pullback import pulled_back, split
from gradvitals.frameworks.torch.wrt import Key


class TorchPullback:
    """Outputs with their graph, and the leaves that it starts from.

    Parameters
    ----------
    outputs : sequence of tensors
    leaves : sequence of tensors or None
        One per tensor of the problem; None for those that require no gradient.
    tensors : sequence of Tensor
        What the leaves are.
    draws : bool
        Whether the forward pass drew random numbers.
    own : sequence of nodes
        Those of the graph that are the user's own.

    """

    runs_anew = False
    #: Whether it is the pass of a gradient that was asked for before, and no other one.
    is_known = False

    def __init__(
        self,
        outputs: Sequence[torch.Tensor],
        leaves: Sequence[torch.Tensor | None],
        tensors: Sequence[Tensor],
        *,
        draws: bool,
        own: Sequence[Any],
    ) -> None:
        self.draws = draws
        self._outputs = outputs
        self._wanted = [at for at, leaf in enumerate(leaves) if leaf is not None]
        self._leaves = [leaf for leaf in leaves if leaf is not None]
        self._tensors = tensors
        self.value = np.concatenate([flat(output) for output in outputs])
        self.own_backward = bool(own)
        self.own_forward_mode = any(_has_forward_mode(node) for node in own)

    def send(self, cotangent: Array, layout: str = "plain") -> Pull:
        outputs, wanted = self._outputs, split(cotangent, self._outputs)
        if layout == ALONE:
            used = [part.any() for part in wanted]
            outputs = [output for output, is_used in zip(outputs, used, strict=True) if is_used]
            wanted = [part for part, is_used in zip(wanted, used, strict=True) if is_used]
        parts = [
            laid_out(moved_to(output.detach(), part).contiguous(), layout)
            for output, part in zip(outputs, wanted, strict=True)
        ]
        before = [part.clone() for part in parts]
        sent = np.concatenate([flat(part) for part in before])
        try:
            found = pulled_back(outputs, parts, self._leaves, [self._tensors[at] for at in self._wanted])
        except Exception as error:  # noqa: BLE001 - whatever a backward pass raises is what is looked for here
            return Pull(
                (), sent, raised=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0].rstrip('.')}"
            )
        gradients = [Gradient(None)] * len(self._tensors)
        for at, gradient in zip(self._wanted, found, strict=True):
            # A copy: a backward pass may return a buffer of its own, and write into it again.
            value = None if gradient.value is None else gradient.value.copy()
            gradients[at] = Gradient(value, gradient.got_shape, gradient.stopped)
        kept = all(same(part, was) for part, was in zip(parts, before, strict=True))
        return Pull(tuple(gradients), sent, modified=not kept)


def made_ready(
    point: Mapping[Key, torch.Tensor], layout: str, shared: Sequence[tuple[int, int]], only: Sequence[int] | None
) -> tuple[list[torch.Tensor | None], dict[Key, torch.Tensor]]:
    """Leaves that require gradients (None where none is asked for), and what is made of them for the function.

    Parameters
    ----------
    point : mapping
        Inputs and parameters; parameters are their own leaves.
    layout, shared, only
        As in :class:`~gradvitals.frameworks.pullback.Pullable`.

    """
    leaves: list[torch.Tensor | None] = []
    handed: dict[Key, torch.Tensor] = {}
    for at, (key, tensor) in enumerate(point.items()):
        wanted = only is None or at in only
        is_parameter = key[0] == "parameter"
        leaf = tensor if is_parameter and wanted else tensor.detach()
        leaves.append(leaf.requires_grad_() if wanted and not is_parameter else leaf if wanted else None)
        if is_parameter or layout == "plain":
            handed[key] = leaf
        else:
            handed[key] = with_equal_rows(leaf) if layout == "expanded-rows" else laid_out(leaf, layout)
    keys = list(point)
    for first, second in shared:
        # One and the same tensor twice; no leaf, of which each argument would get a copy of its own.
        handed[keys[first]] = handed[keys[second]] = handed[keys[first]] * 1
        leaves[second] = None
    return leaves, handed


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same numbers; sparse ones aren't looked at."""
    if one.layout != torch.strided:
        return True
    if torch.equal(one, other):
        return True
    pair = [torch.view_as_real(part.resolve_conj()) if part.is_complex() else part for part in (one, other)]
    return torch.equal(pair[0].nan_to_num(), pair[1].nan_to_num())


def _has_forward_mode(node: Any) -> bool:
    function = getattr(node, "_forward_cls", torch.autograd.Function)
    return getattr(function, "jvp", None) is not torch.autograd.Function.jvp
