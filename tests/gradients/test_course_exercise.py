"""The exercise of the courses, in the ways that its solvers would call the check."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import gradvitals as gv
from gradvitals import Verdict
from oracles.course_exercise import backward_propagation_n, forward_propagation_n, gradient_check_n_test_case

PARAMETERS = ["W1", "b1", "W2", "b2", "W3", "b3"]


def _is_alive(X, Y, parameters):
    """Every parameter has a gradient, so that a factor on it shows."""
    _, cache = forward_propagation_n(X, Y, parameters)
    gradients = backward_propagation_n(X, Y, cache)
    return all(np.abs(gradients[f"d{name}"]).max() > 1e-3 for name in PARAMETERS)


SEEDS = [seed for seed in range(40) if _is_alive(*gradient_check_n_test_case(seed))][:5]


def _by_closure(X, Y, parameters, gradients):
    return gv.check(lambda p: forward_propagation_n(X, Y, p), parameters, grad=gradients)


def _by_data_and_parameters(X, Y, parameters, gradients):
    return gv.check(forward_propagation_n, X, Y, parameters, grad=gradients)


def _by_cost_alone(X, Y, parameters, gradients):
    return gv.check(lambda p: forward_propagation_n(X, Y, p)[0], parameters, grad=gradients)


def _by_function(X, Y, parameters, gradients):
    mistaken = bool(np.array_equal(gradients["dW2"], _gradients(X, Y, parameters, mistaken=True)["dW2"]))

    def backward(p):
        return _gradients(X, Y, p, mistaken=mistaken)

    return gv.check(lambda p: forward_propagation_n(X, Y, p), parameters, grad=backward)


def _by_case(X, Y, parameters, gradients):
    return gv.check(gv.Case(forward_propagation_n, (X, Y, parameters), grad=gradients))


CALLS = [_by_closure, _by_data_and_parameters, _by_cost_alone, _by_function, _by_case]


def _gradients(X, Y, parameters, *, mistaken):
    _, cache = forward_propagation_n(X, Y, parameters)
    return backward_propagation_n(X, Y, cache, mistaken=mistaken)


def _name(path):
    """``W2`` of ``W2``, ``parameters.W2`` or ``parameters[W2]``."""
    return path.replace("]", "").replace("[", ".").replace("'", "").rpartition(".")[2]


@pytest.mark.parametrize(("call", "seed"), [*zip(CALLS, SEEDS, strict=True), (_by_closure, SEEDS[1])])
def test_corrected_exercise_passes(call, seed):
    X, Y, parameters = gradient_check_n_test_case(seed)
    report = call(X, Y, parameters, _gradients(X, Y, parameters, mistaken=False))
    assert report.verdict is Verdict.PASS, str(report)
    rows = {_name(row["path"]): row for row in report.table("tensors").records()}
    assert set(PARAMETERS) <= set(rows)
    assert {rows[name]["status"] for name in PARAMETERS} == {"right"}


@pytest.mark.parametrize(("call", "seed"), [*zip(CALLS, SEEDS, strict=True), (_by_closure, SEEDS[1])])
def test_both_mistakes_are_found_and_named_with_their_factors(call, seed):
    X, Y, parameters = gradient_check_n_test_case(seed)
    report = call(X, Y, parameters, _gradients(X, Y, parameters, mistaken=True))
    assert report.verdict is Verdict.FAIL, str(report)
    status = {_name(row["path"]): row["status"] for row in report.table("tensors").records()}
    assert {name for name in PARAMETERS if status[name] == "wrong"} == {"W2", "b1"}
    found = {_name(finding.site.path): finding for finding in report.findings if finding.code == "G101"}
    assert set(found) == {"W2", "b1"}
    for name, factor in {"W2": 1 / 2, "b1": 1 / 4}.items():
        evidence = found[name].evidence
        assert evidence["likely"] == "factor-extra"
        assert evidence["factor"].value == pytest.approx(factor, rel=1e-3)
        assert [_name(path) for path in evidence["tensors"]] == [name]


def test_the_report_names_both_factors_in_words():
    X, Y, parameters = gradient_check_n_test_case(SEEDS[0])
    text = " ".join(str(_by_closure(X, Y, parameters, _gradients(X, Y, parameters, mistaken=True))).split())
    for words in ("W2", "b1", "0.5000 × analytic", "0.2500 × analytic", "factor 2", "factor 4"):
        assert words in text


@pytest.mark.parametrize("mistaken", [False, True])
def test_the_check_leaves_parameters_and_gradients_as_they_were(mistaken):
    X, Y, parameters = gradient_check_n_test_case(SEEDS[0])
    gradients = _gradients(X, Y, parameters, mistaken=mistaken)
    before = copy.deepcopy((X, Y, parameters, gradients))
    _by_data_and_parameters(X, Y, parameters, gradients)
    for was, now in zip(before, (X, Y, parameters, gradients), strict=True):
        if isinstance(was, dict):
            assert list(was) == list(now)
            assert all(np.array_equal(was[key], now[key]) for key in was)
        else:
            assert np.array_equal(was, now)


def test_whole_numbers_among_the_parameters_are_checked_as_real_ones():
    X, Y, parameters = gradient_check_n_test_case(SEEDS[0])
    parameters = {**parameters, "b3": np.array([[1]]), "b2": np.array([[1], [0], [2]])}
    report = _by_closure(X, Y, parameters, _gradients(X, Y, parameters, mistaken=False))
    assert report.verdict is Verdict.PASS, str(report)


def _line(x, theta):
    return theta * x


@pytest.mark.parametrize(("x", "theta"), [(2, 4), (2.0, 4.0), (np.float64(2.0), np.array(4))])
def test_the_one_dimensional_warm_up_works_with_python_numbers(x, theta):
    assert gv.check(lambda t: _line(x, t), theta, grad=x).verdict is Verdict.PASS
    assert gv.check(lambda t: _line(x, t), theta, grad=lambda _: 2 * x).verdict is Verdict.FAIL
