"""One wrong layer in models of the transformers library, called in all the ways in which that calls layers."""

from __future__ import annotations

import pytest
import torch
from tests.oracles.planted import located
from torch import nn

from gradvitals.frameworks import Case

transformers = pytest.importorskip("transformers")

TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


class WrongGelu(torch.autograd.Function):
    """Forgets the term with the normal density."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return nn.functional.gelu(x)

    @staticmethod
    def backward(ctx, dout):
        (x,) = ctx.saved_tensors
        return dout * 0.5 * (1 + torch.erf(x / 2**0.5))


class Gelu(nn.Module):
    def __init__(self, *, bad):
        super().__init__()
        self.bad = bad

    def forward(self, x):
        return WrongGelu.apply(x) if self.bad else nn.functional.gelu(x)


class RootMeanSquare(nn.Module):
    """A norm that takes its own size for a constant."""

    def __init__(self, weight, *, bad):
        super().__init__()
        self.weight, self.bad = weight, bad

    def forward(self, x):
        size = x.square().mean(-1, keepdim=True)
        return self.weight * x * torch.rsqrt((size.detach() if self.bad else size) + 1e-6)


def gpt2(*, bad):
    sizes = {"vocab_size": 13, "n_positions": 8, "n_embd": 8, "n_layer": 3, "n_head": 2}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, loss_type="ForCausalLM")
    model = transformers.GPT2LMHeadModel(config)
    model.transformer.h[1].mlp.act = Gelu(bad=bad)
    return model, {"input_ids": TOKENS, "labels": TOKENS}, "transformer.h.1.mlp.act"


def bert(*, bad):
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=13, max_position_embeddings=8, **sizes)
    model = transformers.BertForSequenceClassification(config)
    model.bert.encoder.layer[1].intermediate.intermediate_act_fn = Gelu(bad=bad)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    kwargs = {"input_ids": TOKENS, "attention_mask": mask, "labels": torch.tensor([0, 1])}
    return model, kwargs, "bert.encoder.layer.1.intermediate.intermediate_act_fn"


def llama(*, bad):
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.LlamaConfig(vocab_size=13, max_position_embeddings=16, num_key_value_heads=1, **sizes)
    model = transformers.LlamaForCausalLM(config)
    layer = model.model.layers[0]
    layer.post_attention_layernorm = RootMeanSquare(layer.post_attention_layernorm.weight, bad=bad)
    return model, {"input_ids": TOKENS, "labels": TOKENS}, "model.layers.0.post_attention_layernorm"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("build", [gpt2, bert, llama])
def test_the_patched_layer_is_named_in_float32(build, training):
    torch.manual_seed(0)
    model, kwargs, path = build(bad=True)
    twin, _, _ = build(bad=False)
    twin.load_state_dict(model.state_dict())
    found = located(*(Case(network.train(training), kwargs=kwargs) for network in (model, twin)))
    assert [fault.path for fault in found.faults] == [path]
    assert {row.status for row in found.rows} <= {"right", "wrong", "inherits", "unresolved"}
