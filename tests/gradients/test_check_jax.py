"""``check`` on JAX functions: right and wrong ``custom_vjp`` and ``custom_jvp``, pytrees, every status, bad input."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import gradvitals as gv

jax = pytest.importorskip("jax")
jnp = jax.numpy

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32)
W = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
B = jnp.asarray(RNG.normal(size=3), jnp.float32)


def statuses(report):
    table = report.table("tensors")
    return {row[table.columns.index("path")]: row[table.columns.index("status")] for row in table.rows}


def kinds(report):
    return [(finding.code, finding.site.path, finding.evidence.get("likely")) for finding in report.findings]


def affine(backward):
    """x @ w + b with a backward pass of one's own, as people write it."""

    @jax.custom_vjp
    def affine(x, w, b):
        return x @ w + b

    affine.defvjp(lambda x, w, b: (affine(x, w, b), (x, w)), backward)
    return affine


def right(kept, dout):
    x, w = kept
    return dout @ w.T, x.T @ dout, dout.sum(0)


# ---- custom_vjp ----------------------------------------------------------------------------------------------------


def test_a_right_custom_vjp_passes_in_float32():
    report = gv.check(affine(right), X, W, B)
    assert report.verdict.value == "pass"
    assert statuses(report) == {"x": "right", "w": "right", "b": "right"}
    assert report.subject == "affine"
    assert report.settings["objective"] == "random"
    assert "jax" in report.environment


@pytest.mark.parametrize(
    ("wrong", "tensor", "likely", "factor"),
    [
        (lambda kept, dout: (-right(kept, dout)[0], *right(kept, dout)[1:]), "x", "sign", None),
        (lambda kept, dout: (right(kept, dout)[0], right(kept, dout)[1] / 2, dout.sum(0)), "w", "factor-missing", "2"),
        (lambda kept, dout: (*right(kept, dout)[:2], dout.mean(0)), "b", "factor-extra", "1/N (N = 5)"),
        (lambda kept, dout: (*right(kept, dout)[:2], dout[0]), "b", None, None),
    ],
    ids=["sign", "factor", "mean for sum", "sum forgotten"],
)
def test_a_wrong_custom_vjp_is_found_at_its_tensor(wrong, tensor, likely, factor):
    report = gv.check(affine(wrong), X, W, B)
    assert statuses(report) == {path: "wrong" if path == tensor else "right" for path in ("x", "w", "b")}
    (finding,) = [finding for finding in report.findings if finding.code == "G101"]
    assert finding.site.path == tensor
    if likely is not None:
        assert finding.evidence["likely"] == likely
    if factor is not None:
        assert finding.evidence["name"] == factor


@pytest.mark.parametrize("nothing", [None, 0.0], ids=["None", "zeros"])
def test_a_forgotten_argument_is_a_missing_gradient(nothing):
    def forgetful(kept, dout):
        dx, dw, _ = right(kept, dout)
        return dx, dw, None if nothing is None else jnp.zeros(3)

    report = gv.check(affine(forgetful), X, W, B)
    assert kinds(report) == [("G102", "b", "detached")]


def test_a_jitted_function_is_checked_like_a_plain_one():
    wrong = affine(lambda kept, dout: (right(kept, dout)[0] * 1.01, *right(kept, dout)[1:]))
    assert gv.check(jax.jit(affine(right)), X, W, B).verdict.value == "pass"
    assert statuses(gv.check(jax.jit(wrong), X, W, B)) == {"x": "wrong", "w": "right", "b": "right"}


def test_a_gradient_of_a_wrong_shape_is_a_finding():
    report = gv.check(affine(lambda kept, dout: (right(kept, dout)[0].T, *right(kept, dout)[1:])), X, W, B)
    (finding,) = [finding for finding in report.findings if finding.code == "G101"]
    assert (finding.site.path, finding.evidence["likely"]) == ("x", "shape")
    assert (finding.evidence["got"], finding.evidence["expected"]) == ("(4, 5)", "(5, 4)")


def test_a_backward_that_forgets_one_of_two_outputs_is_wrong():
    @jax.custom_vjp
    def sincos(x):
        return jnp.sin(x), jnp.cos(x)

    sincos.defvjp(lambda x: (sincos(x), x), lambda x, douts: (douts[0] * jnp.cos(x),))
    assert statuses(gv.check(sincos, X)) == {"x": "wrong"}


def test_nondifferentiable_arguments_integers_and_none_are_passed_through():
    @functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
    def power(x, n, labels, mask):
        return x**n * (labels[:, None] > 0) if mask is None else x

    power.defvjp(
        lambda x, n, labels, mask: (power(x, n, labels, mask), (x, labels)),
        lambda n, kept, dout: (dout * n * kept[0] ** (n - 1) * (kept[1][:, None] > 0), None, None),
    )
    report = gv.check(power, X, 3, jnp.arange(5), None)
    assert (report.verdict.value, statuses(report)) == ("pass", {"x": "right"})


# ---- custom_jvp ----------------------------------------------------------------------------------------------------


def softplus(slope):
    @jax.custom_jvp
    def softplus(x):
        return jnp.logaddexp(x, 0.0)

    softplus.defjvps(lambda tangent, out, x: slope(x) * tangent)
    return softplus


def test_a_right_custom_jvp_passes_and_a_wrong_one_fails():
    assert gv.check(softplus(jax.nn.sigmoid), X).verdict.value == "pass"
    report = gv.check(softplus(lambda x: 1 - jax.nn.sigmoid(x)), X)
    assert (report.verdict.value, statuses(report)) == ("fail", {"x": "wrong"})


def test_a_term_that_a_custom_jvp_forgets_is_found_at_its_argument():
    @jax.custom_jvp
    def product(x, y):
        return x * y * y

    product.defjvp(lambda at, along: (product(*at), along[0] * at[1] ** 2 + along[1] * at[0] * at[1]))  # 2xy is right
    assert statuses(gv.check(product, X, X + 2)) == {"x": "right", "y": "wrong"}


# ---- pytrees and models --------------------------------------------------------------------------------------------


def mlp(params, x):
    for layer in params["hidden"]:
        x = jnp.tanh(x @ layer["W"] + layer["b"])
    return x @ params["head"]["W"] + params["head"]["b"]


def mlp_parameters():
    sizes = [(4, 6), (6, 5)]
    draw = functools.partial(RNG.normal, scale=0.5)
    hidden = [{"W": jnp.asarray(draw(size=s), jnp.float32), "b": jnp.zeros(s[1])} for s in sizes]
    return {"hidden": hidden, "head": {"W": jnp.asarray(draw(size=(5, 3)), jnp.float32), "b": jnp.zeros(3)}}


def test_an_mlp_with_its_parameters_in_a_pytree_passes_with_a_loss():
    labels = jnp.array([0, 1, 2, 0, 1])

    def cross_entropy(logits):
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()

    report = gv.check(mlp, mlp_parameters(), X, loss=cross_entropy)
    assert report.verdict.value == "pass"
    assert report.settings["objective"] == "loss"
    assert set(statuses(report)) == {
        *(f"params.hidden[{at}].{name}" for at in (0, 1) for name in "Wb"),
        "params.head.W",
        "params.head.b",
        "x",
    }


def test_a_stop_gradient_in_the_middle_is_found_at_the_parameters_behind_it():
    def cut(params, x):
        hidden, *others = params["hidden"]
        return mlp({**params, "hidden": [jax.lax.stop_gradient(hidden), *others]}, x)

    report = gv.check(cut, mlp_parameters(), X)
    assert kinds(report) == [("G102", "params.hidden[0].W", "detached")]
    assert report.findings[0].evidence["tensors"] == ("params.hidden[0].W", "params.hidden[0].b")


@functools.partial(jax.tree_util.register_dataclass, data_fields=["weight", "bias"], meta_fields=["scale"])
class Linear:
    """A module as Equinox has them: a pytree that can be called."""

    def __init__(self, weight, bias, scale=1.0):
        self.weight, self.bias, self.scale = weight, bias, scale

    def __call__(self, x):
        return affine(lambda kept, dout: (right(kept, dout)[0], self.scale * right(kept, dout)[1], dout.sum(0)))(
            x, self.weight, self.bias
        )


def test_a_module_that_is_a_pytree_has_its_leaves_checked():
    assert statuses(gv.check(Linear(W, B), X)) == {"weight": "right", "bias": "right", "x": "right"}
    report = gv.check(Linear(W, B, scale=3.0), X)
    assert statuses(report) == {"weight": "wrong", "bias": "right", "x": "right"}
    assert report.findings[0].evidence["name"] == "3"


def rnn(params, xs):
    def cell(h, x):
        h = jnp.tanh(x @ params["Wx"] + h @ params["Wh"] + params["b"])
        return h, h

    return jax.lax.scan(cell, jnp.zeros(3), xs)[1]


def test_a_scanned_recurrent_network_passes():
    params = {"Wx": W, "Wh": jnp.asarray(RNG.normal(size=(3, 3)) / 2, jnp.float32), "b": B}
    report = gv.check(rnn, params, X)
    assert (report.verdict.value, report.cost["forwards"] < 150) == ("pass", True)


LAYERS = {
    "gelu": (jax.nn.gelu, [X]),
    "silu": (jax.nn.silu, [X]),
    "log_softmax": (jax.nn.log_softmax, [X]),
    "logsumexp": (jax.nn.logsumexp, [X]),
    "glu": (jax.nn.glu, [X]),
    "relu": (jax.nn.relu, [X]),
    "standardize": (jax.nn.standardize, [X]),
    "attention": (jax.nn.dot_product_attention, [X.reshape(1, 5, 2, 2)] * 3),
    "convolution": (
        lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME"),
        [X.reshape(1, 1, 5, 4), W.reshape(1, 1, 4, 3)],
    ),
    "solve": (lambda a, b: jnp.linalg.solve(a @ a.T + jnp.eye(4), b), [X[:4], W]),
    "cumulative": (lambda x: jnp.cumsum(jnp.sort(x, axis=0), axis=1), [X]),
}


#: What XLA takes seconds to compile.
SLOW = ("attention", "solve", "logsumexp")


def scaled_backward(function, factor):
    """The same function, its gradients multiplied by a factor."""

    @jax.custom_vjp
    def scaled(*inputs):
        return function(*inputs)

    def backward(inputs, dout):
        return tuple(factor * gradient for gradient in jax.vjp(function, *inputs)[1](dout))

    scaled.defvjp(lambda *inputs: (function(*inputs), inputs), backward)
    return scaled


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in LAYERS]
)
def test_jaxs_own_layers_pass_and_one_per_cent_off_they_fail(name):
    function, inputs = LAYERS[name]
    assert gv.check(function, *inputs).verdict.value == "pass"
    assert set(statuses(gv.check(scaled_backward(function, 1.01), *inputs)).values()) == {"wrong"}


def test_dropout_with_a_key_passes():
    def dropout(x, key):
        return x * jax.random.bernoulli(key, 0.5, x.shape) * 2

    report = gv.check(dropout, X, jax.random.key(0))
    assert (report.verdict.value, statuses(report)) == ("pass", {"x": "right"})


# ---- second order --------------------------------------------------------------------------------------------------


def softmax_with(kept_as):
    @jax.custom_vjp
    def own(x):
        return jax.nn.softmax(x)

    own.defvjp(
        lambda x: (own(x), kept_as(jax.nn.softmax(x))),
        lambda y, dout: (y * (dout - (dout * y).sum(-1, keepdims=True)),),
    )
    return own


@pytest.mark.parametrize("loss", [None, lambda y: (y**3).sum()])
def test_the_second_derivative_of_a_right_function_passes(loss):
    report = gv.check(softmax_with(lambda y: y), X, loss=loss, order=2)
    assert (report.verdict.value, statuses(report)) == ("pass", {"x": "right"})


def test_a_backward_that_is_right_once_and_not_twice_fails_in_second_order_only():
    cut = softmax_with(jax.lax.stop_gradient)
    assert gv.check(cut, X).verdict.value == "pass"
    assert gv.check(cut, X, order=2).verdict.value == "fail"


def test_second_order_reaches_across_parameters():
    report = gv.check(mlp, mlp_parameters(), X, loss=lambda y: (y**2).mean(), order=2, wrt="params.head.*")
    assert statuses(report) == {"params.head.W": "right", "params.head.b": "right"}


def test_second_order_of_a_given_gradient_is_refused():
    with pytest.raises(gv.UsageError, match="order=2"):
        gv.check(cost, {"W": W}, X, grad=jax.grad(cost), order=2)


# ---- precisions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "sensitivity"), [("float64", 1e-4), ("float32", 1e-3), ("bfloat16", 1e-1), ("float16", 1e-1)]
)
def test_each_dtype_is_judged_by_its_own_sensitivity(dtype, sensitivity):
    with jax.enable_x64(new_val=dtype == "float64"):
        inputs = [jnp.asarray(np.asarray(array), dtype) for array in (X, W, B)]
        report = gv.check(affine(right), *inputs)
        assert report.settings["sensitivity"] == sensitivity
        assert {row[3] for row in report.table("tensors").rows} == {dtype}
        assert report.verdict.value == "pass"
        double = affine(lambda kept, dout: (*right(kept, dout)[:2], 2 * dout.sum(0)))
        assert statuses(gv.check(double, *inputs)) == {"x": "right", "w": "right", "b": "wrong"}


def test_float64_shows_a_mistake_of_a_thousandth():
    with jax.enable_x64(new_val=True):
        inputs = [jnp.asarray(np.asarray(array), "float64") for array in (X, W, B)]
        wrong = affine(lambda kept, dout: (right(kept, dout)[0] * 1.001, *right(kept, dout)[1:]))
        assert statuses(gv.check(wrong, *inputs)) == {"x": "wrong", "w": "right", "b": "right"}


def test_what_float32_cannot_resolve_is_unresolved():
    """A difference in which nearly all digits cancel."""

    def function(x):
        return (jnp.sin(x) + jnp.float32(1e6)) - jnp.float32(1e6)

    report = gv.check(function, X, precision="native")
    assert report.verdict.value == "inconclusive"
    assert statuses(report) == {"x": "unresolved"}
    assert ("G104", "x") in [kind[:2] for kind in kinds(report)]
    assert gv.check(function, X).verdict.value == "pass"  # float64 resolves it


def test_complex_functions_are_checked_as_pairs_of_real_numbers():
    z = jax.lax.complex(X, X[::-1])
    assert gv.check(lambda z: jnp.exp(z) * z.conj(), z).verdict.value == "pass"

    @jax.custom_vjp
    def square(z):
        return z * z

    square.defvjp(lambda z: (z * z, z), lambda z, dout: (2 * z.conj() * dout,))  # JAX wants no conjugate here
    assert statuses(gv.check(square, z)) == {"z": "wrong"}


@pytest.mark.parametrize(("outputs", "verdict"), [("mean", "pass"), ("worst", "fail")])
def test_the_outputs_that_are_judged_can_be_chosen(outputs, verdict):
    wrong = scaled_backward(jnp.sin, -1)
    report = gv.check(lambda x: {"mean": jnp.cos(x), "worst": wrong(x)}, X, outputs=outputs)
    assert report.verdict.value == verdict


@pytest.mark.parametrize("loss", [None, jnp.sum])
def test_a_backward_that_ignores_what_comes_from_above_is_told(loss):
    @jax.custom_vjp
    def total(x):
        return jnp.sin(x)

    total.defvjp(lambda x: (jnp.sin(x), x), lambda x, dout: (jnp.cos(x),))
    report = gv.check(total, X, loss=loss)
    assert ("G101", "x", "ignores-cotangent") in kinds(report)


# ---- given gradients -----------------------------------------------------------------------------------------------


def cost(params, x):
    return jnp.sin(x @ params["W"]).sum()


@pytest.mark.parametrize("factor", [1.0, 2.0])
@pytest.mark.parametrize("given", ["function", "values", "jax.grad", "names"])
def test_a_given_gradient_is_what_is_judged(given, factor):
    def by_hand(params, x):
        return {"W": factor * x.T @ jnp.cos(x @ params["W"])}

    grad = {
        "function": by_hand,
        "values": by_hand({"W": W}, X),
        "jax.grad": jax.grad(lambda params, x: factor * cost(params, x)),
        "names": lambda params, x: {"dW": by_hand(params, x)["W"]},
    }[given]
    report = gv.check(cost, {"W": W}, X, grad=grad)
    assert statuses(report) == {"params.W": "right" if factor == 1 else "wrong"}
    assert report.settings["objective"] == "scalar"


@pytest.mark.parametrize("transposed", [False, True])
def test_a_hand_written_layer_is_judged_by_its_backward(transposed):
    def backward(dout, cache):
        x, w = cache
        return dout @ w.T, (dout.T @ x if transposed else x.T @ dout)

    square = jnp.asarray(RNG.normal(size=(4, 4)), jnp.float32)
    report = gv.check(lambda x, w: (x @ w, (x, w)), X, square, vjp=backward)
    assert statuses(report) == {"x": "right", "w": "wrong" if transposed else "right"}
    if transposed:
        assert report.findings[0].evidence["likely"] == "transposed"


def test_a_given_gradient_of_a_wrong_shape_is_a_finding():
    report = gv.check(cost, {"W": W}, X, grad=lambda params, x: {"W": jnp.zeros((3, 4))})
    assert kinds(report)[0] == ("G101", "params.W", "shape")


# ---- findings that no tensor is to blame for ------------------------------------------------------------------------


def test_a_gradient_that_is_not_finite_is_found():
    report = gv.check(lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0), jnp.array([0.0, 1.0, -1.0, 4.0]))
    assert kinds(report)[0][:2] == ("G103", "x")


def test_an_input_that_the_function_ignores_is_only_mentioned():
    report = gv.check(lambda x, unused: jnp.sin(x), X, X)
    assert (report.verdict.value, kinds(report)) == ("pass", [("G102", "unused", "unused")])


def test_a_function_that_changes_from_call_to_call_is_told():
    calls = []

    def drifting(x):
        calls.append(1)
        return x * (1 + len(calls) / 10)

    assert "G105" in [finding.code for finding in gv.check(drifting, X).findings]


# ---- bad input and restoration -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "kind", "fragments"),
    [
        (lambda: gv.check(lambda x: x.astype(int), X), gv.InputError, ["no floating-point array", "int32"]),
        (lambda: gv.check(jnp.sin, X[:0]), gv.InputError, ["is empty", "(0, 4)"]),
        (lambda: gv.check(lambda x: x[:, :0], X), gv.InputError, ["empty"]),
        (lambda: gv.check(jnp.sin, X.at[1, 2].set(jnp.nan)), gv.InputError, ["not finite", "1 NaN", "(1, 2)"]),
        (lambda: gv.check(jnp.dot, X, X), gv.ModelError, ["dot() raised TypeError", "(4,) and (5,)"]),
        (lambda: gv.check(affine(lambda kept, dout: (dout,)), X, W, B), gv.ModelError, ["the backward pass of affine"]),
        (lambda: gv.check(jnp.sin, X, los=1), gv.UsageError, ["did you mean 'loss'"]),
    ],
)
def test_bad_input_is_refused_in_three_parts(call, kind, fragments):
    with pytest.raises(kind) as caught:
        call()
    error = caught.value
    assert error.what
    assert error.where
    assert error.remedy
    for fragment in fragments:
        assert fragment in str(error), str(error)


@pytest.mark.parametrize("failure", [None, ValueError("on purpose"), KeyboardInterrupt()])
def test_a_check_leaves_inputs_settings_and_random_states(failure):
    params = {"W": W + 0, "n": 3, "none": None}
    kept, random_state = np.array(params["W"]), str(np.random.get_state())
    calls = []

    def function(params, x):
        calls.append(1)
        np.random.normal()
        if failure is not None and len(calls) > 2:
            raise failure
        if x.sum() > 1e9:  # so that it is called for each point
            return x
        return x @ params["W"]

    if failure is None:
        assert gv.check(function, params, X).ok
    else:
        with pytest.raises(KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else gv.ModelError):
            gv.check(function, params, X)
    assert np.array_equal(params["W"], kept)
    assert list(params) == ["W", "n", "none"]
    assert jax.config.jax_enable_x64 is False
    assert jnp.asarray(1.0).dtype == jnp.float32
    assert jax.config.jax_debug_nans is False
    assert str(np.random.get_state()) == random_state


def test_the_same_check_says_the_same_again():
    first, second = (gv.check(affine(right), X, W, B, seed=3) for _ in range(2))
    assert repr(first.tables) == repr(second.tables)
