"""Entries chosen between two tensors."""

from __future__ import annotations

from gradvitals.frameworks.torch.prediction.operation import Operation


def chosen(operation: Operation) -> None:
    """One of two tensors, entry by entry."""
    raise NotImplementedError("a choice of this kind")


def filled(operation: Operation) -> None:
    """A number in some places."""
    raise NotImplementedError("a choice of this kind")
