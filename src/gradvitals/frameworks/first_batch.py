"""The first batch of a case's batches, for verbs that look at one."""

from __future__ import annotations

import sys
from typing import Any

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.user_code import HostRandomState


def on_first_batch(case: Case) -> Case:
    """The case on its first batch, with a loss of the output alone.

    A loss for batches takes a batch's last item as well, which belongs to that batch's inputs. A case whose batches
    hold no such item, or without a loss, stays as it is. Random states are as before: loaders shuffle.

    >>> case = Case(abs, (1.0,), loss=lambda output, target: output - target, batches=[(-3.0, 1.0)])
    >>> first = on_first_batch(case)
    >>> first.args, first.loss(first.model(*first.args))
    ((-3.0,), 2.0)
    """
    loss: Any = case.loss
    if case.batches is None or loss is None:
        return case
    batch = _first(case.batches)
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        return case
    *inputs, target = batch
    return Case(case.model, tuple(inputs), case.kwargs, loss=lambda output: loss(output, target), name=case.subject)


def _first(batches: Any) -> Any:
    randomness: Any = HostRandomState
    if "torch" in sys.modules:
        from gradvitals.frameworks.torch.state import RandomState

        randomness = RandomState
    state = randomness.capture()
    try:
        return next(iter(batches), None)
    finally:
        state.restore()
