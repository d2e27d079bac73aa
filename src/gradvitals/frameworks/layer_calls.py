"""Every call of a layer as a function of its own: what went in, what came out, and the gradient that came back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol, TypeAlias

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.problem import Array, Problem

#: What of a call is looked at: the layer with all that it calls; the same with outputs that no gradient comes back
#: from; the same with the very gradient that came back; or its own code, its children replaced by what they gave.
View: TypeAlias = Literal["alone", "all-outputs", "arrived", "own-code"]


class CannotReplay(Exception):  # noqa: N818 - nothing failed: there is a layer that can't be looked at
    """A call can't be made again; ``reason`` is a word of the locale."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LayerCall(Protocol):
    """One call of a layer in a forward pass.

    ``path`` is the layer's name and ``call`` counts its calls, ``kind`` is its type, ``parent`` the position of the
    call that it was made in. ``functions`` are the backward passes written by hand in its own code.
    """

    path: str
    call: int
    kind: str
    parent: int | None
    functions: tuple[str, ...]

    @property
    def upstream(self) -> Mapping[str, frozenset[str]]:
        """Of each tensor that the call is differentiated by, by its path in the call's Problem: the case's tensors
        whose gradient comes back through it.
        """
        ...

    @property
    def arrived(self) -> Array | None:
        """The gradient that came back, as a cotangent of the Problem; None where none came or it isn't finite."""
        ...

    def opened(self, view: View = "alone") -> contextlib.AbstractContextManager[Problem]:
        """The call as a Problem, everything as it was at the call: inputs, modes, buffers, random state, autocast.

        A cotangent of unit size is, for the layer, one of the size that came back. Raises CannotReplay.
        """
        ...


@contextlib.contextmanager
def layer_calls(case: Case, wrt: Any = None) -> Iterator[tuple[LayerCall, ...]]:
    """Run a case once, forwards and backwards, and hand over its layers' calls, in the order in which they began.

    On leaving everything is as it was before. None are there where the framework has no layers.

    Parameters
    ----------
    case : Case
    wrt : any, optional
        As for ``check``.

    Raises
    ------
    ModelError
        When the model or the loss raises.

    """
    from gradvitals.frameworks import framework_of

    if framework_of(case) != "torch":
        yield ()
        return
    from gradvitals.frameworks.torch.layer_calls import torch_layer_calls

    with torch_layer_calls(case, wrt) as calls:
        yield calls


def replayed_problems(case: Case, wrt: Any = None, view: View = "alone") -> Iterator[tuple[LayerCall, Problem]]:
    """Every call of a layer that can be made again, with its Problem, which serves until the next one is asked for.

    Close the iterator, or take all of it: then everything is as it was before.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
    >>> for call, problem in replayed_problems(Case(model, (torch.ones(1, 2),))):
    ...     print(call.path, call.kind, [tensor.path for tensor in problem.tensors])
    Sequential Sequential ['0.weight', '0.bias', 'Sequential(input)']
    0 Linear ['0.weight', '0.bias', '0(input)']
    1 Tanh ['1(input)']

    """
    with layer_calls(case, wrt) as calls:
        for call in calls:
            with contextlib.suppress(CannotReplay), call.opened(view) as problem:
                yield call, problem
