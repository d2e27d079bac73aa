"""Cells, columns and rows as readers see them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.render.conftest import layers, treated, wrong

from gradvitals.render import tables
from gradvitals.render.layout import bars, fit, pad, shorten, width, wrap
from gradvitals.vocabulary import Estimate, Report, Table
from gradvitals.vocabulary.words import LANGUAGES


@pytest.mark.parametrize(
    ("value", "column", "unit", "shown"),
    [
        ("factor-missing", "likely", "", "factor missing"),
        ("output", "path", "", "output"),
        ("right", "status", "", "right"),
        ("brand-new", "status", "", "brand-new"),
        ((), "shape", "", "scalar"),
        ((), "index", "", "–"),
        ((), "found", "", "no finding"),
        (("gradient-wrong",), "found", "", "gradient-wrong"),
        (0.031, "saturated_share", "", "3.1 %"),
        (93.7, "accuracy_after", "%", "93.7"),
        (Estimate(0.238, 0.004), "gain", "", "0.2380 ± 0.0040"),
        ("", "hint", "", "–"),
        ("a\x1b[0m\nb", "path", "", "a�[0m b"),
        (math.nan, "zero_share", "", "nan"),
        (True, "bias", "", "yes"),
    ],
)
def test_a_cell_says_its_value(value: object, column: str, unit: str, shown: str) -> None:
    assert tables.cell(value, column, unit) == shown  # type: ignore[arg-type]


def test_a_tables_own_heading_comes_before_the_general_one() -> None:
    table = Table("tensors", ("path", "zero_share", "brand_new"), ("", "share", "furlong"), (("w", 0.1, 1),))
    assert [column.heading for column in tables.sheet(table, "en").columns] == [
        "tensor",
        "zeros",
        "brand_new (furlong)",
    ]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_numbers_are_aligned_to_the_right_and_names_to_the_left(lang: str) -> None:
    columns = {column.key: column.numeric for column in tables.sheet(wrong().table("tensors"), lang).columns}
    assert columns["relative_error"]
    assert not columns["path"]
    assert not columns["shape"]


def test_a_comparison_pairs_layers_by_name_and_call() -> None:
    columns = ("path", "call", "gradient_rms")
    before = Table("before", columns, ("",) * 3, (("a", 0, 1.0), ("a", 1, 2.0), ("old", 0, 3.0)))
    after = Table("after", columns, ("",) * 3, (("a", 0, 4.0), ("a", 1, 5.0), ("new", 0, 6.0)))
    compared = tables.comparison(before, after)
    assert compared.columns == ("path", "kind", "gradient_rms_before", "gradient_rms_after")
    assert compared.rows == (
        ("a", None, 1.0, 4.0),
        ("a", None, 2.0, 5.0),
        ("old", None, 3.0, None),
        ("new", None, None, 6.0),
    )


def test_before_and_after_become_one_table_where_the_second_stood() -> None:
    assert [table.name for table in tables.shown_tables(treated())] == ["plan", "comparison", "training"]


def test_a_lone_before_stays_as_it_is_and_an_empty_table_is_not_shown() -> None:
    report = Report(
        "init", "n", (), (layers("before", gain=1.0, forward_gain=1.0), Table("plan", ("path",), ("",), ()))
    )
    assert [table.name for table in tables.shown_tables(report)] == ["before"]


@given(st.integers(0, 60), st.integers(2, 20), st.sets(st.integers(0, 59)))
def test_shortening_keeps_order_ends_and_the_flagged(count: int, limit: int, flagged: set[int]) -> None:
    flagged = {row for row in flagged if row < count}
    kept = tables.kept_rows(count, limit, flagged)
    rows = [row for row in kept if row is not None]
    assert rows == sorted(set(rows))
    if count <= limit:
        assert kept == list(range(count))
        return
    assert set(sorted(flagged)[: limit // 2]) <= set(rows)
    assert len(rows) >= limit
    # Every gap stands for at least two rows, and between kept neighbours there is none.
    for at, row in enumerate(kept):
        if row is None:
            before = kept[at - 1] if at else -1
            after = kept[at + 1] if at + 1 < len(kept) else count
            assert before is not None
            assert after is not None
            assert after - before > 2
    assert sum(row is None for row in kept) == sum(b - a > 1 for a, b in zip([-1, *rows], [*rows, count], strict=True))


@given(st.text(st.sampled_from("ab c梯度。，（x.、"), max_size=60), st.integers(4, 30))
def test_wrapping_loses_nothing_and_fits(text: str, limit: int) -> None:
    lines = wrap(text, limit)
    assert all(width(line) <= limit for line in lines if len(line) > 1 and not set("。，、（") & set(line))
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_chinese_marks_do_not_begin_a_line() -> None:
    lines = wrap("信号每过一层变为原来的两倍：经过二十层，已放大到一百万倍。" * 3, 17)
    assert not [line for line in lines if line[0] in "，。：；、）"]


@given(st.lists(st.none() | st.floats(), max_size=12))
def test_bars_never_break_and_never_overflow(values: list[float | None]) -> None:
    drawn = bars(values, 10)
    assert len(drawn) == len(values)
    assert all(len(bar) <= 10 for bar in drawn)


def test_bars_of_nearly_equal_values_look_equal() -> None:
    assert len(set(bars([1.0, 1.02, 0.99], 10))) == 1


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=50), st.integers(6, 20))
def test_a_shortened_name_fits(text: str, limit: int) -> None:
    assert width(shorten(text, limit)) <= limit
    assert width(pad(shorten(text, limit), limit)) == limit


def test_what_matters_stays_when_the_width_does_not_suffice() -> None:
    sheet = tables.sheet(wrong().table("tensors"), "en")
    grid = fit(sheet.columns, range(sheet.rows), 40, ("path", "status", "relative_error"))
    assert [column.key for column in grid.columns] == ["path", "status", "relative_error"]
    assert width(grid.header) <= 40
