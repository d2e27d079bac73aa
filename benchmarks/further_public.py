"""Further architectures of the transformers library that the rules of ``predict`` weren't written for."""

from __future__ import annotations

import torch
from further_architectures import PLAIN as PLAIN_PYTORCH
from further_tables import TABLES
from unseen_architectures import IMAGES, PLAIN, TEXT, ids, images, made, text

#: Two layers where there is an encoder and a decoder.
BOTH = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
}
SERIES = {**BOTH, "prediction_length": 4, "context_length": 12, "lags_sequence": [1, 2], "num_time_features": 2}
STAGES = {"hidden_sizes": [16, 32, 64], "depths": [2, 2, 2], "image_size": 32}


class Called(torch.nn.Module):
    """A model whose inputs have names, called by place."""

    def __init__(self, model, *names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs):
        return self.model(**dict(zip(self.names, inputs, strict=True)))


def series(family, **sizes):
    """Past values and time features in, and those of the time to come."""
    names = ("past_values", "past_time_features", "past_observed_mask", "future_values", "future_time_features")

    def build():
        model = made(family, **SERIES, **sizes)
        past = 12 + max(model.config.lags_sequence)
        inputs = (torch.rand(4, past) + 1, torch.randn(4, past, 2), torch.ones(4, past), torch.rand(4, 4) + 1)
        return Called(model, *names), (*inputs, torch.randn(4, 4, 2))

    return build


def both(family, **sizes):
    names = ("input_ids", "decoder_input_ids")
    return lambda: (Called(made(family, vocab_size=200, **sizes), *names), (ids(), ids()))


def clip():
    parts = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
    words = {**parts, "vocab_size": 200, "max_position_embeddings": 32, "eos_token_id": 2, "bos_token_id": 1}
    pictures = {**parts, "image_size": 32, "patch_size": 8}
    model = made("CLIP", text_config=words, vision_config=pictures, projection_dim=32)
    return Called(model, "input_ids", "pixel_values"), (ids(), torch.randn(4, 3, 32, 32))


def patches(family, **sizes):
    return lambda: (made(family, num_input_channels=3, context_length=32, **sizes), (torch.randn(4, 32, 3),))


DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
CVT = {"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 3]}
LEVIT = {"hidden_sizes": [32, 64, 96], "num_attention_heads": [2, 4, 6], "key_dim": [8, 8, 8], "depths": [2, 2, 2]}
SEGFORMER = {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 2, 1], "num_attention_heads": [1, 2, 4, 4]}
POOL = {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 2, 1]}

PUBLIC = {
    "DeBERTa-v2": text("DebertaV2", **PLAIN, **DEBERTA, share_att_key=True, max_relative_positions=-1),
    "XLNet": text("XLNet", d_model=64, n_layer=4, n_head=4, d_inner=128, vocab_size=200),
    "Longformer": text("Longformer", **PLAIN, attention_window=8),
    "BigBird": text("BigBird", **PLAIN, block_size=4, num_random_blocks=1, attention_type="original_full"),
    "Funnel": text("Funnel", vocab_size=200, block_sizes=[2, 2], d_model=64, n_head=4, d_head=16, d_inner=128),
    "FNet": text("FNet", **{key: n for key, n in PLAIN.items() if "heads" not in key}),
    "ModernBERT": text("ModernBert", **PLAIN, pad_token_id=0, local_attention=8),
    "Gemma 3": text("Gemma3Text", **PLAIN, num_key_value_heads=2, head_dim=16, sliding_window=8),
    "Qwen3": text("Qwen3", **PLAIN, num_key_value_heads=2, head_dim=16),
    "OLMo 2": text("Olmo2", **PLAIN, num_key_value_heads=2),
    "Cohere": text("Cohere", **PLAIN, num_key_value_heads=2),
    "StableLM": text("StableLm", **PLAIN, num_key_value_heads=2),
    "Mixtral": text("Mixtral", **PLAIN, num_key_value_heads=2, num_local_experts=4),
    "MPT": text("Mpt", d_model=64, n_layers=4, n_heads=4, vocab_size=200, max_seq_len=32),
    "CodeGen": text("CodeGen", n_embd=64, n_layer=4, n_head=4, vocab_size=200, rotary_dim=8),
    "BART": both("Bart", **BOTH, max_position_embeddings=32),
    "Pegasus": both("Pegasus", **BOTH, max_position_embeddings=32),
    "T5": both("T5", d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4),
    "CLIP": clip,
    "SigLIP vision": images("SiglipVision", **IMAGES),
    "BEiT": images("Beit", **IMAGES, use_relative_position_bias=True),
    "DINOv2": images("Dinov2", hidden_size=64, num_hidden_layers=4, num_attention_heads=4, image_size=32, patch_size=8),
    "ConvNeXt V2": images("ConvNextV2", **STAGES, num_stages=3, patch_size=2),
    "RegNet": images("RegNet", embedding_size=16, hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 2, 1], groups_width=8),
    "PoolFormer": images("PoolFormer", size=64, **POOL),
    "SegFormer": images("Segformer", size=64, **SEGFORMER, decoder_hidden_size=64),
    "MobileViT": images("MobileViT", size=64, image_size=64, hidden_sizes=[32, 48, 64], neck_hidden_sizes=[8] * 7),
    "LeViT": images("Levit", size=64, image_size=64, **LEVIT, patch_size=16),
    "CvT": images("Cvt", size=64, **CVT),
    "Perceiver": lambda: (
        made("Perceiver", num_latents=16, d_latents=64, d_model=32, num_blocks=1, num_self_attends_per_block=2),
        (torch.randn(4, 24, 32),),
    ),
    "HuBERT": lambda: (
        made(
            "Hubert",
            **PLAIN,
            conv_dim=(32, 32),
            conv_stride=(5, 4),
            conv_kernel=(10, 8),
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
            mask_time_prob=0.0,
        ),
        (torch.randn(4, 400),),
    ),
    "time series transformer": series("TimeSeriesTransformer"),
    "Informer": series("Informer"),
    "Autoformer": series("Autoformer", label_length=6, moving_average=5),
    "PatchTST": patches("PatchTST", patch_length=8, patch_stride=8, d_model=64, num_attention_heads=4, ffn_dim=128),
    "GPT-Neo": text(
        "GPTNeo",
        hidden_size=64,
        num_layers=4,
        num_heads=4,
        vocab_size=200,
        window_size=8,
        attention_types=[[["global", "local"], 2]],
        max_position_embeddings=32,
    ),
    "XGLM": text("XGLM", vocab_size=200, d_model=64, ffn_dim=128, num_layers=4, attention_heads=4),
    "Persimmon": text("Persimmon", **TEXT, intermediate_size=128),
}
FURTHER = {**PUBLIC, **PLAIN_PYTORCH, **TABLES}
