"""JAX functions behind the seam: points, values in batches, gradients, float64, and nothing changed."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest

from gradvitals.frameworks import Case, framework_of, opened
from gradvitals.vocabulary.errors import InputError, ModelError, UsageError

jax = pytest.importorskip("jax")
jnp = jax.numpy

from gradvitals.frameworks.jax.problem import JaxProblem  # noqa: E402 - it needs jax

RNG = np.random.default_rng(0)
X64, W64 = RNG.normal(size=(5, 4)), RNG.normal(size=(4, 3))
X, W = jnp.asarray(X64, jnp.float32), jnp.asarray(W64, jnp.float32)
#: What the float32 arrays hold, in float64.
X32, W32 = np.asarray(X, np.float64), np.asarray(W, np.float64)
Z = jax.lax.complex(X, X[::-1])


def layer(x, w):
    return jnp.tanh(x @ w)


@jax.custom_vjp
def matmul(x, w):
    return x @ w


matmul.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, dout: (dout @ kept[1].T, kept[0].T @ dout))


def problem(function, *inputs, wrt=None, outputs=None, **options):
    return JaxProblem(Case(function, inputs, **options), wrt, outputs=outputs)


# ---- recognition ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        jax.jit(layer),
        jax.vmap(layer),
        jax.grad(lambda x, w: layer(x, w).sum()),
        jax.checkpoint(layer),
        matmul,
        jax.jit(matmul),
        functools.partial(matmul, w=W64),
        jax.custom_jvp(layer),
        jax.nn.gelu,
        jnp.add,
    ],
)
def test_a_function_of_jax_is_recognised_on_numpy_inputs(function):
    assert framework_of(Case(function, (X64, W64))) == "jax"


def test_a_case_with_an_array_of_jax_anywhere_is_recognised():
    assert framework_of(Case(layer, (X, W64))) == "jax"
    assert framework_of(Case(layer, ({"deep": [X]}, 2))) == "jax"
    assert framework_of(Case(layer, (X64,), {"w": W})) == "jax"
    assert framework_of(Case(Registered(W, 3), (X64,))) == "jax"
    assert framework_of(Case(layer, (X64, W64))) == "numpy"
    assert framework_of(Case(np.sin, ({1: X64, "unsortable": 2},))) == "numpy"


def test_torch_code_stays_torch_code_beside_jax():
    torch = pytest.importorskip("torch")
    assert framework_of(Case(layer, (torch.ones(2), 3))) == "torch"


def test_numpy_code_imports_no_jax():
    code = (
        "import sys, numpy as np, gradvitals as gv;"
        "assert gv.check(lambda x: (x**2).sum(), np.ones(3), grad=lambda x: 2 * x).ok;"
        "assert 'jax' not in sys.modules and 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- tensors -------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    weight: jax.Array
    bias: jax.Array


@functools.partial(jax.tree_util.register_dataclass, data_fields=["kernel"], meta_fields=["size"])
class Registered:
    """A dataclass of JAX's, and callable like an Equinox module."""

    def __init__(self, kernel, size):
        self.kernel, self.size = kernel, size

    def __call__(self, x):
        assert isinstance(self.size, int)
        return jnp.tanh(x @ self.kernel[:, : self.size])


def test_leaves_have_readable_paths_and_all_kinds_of_nodes_are_known():
    params = {"dense": {"W": W, "b": jnp.zeros(3)}, "pair": Pair(W, jnp.ones(3)), "none": None, "layers": [(W, 2)]}

    def model(params, x, n, key, own):
        assert isinstance(n, int)
        assert params["none"] is None
        assert key.dtype == jax.random.key(0).dtype
        return x @ params["dense"]["W"] + params["pair"].bias + params["layers"][0][0].sum() ** n + own(x)

    found = problem(model, params, X, 2, jax.random.key(0), Registered(W, 3))
    assert [(tensor.path, tensor.role) for tensor in found.tensors] == [
        ("params.dense.W", "parameter"),
        ("params.dense.b", "parameter"),
        ("params.layers[0][0]", "parameter"),
        ("params.pair.weight", "parameter"),
        ("params.pair.bias", "parameter"),
        ("x", "input"),
        ("own.kernel", "input"),
    ]
    assert found.evaluation == "batched"
    assert [
        tensor.path for tensor in problem(model, params, X, 2, jax.random.key(0), Registered(W, 3), wrt="*W").tensors
    ] == ["params.dense.W"]


def test_the_leaves_of_a_callable_pytree_are_its_parameters():
    found = problem(Registered(W, 2), X)
    assert [(tensor.path, tensor.role, tensor.shape) for tensor in found.tensors] == [
        ("kernel", "parameter", (4, 3)),
        ("x", "input", (5, 4)),
    ]
    assert np.allclose(found.value({}), np.tanh(X32 @ W32[:, :2]).ravel(), rtol=1e-5)


def test_settings_are_not_moved_but_a_number_alone_is():
    assert [tensor.path for tensor in problem(lambda x, eps: x / (1 + eps), X, 1e-3).tensors] == ["x"]
    (alone,) = problem(jax.jit(lambda x: x**2), 3.0).tensors
    assert (alone.path, alone.shape, alone.dtype) == ("x", (), "float32")


@pytest.mark.parametrize(
    ("dtype", "roundoff"), [("float32", 2.0**-24), ("bfloat16", 2.0**-8), ("float16", 2.0**-11), ("float64", 2.0**-53)]
)
def test_each_dtype_has_its_roundoff_and_is_evaluated_as_it_is(dtype, roundoff):
    with jax.enable_x64(new_val=dtype == "float64"):
        found = problem(layer, jnp.asarray(X64, dtype), jnp.asarray(W64, dtype))
        assert [tensor.dtype for tensor in found.tensors] == [dtype, dtype]
        assert found.roundoff == roundoff
        assert set(found.output_roundoff) == {roundoff}
        points = [np.asarray(jnp.asarray(a, dtype), np.float64) for a in (X64, W64)]
        assert np.allclose(found.value({}), np.tanh(points[0] @ points[1]).ravel(), atol=16 * roundoff)


def test_float64_arrays_of_numpy_are_what_jax_makes_of_them():
    x, w = problem(matmul, X64, W64).tensors
    assert (x.dtype, w.dtype) == ("float32", "float32")


def test_a_weakly_typed_input_stays_weak_when_it_is_moved():
    """A Python number made an array must not drag bfloat16 up to float32."""
    half = X.astype(jnp.bfloat16)
    for scale in (jnp.asarray(2.0), jnp.full((4,), 2.0)):
        found = problem(lambda x, scale: x * scale, half, scale)
        assert set(found.output_roundoff) == {2.0**-8}
        assert found.evaluation == "batched"
        moved = found.value({1: np.full(scale.size, 3.0)})
        assert np.array_equal(moved, np.asarray(half * 3.0, np.float64).ravel())


# ---- values --------------------------------------------------------------------------------------------------------


def test_values_at_many_points_are_those_at_each_point():
    found = problem(layer, X, W)
    points = [{0: found.point(0) + step, 1: found.point(1) * (1 - step)} for step in np.linspace(-0.5, 0.5, 19)] + [{}]
    rows = found.values(points)
    assert found.evaluation == "batched"
    assert np.array_equal(rows, [found.value(point) for point in points])
    x, w = (np.array(found.rounded(at, values)) for at, values in points[3].items())
    assert np.allclose(rows[3], np.tanh(x.reshape(5, 4) @ w.reshape(4, 3)).ravel(), rtol=1e-5, atol=1e-6)
    assert found.values([]).shape == (0, 15)


def test_very_many_points_are_evaluated_like_few():
    found = problem(layer, X, W)
    points = [{1: found.point(1) + step} for step in np.linspace(-0.5, 0.5, 100)]
    few = np.vstack([found.values(points[at : at + 8]) for at in range(0, 100, 8)])
    assert np.allclose(found.values(points), few, rtol=0, atol=2.0**-24)


def branching(x):
    return x**2 if x.sum() > 0 else jnp.sin(x)


def test_a_function_that_looks_at_its_values_is_evaluated_as_it_is_and_says_why():
    found = problem(branching, jnp.abs(X))
    assert found.evaluation == "sequential: TracerBoolConversionError"
    rows = found.values([{}, {0: -found.point(0)}])
    assert np.allclose(rows, [(X32**2).ravel(), np.sin(-np.abs(X32)).ravel()], rtol=1e-6)
    cotangent = np.ones(20)
    assert np.allclose(found.gradient(cotangent)[0].value, 2 * np.abs(X32).ravel(), rtol=1e-6)


def test_a_function_that_cannot_be_batched_is_compiled_alone():
    def hosted(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    hosted = jax.custom_vjp(hosted)
    hosted.defvjp(lambda x: (hosted(x), x), lambda x, dout: (dout * jnp.cos(x),))
    found = problem(hosted, X)
    assert found.evaluation.startswith("sequential: ")
    assert found.evaluation != "sequential: "
    assert np.allclose(found.values([{}, {0: 2 * found.point(0)}]), np.sin([X32.ravel(), 2 * X32.ravel()]), rtol=1e-6)
    assert np.allclose(found.gradient(np.ones(20))[0].value, np.cos(X32).ravel(), rtol=1e-6)


def test_a_function_with_a_state_is_not_compiled():
    calls = []

    def counting(x):
        calls.append(1)
        return x * len(calls)

    found = problem(counting, X)
    assert found.evaluation == "sequential: compiled it gives another value"
    assert not np.array_equal(found.value({}), found.value({}))


def test_a_point_where_the_function_raises_is_a_row_of_nan():
    def picky(x):
        if float(x[0]) > 1:
            raise ValueError("too large")
        return x**2

    found = problem(picky, jnp.array([0.5, 2.0]))
    rows = found.values([{}, {0: np.array([1.5, 2.0])}])
    assert np.array_equal(rows[0], [0.25, 4.0])
    assert np.isnan(rows[1]).all()
    with pytest.raises(ModelError, match="too large"):
        found.value({0: np.array([1.5, 2.0])})


def test_a_callback_that_raises_at_one_point_spoils_no_other():
    def host(x):
        if x[0] > 1:
            raise ValueError("too large")
        return x**2

    def hosted(x):
        return jax.pure_callback(host, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential")

    found = problem(hosted, jnp.array([0.5, 2.0]))
    assert found.evaluation == "batched"
    rows = found.values([{}, {0: np.array([1.5, 2.0])}])
    assert np.array_equal(rows[0], [0.25, 4.0])
    assert np.isnan(rows[1]).all()


def test_nan_beyond_the_domain_is_an_answer_under_debug_nans_too():
    with jax.debug_nans(new_val=True):
        found = problem(jnp.sqrt, jnp.ones(3))
        assert np.isnan(found.value({0: np.array([-1.0, 1.0, 1.0])})).tolist() == [True, False, False]


def test_a_function_that_gives_its_arguments_away_leaves_the_inputs():
    x, w = X + 0, W + 0
    greedy = jax.jit(lambda x, w: (x * 2, w * 2), donate_argnums=(0, 1))
    found = problem(greedy, x, w, wrt="x")
    found.values([{}])
    found.gradient(np.ones(found.value({}).size))
    assert np.array_equal(x, X)
    assert np.array_equal(w, W)


def test_random_numbers_of_numpy_are_the_same_each_time():
    def noisy(x):
        if x.sum() > 1e9:  # looks at its values, so that it is never compiled
            return x
        return x + np.random.normal(size=x.shape).astype(np.float32)

    found = problem(noisy, X)
    assert np.array_equal(found.value({}), found.value({}))


# ---- what is differentiated ----------------------------------------------------------------------------------------


def test_the_objective_is_told():
    assert problem(layer, X, W).objective == "random"
    assert problem(layer, X, W, loss=lambda y: (y**2).mean()).objective == "loss"
    assert problem(lambda x: {"loss": x.sum(), "y": x}, X).objective == "output-loss"
    assert problem(lambda x: x.sum(), X).objective == "output-loss"
    assert problem(lambda x: (x.sum(), {"aux": x}), X, grad=jnp.ones_like).objective == "scalar"


def test_outputs_are_chosen_by_path_or_place():
    def several(x):
        return {"a": x, "b": (2 * x, 3 * x)}

    assert problem(several, X).output_sizes == (20, 20, 20)
    assert np.allclose(problem(several, X, outputs="b[1]").value({}), 3 * X32.ravel(), rtol=1e-6)
    assert problem(several, X, outputs="b").output_sizes == (20, 20)
    assert np.allclose(problem(lambda x: (x, 2 * x), X, outputs=-1).value({}), 2 * X32.ravel(), rtol=1e-6)
    with pytest.raises(UsageError, match=r"there are: a, b\[0\], b\[1\]"):
        problem(several, X, outputs="c")
    with pytest.raises(UsageError, match="leave one out"):
        problem(several, X, outputs="a", loss=lambda y: y["a"].sum())


def test_integers_among_the_outputs_are_passed_over():
    assert problem(lambda x: (x, jnp.argmax(x), 3, None, "text"), X).output_sizes == (20,)


def test_statistics_behind_a_stop_gradient_are_left_out_beside_others():
    found = problem(lambda x: {"y": x**2, "mean": jax.lax.stop_gradient(x.mean(0))}, X)
    assert (found.left_out, found.output_sizes) == (("mean",), (20,))


def test_an_output_that_a_custom_backward_forgets_is_not_left_out():
    @jax.custom_vjp
    def pair(x):
        return jnp.sin(x), jnp.cos(x)

    pair.defvjp(lambda x: (pair(x), x), lambda x, douts: (douts[0] * jnp.cos(x),))
    found = problem(pair, X)
    assert (found.left_out, found.output_sizes) == ((), (20, 20))


def test_outputs_in_a_dataclass_that_jax_does_not_know_are_found():
    import dataclasses

    @dataclasses.dataclass
    class Output:
        logits: jax.Array
        count: int = 3

    assert np.array_equal(problem(Output, X).value({}), X32.ravel())


# ---- gradients -----------------------------------------------------------------------------------------------------


def test_the_gradient_is_that_of_the_projection_on_the_cotangent():
    found = problem(layer, X, W)
    cotangent = found.representable(RNG.normal(size=15))
    inner = cotangent.reshape(5, 3) * (1 - np.tanh(X32 @ W32) ** 2)
    dx, dw = found.gradient(cotangent)
    assert np.allclose(dx.value, (inner @ W32.T).ravel(), rtol=1e-5, atol=1e-6)
    assert np.allclose(dw.value, (X32.T @ inner).ravel(), rtol=1e-5, atol=1e-6)


def test_the_gradient_follows_the_point():
    found = problem(lambda x: x**3, X)
    assert np.allclose(found.gradient(np.ones(20), {0: 2 * found.point(0)})[0].value, 12 * X32.ravel() ** 2, rtol=1e-5)


def test_a_cotangent_is_rounded_as_the_output_holds_it():
    found = problem(layer, X.astype(jnp.bfloat16), W.astype(jnp.bfloat16))
    assert np.array_equal(found.representable(np.full(15, 1.001)), np.ones(15))


def test_complex_arrays_are_pairs_of_real_ones():
    """d|z|² = 2x dx + 2y dy; d(z·z) is the rotation by 2z."""
    found = problem(lambda z: (z * z.conj()).real, Z)
    (tensor,) = found.tensors
    assert (tensor.shape, tensor.shown_shape, tensor.dtype, tensor.roundoff) == (
        (5, 4, 2),
        (5, 4),
        "complex64",
        2.0**-24,
    )
    pairs = np.stack([X32, X32[::-1]], axis=-1)
    assert np.array_equal(found.point(0), pairs.ravel())
    assert np.allclose(found.gradient(np.ones(20))[0].value, 2 * pairs.ravel(), rtol=1e-6)
    square = problem(lambda z: z * z, Z)
    assert square.output_sizes == (40,)
    a, b = RNG.normal(size=(2, 5, 4))
    x, y = pairs[..., 0], pairs[..., 1]
    expected = np.stack([2 * (a * x + b * y), 2 * (b * x - a * y)], axis=-1)
    given = square.gradient(np.stack([a, b], axis=-1).ravel())[0].value
    assert np.allclose(given, expected.ravel(), rtol=1e-5, atol=1e-5)


def test_no_gradient_comes_where_the_path_is_cut_and_zeros_where_a_unit_is_dead():
    x, w = problem(lambda x, w: jax.lax.stop_gradient(x) @ w, X, W).gradient(np.ones(15))
    assert x.value is None
    assert w.value is not None
    (dead,) = problem(jax.nn.relu, -jnp.abs(X)).gradient(np.ones(20))
    assert np.array_equal(dead.value, np.zeros(20))
    (cut,) = problem(lambda x: jax.lax.stop_gradient(branching(x)), X).gradient(np.ones(20))
    assert cut.value is None


def test_a_gradient_of_a_wrong_shape_is_reported_with_its_shape():
    @jax.custom_vjp
    def transposed(x, w):
        return x @ w

    transposed.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, dout: ((dout @ kept[1].T).T, kept[0].T @ dout))
    dx, dw = problem(transposed, X, W).gradient(np.ones(15))
    assert (dx.value, dx.got_shape) == (None, (4, 5))
    assert dw.stopped


def test_forward_mode_gives_the_derivative_along_a_direction():
    found = problem(layer, X, W, wrt="w")
    along = RNG.normal(size=12)
    expected = (1 - np.tanh(X32 @ W32) ** 2) * (X32 @ along.reshape(4, 3))
    assert np.allclose(found.tangent({0: along}), expected.ravel(), rtol=1e-5, atol=1e-5)
    assert np.allclose(found.shadow().tangent({0: along}), expected.ravel(), rtol=1e-13, atol=1e-13)
    assert np.array_equal(found.tangent({}), np.zeros(15))


def test_a_custom_vjp_has_no_forward_mode():
    assert problem(matmul, X, W).tangent({0: np.ones(20)}) is None


def test_a_forward_pass_takes_several_cotangents_back():
    found = problem(layer, X, W)
    pull = found.pullback()
    assert np.array_equal(pull.value, found.value({}))
    one, two = pull.send(np.ones(15)), pull.send(np.full(15, -2.0))
    for a, b in zip(one.gradients, two.gradients, strict=True):
        assert np.allclose(-2 * a.value, b.value, rtol=1e-6)
    assert not one.raised
    assert not one.modified
    assert found.pullback(only=[1]).send(np.ones(15)).gradients[0].value is None


def test_one_array_handed_over_twice_gets_the_sum_of_both_gradients():
    found = problem(lambda a, b: a * jnp.sin(b), X, X + 1)
    first, second = found.pullback(shared=[(0, 1)]).send(np.ones(20)).gradients
    assert np.allclose(first.value, (np.sin(X32) + X32 * np.cos(X32)).ravel(), rtol=1e-5, atol=1e-6)
    assert second.value is None


# ---- float64 -------------------------------------------------------------------------------------------------------


def test_the_shadow_computes_in_float64():
    found = problem(layer, X, W)
    shadow = found.shadow()
    assert (shadow.roundoff, shadow.wide, shadow.evaluation) == (2.0**-53, True, "batched")
    assert np.allclose(shadow.value({}), np.tanh(X32 @ W32).ravel(), rtol=1e-15)
    x = found.point(0) + 1e-9
    assert np.allclose(shadow.value({0: x}), np.tanh(x.reshape(5, 4) @ W32).ravel(), rtol=1e-15)
    assert np.array_equal(shadow.rounded(0, x), x)
    assert not np.array_equal(found.rounded(0, x), x)
    assert found.value({}).tolist() == problem(layer, X, W).value({}).tolist()


def test_the_shadow_gives_the_native_gradient_and_its_own():
    found = problem(layer, X, W)
    shadow = found.shadow()
    cotangent = np.ones(15)
    expected = ((1 - np.tanh(X32 @ W32) ** 2) @ W32.T).ravel()
    assert np.array_equal(shadow.gradient(cotangent)[0].value, found.gradient(cotangent)[0].value)
    assert np.allclose(shadow.wide_gradient(cotangent)[0].value, expected, rtol=1e-14)
    assert found.wide_gradient(cotangent) is None


def test_bfloat16_and_complex64_have_a_shadow_too():
    half = problem(layer, X.astype(jnp.bfloat16), W.astype(jnp.bfloat16)).shadow()
    points = [half.point(at).reshape(shape) for at, shape in enumerate([(5, 4), (4, 3)])]
    assert np.allclose(half.value({}), np.tanh(points[0] @ points[1]).ravel(), rtol=1e-14)
    wide = problem(jnp.exp, Z).shadow()
    expected = np.exp(X32 + 1j * X32[::-1])
    assert np.allclose(wide.value({}).view(complex), expected.ravel(), rtol=1e-14)


def scanned(x):
    return jax.lax.scan(lambda h, row: (jnp.tanh(h + row), h), jnp.zeros(4, jnp.float32), x)[1]


def dropped(x):
    return x * jax.random.uniform(jax.random.key(0), x.shape)


@pytest.mark.parametrize("function", [scanned, dropped, lambda x: jnp.sin(x).astype(jnp.float32)])
def test_a_function_that_insists_on_float32_has_no_shadow(function):
    assert problem(function, X).shadow() is None


def test_a_float64_function_needs_no_shadow():
    with jax.enable_x64(new_val=True):
        assert problem(layer, jnp.asarray(X64), jnp.asarray(W64)).shadow() is None


def raising(x):
    if x.dtype == np.float64:
        raise KeyboardInterrupt
    return x * 2


@pytest.mark.parametrize("x64", [True, False])
def test_the_x64_flag_is_left_as_it_is(x64):
    with jax.enable_x64(new_val=x64):
        x = jnp.asarray(X64, jnp.float32)
        problem(layer, x, W).shadow().value({})
        with pytest.raises(KeyboardInterrupt):
            problem(raising, x).shadow()
        assert jax.config.jax_enable_x64 is x64
        assert jnp.asarray(1.0).dtype == (np.float64 if x64 else np.float32)


def test_random_states_of_the_host_are_restored():
    before = str(np.random.get_state())
    with opened(Case(lambda x: x + np.random.normal(), (X,))) as found:
        found.value({})
    assert str(np.random.get_state()) == before


class Keeping:
    """A layer that keeps its input, as courses write them; traced, it would keep a tracer."""

    def __init__(self):
        self.x = "nothing yet"

    def __call__(self, x):
        self.x, self.more = x, 1
        return jnp.sin(x)

    def backward(self, dout):
        return dout * jnp.cos(self.x)


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_a_layer_keeps_for_itself_is_put_back(by_hand):
    layer = Keeping()
    with opened(Case(layer, (X,), vjp=layer.backward if by_hand else None)) as found:
        assert np.allclose(found.gradient(np.ones(20))[0].value, np.cos(X32).ravel(), rtol=1e-6)
    assert vars(layer) == {"x": "nothing yet"}
    with pytest.raises(KeyboardInterrupt), opened(Case(layer, (X,))):
        raise KeyboardInterrupt
    assert vars(layer) == {"x": "nothing yet"}


# ---- given gradients -----------------------------------------------------------------------------------------------


def cost(x, w):
    return jnp.sin(x @ w).sum()


def by_hand(x, w):
    inner = jnp.cos(x @ w)
    return inner @ w.T, x.T @ inner


DX, DW = np.cos(X32 @ W32) @ W32.T, X32.T @ np.cos(X32 @ W32)


@pytest.mark.parametrize(
    ("grad", "paths"),
    [
        (jax.grad(cost), ["x"]),
        (jax.grad(cost, (0, 1)), ["x", "w"]),
        (by_hand, ["x", "w"]),
        (by_hand(X, W), ["x", "w"]),
        (lambda x, w: {"dx": by_hand(x, w)[0], "dw": by_hand(x, w)[1]}, ["x", "w"]),
        (lambda x, w: {"w": by_hand(x, w)[1]}, ["w"]),
        (lambda x, w: [np.asarray(g) for g in by_hand(x, w)], ["x", "w"]),
    ],
)
def test_gradients_are_matched_with_the_inputs(grad, paths):
    found = problem(cost, X, W, grad=grad)
    assert [tensor.path for tensor in found.tensors] == paths
    expected = {"x": DX, "w": DW}
    for tensor, gradient in zip(found.tensors, found.gradient(np.array([2.0])), strict=True):
        assert np.allclose(gradient.value, 2 * expected[tensor.path].ravel(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "grad",
    [
        jax.grad(lambda params, x: cost(x, params["dense"]["W"]), allow_int=True),
        lambda params, x: {"dW": by_hand(x, params["dense"]["W"])[1]},
        lambda params, x: ({"dense": {"W": by_hand(x, params["dense"]["W"])[1]}}, None),
    ],
)
def test_gradients_of_a_pytree_are_matched_by_their_paths(grad):
    found = problem(lambda params, x: cost(x, params["dense"]["W"]), {"dense": {"W": W}, "n": 3}, X, grad=grad)
    assert found.tensors[0].path == "params.dense.W"
    assert np.allclose(found.gradient(np.ones(1))[0].value, DW.ravel(), rtol=1e-5, atol=1e-5)


def test_gradients_of_complex_inputs_follow_the_convention_of_jax():
    def length(z):
        return jnp.abs(z).sum()

    (given,) = problem(length, Z, grad=jax.grad(length)).gradient(np.ones(1))
    (own,) = problem(length, Z).gradient(np.ones(1))
    pairs = np.stack([X32, X32[::-1]], axis=-1)
    expected = pairs / np.linalg.norm(pairs, axis=-1, keepdims=True)
    assert np.allclose(given.value, expected.ravel(), rtol=1e-5, atol=1e-6)
    assert np.allclose(own.value, expected.ravel(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [None, lambda y: (y**2).sum() / 2])
def test_a_hand_written_layer_is_asked_with_and_without_a_cache(loss):
    dout = np.asarray(X @ W, np.float64) if loss else RNG.normal(size=(5, 3)).astype(np.float32).astype(float)
    cotangent = np.ones(1) if loss else dout.ravel()
    plain = problem(lambda x, w: x @ w, X, W, vjp=lambda dout: (dout @ W.T, X.T @ dout), loss=loss)
    cached = problem(
        lambda x, w: (x @ w, (x, w)),
        X,
        W,
        vjp=lambda dout, cache: (dout @ cache[1].T, cache[0].T @ dout),
        loss=None if loss is None else lambda y: loss(y[0] if isinstance(y, tuple) else y),
    )
    for found in (plain, cached):
        assert found.evaluation == "sequential: a hand-written layer may keep a state"
        dx, dw = found.gradient(cotangent)
        assert np.allclose(dx.value, (dout @ W32.T).ravel(), rtol=1e-5, atol=1e-5)
        assert np.allclose(dw.value, (X32.T @ dout).ravel(), rtol=1e-5, atol=1e-5)


def test_a_complex_layer_is_handed_jaxs_cotangent():
    found = problem(lambda z: z * z, Z, vjp=lambda dout: 2 * Z * dout)
    cotangent = RNG.normal(size=40)
    expected = problem(lambda z: z * z, Z).gradient(cotangent)[0].value
    assert np.allclose(found.gradient(cotangent)[0].value, expected, rtol=1e-5, atol=1e-5)


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "kind", "fragments"),
    [
        (lambda: problem(lambda n: n, jnp.arange(3)), InputError, ["no floating-point array", "n (int32 (3,))"]),
        (lambda: problem(lambda x: x.sum(), X[:0]), InputError, ["is empty", "x has shape (0, 4)"]),
        (
            lambda: problem(lambda p: p["a"], {"a": X.at[1, 2].set(jnp.nan)}),
            InputError,
            ["not finite", "p.a has 1 NaN", "(1, 2)"],
        ),
        (lambda: problem(jnp.argmax, X), InputError, ["no floating-point array", "shape (), int32"]),
        (lambda: problem(lambda x: None, X), InputError, ["no floating-point array", "NoneType"]),
        (lambda: problem(layer, X, W, loss=lambda y: y), InputError, ["the loss is not a scalar", "(5, 3)"]),
        (lambda: problem(layer, X, W, loss=lambda y: y.argmax()), InputError, ["not a real number", "int32"]),
        (lambda: problem(layer, X, W, loss=lambda y: y.nothing), ModelError, ["the loss raised", "nothing"]),
        (lambda: problem(layer, X, W, grad=by_hand), InputError, ["is not a scalar", "(5, 3)"]),
        (lambda: problem(layer, X, W.T), ModelError, ["layer() raised", "test_jax_problem.py"]),
        (lambda: problem(layer, X, W, wrt="v"), UsageError, ["no tensor is called 'v'", "x, w"]),
        (lambda: problem(layer, X, W, wrt=[X]), UsageError, ["by their names", "x, w"]),
        (lambda: problem(cost, X, W, grad=by_hand, vjp=by_hand), UsageError, ["either grad= or vjp="]),
        (lambda: problem(cost, X, W, grad=lambda x, w: {"q": x}), InputError, ["can't be matched", "x, w"]),
        (lambda: problem(cost, X, W, grad=lambda x, w: ("x", w)).gradient(np.ones(1)), InputError, ["of x is str"]),
        (lambda: problem(cost, X, W, grad=lambda x, w: 1 / 0), ModelError, ["the gradient of cost", "division"]),
        (lambda: problem(cost, {1: X, "b": W}, W), InputError, ["no pytree", "x"]),
        (lambda: jax.jit(lambda x: problem(layer, x, W).value({}))(X), InputError, ["x is traced", "call it outside"]),
    ],
)
def test_bad_input_is_refused_in_three_parts(make, kind, fragments):
    with pytest.raises(kind) as caught:
        make()
    error = caught.value
    assert error.what
    assert error.where
    assert error.remedy
    for fragment in fragments:
        assert fragment in str(error), str(error)


def test_a_donated_input_is_refused():
    x = X + 0
    jax.jit(lambda x: x * 2, donate_argnums=0)(x)
    if not x.is_deleted():
        pytest.skip("this platform donates nothing")
    with pytest.raises(InputError, match="donated"):
        problem(jnp.sin, x)


def test_an_additive_mask_stays_where_it_is():
    mask = jnp.where(jnp.tri(5) > 0, 0.0, -jnp.inf)
    found = problem(lambda scores, mask: jax.nn.softmax(scores + mask), jnp.asarray(RNG.normal(size=(5, 5))), mask)
    assert [tensor.path for tensor in found.tensors] == ["scores"]


def test_what_a_backward_raises_is_a_model_error():
    @jax.custom_vjp
    def broken(x, w):
        return x @ w

    broken.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, dout: (dout @ kept[1].T,))
    with pytest.raises(ModelError, match="the backward pass of broken raised TypeError"):
        problem(broken, X, W).gradient(np.ones(15))
