"""The slow truth behind a prediction: the same model built anew many times, and measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.capture import capture
from gradvitals.frameworks.torch.prediction.predict import predict


@dataclass(frozen=True)
class Agreement:
    """By call: log(measured / predicted) over draws of the weights, forwards and backwards, and the stated 1σ."""

    forward: dict[str, np.ndarray]
    backward: dict[str, np.ndarray]
    forward_error: dict[str, float]
    backward_error: dict[str, float]
    unmodelled: tuple[str, ...]
    tensors: str

    def worst(self, direction: str, *, only: Callable[[str], bool] = lambda _: True) -> tuple[float, str]:
        """The largest error of the geometric mean beyond twice its own standard error, and where it is."""
        found = [(0.0, "")]
        for path, logs in getattr(self, direction).items():
            if only(path) and np.isfinite(logs).all():
                excess = abs(logs.mean()) - 2 * logs.std(ddof=1) / math.sqrt(len(logs))
                found.append((math.expm1(max(excess, 0.0)), path))
        return max(found)

    def inside(self, direction: str, deviations: float = 2.0) -> float:
        """The share of layers and draws inside the stated band."""
        errors = getattr(self, f"{direction}_error")
        hits = [
            np.abs(logs) <= deviations * errors[path] + 1e-4
            for path, logs in getattr(self, direction).items()
            if np.isfinite(logs).all()
        ]
        return float(np.concatenate(hits).mean())


def agreement(make: Callable[[], tuple[torch.nn.Module, tuple]], draws: int, **case) -> Agreement:
    """Build the model ``draws`` times, predict and measure each."""
    logs: dict[str, dict[str, list[float]]] = {"forward": {}, "backward": {}}
    errors: dict[str, dict[str, list[float]]] = {"forward": {}, "backward": {}}
    unmodelled: set[str] = set()
    tensors = ""
    for draw in range(draws):
        torch.manual_seed(draw)
        model, inputs = make()
        given = Case(model, inputs, **case)
        said, seen = predict(given, seed=draw), capture(given, seed=draw)
        tensors = said.tensors
        unmodelled |= {operation.name for operation in said.unmodelled}
        measured = {(call.path, call.call): call for call in seen.calls}
        for call in said.calls:
            other = measured.get((call.path, call.call))
            if other is None:
                continue
            name = f"{call.path}#{call.call}"
            pairs = (("forward", call.forward, other.forward), ("backward", call.gradient, other.gradient))
            for direction, ours, theirs in pairs:
                if ours is None or theirs is None or ours.rms == 0 or theirs.rms == 0:
                    continue
                logs[direction].setdefault(name, []).append(math.log(theirs.rms / ours.rms))
                errors[direction].setdefault(name, []).append(ours.error)
    return Agreement(
        *({path: np.array(values) for path, values in logs[d].items()} for d in ("forward", "backward")),
        *({path: float(np.mean(values)) for path, values in errors[d].items()} for d in ("forward", "backward")),
        tuple(sorted(unmodelled)),
        tensors,
    )
