"""The ways in which NumPy code is handed to ``check``: each is understood, right or wrong."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

import gradvitals as gv
from gradvitals import Verdict

PASS, FAIL = Verdict.PASS, Verdict.FAIL


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def paths(report):
    return list(report.table("tensors").column("path"))


def rows(report):
    return {row["path"]: row for row in report.table("tensors").records()}


def the_finding(report, code="G101"):
    (found,) = [finding for finding in report.findings if finding.code == code]
    return found


# ---- scalar functions ----------------------------------------------------------------------------------------------


def energy(x, w):
    return float(np.sum(np.tanh(x @ w) ** 2))


def energy_gradient(x, w):
    h = np.tanh(x @ w)
    dz = 2 * h * (1 - h**2)
    return dz @ w.T, x.T @ dz


def test_a_gradient_function_is_asked_with_the_same_inputs(rng):
    report = gv.check(energy, rng.normal(size=(5, 3)), rng.normal(size=(3, 2)), grad=energy_gradient)
    assert report.verdict is PASS
    assert paths(report) == ["x", "w"]
    assert report.settings["objective"] == "scalar"


def test_computed_gradients_are_taken_in_the_order_of_the_inputs(rng):
    x, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))
    assert gv.check(energy, x, w, grad=energy_gradient(x, w)).verdict is PASS
    assert gv.check(energy, x, w, grad=list(energy_gradient(x, w))).verdict is PASS
    dx, dw = energy_gradient(x, w)
    assert gv.check(energy, x, w, grad=(dx, 2 * dw)).verdict is FAIL


def test_a_gradient_may_be_written_as_a_plain_list():
    x = np.array([1.0, 2.0, 3.0])
    assert gv.check(lambda x: (x**2).sum(), x, grad=[2.0, 4.0, 6.0]).verdict is PASS
    assert gv.check(lambda x: (x**2).sum(), x, grad=[2, 4, 5]).verdict is FAIL


def test_an_input_without_a_gradient_of_its_own_is_left_out_by_none(rng):
    x, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))
    _, dw = energy_gradient(x, w)
    found = rows(gv.check(energy, x, w, grad={"w": dw}))
    assert list(found) == ["w"]
    assert found["w"]["status"] == "right"


@pytest.mark.parametrize("theta", [3, 3.0, np.float64(3), np.int64(3), np.array(3), np.array(3.0)])
def test_numbers_of_every_kind_are_promoted(theta):
    report = gv.check(lambda theta: theta**2, theta, grad=lambda theta: 2 * theta)
    assert report.verdict is PASS
    (row,) = report.table("tensors").records()
    assert (row["path"], row["shape"], row["dtype"]) == ("theta", (), "float64")
    assert gv.check(lambda theta: theta**2, theta, grad=lambda theta: theta).verdict is FAIL


def test_numbers_arrive_as_numbers_and_arrays_as_arrays():
    seen = []

    def f(x, n):
        seen.append((type(x), type(n)))
        return float((x**2).sum() * n)

    gv.check(f, np.ones(2), 3.0, grad=lambda x, n: (2 * x * n, (x**2).sum()))
    assert all(issubclass(x, np.ndarray) and issubclass(n, float) for x, n in seen)


def test_whole_numbers_beside_real_ones_are_labels_and_stay_as_they_are(rng):
    scores, labels = rng.normal(size=(4, 3)), np.array([0, 2, 1, 1])

    def loss(scores, labels):
        assert labels.dtype.kind == "i"
        shifted = scores - scores.max(axis=1, keepdims=True)
        return np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(4), labels])

    def gradient(scores, labels):
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(4), labels] -= 1
        return p / 4

    assert paths(gv.check(loss, scores, labels, grad=gradient)) == ["scores"]
    assert gv.check(loss, scores, labels, grad=gradient).verdict is PASS


def test_value_and_gradient_from_one_function_as_scipy_likes_it(rng):
    def both(x):
        return (x**3).sum(), 3 * x**2

    x = rng.normal(size=5)
    assert gv.check(both, x, grad=both(x)[1]).verdict is PASS  # what comes behind the value counts as a cache
    assert gv.check(both, x, grad=x**2).verdict is FAIL


# ---- the way courses write it --------------------------------------------------------------------------------------


def course_cost(X, Y, parameters):
    h = np.tanh(parameters["W1"] @ X + parameters["b1"])
    out = parameters["W2"] @ h + parameters["b2"]
    return float(((out - Y) ** 2).sum() / (2 * X.shape[1])), (h, out)


def course_gradients(X, Y, parameters):
    _, (h, out) = course_cost(X, Y, parameters)
    dout = (out - Y) / X.shape[1]
    dz = parameters["W2"].T @ dout * (1 - h**2)
    return {
        "dW1": dz @ X.T,
        "db1": dz.sum(axis=1, keepdims=True),
        "dW2": dout @ h.T,
        "db2": dout.sum(axis=1, keepdims=True),
    }


@pytest.fixture
def course(rng):
    parameters = {
        "W1": rng.normal(size=(4, 3)),
        "b1": rng.normal(size=(4, 1)),
        "W2": rng.normal(size=(2, 4)),
        "b2": rng.normal(size=(2, 1)),
    }
    return rng.normal(size=(3, 5)), rng.normal(size=(2, 5)), parameters


def test_gradients_are_matched_with_parameters_by_name(course):
    X, Y, parameters = course
    report = gv.check(lambda p: course_cost(X, Y, p), parameters, grad=course_gradients(X, Y, parameters))
    assert report.verdict is PASS
    assert paths(report) == ["W1", "b1", "W2", "b2"]
    assert set(report.table("tensors").column("role")) == {"parameter"}


@pytest.mark.parametrize("spelling", ["d{}", "{}", "grad_{}", "{}_grad"])
def test_every_usual_spelling_of_a_gradients_name_is_known(course, spelling):
    X, Y, parameters = course
    gradients = {spelling.format(name[1:]): value for name, value in course_gradients(X, Y, parameters).items()}
    report = gv.check(lambda p: course_cost(X, Y, p), parameters, grad=gradients)
    assert report.verdict is PASS
    assert len(paths(report)) == 4


def test_order_in_the_dict_of_gradients_does_not_matter(course):
    X, Y, parameters = course
    gradients = dict(reversed(course_gradients(X, Y, parameters).items()))
    assert gv.check(lambda p: course_cost(X, Y, p), parameters, grad=gradients).verdict is PASS


def test_gradients_of_other_things_in_the_dict_are_passed_over(course):
    X, Y, parameters = course
    gradients = {**course_gradients(X, Y, parameters), "dZ1": np.ones((4, 5)), "cost": 3.0}
    assert gv.check(lambda p: course_cost(X, Y, p), parameters, grad=gradients).verdict is PASS


def test_cost_with_a_cache_behind_it_is_a_cost(course):
    X, Y, parameters = course
    assert gv.check(course_cost, X, Y, parameters, grad=course_gradients).verdict is PASS


def test_only_the_wrong_parameter_is_named(course):
    X, Y, parameters = course
    gradients = course_gradients(X, Y, parameters)
    gradients["dW2"] = -gradients["dW2"]
    report = gv.check(course_cost, X, Y, parameters, grad=gradients)
    assert the_finding(report).site.path == "W2"
    assert the_finding(report).evidence["likely"] == "sign"
    assert {path: row["status"] for path, row in rows(report).items()} == {
        "W1": "right",
        "b1": "right",
        "W2": "wrong",
        "b2": "right",
    }


# ---- layers --------------------------------------------------------------------------------------------------------


def affine(x, w, b):
    return x @ w + b


def test_a_backward_that_takes_only_dout_closes_over_its_inputs(rng):
    x, w, b = rng.normal(size=(5, 3)), rng.normal(size=(3, 2)), rng.normal(size=2)
    report = gv.check(affine, x, w, b, vjp=lambda dout: (dout @ w.T, x.T @ dout, dout.sum(axis=0)))
    assert report.verdict is PASS
    assert paths(report) == ["x", "w", "b"]
    assert report.settings["objective"] == "random"


def test_a_backward_that_takes_a_cache_gets_the_one_of_this_forward(rng):
    x, w, b = rng.normal(size=(5, 3)), rng.normal(size=(3, 2)), rng.normal(size=2)

    def forward(x, w, b):
        return affine(x, w, b), (x, w)

    def backward(dout, cache):
        x, w = cache
        return dout @ w.T, x.T @ dout, dout.sum(axis=0)

    assert gv.check(forward, x, w, b, vjp=backward).verdict is PASS
    assert gv.check(forward, x, w, b, vjp=lambda dout, cache: (*backward(dout, cache)[:2], dout[0])).verdict is FAIL


def test_a_cache_may_be_handed_out_that_backward_does_not_ask_for(rng):
    x = rng.normal(size=(5, 3))
    report = gv.check(lambda x: (np.tanh(x), ["some", "cache"]), x, vjp=lambda dout: dout * (1 - np.tanh(x) ** 2))
    assert report.verdict is PASS


def test_gradients_of_a_layer_may_come_as_a_dict(rng):
    x, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))
    report = gv.check(lambda x, w: x @ w, x, w, vjp=lambda dout: {"dw": x.T @ dout, "dx": dout @ w.T})
    assert report.verdict is PASS
    assert paths(report) == ["x", "w"]


def conv_forward(x, w, b, conv_param):
    stride, pad = conv_param["stride"], conv_param["pad"]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    (n, _, height, width), (filters, _, k, _) = padded.shape, w.shape
    rows_, columns = (height - k) // stride + 1, (width - k) // stride + 1
    out = np.zeros((n, filters, rows_, columns))
    for i in range(rows_):
        for j in range(columns):
            window = padded[:, :, i * stride : i * stride + k, j * stride : j * stride + k]
            out[:, :, i, j] = np.tensordot(window, w, ((1, 2, 3), (1, 2, 3))) + b
    return out, (padded, w, b, conv_param)


def conv_backward(dout, cache):
    padded, w, _, conv_param = cache
    stride, pad, k = conv_param["stride"], conv_param["pad"], w.shape[-1]
    dpadded, dw = np.zeros_like(padded), np.zeros_like(w)
    for i in range(dout.shape[2]):
        for j in range(dout.shape[3]):
            at = (slice(None), slice(None), slice(i * stride, i * stride + k), slice(j * stride, j * stride + k))
            dpadded[at] += np.tensordot(dout[:, :, i, j], w, (1, 0))
            dw += np.tensordot(dout[:, :, i, j], padded[at], (0, 0))
    inner = slice(pad, -pad) if pad else slice(None)
    return dpadded[:, :, inner, inner], dw, dout.sum(axis=(0, 2, 3))


@pytest.mark.parametrize("conv_param", [{"stride": 1, "pad": 1}, {"stride": 2, "pad": 0}])
def test_a_dict_of_settings_beside_the_arrays_is_handed_over_as_it_is(rng, conv_param):
    x, w, b = rng.normal(size=(2, 3, 5, 5)), rng.normal(size=(2, 3, 3, 3)), rng.normal(size=2)
    report = gv.check(conv_forward, x, w, b, conv_param, vjp=conv_backward)
    assert report.verdict is PASS
    assert paths(report) == ["x", "w", "b"]

    def without_the_rows(dout, cache):
        dx, dw, db = conv_backward(dout, cache)
        return dx, dw, db - dout[:, :, 0].sum(axis=(0, 2))

    wrong = gv.check(conv_forward, x, w, b, conv_param, vjp=without_the_rows)
    assert wrong.verdict is FAIL
    assert the_finding(wrong).site.path == "b"


def test_settings_may_be_keywords(rng):
    x = rng.normal(size=(4, 3))
    report = gv.check(
        lambda x, slope=1.0, name="": np.where(x > 0, x, slope * x),
        x,
        kwargs={"slope": 0.1, "name": "leaky"},
        vjp=lambda dout: {"dx": dout * np.where(x > 0, 1, 0.1)},
    )
    assert report.verdict is PASS
    assert paths(report) == ["x"]


def test_several_outputs_send_back_a_tuple_of_gradients(rng):
    x, w = rng.normal(size=(4, 3)), rng.normal(size=(3, 3))

    def forward(x, w):
        return x @ w, np.tanh(x)

    def backward(douts):
        dy, dt = douts
        assert dy.shape == dt.shape == (4, 3)
        return dy @ w.T + dt * (1 - np.tanh(x) ** 2), x.T @ dy

    assert gv.check(forward, x, w, vjp=backward).verdict is PASS
    assert gv.check(forward, x, w, vjp=lambda douts: (douts[0] @ w.T, x.T @ douts[0])).verdict is FAIL


class Remembering:
    """A layer that keeps what it saw last: backward is right only straight after forward at the same point."""

    def __init__(self):
        self.order = []

    def forward(self, x, w):
        self.order.append("forward")
        self.x, self.w = x, w
        return np.tanh(x @ w)

    def backward(self, dout):
        self.order.append("backward")
        dz = dout * (1 - np.tanh(self.x @ self.w) ** 2)
        return dz @ self.w.T, self.x.T @ dz


def test_forward_runs_again_before_each_backward(rng):
    layer = Remembering()
    report = gv.check(layer.forward, rng.normal(size=(5, 3)), rng.normal(size=(3, 2)), vjp=layer.backward)
    assert report.verdict is PASS
    backwards = [at for at, what in enumerate(layer.order) if what == "backward"]
    assert backwards
    assert all(layer.order[at - 1] == "forward" for at in backwards)


def test_code_that_works_in_place_does_no_harm_and_is_judged_right(rng):
    x = rng.normal(size=(5, 3))
    before = x.copy()
    cache = []

    def forward(x):
        cache.append(x.copy())
        x *= x
        x += 1
        return x

    def backward(dout):
        dout *= 2 * cache[-1]
        return dout

    report = gv.check(forward, x, vjp=backward)
    assert report.verdict is PASS
    assert (x == before).all()


def test_a_scalar_layer_gets_a_number_as_its_cotangent(rng):
    x = rng.normal(size=4)
    assert gv.check(lambda x: (x**2).sum(), x, vjp=lambda dout: dout * 2 * x).verdict is PASS


def test_lists_and_tuples_of_arrays_have_numbered_names(rng):
    weights = [rng.normal(size=(3, 3)), rng.normal(size=(3, 2))]
    x = rng.normal(size=(4, 3))

    def cost(weights):
        return float((np.tanh(x @ weights[0]) @ weights[1]).sum())

    def gradient(weights):
        h = np.tanh(x @ weights[0])
        dout = np.ones((4, 2))
        return {"dweights[0]": x.T @ (dout @ weights[1].T * (1 - h**2)), "dweights[1]": h.T @ dout}

    report = gv.check(cost, weights, grad=gradient)
    assert report.verdict is PASS
    assert paths(report) == ["weights[0]", "weights[1]"]


# ---- precision -----------------------------------------------------------------------------------------------------


def test_float32_arrays_are_checked_in_their_own_precision(rng):
    x, w = (rng.normal(size=size).astype(np.float32) for size in ((5, 3), (3, 2)))
    seen = set()

    def forward(x, w):
        seen.add(x.dtype.name)
        return np.tanh(x @ w)

    def backward(dout):
        seen.add(f"dout {dout.dtype.name}")
        dz = dout * (1 - np.tanh(x @ w) ** 2)
        return dz @ w.T, x.T @ dz

    report = gv.check(forward, x, w, vjp=backward)
    assert report.verdict is PASS
    assert set(report.table("tensors").column("dtype")) == {"float32"}
    assert report.settings["sensitivity"] == 1e-3
    assert "dout float32" in seen
    off = gv.check(forward, x, w, vjp=lambda dout: tuple(np.float32(1.01) * g for g in backward(dout)))
    assert off.verdict is FAIL


def normalised(x, w, b):
    """Batch norm behind a linear layer: the bias has no effect, its gradient is nothing but rounding."""
    z = x @ w + b
    return (z - z.mean(axis=0)) / np.sqrt(z.var(axis=0) + z.dtype.type(1e-5)), z


def normalised_gradients(x, w, b, dout):
    normal, z = normalised(x, w, b)
    dz = dout - dout.mean(axis=0) - normal * (dout * normal).mean(axis=0)
    dz /= np.sqrt(z.var(axis=0) + z.dtype.type(1e-5))
    return dz @ w.T, x.T @ dz, dz.sum(axis=0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("form", ["cache", "closure", "function", "values"])
def test_a_gradient_that_is_zero_but_for_rounding_is_right_however_it_is_given(form, dtype):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x, w, b, c = (rng.normal(size=size).astype(dtype) for size in ((6, 4), (4, 3), 3, (6, 3)))
        if form == "cache":
            report = gv.check(
                lambda x, w, b: (normalised(x, w, b)[0], (x, w, b)),
                *(x, w, b),
                vjp=lambda dout, cache: normalised_gradients(*cache, dout),
                seed=seed,
            )
        elif form == "closure":
            inputs = (x, w, b)
            report = gv.check(
                lambda x, w, b: normalised(x, w, b)[0],
                *inputs,
                vjp=lambda dout, inputs=inputs: normalised_gradients(*inputs, dout),
                seed=seed,
            )
        else:

            def gradient(x, w, b, c=c):
                return normalised_gradients(x, w, b, c * (1 - np.tanh(normalised(x, w, b)[0]) ** 2))

            grad = gradient if form == "function" else gradient(x, w, b)
            report = gv.check(
                lambda x, w, b, c=c: (c * np.tanh(normalised(x, w, b)[0])).sum(), *(x, w, b), grad=grad, seed=seed
            )
        assert report.verdict is PASS, str(report)


# ---- reports -------------------------------------------------------------------------------------------------------


def test_tables_have_the_agreed_columns(rng):
    report = gv.check(energy, rng.normal(size=(5, 3)), rng.normal(size=(3, 2)), grad=energy_gradient)
    assert report.table("tensors").columns == (
        *("path", "role", "shape", "dtype", "status", "relative_error"),
        *("resolution", "entry_resolution", "grade", "likely"),
    )
    assert report.table("entries").columns == ("path", "index", "numeric", "error", "analytic")
    assert report.verb == "check"
    assert report.subject == "energy"
    assert set(report.settings) >= {"seed", "sensitivity", "objective"}
    assert {"python", "numpy", "gradvitals"} <= set(report.environment)
    assert {"seconds", "forwards", "backwards"} <= set(report.cost)


def test_entries_agree_with_the_closed_form(rng):
    x, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))
    truth = dict(zip("xw", energy_gradient(x, w), strict=True))
    reports = [gv.check(energy, x, w, grad=energy_gradient, wrt=name) for name in "xw"]
    assert all(report.table("entries").rows for report in reports)
    entries = [entry for report in reports for entry in report.table("entries").records()]
    assert entries
    for entry in entries:
        exact = truth[entry["path"]][entry["index"]]
        assert entry["analytic"] == pytest.approx(exact, rel=1e-14)
        assert abs(entry["numeric"] - exact) <= 5 * entry["error"] + 1e-14


@pytest.mark.parametrize("seed", [0, 7])
def test_same_seed_same_report(rng, seed):
    x, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))

    def run():
        np.random.rand(3)  # the global generator's state has no say
        data = json.loads(gv.check(energy, x, w, grad=energy_gradient, seed=seed).to_json())
        data["cost"].pop("seconds")
        return data

    assert run() == run()


def test_another_seed_looks_along_other_directions(rng):
    x, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))
    one, other = (gv.check(energy, x, w, grad=energy_gradient, seed=seed) for seed in (0, 1))
    assert one.table("tensors").column("relative_error") != other.table("tensors").column("relative_error")


def test_an_optional_cache_is_handed_over_when_there_is_one(rng):
    x, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))

    def backward(dout, cache=None):
        x, w = cache
        return dout @ w.T, x.T @ dout

    assert gv.check(lambda x, w: (x @ w, (x, w)), x, w, vjp=backward).verdict is Verdict.PASS


def test_a_case_is_checked_as_its_parts_are(rng):
    x, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))
    by_case = gv.check(gv.Case(energy, (x, w), grad=energy_gradient, name="my energy"))
    by_hand = gv.check(energy, x, w, grad=energy_gradient)
    assert by_case.subject == "my energy"
    assert by_case.tables == by_hand.tables


def test_random_functions_are_deterministic_during_the_check(rng):
    def noisy(x):
        return float((x**2 * np.random.rand(*x.shape)).sum())

    def gradient(x):
        return 2 * x * np.random.rand(*x.shape)

    report = gv.check(noisy, rng.normal(size=5), grad=gradient)
    assert report.verdict is PASS
    assert not report.findings


def test_progress_is_told_and_never_beyond_its_end(rng):
    told = []
    gv.check(
        energy,
        rng.normal(size=(5, 3)),
        rng.normal(size=(3, 2)),
        grad=energy_gradient,
        progress=lambda *a: told.append(a),
    )
    assert told
    assert all(one < next_one for (one, _), (next_one, _) in itertools.pairwise(told))
    assert all(done <= total for done, total in told)
