"""What one evaluation of a function does, as far as it tells whether many at once are faster than one by one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: Fewer points aren't worth a run of ``torch.func.vmap``: a first run is compared with a plain one, which is watched,
#: and many copies of all parameters leave the caches (8 points of an MLP, a conv net and a transformer block, CPU).
LEAST_POINTS = 12
#: Bytes that an operation reads and writes on average, from which on its call costs little beside its work: models of
#: 160 kB gained 15 % at once and those of 230 kB lost 10 %, sines of 10⁵ numbers (950 kB) took nearly twice as long.
MOST_BYTES = 192 * 2**10


@dataclass(slots=True)
class Work:
    """Operations, the bytes that they read and write, and the bytes of the widest of them."""

    operations: int = 0
    moved_bytes: int = 0
    widest: int = 0

    @property
    def batching_pays(self) -> bool:
        """Whether many points are faster at once than one by one."""
        return self.moved_bytes <= MOST_BYTES * max(self.operations, 1)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, work: Work) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._work = work

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first operation imports the compiler, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        size = 0
        for item in (*args, *(result if isinstance(result, (tuple, list)) else (result,))):
            if isinstance(item, torch.Tensor):
                size += item.numel() * item.element_size()
            elif isinstance(item, (list, tuple)):  # what is concatenated or stacked
                size += sum(part.numel() * part.element_size() for part in item if isinstance(part, torch.Tensor))
        work = self._work
        work.operations += 1
        work.moved_bytes += size
        work.widest = max(work.widest, size)
        return result


@contextlib.contextmanager
def watched() -> Iterator[Work]:
    """Count what is done inside."""
    work = Work()
    with _Watch(work):
        yield work
