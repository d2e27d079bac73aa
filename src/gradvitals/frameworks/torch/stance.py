"""Run what is compiled as it was written."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def run_eagerly() -> Iterator[None]:
    """Run what is compiled, at any depth, as it was written: inside a graph nothing can be seen."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled, and importing it takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
