"""Drawings: what is drawn where, and what can't be."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.render.conftest import exploded, layers, treated, vanishing

from gradvitals.render.charts import charts
from gradvitals.render.svg import Series, escape, gaps, line_chart
from gradvitals.vocabulary import Table
from gradvitals.vocabulary.words import LANGUAGES

values = st.none() | st.floats() | st.floats(1e-30, 1e30)


def drawn(*series: Series, log: bool = False) -> ET.Element:
    return ET.fromstring(line_chart(series, description="d", x_label="x", log=log))  # noqa: S314 - our own output


def parts(svg: ET.Element, tag: str, role: str = "") -> list[ET.Element]:
    return [e for e in svg.iter(tag) if role in (e.get("class") or "")]


@given(st.lists(st.lists(values, min_size=1, max_size=6), min_size=1, max_size=3), st.booleans())
@settings(deadline=None)
def test_any_numbers_give_a_drawing_inside_its_frame(rows: list[list[float | None]], log: bool) -> None:
    lines = [Series(f"s{at}", "main", tuple(map(float, range(len(row)))), tuple(row)) for at, row in enumerate(rows)]
    svg = drawn(*lines, log=log)
    for circle in svg.iter("circle"):
        assert 0 <= float(circle.attrib["cx"]) <= 460
        assert 0 <= float(circle.attrib["cy"]) <= 270
    points = sum(len(row) - row.count(None) for row in rows)
    assert len(list(svg.iter("circle"))) + len(list(svg.iter("path"))) == points
    assert len(list(svg.iter("path"))) == sum(gaps(line, log=log) for line in lines)
    assert "nan" not in "".join(e.get("points", "") + e.get("d", "") for e in svg.iter())


def test_a_missing_value_breaks_the_line() -> None:
    svg = drawn(Series("a", "main", (1, 2, 3, 4, 5), (1.0, 2.0, None, 4.0, 5.0)))
    assert [len(line.attrib["points"].split()) for line in svg.iter("polyline")] == [2, 2]


def test_zero_and_nan_are_marked_below_and_infinity_above() -> None:
    svg = drawn(Series("a", "main", (1, 2, 3, 4), (1.0, 0.0, math.nan, math.inf)), log=True)
    heights = [float(re.match(r"M[\d.]+,([\d.]+)", e.attrib["d"]).group(1)) for e in svg.iter("path")]  # type: ignore[union-attr]
    assert heights[0] == heights[1] > 200
    assert heights[2] < 40


def test_a_decade_takes_the_same_height_everywhere_on_a_logarithmic_axis() -> None:
    svg = drawn(Series("a", "main", (1, 2, 3), (1e-8, 1e-6, 1e-4)), log=True)
    low, middle, high = (float(e.attrib["cy"]) for e in svg.iter("circle"))
    assert low - middle == pytest.approx(middle - high, abs=0.11)
    assert "10⁻⁸" in "".join(e.text or "" for e in svg.iter("text"))


def test_noise_is_not_blown_up() -> None:
    svg = drawn(Series("a", "main", (1, 2), (1.0, 1.01)), log=True)
    first, second = (float(e.attrib["cy"]) for e in svg.iter("circle"))
    assert abs(first - second) < 2


def test_several_series_share_axes_and_have_a_legend() -> None:
    svg = drawn(Series("old", "before", (1, 2), (1.0, 1.0)), Series("new", "after", (1, 2), (1.0, 2.0)))
    assert len({e.attrib["cy"] for e in parts(svg, "circle", "before")}) == 1
    assert parts(svg, "circle", "before")[0].attrib["cy"] == parts(svg, "circle", "after")[0].attrib["cy"]
    assert {e.text for e in parts(svg, "text", "gv-name")} == {"old", "new"}
    alone = drawn(Series("old", "before", (1, 2), (1.0, 1.0)))
    assert parts(alone, "text", "gv-name") == []


def test_each_point_tells_its_value() -> None:
    svg = drawn(Series("gradient", "main", (1, 2), (1.0, 0.5), ("1. conv", "2. fc")))
    assert [title.text for title in svg.iter("title")] == ["gradient: 1. conv: 1", "gradient: 2. fc: 0.5"]


def test_names_are_escaped() -> None:
    assert escape("<b>\"'&\x00") == "&lt;b&gt;&quot;&#x27;&amp;�"
    svg = drawn(Series("</svg><script>", "main", (1,), (1.0,), ('"><x>',)), Series("b", "after", (1,), (1.0,)))
    assert {e.tag for e in svg.iter()} <= {"svg", "line", "text", "circle", "title", "polyline", "path"}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_layers_give_a_drawing_of_the_signal_and_one_of_the_gradient(lang: str) -> None:
    table = layers("layers", gain=0.5, forward_gain=1.0)
    drawings = charts(table, lang)
    assert len(drawings) == 2
    for chart in drawings:
        svg = ET.fromstring(chart.drawing)  # noqa: S314 - our own output
        assert len(parts(svg, "circle", "gv-main")) == len(table)
        assert svg.attrib["role"] == "img"
        assert chart.title in svg.attrib["aria-label"]


def test_what_can_not_be_drawn_is_counted() -> None:
    compared = next(t for t in _shown(exploded()) if t.name == "comparison")
    signal, gradient = charts(compared, "en")
    assert signal.note == ""
    assert gradient.note == "not drawn (zero or not finite): 3"


def _shown(report: object) -> list[Table]:
    from gradvitals.render.tables import shown_tables

    return shown_tables(report)  # type: ignore[arg-type]


def test_a_training_gives_loss_and_accuracy_over_the_steps() -> None:
    loss, accuracy = charts(treated().table("training"), "en")
    assert (loss.title, accuracy.title) == ("Loss during training", "Test accuracy during training (%)")
    svg = ET.fromstring(accuracy.drawing)  # noqa: S314 - our own output
    assert {e.text for e in parts(svg, "text", "gv-tick")} >= {"0", "100", "200", "300", "training step"}
    assert len(parts(svg, "polyline", "gv-before")) == len(parts(svg, "polyline", "gv-after")) == 1


@pytest.mark.parametrize(
    "table",
    [
        Table("training", ("loss",), ("",), ((1.0,), (2.0,))),
        Table("training", ("step", "loss"), ("", ""), ((math.nan, 1.0), (2, 1.0))),
        Table("training", ("step", "note"), ("", ""), ((1, "a"), (2, "b"))),
        Table("layers", ("path", "gradient_rms"), ("", ""), (("a", None), ("b", None))),
        Table("layers", ("path", "gradient_rms"), ("", ""), (("a", 1.0),)),
        vanishing().table("parameters"),
        vanishing().table("gains"),
    ],
    ids=["no-step", "nan-step", "no-number", "no-value", "one-row", "parameters", "gains"],
)
def test_what_is_only_to_be_read_is_not_drawn(table: Table) -> None:
    assert charts(table, "en") == []
