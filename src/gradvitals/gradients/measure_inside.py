"""The structure of backward passes written by hand inside a model: each layer that holds one is asked by itself.

From outside, a layer's cotangent comes as the layers behind it send it: contiguous, for all outputs, of one size. In
another model it may not.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.layer_calls import CannotReplay, LayerCall, layer_calls
from gradvitals.frameworks.problem import Tensor
from gradvitals.gradients.cotangent import cotangent_of
from gradvitals.gradients.measure_structure import Structure, examine_structure
from gradvitals.vocabulary.errors import GradvitalsError

#: Layers with the same functions that are asked, and layers at all: what one of them shows, its twins show as well.
_OF_ONE_KIND, _AT_MOST = 2, 8
#: A layer asked by itself takes so many forward passes, as good as never more.
_USUAL_FORWARDS = 12


@dataclass(frozen=True, slots=True)
class Inside:
    """What a layer that holds a hand-written backward pass showed by itself."""

    path: str
    kind: str
    functions: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    structure: Structure


def structure_inside(case: Case, wrt: Any, *, seed: int, left: int | None = None) -> tuple[Inside, ...]:
    """Ask the backward passes written by hand in a model's layers what every backward pass must answer alike.

    Parameters
    ----------
    case : Case
    wrt : any
        As for ``check``.
    seed : int
        Of the cotangents.
    left : int, optional
        How many evaluations there are left.

    Returns
    -------
    tuple of Inside
        Empty where the case is one layer alone, which has been asked already.

    """
    found: list[Inside] = []
    seen: Counter[tuple[str, ...]] = Counter()
    try:
        with layer_calls(case, wrt) as calls:
            if len(calls) < 2:
                return ()
            for call in calls:
                spent = sum(inside.structure.forwards for inside in found)
                if len(found) == _AT_MOST or (left is not None and spent + _USUAL_FORWARDS > left):
                    break
                if not call.functions or seen[call.functions] == _OF_ONE_KIND:
                    continue
                seen[call.functions] += 1
                with contextlib.suppress(CannotReplay, GradvitalsError):
                    found.append(_asked(call, seed))
    except GradvitalsError:  # the model doesn't run once more, watched
        return ()
    return tuple(found)


def _asked(call: LayerCall, seed: int) -> Inside:
    rng = np.random.default_rng(seed)
    with call.opened("alone") as problem:
        value = problem.value({})
        cotangent = cotangent_of(problem, np.zeros(value.size), rng)
        structure = examine_structure(problem, cotangent, problem.gradient(cotangent), rng, value=value)
        return Inside(call.path, call.kind, call.functions, problem.tensors, structure)
