"""State-space models and running averages as Hugging Face spells them, drawn and measured many times."""

from __future__ import annotations

import pytest
import torch

from oracles.drawn_networks import agreement

transformers = pytest.importorskip("transformers")

PLAIN = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 200}
FAMILIES = {
    "Mamba": {**PLAIN, "state_size": 8},
    "Rwkv": {**PLAIN, "attention_hidden_size": 64},
    "Mamba2": {**PLAIN, "state_size": 8, "num_heads": 8, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_state_that_is_carried_along_is_followed_both_ways(family):
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family])
    model = getattr(transformers, f"{family}Model")
    found = agreement(lambda: (model(config), (torch.randint(5, 200, (4, 16)),)), draws=8)
    assert found.unmodelled == ()
    assert found.worst("forward")[0] < 0.08, found.worst("forward")
    assert found.worst("backward")[0] < 0.10, found.worst("backward")
    assert found.inside("forward") > 0.9
    assert found.inside("backward") > 0.9
