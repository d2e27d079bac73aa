"""A language model without memory for its weights is followed to its end, in both directions."""

from __future__ import annotations

import pytest
import torch

import gradvitals as gv
from gradvitals.frameworks.torch.objective import cotangents

transformers = pytest.importorskip("transformers")


def llama(depth, width):
    sizes = {"num_hidden_layers": depth, "hidden_size": width, "num_attention_heads": 4, "vocab_size": 100}
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, intermediate_size=2 * width))
        return model, torch.zeros((1, 16), dtype=torch.long)


def unknown(report):
    layers = next(table for table in report.tables if table.name == "layers")
    column = layers.columns.index
    weighed = [row for row in layers.rows if row[column("kind")] in {"Linear", "LlamaRMSNorm"}]
    return [row[0] for row in weighed if row[column("forward_rms")] is None or row[column("gradient_rms")] is None]


@pytest.mark.parametrize("depth", [2, pytest.param(24, marks=pytest.mark.slow)])
def test_a_llama_on_the_meta_device_is_predicted_behind_its_attention(depth):
    report = gv.predict(*llama(depth, 64))
    assert [finding for finding in report.findings if finding.code == "S209"] == []
    assert unknown(report) == []


def test_a_random_cotangent_has_nothing_to_do_with_what_the_seed_itself_draws():
    torch.manual_seed(3)
    drawn = torch.randn(4096, dtype=torch.float64)
    (cotangent,) = cotangents([drawn], 3)
    assert abs(torch.dot(drawn, cotangent).item()) / 4096 < 5 / 4096**0.5
