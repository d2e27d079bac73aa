"""What in PyTorch's settings makes it compute with fewer digits than a dtype has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from gradvitals.frameworks.torch.entries import unit_roundoff

#: What a float32 product may be computed in instead.
_COARSE = frozenset({"tf32", "bf16"})
#: In the names of nodes behind which cuDNN may be, hand-written and compiled ones among them.
_BY_CUDNN = ("Conv", "Cudnn", "Rnn", "Function")


def lowered_precision(devices: Sequence[str], operations: Iterable[str] | None = None) -> tuple[str, ...]:
    """The settings in force on these kinds of device, as one would write them; only those that lower the precision.

    Parameters
    ----------
    devices : sequence of str
    operations : iterable of str, optional
        Names of the nodes of autograd's graph. By default convolutions on a GPU are done in TF32: where there are none,
        that explains nothing, and isn't named.

    Examples
    --------
    >>> lowered_precision(["cpu"])
    ()
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     lowered_precision(["cpu"])
    ("torch.autocast('cpu', torch.bfloat16)",)

    """
    names = None if operations is None else " ".join(operations)
    by_cudnn = names is None or any(kind in names for kind in _BY_CUDNN)
    return tuple(dict.fromkeys(_settings(sorted(set(devices)), by_cudnn=by_cudnn)))


def autocast_roundoff(devices: Sequence[str]) -> float:
    """Of the coarsest dtype that autocast computes in at the moment on some kinds of device, zero where it is off."""
    on = [torch.get_autocast_dtype(device) for device in set(devices) if torch.is_autocast_enabled(device)]
    return max((unit_roundoff(dtype) for dtype in on), default=0.0)


def _settings(devices: Sequence[str], *, by_cudnn: bool) -> Iterator[str]:
    for device in devices:
        if torch.is_autocast_enabled(device):
            yield f"torch.autocast({device!r}, {torch.get_autocast_dtype(device)})"
    if "cuda" in devices:
        yield from _of_matmul()
        if by_cudnn:
            yield from _of_cudnn()
    if "cpu" in devices:
        yield from _of_cpu()


def _of_matmul() -> Iterator[str]:
    matmul = torch.backends.cuda.matmul
    if matmul.fp32_precision in _COARSE:
        old = _readable(lambda: matmul.allow_tf32)
        yield "torch.backends.cuda.matmul" + (".allow_tf32" if old else f".fp32_precision={matmul.fp32_precision!r}")
    if torch.is_autocast_enabled("cuda"):  # these are on by default, and concern 16-bit products alone
        for setting in ("bf16_reduced_precision_reduction", "fp16_reduced_precision_reduction", "fp16_accumulation"):
            if getattr(matmul, f"allow_{setting}"):
                yield f"torch.backends.cuda.matmul.allow_{setting}"


def _of_cudnn() -> Iterator[str]:
    cudnn = torch.backends.cudnn
    old = _readable(lambda: cudnn.allow_tf32)
    for name in ("conv", "rnn"):
        precision = getattr(cudnn, name).fp32_precision
        if precision in _COARSE:
            yield "torch.backends.cudnn" + (".allow_tf32" if old else f".{name}.fp32_precision={precision!r}")


def _of_cpu() -> Iterator[str]:
    old = _readable(torch.get_float32_matmul_precision)
    for name in ("matmul", "conv", "rnn"):
        precision = getattr(torch.backends.mkldnn, name).fp32_precision
        if precision in _COARSE and name == "matmul" and old not in {None, "highest"}:
            yield f"torch.set_float32_matmul_precision({old!r})"
        elif precision in _COARSE:
            yield f"torch.backends.mkldnn.{name}.fp32_precision={precision!r}"


def _readable(setting: Callable[[], Any]) -> Any:
    """An older name of a setting; torch raises where it was changed by its newer one."""
    try:
        return setting()
    except RuntimeError:
        return None
