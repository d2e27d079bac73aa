"""What in PyTorch's settings makes it compute with fewer digits than a dtype has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


def lowered_precision(devices: Sequence[str]) -> tuple[str, ...]:
    """The settings in force on these kinds of device, as one would write them; only those that lower the precision.

    >>> lowered_precision(["cpu"])
    ()
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     lowered_precision(["cpu"])
    ("torch.autocast('cpu', torch.bfloat16)",)
    """
    return tuple(_settings(sorted(set(devices))))


def _settings(devices: Sequence[str]) -> Iterator[str]:
    for device in devices:
        if torch.is_autocast_enabled(device):
            yield f"torch.autocast({device!r}, {torch.get_autocast_dtype(device)})"
    precision = torch.get_float32_matmul_precision()
    if precision != "highest":
        yield f"torch.set_float32_matmul_precision({precision!r})"
    if "cuda" in devices:
        if torch.backends.cudnn.allow_tf32:
            yield "torch.backends.cudnn.allow_tf32"
        for dtype in ("bf16", "fp16"):
            name = f"allow_{dtype}_reduced_precision_reduction"
            if getattr(torch.backends.cuda.matmul, name):
                yield f"torch.backends.cuda.matmul.{name}"
