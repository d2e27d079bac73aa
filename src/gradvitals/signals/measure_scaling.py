"""How activations, gradients and updates grow with width and depth: exponents over models of several sizes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradvitals.frameworks.coordinates import Coordinate
from gradvitals.maths.powerlaw import PowerLaw, power_law
from gradvitals.vocabulary.errors import InputError, UsageError
from gradvitals.vocabulary.finding import Fact
from gradvitals.vocabulary.report import Table

_AXES = ("width", "depth")


@dataclass(frozen=True, slots=True)
class Growth:
    """One quantity at one layer over the sizes.

    Parameters
    ----------
    path, kind, quantity, axis : str
        ``axis`` is ``"width"`` or ``"depth"``. Over depth, layers are matched by their place: the first, the middle and
        the last with weights; ``path`` names them in the smallest and in the largest model.
    role : str
        By which dimensions of the weight grow with the width: ``"input"`` (outputs alone), ``"hidden"`` (both),
        ``"output"`` (inputs alone), ``"fixed"`` (neither); ``""`` without a weight, and over depth.
    step : int
    sizes : tuple of int
        Of each point.
    values : tuple of float
        One per size and seed.
    law : PowerLaw or None
        None where there are too few values that aren't zero.

    """

    path: str
    kind: str
    role: str
    quantity: str
    axis: str
    step: int
    sizes: tuple[int, ...]
    values: tuple[float, ...]
    law: PowerLaw | None

    def typical(self, size: int) -> float:
        """The geometric mean at a size; 0 where any value is 0."""
        found = [value for at, value in zip(self.sizes, self.values, strict=True) if at == size]
        if any(value <= 0 or not math.isfinite(value) for value in found):
            return 0.0 if all(math.isfinite(value) for value in found) else math.nan
        return math.exp(sum(map(math.log, found)) / len(found))


def sized(make_model: Callable[..., Any], axes: Mapping[str, Sequence[int]]) -> Callable[[str, int], Callable[[], Any]]:
    """How a model of a size is made: by the keywords ``width`` and ``depth``, or, of one axis alone, by position.

    Raises
    ------
    UsageError
        When the function takes no such size.

    """
    try:
        parameters = list(inspect.signature(make_model).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY}
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    if open_ended or set(axes) <= named:
        first = {axis: min(sizes) for axis, sizes in axes.items()}
        return lambda axis, size: lambda: make_model(**{**first, axis: size})
    if len(axes) == 1 and by_position and by_position[0].name not in _AXES:  # not a depth where it says width
        return lambda _, size: lambda: make_model(size)
    missing = ", ".join(axis for axis in axes if axis not in named)
    raise UsageError(
        f"make_model doesn't take the {missing}",
        f"its parameters are ({', '.join(parameter.name for parameter in parameters)})",
        "write make_model(width), make_model(depth), or make_model(width, depth) where both are swept",
    )


def growths(axis: str, runs: Sequence[tuple[int, Sequence[Coordinate]]]) -> tuple[Growth, ...]:
    """Match what models of several sizes showed, and fit an exponent to each.

    Parameters
    ----------
    axis : str
    runs : sequence of (int, sequence of Coordinate)
        The size of each model, and what it showed; several of one size are seeds.

    Raises
    ------
    InputError
        When the models have no layer in common, or their weights don't change with the width.

    """
    places = [dict(_by_width(found) if axis == "width" else _by_place(found)) for _, found in runs]
    common = [key for key in places[0] if all(key in place for place in places)]
    if not common:
        raise InputError(
            f"models of different {axis} have no layer in common",
            f"of {axis} {runs[0][0]}: {', '.join(sorted({c.path for c in runs[0][1]})[:5])}, …",
            f"give layers the same names at every {axis}",
        )
    sizes = tuple(size for size, _ in runs)
    small, large = sizes.index(min(sizes)), sizes.index(max(sizes))
    if axis == "width" and all(places[small][key].weight == places[large][key].weight for key in common):
        raise InputError(
            "the models don't change with the width",
            f"all weights have the same shape at width {min(sizes)} and {max(sizes)}",
            "use the width that make_model is given",
        )
    found = []
    for key in common:
        ends, values = (places[small][key], places[large][key]), tuple(place[key].value for place in places)
        role = _role(*(end.weight for end in ends)) if axis == "width" else ""
        law = power_law(sizes, values)
        found.append(Growth(_name(*ends), ends[0].kind, role, ends[0].quantity, axis, ends[0].step, sizes, values, law))
    return tuple(found)


def _by_width(found: Sequence[Coordinate]) -> Iterator[tuple[Any, Coordinate]]:
    for at in found:
        if at.quantity != "forward_rms" or not at.step:
            yield (at.path, at.call, at.kind == "parameter", at.quantity, at.step), at


def _by_place(found: Sequence[Coordinate]) -> Iterator[tuple[Any, Coordinate]]:
    """The first, the middle and the last layer with weights, and the output."""
    layers = list(dict.fromkeys((at.path, at.call) for at in found if at.weight and at.kind != "parameter"))
    chosen = {layers[at]: place for place, at in enumerate((len(layers) // 2, -1, 0))} if layers else {}
    for at in found:
        place = chosen.get((at.path, at.call)) if at.kind != "parameter" else None
        place = "output" if at.kind == "output" else place  # type: ignore[assignment]
        if place is not None and (at.quantity != "forward_rms" or not at.step):
            yield (place, at.quantity, at.step), at


def _role(small: Sequence[int], large: Sequence[int]) -> str:
    if len(small) < 2 or len(large) < 2:
        return ""
    outputs, inputs = (b > a for a, b in zip(small, large, strict=True))
    return {(True, True): "hidden", (True, False): "input", (False, True): "output", (False, False): "fixed"}[
        outputs, inputs
    ]


def _name(small: Coordinate, large: Coordinate) -> str:
    first, last = (f"{at.path} #{at.call}" if at.call else at.path for at in (small, large))
    return first if first == last else f"{first} … {last}"


def scaling_tables(found: Sequence[Growth]) -> tuple[Table, Table]:
    """The tables ``scaling``, an exponent per row, and ``points``, the geometric mean over seeds at each size."""
    columns = ("path", "role", "quantity", "axis", "step", "exponent", "exponent_error", "smallest", "largest", "kind")
    rows: tuple[tuple[Fact, ...], ...] = tuple(
        (
            *(growth.path, growth.role, growth.quantity, growth.axis, growth.step),
            *((growth.law.exponent, growth.law.error) if growth.law else (None, None)),
            *(growth.typical(min(growth.sizes)), growth.typical(max(growth.sizes)), growth.kind),
        )
        for growth in found
    )
    points: tuple[tuple[Fact, ...], ...] = tuple(
        (growth.path, growth.quantity, growth.axis, growth.step, size, growth.typical(size))
        for growth in found
        for size in sorted(set(growth.sizes))
    )
    return (
        Table("scaling", columns, ("",) * len(columns), rows),
        Table("points", ("path", "quantity", "axis", "step", "size", "value"), ("",) * 6, points),
    )
