"""The public architectures of the fifth list, with what fine-tuning adds to them, and the list of all healthy ones.

As in oracles/canonical_structures.py, each is a factory written down before any rule had looked at it.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from oracles.blind_structures import BLOCKS, HALVES, VOCABULARY, by_logits, next_word, public, words
from oracles.canonical_structures import (
    PICTURES,
    Characters,
    Sets,
    Tensors,
    bottlenecks,
    digits,
    following,
    frozen,
    graphs,
    noised,
    pictures,
    temporal,
    translated,
    translated_images,
    tuned,
    two_heads,
    vgg,
)
from oracles.further_structures import labelled, smooth_images, zero
from oracles.verdicts import BATCH, CLASSES


class LowRank(nn.Module):
    """A frozen layer beside a product of two, the second of which starts at zero (Hu et al., 2021)."""

    def __init__(self, layer, rank=4):
        super().__init__()
        self.layer = frozen(layer)
        self.down = nn.Linear(layer.in_features, rank, bias=False)
        self.up = zero(nn.Linear(rank, layer.out_features, bias=False))

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


class Adapter(nn.Module):
    """A narrow branch behind a frozen layer, whose last layer starts at zero (Houlsby et al., 2019)."""

    def __init__(self, layer, width=64, inner=8):
        super().__init__()
        self.layer, self.down, self.up = layer, nn.Linear(width, inner), zero(nn.Linear(inner, width))

    def forward(self, x):
        x = self.layer(x)
        return x + self.up(F.gelu(self.down(x)))


def distilbert(**options):
    sizes = {"dim": 64, "n_layers": 4, "n_heads": 4, "hidden_dim": 128, "vocab_size": VOCABULARY}
    return by_logits(public("DistilBertForSequenceClassification", "DistilBert", num_labels=CLASSES, **sizes), words())


def last_layers():
    """All frozen but the last layer and the head."""
    case = distilbert()
    frozen(case[0].distilbert.embeddings)
    for layer in case[0].distilbert.transformer.layer[:3]:
        frozen(layer)
    return case


def roberta(**options):
    sizes = {"vocab_size": VOCABULARY, "num_labels": CLASSES, **BLOCKS, **options}
    return public("RobertaForSequenceClassification", "Roberta", **sizes)


def adapted():
    model = roberta()
    frozen(model.roberta)
    for layer in model.roberta.encoder.layer:
        layer.output.dense = Adapter(layer.output.dense)
    return by_logits(model, words())


def gpt2(depth=6, **options):
    ids = words()
    model = public("GPT2LMHeadModel", "GPT2", n_embd=64, n_layer=depth, n_head=4, vocab_size=VOCABULARY, **options)
    return next_word(model, ids)


def qwen():
    model = public("Qwen2ForCausalLM", "Qwen2", vocab_size=VOCABULARY, num_key_value_heads=2, **BLOCKS)
    return next_word(model, words())


def low_rank():
    model, inputs, loss = qwen()
    frozen(model)
    for layer in model.model.layers:
        for name in ("q_proj", "v_proj"):
            setattr(layer.self_attn, name, LowRank(getattr(layer.self_attn, name)))
    return model, inputs, loss


def t5():
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 3, "num_heads": 4, "vocab_size": VOCABULARY}
    model = public("T5ForConditionalGeneration", "T5", decoder_start_token_id=0, **sizes)
    ids = words()
    return next_word(model, ids, torch.ones_like(ids), words(length=10))


def bart():
    model = public("BartForConditionalGeneration", "Bart", vocab_size=VOCABULARY, d_model=64, **HALVES)
    ids = words()
    return next_word(model, ids, torch.ones_like(ids), words(length=10))


def vit():
    model = public("ViTForImageClassification", "ViT", num_labels=CLASSES, **PICTURES)
    return by_logits(model, 2 * smooth_images(size=32)[:8] - 1)


def vit_zero_head():
    case = vit()
    zero(case[0].classifier)
    return case


def swin():
    sizes = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
    model = public("Swinv2ForImageClassification", "Swinv2", window_size=4, num_labels=CLASSES, **sizes)
    return by_logits(model, smooth_images(size=32)[:8])


def convnext():
    model = public(
        "ConvNextForImageClassification",
        "ConvNext",
        hidden_sizes=[16, 32, 48, 64],
        depths=[2, 2, 3, 2],
        num_labels=CLASSES,
    )
    return by_logits(model, smooth_images(size=64)[:8])


def whisper():
    sizes = {"num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 20, "pad_token_id": 0}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    model = public(
        "WhisperForConditionalGeneration", "Whisper", vocab_size=VOCABULARY, d_model=64, **HALVES, **sizes, **tokens
    )
    return next_word(model, torch.randn(8, 16, 40), torch.ones(8, 40, dtype=torch.long), words(length=10))


def clip():
    text = {"vocab_size": VOCABULARY, "max_position_embeddings": 20, "eos_token_id": 2, **BLOCKS}
    model = public("CLIPModel", "CLIP", text_config=text, vision_config=PICTURES, projection_dim=32)

    def loss(y):
        target = torch.arange(len(y.logits_per_text))
        return (F.cross_entropy(y.logits_per_text, target) + F.cross_entropy(y.logits_per_image, target)) / 2

    return model, (words(length=12), torch.randn(8, 3, 32, 32)), loss


class Controlled(nn.Module):
    """A frozen net of convolutions and a copy that reads a condition, joined by convolutions of zero (Zhang, 2023)."""

    def __init__(self, width=24, depth=3):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(4, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for _ in range(depth)
        )
        self.head = nn.Conv2d(width, 3, 3, padding=1)
        frozen(self)
        self.copies = copy.deepcopy(self.blocks).requires_grad_()
        self.hint = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.SiLU(), zero(nn.Conv2d(16, width, 3, padding=1)))
        self.joints = nn.ModuleList(zero(nn.Conv2d(width, width, 1)) for _ in range(depth))

    def forward(self, x, condition):
        x = self.stem(x)
        y = x + self.hint(condition)
        for block, other, joint in zip(self.blocks, self.copies, self.joints, strict=True):
            y = y + other(y)
            x = x + block(x) + joint(y)
        return self.head(x)


def controlled():
    noise = torch.randn(8, 3, 16, 16)
    return Controlled(), (noise, (torch.rand(8, 1, 16, 16) < 0.2).float()), lambda y: F.mse_loss(y, noise)


def summed_loss():
    """The same network with the loss summed over the batch, and a thousandth of it."""
    model, inputs, loss = labelled(bottlenecks(), smooth_images())
    return model, inputs, lambda y: BATCH * 1e-3 * loss(y)


HEALTHY_CANONICAL = {
    "digits by torch's default MLP": digits,
    "sums over sets of fifty": lambda: labelled(Sets(), torch.randn(BATCH, 50, 8)),
    "graph isomorphism net": graphs,
    "characters by torch's RNN": lambda: following(Characters(nn.RNN)),
    "tied LSTM of two layers with dropout": lambda: following(Characters(nn.LSTM, layers=2, dropout=0.4, tied=True)),
    "temporal convolutions of normed weights": temporal,
    "torch's transformer between sequences": translated,
    "transformer in μP, queries and head at zero": lambda: following(Tensors()),
    "one block six times, the same object": lambda: following(Tensors(shared=True, small=False)),
    "VGG with dropout": vgg,
    "bottlenecks, last norms at zero, half of them frozen": tuned,
    "bottlenecks, the loss summed and scaled": summed_loss,
    "SkipInit without norms": lambda: labelled(bottlenecks(skip=True), smooth_images()),
    "GoogLeNet with a second head": two_heads,
    "pix2pix": translated_images,
    "convolutional variational autoencoder": pictures,
    "DiT, adaptive norms and last layer at zero": noised,
    "ControlNet with convolutions of zero": controlled,
    "DistilBERT": distilbert,
    "DistilBERT, frozen but for its last layer": last_layers,
    "RoBERTa with adapters": adapted,
    "GPT-2": gpt2,
    "Qwen2 with low-rank adapters": low_rank,
    "T5": t5,
    "BART": bart,
    "ViT with a head of zero": vit_zero_head,
    "Swin v2": swin,
    "ConvNeXt of transformers": convnext,
    "Whisper": whisper,
    "CLIP with its contrast": clip,
}
