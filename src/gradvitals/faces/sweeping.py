"""What ``gradvitals scaling`` does with a factory: make its models at several sizes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from gradvitals.frameworks.case import load_sized
from gradvitals.signals.measure_scaling import sized
from gradvitals.signals.verb_scaling import require_sizes, scaling
from gradvitals.vocabulary.report import Report


def swept(
    target: str,
    progress: Callable[[int, int], None] | None,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    **asked: Any,
) -> Report:
    """Sweep the factory's models over the sizes, all on the inputs and the loss of the smallest."""
    factory = load_sized(target)
    axes = require_sizes(widths, depths)
    axis, sizes = next(iter(axes.items()))
    case = sized(factory, axes)(axis, min(sizes))()

    @functools.wraps(factory)
    def model(*args: Any, **kwargs: Any) -> Any:
        return factory(*args, **kwargs).model

    return scaling(
        model,
        *case.args,
        widths=widths,
        depths=depths,
        loss=case.loss,
        kwargs=case.keywords,
        name=case.subject,
        progress=progress,
        **asked,
    )
