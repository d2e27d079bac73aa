"""One forward pass that takes several cotangents back: what the structure of a backward pass is seen from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gradvitals.frameworks.problem import Array, Gradient, Problem
from gradvitals.vocabulary.errors import GradvitalsError

#: The layout of a cotangent that is sent for those outputs only for which it isn't zero: for the others none comes.
ALONE = "alone"


@dataclass(frozen=True, slots=True)
class Pull:
    """What came of one cotangent.

    Attributes
    ----------
    gradients : tuple of Gradient
        One per tensor; empty where the backward pass raised.
    sent : array of shape (M,)
        The cotangent as it was sent: an expanded one repeats its first entry, or its first row.
    raised : str
        What the backward pass raised.
    modified : bool
        Whether it wrote into the cotangent.

    """

    gradients: tuple[Gradient, ...]
    sent: Array
    raised: str = ""
    modified: bool = False


class Pullback(Protocol):
    """A forward pass that has been run."""

    value: Array
    #: Whether a backward pass that isn't the framework's own is part of it, which other calls in between must not
    #: disturb.
    own_backward: bool
    #: Whether a forward mode that isn't the framework's own is part of it.
    own_forward_mode: bool
    #: Whether random numbers were drawn, which some functions deal out in the order of memory.
    draws: bool
    #: Whether every backward pass comes with a forward pass of its own.
    runs_anew: bool

    def send(self, cotangent: Array, layout: str = "plain") -> Pull:
        """Take a cotangent back; again and again, as long as the backward pass allows it."""
        ...


class Pullable(Problem, Protocol):
    """A problem whose backward pass can be asked in more ways than one."""

    #: In which layouts, besides "plain", the same cotangent may arrive. "transposed": the first and the last axis are
    #: exchanged in memory. "sliced": every second entry of a longer row, from the second one on. "channels-last": of
    #: images. "expanded": one number with all strides zero, as ``y.sum().backward()`` sends it. "expanded-rows": one
    #: row for all rows, as ``y.sum(0)`` sends it. What lies beside the entries in memory is something else, so that
    #: code which takes for granted that they are contiguous reads other numbers, and never beyond the memory.
    layouts: tuple[str, ...]
    #: Whether a cotangent may be sent for one of several outputs, and none at all for the others: the layout ``ALONE``.
    sends_alone: bool
    #: Whether the framework hands one and the same cotangent to several backward passes, so that none may change it.
    shares_cotangents: bool

    def pullback(
        self,
        moved: Mapping[int, Array] | None = None,
        *,
        layout: str = "plain",
        shared: Sequence[tuple[int, int]] = (),
        only: Sequence[int] | None = None,
    ) -> Pullback:
        """Run the forward pass.

        Parameters
        ----------
        moved : mapping of tensor number to array, optional
            Inputs to be moved elsewhere; parameters stay where they are.
        layout : str
            Of the inputs in memory: "plain"; "strided"; "expanded-rows", where the first row stands for all of them
            (its gradient is then the sum of all).
        shared : sequence of pairs of tensor numbers
            Of each pair, the first tensor is handed over as the second one as well; its gradient is the sum of both.
        only : sequence of tensor numbers, optional
            The tensors that require a gradient; all by default.

        """
        ...


class PlainPullback:
    """The pullback of a problem that knows nothing but :meth:`Problem.gradient`: a forward pass for every cotangent.

    Parameters
    ----------
    problem : Problem

    """

    own_backward = False
    own_forward_mode = False
    draws = False
    runs_anew = True

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.value = problem.value({})

    def send(self, cotangent: Array, layout: str = "plain") -> Pull:
        del layout  # arrays have none
        try:
            return Pull(self._problem.gradient(cotangent), cotangent)
        except GradvitalsError as error:
            return Pull((), cotangent, raised=str(error))
