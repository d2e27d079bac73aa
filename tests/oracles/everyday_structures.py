"""Healthy networks for the sixth list: more public architectures, and the ways in which people fine-tune and gate them.

Each is a factory ``() -> (model, inputs, loss)``, written down before any rule had looked at it, and none of them is in
another list.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from oracles.blind_structures import BLOCKS, VOCABULARY, by_logits, next_word, public, words
from oracles.canonical_public import roberta
from oracles.canonical_structures import PICTURES, Block, Characters, Tensors, following, frozen
from oracles.further_structures import labelled, smooth_images
from oracles.verdicts import BATCH, CLASSES, WIDTH, he


def albert():
    model = public(
        "AlbertForSequenceClassification",
        "Albert",
        vocab_size=VOCABULARY,
        num_labels=CLASSES,
        embedding_size=32,
        **BLOCKS,
    )
    return by_logits(model, words())


def llama(**options):
    model = public("LlamaForCausalLM", "Llama", vocab_size=VOCABULARY, num_key_value_heads=2, **BLOCKS, **options)
    return next_word(model, words())


def bert():
    return by_logits(
        public("BertForSequenceClassification", "Bert", vocab_size=VOCABULARY, num_labels=CLASSES, **BLOCKS), words()
    )


def only_biases():
    """BitFit: biases and the head learn (Ben Zaken et al., 2022)."""
    model = roberta()
    for name, parameter in model.roberta.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    return by_logits(model, words())


def beit():
    model = public("BeitForImageClassification", "Beit", num_labels=CLASSES, **PICTURES)
    return by_logits(model, smooth_images(size=32)[:8])


def dinov2():
    sizes = {key: size for key, size in PICTURES.items() if key != "intermediate_size"}
    model = public("Dinov2ForImageClassification", "Dinov2", num_labels=CLASSES, layerscale_value=1e-5, **sizes)
    return by_logits(model, smooth_images(size=32)[:8])


def mobilenet():
    model = public("MobileNetV2ForImageClassification", "MobileNetV2", depth_multiplier=0.5, num_labels=CLASSES)
    return by_logits(model, smooth_images(size=64))


def wav2vec2():
    convolutions = {"conv_dim": (32, 32, 32), "conv_kernel": (10, 3, 3), "conv_stride": (5, 2, 2)}
    sizes = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "num_feat_extract_layers": 3}
    model = public(
        "Wav2Vec2ForCTC",
        "Wav2Vec2",
        vocab_size=30,
        apply_spec_augment=False,
        layerdrop=0.0,
        **BLOCKS,
        **convolutions,
        **sizes,
    )
    labels = torch.randint(1, 30, (8, 6))
    lengths = torch.full((8,), 6)

    def loss(y):
        scores = y.logits.log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(scores, labels, torch.full((8,), len(scores)), lengths)

    return model, (torch.randn(8, 1600),), loss


class CrossGated(nn.Module):
    """A frozen language model that looks at pictures through gates, tanh of zero at first (Flamingo, 2022)."""

    def __init__(self, width=WIDTH, depth=4):
        super().__init__()
        self.model = frozen(Tensors(width, depth=depth, small=False))
        self.attends = nn.ModuleList(nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.gates = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in range(depth))

    def forward(self, ids, seen):
        x = self.model.embed(ids) + self.model.place[: ids.shape[1]]
        for block, attend, norm, gate in zip(self.model.blocks, self.attends, self.norms, self.gates, strict=True):
            x = x + torch.tanh(gate) * attend(norm(x), seen, seen, need_weights=False)[0]
            x = block(x)
        return self.model.head(self.model.norm(x))


def looking():
    ids = words(8, 12)
    loss = lambda y: F.cross_entropy(y[:, :-1].flatten(0, 1), ids[:, 1:].flatten())  # noqa: E731
    return CrossGated(), (ids, torch.randn(8, 5, WIDTH)), loss


class Probed(nn.Module):
    """A backbone run without gradients, though nobody froze its parameters, and a head on what it gives."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES))

    def forward(self, x):
        with torch.no_grad():
            x = self.body(x).mean((2, 3))
        return self.head(x)


class Triplet(nn.Module):
    """One net for three pictures, its outputs on the sphere."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 16)),
        )

    def forward(self, *pictures):
        return tuple(F.normalize(self.net(picture)) for picture in pictures)


def triplet():
    pictures = (smooth_images(), smooth_images(), smooth_images())
    return Triplet(), pictures, lambda y: F.triplet_margin_loss(*y)


def reconstructed():
    """An autoencoder of pixels between zero and one, its last sigmoid and a mean square."""
    sizes = (784, 128, 32)
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    layers += [nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 784), nn.Sigmoid()]
    x = torch.rand(64, 784) * (torch.rand(64, 784) < 0.2)
    return nn.Sequential(*layers), (x,), lambda y: F.mse_loss(y, x)


def binary_classes():
    layers = (nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())
    target = (torch.rand(64, 1) < 0.05).float()
    x = torch.randn(64, 20)
    return (
        nn.Sequential(*layers, nn.Linear(64, 1), nn.Sigmoid()),
        (x,),
        lambda y: F.binary_cross_entropy(y, target),
    )


class DeepNorm(nn.Module):
    """Post-norm blocks whose stream is scaled up and whose weights are scaled down (Wang et al., 2022)."""

    def __init__(self, depth=12, width=WIDTH):
        super().__init__()
        self.alpha = (2 * depth) ** 0.25
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(depth)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.head = nn.Linear(width, CLASSES)
        for block in self.blocks:
            for layer in (block[0], block[2]):
                nn.init.xavier_normal_(layer.weight, gain=(8 * depth) ** -0.25)

    def forward(self, x):
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = norm(self.alpha * x + block(x))
        return self.head(x)


class GraphAttention(nn.Module):
    """Attention over neighbours, each of itself among them, and an embedding of each node's kind."""

    def __init__(self, width=32):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, width), nn.Linear(width, 4)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.scores = nn.ModuleList(nn.Linear(2 * width, 1) for _ in range(2))

    def forward(self, kinds, links):
        x = self.embed(kinds)
        for layer, score in zip(self.layers, self.scores, strict=True):
            y = layer(x)
            pairs = torch.cat([y[:, None].expand(-1, len(y), -1), y[None].expand(len(y), -1, -1)], -1)
            weights = F.leaky_relu(score(pairs)[..., 0], 0.2).masked_fill(~links, -math.inf).softmax(-1)
            x = F.elu(weights @ y)
        return self.head(x)


def neighbours(*, alone=True, nodes=40):
    links = torch.rand(nodes, nodes) < 0.1
    links = links | links.T
    links.fill_diagonal_(alone)
    if not alone:
        links[7], links[:, 7] = False, False
        links[torch.arange(nodes) != 7, (torch.arange(nodes)[torch.arange(nodes) != 7] + 1) % nodes] = True
    kinds, target = torch.randint(0, 20, (nodes,)), torch.randint(0, 4, (nodes,))
    return GraphAttention(), (kinds, links), lambda y: F.cross_entropy(y, target)


class GatedPolicy(nn.Module):
    """A recurrent policy over pictures of a game, values and actions, the last layers of gain 0.01 and one."""

    def __init__(self):
        super().__init__()
        self.see = nn.Sequential(he(nn.Conv2d(4, 16, 4, 2)), nn.ReLU(), he(nn.Conv2d(16, 32, 3, 2)), nn.ReLU())
        self.cell, self.act, self.value = nn.LSTMCell(32 * 9, 64), nn.Linear(64, 6), nn.Linear(64, 1)
        nn.init.orthogonal_(self.act.weight, 0.01)
        nn.init.orthogonal_(self.value.weight, 1)

    def forward(self, frames):
        state = None
        for frame in frames.unbind(1):
            state = self.cell(self.see(frame / 255).flatten(1), state)
        return self.act(state[0]), self.value(state[0])


def played():
    action, reward = torch.randint(0, 6, (16,)), torch.randn(16, 1)
    loss = lambda y: F.cross_entropy(y[0], action) + 0.5 * F.mse_loss(y[1], reward)  # noqa: E731
    return GatedPolicy(), (torch.randint(0, 256, (16, 6, 4, 16, 16)).float(),), loss


class Prompted(nn.Module):
    """A frozen transformer, and learned vectors that start at zero before its words."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.embed = frozen(nn.Embedding(VOCABULARY, width))
        self.blocks = frozen(nn.Sequential(*(Block(width, 4) for _ in range(3))))
        self.prompt, self.head = nn.Parameter(torch.zeros(4, width)), nn.Linear(width, CLASSES)

    def forward(self, ids):
        x = torch.cat([self.prompt.expand(len(ids), -1, -1), self.embed(ids)], 1)
        return self.head(self.blocks(x)[:, -1])


HEALTHY_EVERYDAY = {
    "ALBERT": albert,
    "BERT that classifies": bert,
    "Llama of transformers": llama,
    "RoBERTa, biases only": only_biases,
    "BEiT": beit,
    "DINOv2, LayerScale of 1e-5": dinov2,
    "MobileNetV2": mobilenet,
    "wav2vec 2.0 with CTC": wav2vec2,
    "Flamingo's gates": looking,
    "a head behind no_grad": lambda: labelled(Probed(), smooth_images()),
    "triplets on a sphere": triplet,
    "pixels behind a sigmoid, mean square": reconstructed,
    "rare class behind a sigmoid": binary_classes,
    "DeepNorm": lambda: labelled(DeepNorm(), torch.randn(BATCH, WIDTH)),
    "attention over a graph": neighbours,
    "recurrent policy": played,
    "prompt of zeros": lambda: labelled(Prompted(), words(BATCH, 10)),
    "LSTM over a hundred steps": lambda: following(Characters(nn.LSTM), 100),
}
