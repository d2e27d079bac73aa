"""Layer by layer: what becomes of the variance forwards and of the gradient backwards, before, after, and by theory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gradvitals.frameworks.capture import Call, Capture
from gradvitals.vocabulary.finding import Fact
from gradvitals.vocabulary.report import Table
from gradvitals.weights.recipe import Recipe

_SIDES = ("before", "after", "expected")
_COLUMNS = ("path", *(f"variance_ratio_{side}" for side in _SIDES), *(f"gradient_ratio_{side}" for side in _SIDES))


def balance_table(before: Capture, after: Capture, recipes: Sequence[Recipe]) -> Table:
    """One row per layer that one other layer feeds.

    The variance ratio is that of its outputs to those of the layer before; the gradient ratio is that of the mean
    square gradient at the outputs of the layer before to that at its own (χ). Expected are the ones that the recipes
    lead to; empty where theory has nothing to say.
    """
    by_path = {recipe.weight.path: recipe for recipe in recipes}
    rows: list[tuple[Fact, ...]] = []
    for index, call in enumerate(after.calls):
        feeder = _feeder(index, after.calls)
        if feeder is None or len(before.calls) != len(after.calls):
            continue
        pairs = [(capture.calls[feeder], capture.calls[index]) for capture in (before, after)]
        expected = _expected(after.calls[feeder], call, by_path)
        rows.append(
            (
                call.path,
                *(_ratio(here.forward.std, there.forward.std) for there, here in pairs),
                expected[0],
                *(_gradients(there, here) for there, here in pairs),
                expected[1],
            )
        )
    return Table("balance", _COLUMNS, ("",) * len(_COLUMNS), tuple(rows))


def spread(capture: Capture, *, backward: bool) -> float | None:
    """Largest over smallest standard deviation among the layers whose outputs reach an activation; 1 is flat."""
    fed = {source for call in capture.calls if call.activation for source in call.sources}
    layers = [call for index, call in enumerate(capture.calls) if call.has_weights and index in fed]
    moments = [call.gradient if backward else call.forward for call in layers]
    sizes = [found.std for found in moments if found is not None]
    if len(sizes) < 2 or not all(math.isfinite(size) for size in sizes):
        return None
    return max(sizes) / min(sizes) if min(sizes) > 0 else math.inf


def _feeder(index: int, calls: Sequence[Call]) -> int | None:
    """The layer before, where the way there doesn't fork."""
    at = index
    while calls[index].has_weights and len(calls[at].sources) == 1:
        at = calls[at].sources[0]
        if calls[at].has_weights:
            return at
    return None


def _ratio(size: float, reference: float) -> float | None:
    return (size / reference) ** 2 if reference > 0 and math.isfinite(size) else None


def _gradients(there: Call, here: Call) -> float | None:
    if there.gradient is None or here.gradient is None:
        return None
    return _ratio(there.gradient.rms, here.gradient.rms)


def _expected(there: Call, here: Call, by_path: Mapping[str, Recipe]) -> tuple[float | None, float | None]:
    """What the two layers' recipes lead to."""
    recipes = [next((by_path[path] for path in call.parameters if path in by_path), None) for call in (there, here)]
    first, second = recipes
    if first is None or second is None:
        return None, None
    goals = first.goal, second.goal
    variance = (goals[1].std / goals[0].std) ** 2 if goals[0] and goals[1] else None
    fans = second.weight.fan_in, second.weight.fan_out
    back = second.chi * fans[1] / fans[0] if second.chi and fans[0] and fans[1] else None
    return variance, back
