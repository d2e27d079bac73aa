"""Attention in windows of an image, shifted and masked, against the same model drawn and measured many times."""

from __future__ import annotations

import pytest
import torch

from oracles.drawn_networks import agreement

SIZES = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}


def test_windows_with_masks_and_relative_positions_are_followed():
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(**SIZES)
    found = agreement(lambda: (transformers.SwinModel(config), (torch.randn(4, 3, 32, 32),)), draws=8)
    assert found.unmodelled == ()
    assert found.worst("forward", only=lambda path: "scaled_dot" in path)[0] < 0.05
    parts = ("q_proj", "k_proj", "v_proj", "relative_position_bias")
    assert found.worst("backward", only=lambda path: any(part in path for part in parts))[0] < 0.15
    assert sum("relative_position_bias" in path for path in found.backward) == 4
    assert found.inside("forward") > 0.85
    assert found.inside("backward") > 0.85
