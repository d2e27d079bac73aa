"""Departures of random networks: what two tensors have in common adds up where they meet."""

from __future__ import annotations

import pytest

from gradvitals.maths.scatter import NONE, Scatter


def test_a_residual_sum_keeps_what_both_sides_inherited():
    stream = Scatter.of(0.04)
    branch = stream + Scatter.of(0.01)
    joined = stream.times(0.5) + branch.times(0.5)
    assert joined.variance == pytest.approx(0.04 + 0.25 * 0.01)


def test_independent_departures_are_averaged():
    joined = Scatter.of(0.04).times(0.5) + Scatter.of(0.04).times(0.5)
    assert joined.variance == pytest.approx(0.02)


def test_what_the_theory_leaves_out_adds_up_over_layers():
    total = NONE
    for _ in range(10):
        total = total + Scatter.left_out(0.1)
    assert total.variance == pytest.approx(1.0)
