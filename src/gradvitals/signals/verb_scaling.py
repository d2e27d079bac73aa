"""The verb ``scaling``: how do activations, gradients and updates grow with width and depth?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradvitals.frameworks.coordinates import Coordinate
from gradvitals.frameworks.environment import environment
from gradvitals.signals.measure_scaling import Growth, growths, scaling_tables, sized
from gradvitals.signals.rules_scaling import judge_scaling
from gradvitals.vocabulary.errors import UsageError, unknown_keyword
from gradvitals.vocabulary.report import Report

_KEYWORDS = ("widths", "depths", "loss", "optimizer", "learning_rate", "steps", "seeds", "kwargs", "seed", "name")


def scaling(
    make_model: Callable[..., Any],
    *inputs: Any,
    widths: Sequence[int] = (),
    depths: Sequence[int] = (),
    loss: Callable[[Any], Any] | None = None,
    optimizer: str | Callable[[Any], Any] = "adam",
    learning_rate: float = 1e-3,
    steps: int = 2,
    seeds: int = 3,
    kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **unknown: Any,
) -> Report:
    """Train models of several sizes for a few steps on one batch, and say how each layer's size and update grow.

    This is the coordinate check: where outputs or their updates grow with the width, a learning rate that was tuned on
    a small model is too large for a large one.

    Parameters
    ----------
    make_model : callable
        ``make_model(width)``, ``make_model(depth)``, or ``make_model(width=…, depth=…)``: a ``torch.nn.Module``. When
        both are swept, each is alone, with the other at its least.
    *inputs : tensor, or any nesting of them
        The models' positional inputs: one batch, the same for all.
    widths, depths : sequence of int
        Two different sizes or more, three or four better, far apart.
    loss : callable, optional
        Maps the output to a scalar. Without it a scalar ``output.loss`` is used, else a random gradient of unit RMS per
        sample is sent back from the output at every step.
    optimizer : str or callable
        ``"adam"``, ``"adamw"``, ``"sgd"``, or a function that makes an optimiser of the model, with whatever learning
        rates for whatever layers.
    learning_rate : float
        Of an optimiser by name, the same at every size.
    steps : int
        Training steps; 0 looks at the start only.
    seeds : int
        Models per size.
    kwargs : mapping, optional
        Keyword inputs of the models.
    seed : int
        Of the first model; the others follow.
    name : str, optional
        What the report calls the subject.
    progress : callable, optional
        Called with (models done, models in all).

    Returns
    -------
    Report
        With the tables ``scaling``, an exponent with half of its 95 % interval for each layer and quantity
        (``forward_rms`` and ``gradient_rms`` at the start, ``update_rms`` of the output after each step), and
        ``points``. After Ctrl-C, of the models that were finished, where those of two sizes were, and
        ``settings["interrupted"]``.

    Raises
    ------
    InputError
        When ``make_model`` makes no module, models that have no layer in common, or that don't change with the width.
    ModelError
        When making, running or training a model raises.
    UsageError
        On a misspelt keyword, fewer than two sizes, or a function that takes no such size.

    References
    ----------
    Yang et al. (2022), Tensor Programs V, section 3 and appendix D.1; Yang and Hu (2021), table 1; on depth, Bordelon
    et al. (2024) and Yang et al. (2024).

    Examples
    --------
    >>> import torch
    >>> def make_model(width):
    ...     hidden, readout = torch.nn.Linear(8, width), torch.nn.Linear(width, 1)
    ...     return torch.nn.Sequential(hidden, torch.nn.ReLU(), readout)
    >>> report = scaling(make_model, torch.randn(16, 8), widths=[32, 128, 512], loss=lambda y: y.square().mean())
    >>> [finding.name for finding in report.findings], report.findings[0].site.path
    (['update-grows'], '2')

    """
    for keyword in unknown:
        raise unknown_keyword("scaling", keyword, _KEYWORDS)
    started = time.perf_counter()
    _require(make_model, steps, seeds)
    axes = require_sizes(widths, depths)
    from gradvitals.frameworks.torch.coordinates import coordinates

    made = sized(make_model, axes)
    asked = [(axis, size, number) for number in range(seeds) for axis, sizes in axes.items() for size in sizes]
    runs: dict[str, list[tuple[int, tuple[Coordinate, ...]]]] = {axis: [] for axis in axes}
    interrupted = False
    try:
        for done, (axis, size, number) in enumerate(asked, start=1):
            showed = coordinates(
                made(axis, size),
                inputs,
                dict(kwargs or {}),
                what=f"make_model({axis}={size})",
                loss=loss,
                optimizer=optimizer,
                learning_rate=learning_rate,
                steps=steps,
                seed=seed + number,
            )
            runs[axis].append((size, showed))
            if progress is not None:
                progress(done, len(asked))
    except KeyboardInterrupt:
        runs = {axis: seen for axis, seen in runs.items() if len({size for size, _ in seen}) > 1}
        if not runs:
            raise
        interrupted = True
    found: list[Growth] = [growth for axis, seen in runs.items() for growth in growths(axis, seen)]
    return Report(
        verb="scaling",
        subject=name or str(getattr(make_model, "__name__", type(make_model).__name__)),
        findings=judge_scaling(found),
        tables=scaling_tables(found),
        settings={
            "seed": seed,
            **{f"{axis}s": sizes for axis, sizes in axes.items()},
            "seeds": seeds,
            "steps": steps,
            "optimizer": optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", "own"),
            "learning_rate": learning_rate if isinstance(optimizer, str) else None,
            **({"interrupted": True} if interrupted else {}),
        },
        environment=environment(),
        cost={"seconds": round(time.perf_counter() - started, 4), "models": sum(map(len, runs.values()))},
    )


def require_sizes(widths: Sequence[int], depths: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The sizes by axis, ``width`` and ``depth``, of those that are swept.

    Raises
    ------
    UsageError
        Where there are none, fewer than two of an axis, or one that isn't positive.

    """
    axes = {axis: tuple(sizes) for axis, sizes in (("width", widths), ("depth", depths)) if len(sizes)}
    if not axes:
        raise UsageError("no sizes were given", "scaling(make_model, ...)", "give widths=[64, 256, 1024] or depths=[…]")
    for axis, sizes in axes.items():
        if len(set(sizes)) < 2 or min(sizes) < 1:
            raise UsageError(
                f"too few {axis}s",
                f"{axis}s={list(sizes)}",
                "give two different ones or more, all positive: growth is what they differ by",
            )
    return axes


def _require(make_model: Any, steps: int, seeds: int) -> None:
    if not callable(make_model):
        raise UsageError(
            "make_model can't be called",
            f"got {type(make_model).__name__}",
            "pass a function that makes a model of a size, not a model",
        )
    if steps < 0 or seeds < 1:
        raise UsageError(
            "steps or seeds out of range", f"{steps=}, {seeds=}", "give steps of 0 or more, and a seed or more"
        )
