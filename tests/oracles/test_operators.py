"""The cases and mutants out of torch's database of operators are what they say, and their benchmark counts rightly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("expecttest", reason="torch's database of operators needs it")

from benchmarks import gradients_operators, operator_tables

from oracles import operator_mutants, operators


def first_case(name, dtype="float64"):
    found = operators.cases(name, operators.operators(dtype)[name], dtype)
    return next(case for case in found if isinstance(case, operators.Case))


def mutants_of(case):
    return {m.kind: m for m in operator_mutants.mutants(case) if isinstance(m, operator_mutants.Mutant)}


def pulled_back(function, inputs, cotangents):
    leaves = [x.detach().requires_grad_() for x in inputs]
    return torch.autograd.grad(function(*leaves), leaves, cotangents)


def hangs(*_):
    while True:
        sum(range(1000))


def reasons(found):
    return {one.reason for one in found if isinstance(one, operators.Unusable)}


def test_variants_of_one_operator_are_in_the_same_half():
    names = operators.operators("float64")
    assert operators.half_of("norm:fro") == operators.half_of("norm:nuc") == operators.half_of("norm")
    shares = [operators.half_of(name) == "tuning" for name in names]
    assert 0.4 < np.mean(shares) < 0.6


def test_reference_gradients_are_the_analytic_ones_in_both_precisions():
    case = first_case("sin", "float32")
    (x,) = case.inputs
    cotangents = [
        w.double().numpy() for (w,) in operators.cotangents(case.function, case.inputs, operators.seed("sin"))
    ]
    truth = np.stack([w * np.cos(x.double().numpy()) for w in cotangents])
    np.testing.assert_allclose(case.reference.wide[0], truth, rtol=1e-14)
    assert 0 < np.linalg.norm(case.reference.native[0] - truth) / np.linalg.norm(truth) < 2.0**-23
    assert case.reference.own_error(0) < 2.0**-23


@pytest.mark.parametrize("name", ["nn.functional.layer_norm", "cat", "softmax:with_dtype", "linalg.solve"])
def test_a_case_computes_in_the_dtype_of_its_inputs_constants_and_all(name):
    case = first_case(name, "float32")
    narrow = case.function(*case.inputs)
    wide = case.function(*[x.double() for x in case.inputs])
    assert case.reference.from_float64
    assert {y.dtype for y in wide} == {torch.float64}
    for y, z in zip(narrow, wide, strict=True):
        torch.testing.assert_close(y.double(), z, rtol=1e-4, atol=1e-5)


def test_complex_outputs_are_real_views_and_indices_are_left_out():
    spectrum, largest = first_case("fft.rfft"), first_case("topk")
    assert spectrum.function(*spectrum.inputs)[0].shape[-1] == 2
    assert [y.dtype for y in largest.function(*largest.inputs)] == [torch.float64]


def test_draws_are_the_same_each_time():
    one, two = first_case("mul"), first_case("mul")
    assert all(map(torch.equal, one.inputs, two.inputs))
    assert [m.change for m in mutants_of(one).values()] == [m.change for m in mutants_of(two).values()]


def test_what_is_left_out_has_its_reason():
    names = operators.operators("float64")
    assert reasons(operators.cases("sparse.sampled_addmm", names["sparse.sampled_addmm"], "float64")) == {
        "complex or sparse input"
    }
    assert "random" in reasons(
        [
            operators.case_of("dropout", Info(torch.nn.functional.dropout), 0, Sample(torch.ones(9)), "float32", 200),
        ]
    )
    assert reasons([operators.case_of("log", Info(torch.log), 0, Sample(torch.zeros(3)), "float32", 200)]) == {
        "not finite"
    }
    assert reasons([operators.case_of("sqrt", Info(torch.sqrt), 0, Sample(torch.zeros(3)), "float32", 200)]) == {
        "gradient not finite"
    }
    undefined = Sample(torch.full((3,), torch.nan))
    assert reasons([operators.case_of("nansum", Info(torch.nansum), 0, undefined, "float32", 200)]) == {
        "input not finite"
    }
    assert reasons([operators.case_of("sin", Info(torch.sin), 0, Sample(torch.zeros(201)), "float32", 200)]) == {
        "too large"
    }


def test_an_operator_whose_gradient_torch_knows_to_be_wrong_is_left_out():
    name = "nn.functional.max_unpool3d"  # indices that occur twice
    found = operators.cases(name, operators.operators("float32")[name], "float32")
    assert "torch's gradient is wrong, and its tests skip it" in reasons(found)
    assert any(
        isinstance(case, operators.Case)
        for case in operators.cases("half", operators.operators("float64")["half"], "float64")
    )


class Info:
    """As much of an OpInfo as a case needs."""

    decorators = ()
    gradcheck_nondet_tol = 0.0

    def __init__(self, function):
        self.get_op = lambda: function

    @staticmethod
    def gradcheck_wrapper(function, *args, **keywords):
        return function(*args, **keywords)


class Sample:
    args, kwargs, output_process_fn_grad = (), {}, None

    def __init__(self, x):
        self.input = x.requires_grad_()


def test_gradient_mutants_spoil_one_input_in_the_way_of_their_kind():
    case = first_case("cat")
    found = mutants_of(case)
    (cotangent,) = operators.cotangents(case.function, case.inputs, 5)[0]
    clean = pulled_back(case.function, case.inputs, cotangent)
    position = found["sign"].position
    right = clean[position]

    def spoilt(kind):
        gradients = pulled_back(found[kind].function, case.inputs, cotangent)
        for at, gradient in enumerate(gradients):
            assert at == position or torch.equal(gradient, clean[at])
        return gradients[position]

    torch.testing.assert_close(spoilt("× 1.01"), 1.01 * right)
    torch.testing.assert_close(spoilt("× 1.001"), 1.001 * right)
    torch.testing.assert_close(spoilt("× 2"), 2 * right)
    torch.testing.assert_close(spoilt("sign"), -right)
    torch.testing.assert_close(spoilt("+ 1e-3"), right + 1e-3)
    assert torch.equal(spoilt("flipped").flip(int(np.argmax(right.shape))), right)
    (zeroed,), (off,) = (spoilt(kind).ne(right).nonzero().tolist() for kind in operator_mutants.ENTRY_KINDS)
    assert zeroed == off
    assert spoilt("entry zeroed")[tuple(zeroed)] == 0
    torch.testing.assert_close(spoilt("entry 1 %")[tuple(off)], 1.01 * right[tuple(off)])
    for kind in operator_mutants.GRADIENT_KINDS:
        assert all(map(torch.equal, found[kind].function(*case.inputs), case.function(*case.inputs)))


def test_the_entry_that_is_spoilt_is_a_large_one():
    halved = Sample(torch.linspace(-1, 1, 8))  # half of the entries have no gradient
    case = operators.case_of("relu", Info(torch.relu), 0, halved, "float32", 200)
    mutant = mutants_of(case)["entry zeroed"]
    sizes = np.sqrt((case.reference.wide[mutant.position] ** 2).mean(axis=0))
    share = mutant.change * np.sqrt((sizes**2).mean())
    assert share >= operator_mutants.LEAST_ENTRY * np.sqrt((sizes**2).mean())
    assert np.isclose(sizes, share, rtol=1e-6).any()


def test_the_change_that_a_mutant_makes_is_stated():
    found = mutants_of(first_case("exp", "float32"))
    assert found["× 1.01"].change == pytest.approx(0.01, rel=1e-4)
    assert found["sign"].change == pytest.approx(2.0, rel=1e-12)


def test_the_change_is_that_of_the_gradient_that_was_asked_for():
    case = first_case("exp")
    mutant = mutants_of(case)["entry 1 %"]
    (gradient,) = pulled_back(mutant.function, case.inputs, torch.ones_like(case.inputs[0]))
    (right,) = pulled_back(case.function, case.inputs, torch.ones_like(case.inputs[0]))
    seen = gradients_operators.change_seen(case, mutant)
    assert seen == pytest.approx(float((gradient - right).norm() / right.square().mean().sqrt()))
    assert mutant.change != pytest.approx(seen)


def test_an_expanded_cotangent_is_misread_and_no_other():
    case = first_case("exp")
    function = mutants_of(case)["expanded"].function
    (y,) = case.function(*case.inputs)
    dense, expanded = torch.randn(y.shape, dtype=y.dtype), torch.ones((), dtype=y.dtype).expand(y.shape)
    strided = torch.stack([dense, dense], -1)[..., 0]
    for cotangent in (dense, strided):
        assert torch.equal(
            *(pulled_back(f, case.inputs, cotangent)[0] for f in (function, case.function)),
        )
    (wrong,) = pulled_back(function, case.inputs, expanded)
    assert wrong.count_nonzero() == 1  # one number in memory, and nothing behind it


def test_a_strided_cotangent_is_misread_and_no_other():
    case = first_case("exp")
    function = mutants_of(case)["strided"].function
    (y,) = case.function(*case.inputs)
    dense, expanded = torch.randn(y.shape, dtype=y.dtype), torch.ones((), dtype=y.dtype).expand(y.shape)
    for cotangent in (dense, expanded):
        assert torch.equal(*(pulled_back(f, case.inputs, cotangent)[0] for f in (function, case.function)))
    transposed = torch.randn(y.shape[::-1], dtype=y.dtype).permute(*range(y.dim())[::-1])
    (wrong,) = pulled_back(function, case.inputs, transposed)
    in_memory_order = transposed.permute(*range(y.dim())[::-1]).reshape(y.shape)
    torch.testing.assert_close(wrong, in_memory_order * y)


def test_an_ignored_cotangent_is_right_for_ones_only():
    case = first_case("exp")
    function = mutants_of(case)["ignores cotangent"].function
    (y,) = case.function(*case.inputs)
    for cotangent in (torch.ones_like(y), 3 * torch.ones_like(y)):
        assert torch.equal(pulled_back(function, case.inputs, cotangent)[0], y)


def test_mutants_that_would_change_nothing_are_left_out_with_the_reason():
    assert reasons(operator_mutants.mutants(first_case("floor"))) == {"every kind: the gradient is zero"}
    alone = operators.case_of("exp", Info(torch.exp), 0, Sample(torch.ones(1)), "float32", 200)
    assert {f"{kind}: too small a change" for kind in ("flipped", "expanded", "strided")} <= reasons(
        operator_mutants.mutants(alone)
    )
    constant_sum = Info(lambda x: x.softmax(0).sum())
    noise = operators.case_of("sum", constant_sum, 0, Sample(torch.arange(5.0) / 3), "float32", 200)
    assert reasons(operator_mutants.mutants(noise)) == {"every kind: the gradient is nothing but rounding"}


def test_a_batch_of_points_counts_every_one():
    counted = gradients_operators.Counted(torch.sin)
    counted(torch.ones(3))
    torch.func.vmap(counted)(torch.ones(7, 3))
    torch.func.vmap(torch.func.vmap(counted))(torch.ones(2, 5, 3))
    assert counted.points == 1 + 7 + 10


def test_a_check_that_hangs_is_stopped():
    with pytest.raises(gradients_operators.OutOfTime), gradients_operators.at_most(0.05):
        hangs()


def test_a_judge_that_runs_out_of_time_or_raises_is_recorded():
    case = first_case("exp")

    def raises(*_):
        raise ValueError("no")

    assert gradients_operators.asked(hangs, case, None, 0.05)["verdict"] == "timeout"
    assert gradients_operators.asked(raises, case, None, 5.0)["error"] == "ValueError: no"


def test_a_passed_mutant_is_silent_only_above_the_stated_resolution():
    case = first_case("exp")
    mutant = mutants_of(case)["× 1.01"]

    def states(resolution):
        return lambda *_: {"verdict": "pass", "seconds": 0.1, "resolution": resolution, "entry_resolution": 1.0}

    assert gradients_operators.asked(states(1e-3), case, mutant, 5.0)["silent"]
    assert not gradients_operators.asked(states(2e-2), case, mutant, 5.0)["silent"]


def test_gradcheck_finds_a_flipped_sign_and_passes_the_operator():
    case = first_case("exp")
    ask = gradients_operators.judge("gradcheck slow", "float64")
    records = gradients_operators.operator_records([case], ask, 20.0)["records"]
    verdicts = {record["kind"]: record["verdict"] for record in records}
    assert verdicts["correct"] == "pass"
    assert verdicts["sign"] == "fail"
    assert verdicts["× 1.001"] == "pass"  # within its tolerance: why this benchmark exists


def test_figures_count_unresolved_as_missed_and_errors_as_refused():
    def correct(operator, verdict):
        record = {"sample": 0, "kind": "correct", "verdict": verdict, "operator": operator, "seconds": 0.1}
        return record | {"points": 40, "resolution": 1e-4, "own_error": [1e-8]}

    def wrong(verdict, *, silent=False):
        record = {"sample": 0, "kind": "sign", "verdict": verdict, "silent": silent, "named": True}
        return record | {"resolution": 1e-4}

    records = [correct(str(at), verdict) for at, verdict in enumerate(["pass", "warn", "fail", "error"])]
    records += [
        correct("late", "timeout"),
        wrong("fail"),
        wrong("fail"),
        wrong("inconclusive"),
        wrong("pass", silent=True),
    ]
    found = operator_tables.figures(records, "float32")
    assert (found["cases"], found["refused"], found["unresolved"]) == (5, 40.0, 20.0)
    assert (found["sign"], found["mutants unresolved"], found["silent"]) == (50.0, 25.0, 25.0)
    assert (found["points (median)"], found["× 2"]) == (40, None)


def test_a_gradient_that_is_really_imprecise_is_refused_rightly():
    def refused(own_error):
        return {"sample": 0, "kind": "correct", "verdict": "fail", "own_error": [1e-8, own_error]}

    found = operator_tables.figures([refused(0.5), refused(1e-3), refused(1e9)], "bfloat16")
    assert (found["refused"], found["refused rightly"]) == (pytest.approx(200 / 3), 1)


def test_refusals_that_gradcheck_shares_are_not_held_against_us():
    def result(judge, verdicts):
        records = [
            {"sample": at, "kind": "correct", "verdict": v, "seconds": 0.1, "points": 9, "own_error": [0.0]}
            for at, v in enumerate(verdicts)
        ]
        return {"judge": judge, "dtype": "float64", "half": "tuning", "operator": "exp", "records": records}

    results = [result("gradvitals", ["fail", "fail", "pass"]), result("gradcheck slow", ["fail", "pass", "pass"])]
    assert operator_tables.all_figures(results)["float64", "gradvitals", "tuning"]["refused beyond gradcheck"] == 1
    assert operator_tables.reaches(1, "= 0") is False
    assert operator_tables.reaches(99.2, "≥ 99") is True
