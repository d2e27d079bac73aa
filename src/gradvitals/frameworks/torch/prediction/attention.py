"""Softmax attention."""

from __future__ import annotations

from typing import Any


def takes_product(operation: Any, a: Any, b: Any) -> bool:
    return False


def takes_sum(operation: Any, a: Any, b: Any, sign_a: float, sign_b: float) -> bool:
    return False


def takes_factor(operation: Any, a: Any, b: Any, *, divides: bool) -> bool:
    return False


def takes_mask(operation: Any) -> bool:
    return False
