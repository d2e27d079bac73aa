"""The relative error of two gradients and the four grades of the course notes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gradvitals.gradients.grades import GRADES, grade, relative_error

#: Squares of smaller numbers than these underflow.
numbers = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-100)
vectors = arrays(np.float64, st.integers(1, 6), elements=numbers)


@given(st.data())
def test_relative_error_is_the_formula_of_the_notes(data):
    num = data.draw(vectors)
    bp = data.draw(arrays(np.float64, num.size, elements=numbers))
    difference = math.sqrt(sum((a - b) ** 2 for a, b in zip(num, bp, strict=True)))
    sizes = math.sqrt(sum(a * a for a in num)) + math.sqrt(sum(b * b for b in bp))
    expected = difference / sizes if sizes else 0.0
    assert relative_error(num, bp) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(vectors, st.floats(1e-3, 1e3))
def test_relative_error_lies_between_0_and_1_and_has_no_unit(num, unit):
    bp = num[::-1].copy()
    error = relative_error(num, bp)
    assert 0 <= error <= 1 + 1e-12
    assert relative_error(bp, num) == error
    assert relative_error(unit * num, unit * bp) == pytest.approx(error, rel=1e-6, abs=1e-12)


@given(vectors)
def test_equal_is_0_and_opposite_is_1(num):
    assert relative_error(num, num) == 0
    if np.linalg.norm(num) > 0:
        assert relative_error(num, -num) == pytest.approx(1)
        assert relative_error(num, 0 * num) == pytest.approx(1)


def test_zero_against_zero_is_0():
    assert relative_error(np.zeros((2, 3)), np.zeros((2, 3))) == 0


def test_twice_the_gradient_is_a_third():
    assert relative_error([2.0, 4.0], [1.0, 2.0]) == pytest.approx(1 / 3)


def test_matrices_are_measured_as_one_vector():
    num, bp = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
    assert relative_error(num, bp) == relative_error(num.ravel(), bp.ravel())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (0.0, "exact"),
        (9.9e-8, "exact"),
        (1e-7, "acceptable"),
        (9.9e-5, "acceptable"),
        (1e-4, "suspicious"),
        (9.9e-3, "suspicious"),
        (1e-2, "large"),
        (1.0, "large"),
    ],
)
def test_grades_have_the_boundaries_of_the_notes(error, expected):
    assert grade(error) == expected


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_larger_error_never_gets_a_finer_grade(one, other):
    names = [name for name, _ in GRADES]
    low, high = sorted((one, other))
    assert names.index(grade(low)) <= names.index(grade(high))


@given(st.floats(0, 0.99), st.floats(0, 2))
def test_a_grade_is_shown_only_where_the_measurement_is_finer_than_its_boundary(error, resolution):
    shown = grade(error, resolution)
    unhindered = grade(error)
    boundaries = {"exact": 1e-7, "acceptable": 1e-4, "suspicious": 1e-2, "large": 1e-2}
    assert shown == (unhindered if resolution < boundaries[unhindered] else None)


def test_what_could_not_be_measured_has_no_grade():
    assert grade(math.nan, math.nan) is None
    assert grade(1e-9, math.inf) is None
