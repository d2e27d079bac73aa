"""Public architectures at their own start, small, made from their configurations: nothing is downloaded.

Each is a function that returns the model and its keyword inputs.
"""

from __future__ import annotations

import torch
import transformers

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
TEXT = {**SMALL, "vocab_size": 200}
IMAGES = {**SMALL, "image_size": 32, "patch_size": 8, "num_labels": 10}
STAGES = {"embedding_size": 16, "hidden_sizes": [32, 64, 64, 128], "depths": [2, 2, 2, 2], "num_labels": 10}


def text(kind, config):
    ids = torch.randint(5, 200, (4, 16))
    return kind(config), {"input_ids": ids, "labels": ids}


def images(kind, config, size=32):
    return kind(config), {"pixel_values": torch.randn(4, 3, size, size), "labels": torch.randint(0, 10, (4,))}


def of(name):
    return getattr(transformers, name)


ARCHITECTURES = {
    "BERT": lambda: text(of("BertForMaskedLM"), of("BertConfig")(**TEXT)),
    "ALBERT": lambda: text(of("AlbertForMaskedLM"), of("AlbertConfig")(**TEXT, embedding_size=32)),
    "DeBERTa v2": lambda: text(of("DebertaV2ForMaskedLM"), of("DebertaV2Config")(**TEXT)),
    "GPT-2": lambda: text(of("GPT2LMHeadModel"), of("GPT2Config")(n_embd=64, n_layer=12, n_head=4, vocab_size=200)),
    "Llama": lambda: text(of("LlamaForCausalLM"), of("LlamaConfig")(**{**TEXT, "num_hidden_layers": 12})),
    "Mixtral": lambda: text(
        of("MixtralForCausalLM"), of("MixtralConfig")(**TEXT, num_key_value_heads=2, num_local_experts=4)
    ),
    "T5": lambda: text(
        of("T5ForConditionalGeneration"),
        of("T5Config")(
            d_model=64, d_kv=16, d_ff=128, num_layers=4, num_heads=4, vocab_size=200, decoder_start_token_id=0
        ),
    ),
    "Mamba": lambda: text(
        of("MambaForCausalLM"),
        of("MambaConfig")(hidden_size=64, num_hidden_layers=4, vocab_size=200, state_size=8),
    ),
    "ViT": lambda: images(of("ViTForImageClassification"), of("ViTConfig")(**IMAGES)),
    "Swin": lambda: images(
        of("SwinForImageClassification"),
        of("SwinConfig")(
            image_size=32,
            patch_size=2,
            embed_dim=16,
            depths=[2, 2, 2],
            num_heads=[2, 2, 4],
            window_size=4,
            num_labels=10,
        ),
    ),
    "ConvNeXt": lambda: images(
        of("ConvNextForImageClassification"),
        of("ConvNextConfig")(hidden_sizes=[16, 32, 64, 64], depths=[2, 2, 4, 2], image_size=64, num_labels=10),
        size=64,
    ),
    "ResNet": lambda: images(of("ResNetForImageClassification"), of("ResNetConfig")(**STAGES), size=64),
    "RegNet": lambda: images(
        of("RegNetForImageClassification"), of("RegNetConfig")(**STAGES, groups_width=16), size=64
    ),
    "MobileNet v2": lambda: images(
        of("MobileNetV2ForImageClassification"),
        of("MobileNetV2Config")(depth_multiplier=0.35, image_size=64, num_labels=10),
        size=64,
    ),
    "Perceiver": lambda: (
        of("PerceiverModel")(
            of("PerceiverConfig")(
                num_latents=16,
                d_latents=64,
                d_model=32,
                num_blocks=1,
                num_self_attends_per_block=6,
                num_self_attention_heads=4,
                num_cross_attention_heads=4,
            )
        ),
        {"inputs": torch.randn(4, 20, 32)},
    ),
}
