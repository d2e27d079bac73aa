"""Judge two runs beside one another: the first place where they part beyond rounding (S212)."""

from __future__ import annotations

from collections.abc import Sequence

from gradvitals.frameworks.capture import Apart
from gradvitals.vocabulary.finding import Fact, Finding, Severity, Site
from gradvitals.vocabulary.report import Table
from gradvitals.vocabulary.rule import Rule, Threshold

RUNS_DIFFER = Rule(
    "S212",
    Severity.WARNING,
    {
        "roundings": Threshold(
            4.0,
            "times what one rounding of inputs and weights makes",
            "a layer's own roundings add to it: sound pairs stay below 1 (measured, tests/signals/test_against.py)",
        ),
        "gradient_roundings": Threshold(
            8.0,
            "times what one rounding of inputs and weights makes",
            "at kinks a rounding switches units on and off: sound pairs stay below 6 (measured, the same file)",
        ),
    },
)


def judge_apart(places: Sequence[Apart]) -> tuple[Finding, ...]:
    """S212 at the first call whose values part; where none does, at the first gradient from the loss back."""
    for place in places:
        if _values_part(place):
            return (_finding(place, "values", place.forward, place.forward_noise),)
    called = [place for place in places if place.kind not in {"parameter", "output"}]
    back = [*reversed(called), *(place for place in places if place.kind == "parameter")]
    for place in back:
        if _gradients_part(place):
            return (_finding(place, "gradients", place.gradient, place.gradient_noise),)
    return ()


def apart_table(places: Sequence[Apart]) -> Table:
    """The table ``against``: one row per call, output and parameter that both runs show."""
    columns = (
        "path",
        "call",
        "kind",
        "forward_distance",
        "forward_noise",
        "gradient_distance",
        "gradient_noise",
        "parted",
    )
    rows: tuple[tuple[Fact, ...], ...] = tuple(
        (
            *(place.path, place.call, place.kind, place.forward),
            None if place.forward is None else place.forward_noise,
            place.gradient,
            None if place.gradient is None else place.gradient_noise,
            "values" if _values_part(place) else "gradients" if _gradients_part(place) else "",
        )
        for place in places
    )
    return Table("against", columns, ("",) * len(columns), rows)


def _values_part(place: Apart) -> bool:
    return place.forward is not None and place.forward > RUNS_DIFFER["roundings"] * place.forward_noise


def _gradients_part(place: Apart) -> bool:
    return place.gradient is not None and place.gradient > RUNS_DIFFER["gradient_roundings"] * place.gradient_noise


def _finding(place: Apart, what: str, distance: float | None, noise: float) -> Finding:
    facts: dict[str, Fact] = {"what": what, "distance": distance, "noise": noise}
    if place.weights_differ:
        facts["likely"] = "weights"
    elif place.modes_differ:
        facts["likely"] = "mode"
    elif what == "gradients":
        facts["likely"] = "only-gradient"
    path = f"{place.path} #{place.call}" if place.call else place.path
    return Finding("S212", RUNS_DIFFER.severity, Site(path), facts)
