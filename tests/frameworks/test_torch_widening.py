"""The float64 shadow: the same function without its rounding, whatever is cast inside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from gradvitals.frameworks import Case, opened
from gradvitals.frameworks.torch.widening import in_float64

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def flat(tensor):
    return tensor.detach().double().reshape(-1).numpy()


CASTS = {
    "float()": lambda x: torch.tanh(x.float()),
    "to(dtype)": lambda x: torch.tanh(x.to(torch.float32)).to(x.dtype),
    "to(other)": lambda x: torch.tanh(x).to(torch.ones(1, dtype=torch.float32)),
    "type()": lambda x: torch.tanh(x.type(torch.FloatTensor)),
    "type_as": lambda x: torch.tanh(x).type_as(torch.zeros(1, dtype=torch.float32)),
    "softmax(dtype=)": lambda x: functional.softmax(x, dim=-1, dtype=torch.float32) * x.exp(),
    "sum(dtype=)": lambda x: x.sum(dtype=torch.float32) + x,
    "half()": lambda x: torch.tanh(x.half()).float(),
    "factory": lambda x: x + torch.full((5,), 0.1, dtype=torch.float32),
    "written into": lambda x: torch.zeros(5, dtype=torch.float32).copy_(x).sin(),
    "new_*": lambda x: x + x.new_ones(5, dtype=torch.float32),
    "constant": lambda x: x @ CONSTANT,
    "attention": lambda x: functional.scaled_dot_product_attention(*[x.reshape(1, 1, 5, 1)] * 3),
}
CONSTANT = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", list(CASTS))
def test_casts_inside_are_left_out_in_the_shadow(name):
    function = CASTS[name]
    x = torch.randn(5)
    with opened(Case(function, (x,))) as problem:
        shadow = problem.shadow()
        native, wide = problem.value({}), shadow.value({})
        assert (shadow.output_roundoff == 2.0**-53).all()
        # A step that float32 can't see is one that the shadow does see.
        step = shadow.point(0) + 1e-12
        moved = shadow.value({0: step})
    assert np.allclose(native, wide, atol=2e-3 if name == "half()" else 1e-6)
    assert np.abs(moved - wide).max() > 1e-14
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", list(CASTS))
def test_the_shadows_own_gradient_is_that_of_the_function_in_float64(name):
    x = torch.randn(5)
    with opened(Case(CASTS[name], (x,))) as problem:
        shadow = problem.shadow()
        cotangent = np.linspace(-1, 1, shadow.value({}).size)
        assert problem.wide_gradient(cotangent) is None
        found = shadow.wide_gradient(cotangent)[0].value
        steps = [
            (cotangent @ (shadow.value({0: shadow.point(0) + h}) - shadow.value({0: shadow.point(0) - h}))) / 2e-5
            for h in 1e-5 * np.eye(5)
        ]
    assert np.allclose(found, steps, rtol=1e-7, atol=1e-9)


def test_functions_whose_value_depends_on_rounding_have_no_shadow():
    with opened(Case(lambda x: (x.half().float() - x) * 1e4, (torch.randn(50),))) as problem:
        assert problem.shadow() is None
    with opened(Case(lambda x: x.view(torch.int32).float() * x, (torch.randn(5),))) as problem:
        assert problem.shadow() is None


def test_float64_is_its_own_shadow():
    with opened(Case(torch.sin, (torch.randn(5, dtype=torch.float64),))) as problem:
        assert problem.shadow() is None


def test_random_numbers_in_the_shadow_are_those_of_the_model():
    def noisy(x):
        noise = torch.randn_like(x) + torch.rand(5) + torch.normal(torch.zeros(5), torch.ones(5))
        return functional.dropout(x, 0.3) + noise + torch.empty_like(x).exponential_() + torch.randn(5)

    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(5, dtype=dtype)
        with opened(Case(noisy, (x,))) as problem:
            native, shadow = problem.value({}), problem.shadow()
            assert np.allclose(shadow.value({}), native, rtol=torch.finfo(dtype).eps * 8)


def test_variational_models_have_a_shadow():
    def sampled(mean, log_std):
        return torch.distributions.Normal(mean, log_std.exp()).rsample().square().sum()

    with opened(Case(sampled, (torch.randn(6), torch.randn(6)))) as problem:
        assert problem.shadow() is not None


def test_buffers_of_any_dtype_are_widened():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.tensor([0.5, 2.0], dtype=torch.float16))
            self.register_buffer("codes", torch.tensor([3, -7], dtype=torch.int8))
            self.weight = nn.Parameter(torch.randn(2))

        def forward(self, x):
            return x * self.weight * (self.codes * self.scale)

    model = Scaled()
    with opened(Case(model, (torch.randn(2),))) as problem:
        assert problem.shadow() is not None
    assert model.scale.dtype == torch.float16
    assert model.weight.dtype == torch.float32


def test_hooks_on_parameters_are_part_of_the_shadows_gradient():
    model = nn.Linear(3, 2)
    model.weight.register_hook(lambda grad: 2 * grad)
    with opened(Case(model, (torch.randn(4, 3),))) as problem:
        cotangent = np.linspace(-1, 1, 8)
        native, wide = problem.gradient(cotangent), problem.shadow().wide_gradient(cotangent)
    assert np.allclose(native[0].value, wide[0].value, rtol=1e-5)


def test_a_backward_that_raises_in_float64_gives_no_wide_gradient():
    class Narrow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, dout):
            if dout.dtype == torch.float64:
                raise TypeError("float32 only")
            return dout * 2

    with opened(Case(Narrow.apply, (torch.randn(3),))) as problem:
        assert problem.shadow().wide_gradient(np.ones(3)) is None


def test_a_right_formula_that_is_imprecise_in_float32_is_right_in_the_shadow():
    def cancelling(x):
        return ((x + 1e4) - 1e4).square()

    x = torch.rand(20)
    with opened(Case(lambda x: torch.expm1(x * 1e-3) * 1e3, (x,))) as problem:
        native, wide = problem.gradient(np.ones(20))[0].value, problem.shadow().wide_gradient(np.ones(20))[0].value
    truth = np.exp(x.double().numpy() * 1e-3)
    assert np.allclose(wide, truth, rtol=1e-15)
    assert np.abs(native - truth).max() > 1e-9
    with opened(Case(cancelling, (x,))) as problem:
        assert np.allclose(problem.shadow().wide_gradient(np.ones(20))[0].value, 2 * flat(x), rtol=1e-10)


def test_the_mode_ends_with_the_context():
    with pytest.raises(ZeroDivisionError), in_float64(torch.float32):
        raise ZeroDivisionError
    assert torch.ones(1).dtype == torch.float32
    assert torch.ones(1, dtype=torch.float64).float().dtype == torch.float32


IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
SMALL = {"vocab_size": 20}
WIDTHS = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 12}


def gpt2():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, n_positions=8, bos_token_id=0, eos_token_id=1, **SMALL)
    ), {"input_ids": IDS, "labels": IDS}


def llama():
    config = transformers.LlamaConfig(num_key_value_heads=1, max_position_embeddings=8, **WIDTHS, **SMALL)
    return transformers.LlamaForCausalLM(config), {"input_ids": IDS, "labels": IDS}


def bert():
    config = transformers.BertConfig(max_position_embeddings=8, **WIDTHS, **SMALL)
    return transformers.BertForSequenceClassification(config), {"input_ids": IDS, "labels": torch.tensor([0, 1])}


def vit():
    config = transformers.ViTConfig(image_size=4, patch_size=2, num_labels=3, **WIDTHS)
    pixels = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return transformers.ViTForImageClassification(config), {"pixel_values": pixels, "labels": torch.tensor([0, 2])}


def t5():
    config = transformers.T5Config(
        num_layers=1, num_heads=2, d_model=8, d_ff=12, d_kv=4, decoder_start_token_id=0, **SMALL
    )
    return transformers.T5ForConditionalGeneration(config), {"input_ids": IDS, "labels": IDS}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [gpt2, llama, bert, vit, t5])
def test_models_of_hugging_face_are_evaluated_in_float64_with_their_gradient(make, dtype):
    model, inputs = make()
    model = model.to(dtype).train()
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    rng = np.random.default_rng(0)
    with opened(Case(model, (), inputs)) as problem:
        shadow = problem.shadow()
        assert shadow is not None
        found = shadow.wide_gradient(np.ones(1))
        points = [shadow.point(at) for at in range(len(shadow.tensors))]
        direction = [rng.standard_normal(point.size) for point in points]
        ahead, behind = (
            shadow.value({at: x + h * u for at, (x, u) in enumerate(zip(points, direction, strict=True))})[0]
            for h in (1e-6, -1e-6)
        )
        tangent = shadow.tangent(dict(enumerate(direction)))
    slope = sum(float(g.value @ u) for g, u in zip(found, direction, strict=True) if g.value is not None)
    assert slope == pytest.approx((ahead - behind) / 2e-6, rel=1e-6)
    assert slope == pytest.approx(tangent[0], rel=1e-9)


class Drawn(TorchDispatchMode):
    """The dtypes in which masks are drawn."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        aten = torch.ops.aten
        if function.overloadpacket in {aten.bernoulli_, aten.bernoulli, aten.native_dropout}:
            self.dtypes.add(args[0].dtype)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: torch.native_dropout(x, 0.5, True)[0],  # noqa: FBT003 - what dropout is on a GPU
        lambda x: torch.native_dropout(x, 1.0, True)[0],  # noqa: FBT003
        lambda x: torch.native_dropout(x, 0.5, False)[0],  # noqa: FBT003
        lambda x: x * torch.empty_like(x).bernoulli_(0.3),
        lambda x: x * torch.bernoulli(torch.sigmoid(x)),
    ],
)
@pytest.mark.parametrize("native", [torch.float32, torch.bfloat16])
def test_random_masks_are_those_of_the_models_own_precision(draw, native):
    x = torch.randn(64).to(native)
    torch.manual_seed(3)
    plain = draw(x)
    torch.manual_seed(3)
    with Drawn() as drawn, in_float64(native):
        wide = draw(x.double())
    assert wide.dtype == torch.float64
    assert torch.equal(wide.to(native), plain)
    # On a GPU other numbers come for another dtype.
    assert drawn.dtypes == {native}
