"""A fourth list of networks whose signal is known, many of them public architectures with one mistake put in.

As in oracles/verdicts_further.py, what a sick one should be found to have, and where, follows from how it was made, and
was written down before any rule had looked at it. The healthy ones are in oracles/blind_structures.py.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from oracles.blind_structures import (
    BLOCKS,
    HEALTHY_BLIND,
    VOCABULARY,
    FourierOperator,
    antiderivative,
    by_logits,
    categories,
    granite,
    hubert,
    levit,
    public,
    segformer,
    siglip,
    slots,
    speech_to_text,
    state_spaces,
    words,
    xlnet,
)
from oracles.further_structures import labelled, smooth_images
from oracles.verdicts import BATCH, CLASSES, WIDTH, classify, he
from oracles.verdicts_further import calls

__all__ = ["HEALTHY_BLIND", "SICK_BLIND"]


def altered(case, change):
    """A model, its inputs and its loss, with the model's parameters changed in place."""
    with torch.no_grad():
        change(case[0])
    return case


def at(model, path):
    return model.get_parameter(path)


# ---- vanishing ----


def faint_subsampling():
    """The first of two gated convolutions before a speech encoder is a hundred thousand times too small."""

    def change(model):
        for parameter in model.get_submodule("model.encoder.conv.conv_layers.0").parameters():
            parameter.mul_(1e-5)

    return altered(speech_to_text(), change)


class Gated(nn.Module):
    """Gated linear units as torch draws them, without skips or norms: each passes on about a third."""

    def __init__(self, depth=14, width=WIDTH):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        for layer in self.layers:
            x = F.glu(layer(x))
        return self.head(x)


# ---- exploding ----


def loud_features():
    """The convolutions of a speech encoder, all but the normed first one thirty times too large."""

    def change(model):
        for layer in model.hubert.feature_extractor.conv_layers[1:]:
            layer.conv.weight *= 30

    return altered(hubert(depth=6), change)


class Shrinkage(nn.Module):
    """Sparse coding by iterated shrinkage, unrolled, with a step ten times that which converges."""

    def __init__(self, codes=64, inputs=20, rounds=10):
        super().__init__()
        self.decode, self.encode = nn.Linear(codes, inputs, bias=False), nn.Linear(inputs, codes, bias=False)
        nn.init.normal_(self.decode.weight)
        with torch.no_grad():
            largest = torch.linalg.matrix_norm(self.decode.weight, 2) ** 2
            self.encode.weight.copy_(10 / largest * self.decode.weight.T)
        self.rounds = rounds

    def forward(self, x):
        code = x.new_zeros(len(x), self.decode.in_features)
        for _ in range(self.rounds):
            code = F.softshrink(code + self.encode(x - self.decode(code)), 0.01)
        return self.decode(code)


def shrinkage():
    x = torch.randn(BATCH, 20)
    return Shrinkage(), (x,), lambda y: F.mse_loss(y, x)


# ---- dead ----


class Falling(nn.Linear):
    """A layer that should rise in all its inputs, but has the sign of its weights wrong."""

    def forward(self, x):
        return F.linear(x, -F.softplus(self.weight), self.bias)


def falling(depth=3):
    layers = [he(nn.Linear(WIDTH, WIDTH)), nn.ReLU()]
    for _ in range(depth):
        layers += [Falling(WIDTH, WIDTH), nn.ReLU()]
        nn.init.zeros_(layers[-2].bias)
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


# ---- saturated and collapsed ----


def peaked(model):
    for name in ("q", "k"):
        at(model, f"transformer.layer.2.rel_attn.{name}").mul_(40)


def mpnet(**options):
    sizes = {**BLOCKS, "vocab_size": VOCABULARY, "num_labels": CLASSES}
    return by_logits(public("MPNetForSequenceClassification", "MPNet", **sizes, **options), words())


class OneCode(nn.Module):
    """Vector quantisation of encodings far smaller than the codes: the smallest code is the nearest to all of them."""

    def __init__(self, codes=32, width=8):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(WIDTH, 48), nn.ReLU(), nn.Linear(48, width))
        self.decoder = nn.Sequential(nn.Linear(width, 48), nn.ReLU(), nn.Linear(48, WIDTH))
        self.codebook = nn.Embedding(codes, width)
        with torch.no_grad():
            self.encoder[2].weight.mul_(0.01)
            self.encoder[2].bias.zero_()

    def forward(self, x):
        z = self.encoder(x)
        q = self.codebook(torch.cdist(z, self.codebook.weight).argmin(1))
        return self.decoder(z + (q - z).detach()), F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())


def one_code():
    x = torch.randn(BATCH, WIDTH)
    return OneCode(), (x,), lambda y: F.mse_loss(y[0], x) + y[1]


class NormedSeries(nn.Module):
    """A layer norm over the one feature of a series: each number less itself."""

    def __init__(self, width=32):
        super().__init__()
        self.norm, self.embed = nn.LayerNorm(1), nn.Linear(1, width)
        self.read, self.head = nn.GRU(width, width, batch_first=True), nn.Linear(width, CLASSES)

    def forward(self, x):
        return self.head(self.read(F.gelu(self.embed(self.norm(x))))[0][:, -1])


# ---- cloned ----


def same_heads():
    """All heads of one layer of a vision transformer drawn alike: they get the same gradient for ever."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "mlp_ratio": 2}
    model = public("Dinov2ForImageClassification", "Dinov2", image_size=32, patch_size=8, num_labels=CLASSES, **sizes)
    attention = model.dinov2.encoder.layer[2].attention
    with torch.no_grad():
        for name in ("q_proj", "k_proj", "v_proj"):
            layer = attention.get_submodule(name)
            layer.weight.copy_(layer.weight[:16].repeat(4, 1))
            layer.bias.copy_(layer.bias[:16].repeat(4))
        attention.o_proj.weight.copy_(attention.o_proj.weight[:, :16].repeat(1, 4))
    return by_logits(model, smooth_images(size=32)[:8])


def widened():
    """A layer widened to twice its units by copying them, without the noise that would part them (Net2Net)."""
    narrow = [he(nn.Linear(WIDTH, WIDTH)), he(nn.Linear(WIDTH, 32)), he(nn.Linear(32, WIDTH))]
    into, out = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)
    with torch.no_grad():
        into.weight.copy_(narrow[1].weight.repeat(2, 1))
        into.bias.copy_(narrow[1].bias.repeat(2))
        out.weight.copy_(narrow[2].weight.repeat(1, 2) / 2)
        out.bias.copy_(narrow[2].bias)
    layers = (narrow[0], into, out)
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())), nn.Linear(WIDTH, CLASSES))


# ---- not finite ----


def broken_word():
    """One row of the embedding is NaN, and one sample holds that word."""
    case = altered(granite(), lambda model: at(model, "model.embed_tokens.weight")[7].fill_(math.nan))
    case[1][0][2, 3] = 7
    return case


class Listener(nn.Module):
    """Logarithms of the power in bands, with nothing against silence."""

    def __init__(self, size=64, bands=16):
        super().__init__()
        self.register_buffer("window", torch.hann_window(size))
        self.register_buffer("bands", torch.rand(bands, size // 2 + 1))
        self.net = nn.Sequential(nn.BatchNorm1d(bands), nn.Conv1d(bands, 32, 3), nn.ReLU())
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x):
        power = torch.fft.rfft(x.unfold(1, 64, 32) * self.window).abs().square()
        return self.head(self.net(torch.log(power @ self.bands.T).transpose(1, 2)).mean(2))


def silence():
    x = torch.randn(16, 640)
    x[5] = 0
    return labelled(Listener(), x)


class Transport(nn.Module):
    """Sinkhorn's rounds at so low a temperature that the kernel underflows to zeros."""

    def __init__(self, temperature=0.01, rounds=5):
        super().__init__()
        self.encoder = nn.Sequential(he(nn.Linear(WIDTH, WIDTH)), nn.ReLU(), he(nn.Linear(WIDTH, 16)))
        self.temperature, self.rounds = temperature, rounds

    def forward(self, x, y):
        one, two = self.encoder(x), self.encoder(y)
        cost = (one[:, None] - two[None]).square().sum(-1)
        kernel, share = torch.exp(-cost / self.temperature), torch.full((len(x),), 1 / len(x))
        v = torch.ones_like(share)
        for _ in range(self.rounds):
            u = torch.div(share, kernel @ v)
            v = torch.div(share, kernel.T @ u)
        return (u[:, None] * kernel * v * cost).sum()


def transport():
    return Transport(), (torch.randn(BATCH, WIDTH), torch.randn(BATCH, WIDTH)), lambda y: y


class Angles(nn.Module):
    """Angles between all pairs on a sphere, each with itself among them: the arc cosine has no slope at one."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(he(nn.Linear(WIDTH, WIDTH)), nn.ReLU(), he(nn.Linear(WIDTH, 16)))

    def forward(self, x):
        y = F.normalize(self.encoder(x), dim=-1)
        return torch.acos((y @ y.T).clamp(-1, 1))


class Logarithm(nn.Module):
    """The logarithm of a matrix that starts as the identity, by eigenvectors, which equal eigenvalues don't have."""

    def __init__(self, size=4):
        super().__init__()
        self.body, self.matrix = nn.Sequential(he(nn.Linear(WIDTH, WIDTH)), nn.ReLU()), nn.Linear(WIDTH, size * size)
        self.head, self.size = nn.Linear(size * size, CLASSES), size
        nn.init.zeros_(self.matrix.weight)
        nn.init.zeros_(self.matrix.bias)

    def forward(self, x):
        matrix = self.matrix(self.body(x)).unflatten(1, (self.size, self.size))
        values, vectors = torch.linalg.eigh(torch.eye(self.size) + matrix + matrix.transpose(1, 2))
        logarithm = vectors @ torch.diag_embed(torch.log(values)) @ vectors.transpose(1, 2)
        return self.head(logarithm.flatten(1))


_EXTRACTOR = "hubert.feature_extractor.conv_layers.5"
_ATTENTION = "dinov2.encoder.layer.2.attention"
_FEED = "levit.encoder.stages.1.layers.1.module"

SICK_BLIND = {
    # vanishing: by a factor per layer the ends of the way, else the layer
    "a Fourier neural operator without its pointwise ways": (
        lambda: antiderivative(FourierOperator(pointwise=False)),
        {"S201", "S203"},
        {"lift", "layers.0", "layers.1", "layers.2", "layers.3", "project.0"},
    ),
    "a speech encoder whose first subsampling is faint": (
        faint_subsampling,
        {"S201", "S203", "S207"},
        {"model.encoder.conv.conv_layers.0"},
    ),
    "fourteen gated linear units": (lambda: classify(Gated(), (WIDTH,)), {"S203"}, {"layers.0"}),
    # exploding
    "a HuBERT whose convolutions are thirty times too large": (
        loud_features,
        {"S202", "S204"},
        {f"{_EXTRACTOR}.conv", f"{_EXTRACTOR}.activation"},
    ),
    "state spaces whose poles have the wrong sign": (
        lambda: state_spaces(decay=-4.0),
        {"S202", "S204"},
        {f"layers.{layer}.{part}" for layer in range(4) for part in ("mix", "gelu()", "glu()")},
    ),
    "iterated shrinkage with ten times the step": (
        shrinkage,
        {"S202", "S204"},
        calls("decode", 11) | calls("encode", 10),
    ),
    "a SigLIP whose scale was not given as its logarithm": (
        lambda: siglip(10.0),
        {"S202", "S204"},
        {"logit_scale", "text_model.head", "vision_model.head.mlp.fc2"},
    ),
    # dead
    "a SegFormer dead in the head that all depends on": (
        lambda: altered(segformer(), lambda model: model.decode_head.batch_norm.bias.fill_(-30)),
        {"S201", "S205"},
        {"decode_head.batch_norm", "decode_head.activation"},
    ),
    "a rising net with the sign of its weights wrong": (
        lambda: classify(falling(), (WIDTH,)),
        {"S201", "S205"},
        {"2", "3"},
    ),
    "a LeViT dead in one feed-forward layer": (
        lambda: altered(
            levit(),
            lambda model: at(model, f"{_FEED}.linear_up.batch_norm.bias").fill_(-20),
        ),
        {"S201", "S205"},
        {f"{_FEED}.{part}" for part in ("activation", "linear_up.batch_norm")},
    ),
    # saturated
    "an XLNet with queries and keys forty times too large": (
        lambda: altered(xlnet(), peaked),
        {"S206"},
        {"transformer.layer.2.rel_attn.softmax()"},
    ),
    "categories at a temperature of a thousandth": (lambda: categories(1e-3), {"S206"}, {"softmax()"}),
    "an MPNet whose head drives tanh to its bounds": (
        lambda: altered(mpnet(), lambda model: model.classifier.dense.weight.mul_(500)),
        {"S206"},
        {"classifier.dense", "classifier.tanh()"},
    ),
    # collapsed
    "one code that is the nearest to all": (
        one_code,
        {"S207"},
        {"codebook", "decoder.0", "decoder.1", "decoder.2"},
    ),
    "a layer norm over one feature": (
        lambda: labelled(NormedSeries(), torch.randn(BATCH, 20, 1)),
        {"S201", "S207"},
        {"norm", "embed"},
    ),
    "an MPNet that keeps nothing where all should be kept": (
        lambda: mpnet(hidden_dropout_prob=1.0),
        {"S201", "S203", "S207"},
        {"mpnet.embeddings.dropout"} | {f"mpnet.encoder.layer.{layer}.attention.dropout" for layer in range(4)},
    ),
    # cloned
    "a DINOv2 layer whose heads are all the same": (
        same_heads,
        {"S208"},
        {f"{_ATTENTION}.{name}_proj.weight" for name in "qkvo"},
    ),
    "a layer widened by copies of its units": (
        lambda: classify(widened(), (WIDTH,)),
        {"S208"},
        {"2.weight", "2.bias", "4.weight"},
    ),
    "slots that start alike": (lambda: slots(noise=False), {"S208"}, {"slots"}),
    # not finite, forwards
    "a Granite with one word that is NaN": (
        broken_word,
        {"S211"},
        {"model.embed_tokens", "model.embed_tokens.weight"},
    ),
    "the logarithm of silence": (silence, {"S211"}, {"log()"}),
    "transport at too low a temperature": (transport, {"S211"}, {"div()"}),
    # not finite, backwards
    "the angle to itself, backwards": (
        lambda: (Angles(), (torch.randn(BATCH, WIDTH),), lambda y: y.square().mean()),
        {"S211"},
        {"acos()", "clamp()", "matmul()", "encoder.2"},
    ),
    "the logarithm of an identity, backwards": (
        lambda: classify(Logarithm(), (WIDTH,)),
        {"S211"},
        {"linalg_eigh()", "eigh()", "+", "matrix"},
    ),
}
