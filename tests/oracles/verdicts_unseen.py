"""More networks whose signal is known, written down before any rule had seen them: as in oracles/verdicts.py.

What a sick one should be found to have, and where, was written down before it was looked at, too.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from oracles.verdicts import (
    BATCH,
    CLASSES,
    HE,
    WIDTH,
    BasicBlock,
    Language,
    Residual,
    Scale,
    changed,
    classify,
    convolutional,
    he,
    plain,
    predict_next,
    regress,
    scaled_by,
    spread,
)


class InvertedResidual(nn.Module):
    """MobileNetV2's block: wide, depthwise, narrow again."""

    def __init__(self, width, factor=4):
        super().__init__()
        wide = width * factor
        self.body = nn.Sequential(
            nn.Conv2d(width, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x):
        return x + self.body(x)


def images(*body, width=16):
    """A convolutional stem, a body, a pooled head."""
    stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))
    return nn.Sequential(stem, *body, head)


def conv_mixer(width=32):
    """Depthwise convolutions with a skip, pointwise ones without (Trockman and Kolter, 2023)."""
    layers = [nn.Conv2d(3, width, 4, 4), nn.GELU(), nn.BatchNorm2d(width)]
    for _ in range(4):
        depthwise = nn.Sequential(nn.Conv2d(width, width, 5, padding=2, groups=width), nn.GELU(), nn.BatchNorm2d(width))
        layers += [Residual(depthwise), nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


class SpatialGate(nn.Module):
    """gMLP's block: a gate over positions whose weights start near zero and whose bias starts at one."""

    def __init__(self, tokens, width):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(2 * width, width)
        self.gate_norm, self.mix = nn.LayerNorm(2 * width), nn.Linear(tokens, tokens)
        nn.init.uniform_(self.mix.weight, -1e-3, 1e-3)
        nn.init.ones_(self.mix.bias)

    def forward(self, x):
        kept, gate = F.gelu(self.up(self.norm(x))).chunk(2, -1)
        gate = self.mix(self.gate_norm(gate).transpose(1, 2)).transpose(1, 2)
        return x + self.down(kept * gate)


class Pooled(nn.Module):
    """Blocks over positions, and a head on their mean."""

    def __init__(self, *blocks, inputs=16, width=32):
        super().__init__()
        self.first, self.blocks = nn.Linear(inputs, width), nn.Sequential(*blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.first(x))).mean(1))


class Conditioned(nn.Module):
    """A diffusion transformer's MLP blocks: shift, scale and gate from a condition, all starting at zero."""

    def __init__(self, width=32, depth=6):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.first = nn.Linear(16, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(depth))
        self.bodies = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(depth)
        )
        self.modulations = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        for modulation in self.modulations:
            nn.init.zeros_(modulation.weight)
            nn.init.zeros_(modulation.bias)
        self.last = nn.Linear(width, 16)

    def forward(self, x):
        time = F.silu(self.time(x[:, :1]))
        y = self.first(x)
        for norm, body, modulation in zip(self.norms, self.bodies, self.modulations, strict=True):
            shift, scale, gate = modulation(time).chunk(3, -1)
            y = y + gate * body(norm(y) * (1 + scale) + shift)
        return self.last(y)


class Standardised(nn.Conv2d):
    """Weights of zero mean and variance 1/fan-in (Brock et al., 2021)."""

    def forward(self, x):
        weight = self.weight
        mean, variance = weight.mean((1, 2, 3), keepdim=True), weight.var((1, 2, 3), keepdim=True)
        weight = (weight - mean) * torch.rsqrt(variance * weight[0].numel() + 1e-4) * 1.7139588594436646
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


def normaliser_free(depth=8, width=24):
    blocks = []
    for _ in range(depth):
        body = nn.Sequential(nn.ReLU(), Standardised(width, width, 3, padding=1), Scale3(width, 0.2))
        blocks.append(Residual(body))
    return images(*blocks, width=width)


class Scale3(nn.Module):
    def __init__(self, width, value):
        super().__init__()
        self.gain = nn.Parameter(torch.full((width, 1, 1), value))

    def forward(self, x):
        return x * self.gain


def spectral(depth=5):
    layers = []
    for _ in range(depth):
        layers += [nn.utils.parametrizations.spectral_norm(he(nn.Linear(WIDTH, WIDTH))), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 1))


def weight_normed(depth=8):
    layers = []
    for _ in range(depth):
        layers += [nn.utils.parametrizations.weight_norm(he(nn.Linear(WIDTH, WIDTH))), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


class SoftMixture(nn.Module):
    """Experts that all run, weighed by a softmax."""

    def __init__(self, experts=4):
        super().__init__()
        self.router = nn.Linear(WIDTH, experts)
        self.experts = nn.ModuleList(plain(1, nn.GELU) for _ in range(experts))

    def forward(self, x):
        weights = self.router(x).softmax(-1)
        return (torch.stack([expert(x) for expert in self.experts], -1) * weights[:, None]).sum(-1)


class Continuous(nn.Module):
    """One block, applied thirty times with a small step: a differential equation."""

    def __init__(self, steps=30):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
        self.head, self.steps = nn.Linear(WIDTH, CLASSES), steps

    def forward(self, x):
        for _ in range(self.steps):
            x = x + self.body(x) / self.steps
        return self.head(x)


class Maxout(nn.Module):
    def __init__(self, pieces=3):
        super().__init__()
        self.linear, self.pieces = nn.Linear(WIDTH, WIDTH * pieces), pieces

    def forward(self, x):
        return self.linear(x).unflatten(-1, (WIDTH, self.pieces)).amax(-1)


class Latents(nn.Module):
    """Learned latents that look at the inputs, and at one another (Jaegle et al., 2021)."""

    def __init__(self, width=32):
        super().__init__()
        self.latents = nn.Parameter(0.02 * torch.randn(8, width))
        self.read = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.bodies = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(3)
        )
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        y = self.latents.expand(len(x), -1, -1)
        y = y + self.read(self.norms[0](y), x, x, need_weights=False)[0]
        for norm, body in zip(self.norms[1:], self.bodies, strict=True):
            y = y + body(norm(y))
        return self.head(y.mean(1))


class TwoTowers(nn.Module):
    """One encoder for two views, and their cosines at a temperature of 0.07."""

    def __init__(self):
        super().__init__()
        self.encoder = plain(4, nn.ReLU, HE)

    def forward(self, x):
        one, two = (F.normalize(self.encoder(view), dim=-1) for view in (x, x + 0.3 * torch.randn_like(x)))
        return one @ two.T / 0.07


class Uncertain(nn.Module):
    """A mean and a variance."""

    def __init__(self):
        super().__init__()
        self.trunk, self.mean, self.spread = plain(3, nn.GELU, 1.5), nn.Linear(CLASSES, 1), nn.Linear(CLASSES, 1)

    def forward(self, x):
        y = F.gelu(self.trunk(x))
        return self.mean(y), F.softplus(self.spread(y)) + 1e-3


def uncertain():
    target = torch.randn(BATCH, 1)
    return Uncertain(), (torch.randn(BATCH, WIDTH),), lambda y: F.gaussian_nll_loss(y[0], target, y[1])


def matched():
    return TwoTowers(), (torch.randn(BATCH, WIDTH),), lambda y: F.cross_entropy(y, torch.arange(BATCH))


def one_hot():
    x = F.one_hot(torch.randint(0, 64, (BATCH,)), 64).float()
    target = torch.randint(0, CLASSES, (BATCH,))
    return plain(3, nn.ReLU, HE), (x,), lambda y: F.cross_entropy(y, target)


def bright_images():
    target = torch.randint(0, CLASSES, (BATCH,))
    return convolutional(norm=True), (torch.rand(BATCH, 3, 16, 16),), lambda y: F.cross_entropy(y, target)


def fine_tuned():
    """Batch norms of a pretrained network that keep their statistics, and a new head."""
    model = images(*(BasicBlock(16, 16) for _ in range(3)))
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(BATCH, 3, 16, 16))
    model.eval()
    for part in list(model)[:2]:
        part.requires_grad_(requires_grad=False)
    return classify(model, (3, 16, 16))


def dropped_out():
    layers = [part for _ in range(4) for part in (he(nn.Linear(WIDTH, WIDTH)), nn.ReLU(), nn.Dropout(0.5))]
    return classify(nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES)), (WIDTH,))


class Words(nn.Module):
    """A bag of words with padding, most of the vocabulary unseen."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5000, 32, padding_idx=0)
        self.body = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES))

    def forward(self, ids):
        seen = (ids > 0).float()[..., None]
        return self.body((self.embed(ids) * seen).sum(1) / seen.sum(1).clamp(min=1))


def words():
    ids = torch.randint(1, 5000, (BATCH, 12))
    ids[:, 6:] = 0
    target = torch.randint(0, CLASSES, (BATCH,))
    return Words(), (ids,), lambda y: F.cross_entropy(y, target)


class Modulated(nn.Module):
    """FiLM: scales and shifts from a condition, by a generator that starts at zero (Perez et al., 2018)."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3 if at == 0 else 16, 16, 3, padding=1) for at in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(16, affine=False) for _ in range(3))
        self.generator, self.head = nn.Linear(3, 96), nn.Linear(16, CLASSES)
        nn.init.zeros_(self.generator.weight)
        nn.init.zeros_(self.generator.bias)

    def forward(self, x):
        conditions = self.generator(x.mean((2, 3))).chunk(6, -1)
        for at, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            scale, shift = (part[:, :, None, None] for part in conditions[2 * at : 2 * at + 2])
            x = F.relu(norm(convolution(x)) * (1 + scale) + shift)
        return self.head(x.mean((2, 3)))


class Encoder(nn.Module):
    """torch's encoder layers, each drawn by itself, over samples of different lengths."""

    def __init__(self, width=32, depth=3):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, norm_first=True) for _ in range(depth)
        )
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        lengths = 2 + torch.arange(len(x)) % (x.shape[1] - 1)
        hidden = torch.arange(x.shape[1])[None] >= lengths[:, None]
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=hidden)
        return self.head(x[:, 0])


HEALTHY_UNSEEN = {
    "inverted residuals": lambda: classify(images(*(InvertedResidual(16) for _ in range(4))), (3, 16, 16)),
    "ConvMixer": lambda: classify(conv_mixer(), (3, 16, 16)),
    "gMLP": lambda: classify(Pooled(*(SpatialGate(12, 32) for _ in range(6))), (12, 16)),
    "diffusion transformer, gates at zero": lambda: regress(Conditioned(), (16,)),
    "net without normalisation, standardised weights": lambda: classify(normaliser_free(), (3, 12, 12)),
    "critic with spectral norm": lambda: regress(spectral(), (WIDTH,)),
    "weight norm": lambda: classify(weight_normed(), (WIDTH,)),
    "soft mixture of experts": lambda: classify(SoftMixture(), (WIDTH,)),
    "differential equation in thirty steps": lambda: classify(Continuous(), (WIDTH,)),
    "maxout": lambda: classify(nn.Sequential(*(Maxout() for _ in range(4)), nn.Linear(WIDTH, CLASSES)), (WIDTH,)),
    "latents that read": lambda: classify(Latents(), (10, 32)),
    "two views at a low temperature": matched,
    "mean and variance": uncertain,
    "one-hot inputs": one_hot,
    "bright images": bright_images,
    "fine-tuning with fixed statistics": fine_tuned,
    "dropout of a half": dropped_out,
    "bag of words with padding": words,
    "FiLM that starts at zero": lambda: classify(Modulated(), (3, 12, 12)),
    "torch's encoder layers, lengths from two on": lambda: classify(Encoder(), (8, 32)),
    "GPT, LayerScale, no scale for the head": lambda: predict_next(Language(depth=4, scale=1e-4)),
    "highway to a scalar": lambda: regress(
        nn.Sequential(
            *(Residual(nn.Sequential(he(nn.Linear(WIDTH, WIDTH)), nn.Tanh(), Scale(WIDTH, 0.1))) for _ in range(12)),
            nn.Linear(WIDTH, 1),
        ),
        (WIDTH,),
    ),
}


# ---- sick ----


def stacked(depth, activation, gain, *, conv=False):
    layers = []
    for at in range(depth):
        layer = nn.Conv2d(3 if at == 0 else 16, 16, 3, padding=1) if conv else nn.Linear(WIDTH, WIDTH)
        layers += [spread(layer, gain), activation()]
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if conv else []
    return nn.Sequential(*layers, *tail, nn.Linear(16 if conv else WIDTH, CLASSES))


class Square(nn.Module):
    def forward(self, x):
        return x * x


class Summed(nn.Module):
    """A graph network that sums over neighbours without dividing by their number."""

    def __init__(self, nodes=32, depth=8):
        super().__init__()
        self.layers = nn.ModuleList(he(nn.Linear(WIDTH, WIDTH)) for _ in range(depth))
        self.head = nn.Linear(WIDTH, CLASSES)
        self.register_buffer("links", torch.ones(nodes, nodes))

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(self.links @ x))
        return self.head(x)


class Chaotic(nn.Module):
    """A tanh net over time far in its chaotic phase."""

    def __init__(self, gain, steps=60):
        super().__init__()
        self.inputs, self.hidden, self.head = nn.Linear(4, 64), nn.Linear(64, 64, bias=False), nn.Linear(64, CLASSES)
        nn.init.normal_(self.hidden.weight, std=gain / 8)
        self.steps = steps

    def forward(self, x):
        h = torch.tanh(self.inputs(x))
        for _ in range(self.steps):
            h = torch.tanh(self.hidden(h))
        return self.head(h)


class Pipeline(nn.Module):
    """Two layers before a function, two behind it."""

    def __init__(self, function, width=16, *, left=16):
        super().__init__()
        self.before = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        self.after = nn.Sequential(nn.Linear(left, width), nn.Tanh(), nn.Linear(width, CLASSES))
        self.function = function

    def forward(self, x):
        return self.after(self.function(self.before(x)))


def entropy(x):
    p = x.masked_fill(x < 0, -math.inf).softmax(-1)
    return -(p * torch.log(p)).sum(-1, keepdim=True)


def by_norm(x):
    y = F.relu(x - 100)
    return y / y.norm(dim=-1, keepdim=True)


def by_deviation(x):
    return (x - x.mean(0)) / (x[:1].std(0, correction=0) * 0 + x[:1].std(0))


def own_softmax(x):
    weights = torch.exp(12 * x.half().abs() + 12)
    return (weights / weights.sum(-1, keepdim=True)).float()


def same_words():
    model = Words()
    nn.init.constant_(model.embed.weight, 0.1)
    return model, words()[1], words()[2]


def far_inputs():
    target = torch.randint(0, CLASSES, (BATCH,))
    x = 1000 + torch.randn(BATCH, WIDTH)
    return plain(4, nn.ReLU, HE), (x,), lambda y: F.cross_entropy(y, target)


def constant(model):
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.fill_(0.02)
                layer.bias.zero_()
    return model


def copied_blocks():
    block = Residual(
        nn.Sequential(nn.LayerNorm(WIDTH), he(nn.Linear(WIDTH, WIDTH)), nn.GELU(), nn.Linear(WIDTH, WIDTH))
    )
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), *(copy.deepcopy(block) for _ in range(5)), nn.Linear(WIDTH, CLASSES))


class SelfAttention(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(32), nn.MultiheadAttention(32, 4, batch_first=True)
        with torch.no_grad():
            self.attention.in_proj_weight[:64] *= factor

    def forward(self, x):
        y = self.norm(x)
        return x + self.attention(y, y, y)[0]


def fuse(model, path, value):
    """A model one of whose parameters is set to a number."""
    with torch.no_grad():
        model.get_parameter(path).fill_(value)
    return model


SICK_UNSEEN = {
    "softmax between layers": (
        lambda: classify(stacked(6, lambda: nn.Softmax(-1), 1.0), (WIDTH,)),
        {"S201", "S203", "S207"},
        {"0", "1", "2", "3", "10"},
    ),
    "convolutions with sigmoids": (
        lambda: classify(stacked(12, nn.Sigmoid, 1.0, conv=True), (3, 12, 12)),
        {"S203"},
        {"0"},
    ),
    "one block of a plain residual net far too large": (
        lambda: classify(
            changed(
                nn.Sequential(
                    nn.Linear(WIDTH, WIDTH),
                    *(
                        Residual(nn.Sequential(he(nn.Linear(WIDTH, WIDTH)), nn.ReLU(), Scale(WIDTH, 0.3)))
                        for _ in range(6)
                    ),
                    nn.Linear(WIDTH, CLASSES),
                ),
                "3.branch.0",
                scaled_by(1e5),
            ),
            (WIDTH,),
        ),
        {"S202", "S204"},
        {"3.branch.0", "3.+"},
    ),
    "one output projection of a GPT a hundred thousand times too large": (
        lambda: predict_next(changed(Language(depth=6), "blocks.4.branch.1.out", scaled_by(1e5))),
        {"S202", "S204"},
        {"blocks.4.+", "blocks.4.branch.1.out"},
    ),
    "a layer of zeros": (
        lambda: classify(changed(plain(6, nn.GELU, 1.5), "4", lambda m: (m.weight.zero_(), m.bias.zero_())), (WIDTH,)),
        {"S201", "S205", "S207"},
        {"4", "5"},
    ),
    "ELU, too large": (lambda: classify(plain(15, nn.ELU, 4.0), (WIDTH,)), {"S202", "S204"}, {"0", "28"}),
    "ReLU6 at its bound": (
        lambda: classify(changed(plain(4, nn.ReLU6, HE), "2", lambda m: m.bias.fill_(50.0)), (WIDTH,)),
        {"S206", "S205"},
        {"3", "2"},
    ),
    "hard tanh at its bounds": (
        lambda: classify(changed(plain(4, nn.Hardtanh, 1.0), "2", scaled_by(100.0)), (WIDTH,)),
        {"S206"},
        {"3", "2"},
    ),
    "a chaotic recurrence": (
        lambda: classify(Chaotic(4.0), (4,)),
        {"S204", "S206"},
        {"hidden", "hidden #0", "inputs", "hidden #1", "tanh()", "tanh() #1"},
    ),
    "embeddings that are all the same": (same_words, {"S207", "S208"}, {"embed"}),
    "inputs far from zero": (far_inputs, {"S207"}, {"input", "0", "1"}),
    "blocks that are copies": (
        lambda: classify(copied_blocks(), (WIDTH,)),
        {"S208"},
        {f"{at}.branch.1.weight" for at in range(1, 6)} | {f"{at}.branch.3.weight" for at in range(1, 6)},
    ),
    "weights that are all one number": (
        lambda: classify(constant(plain(4, nn.Tanh)), (WIDTH,)),
        {"S207", "S208"},
        {"0", "0.weight", "1", "2", "2.weight"},
    ),
    "divided by the deviation of one sample": (
        lambda: classify(Pipeline(by_deviation), (16,)),
        {"S211"},
        {"div()", "std()"},
    ),
    "entropy of masked probabilities": (
        lambda: classify(Pipeline(entropy, left=1), (16,)),
        {"S211"},
        {"log()", "mul()"},
    ),
    "softmax by hand in half precision": (lambda: classify(Pipeline(own_softmax), (16,)), {"S211"}, {"exp()"}),
    "divided by a norm of zero": (lambda: classify(Pipeline(by_norm), (16,)), {"S211"}, {"div()"}),
    "torch's attention with keys far too large": (
        lambda: classify(Pooled(SelfAttention(1.0), SelfAttention(30.0)), (12, 16)),
        {"S206"},
        {"blocks.1.attention", "blocks.1.attention.softmax()"},
    ),
    "a generator's tanh at its bounds": (
        lambda: regress(
            nn.Sequential(
                *(part for _ in range(3) for part in (he(nn.Linear(WIDTH, WIDTH)), nn.ReLU())),
                spread(nn.Linear(WIDTH, 48), 200.0),
                nn.Tanh(),
            ),
            (WIDTH,),
        ),
        {"S206"},
        {"7", "6"},
    ),
    "convolutions dead behind a bias": (
        lambda: classify(changed(convolutional(norm=False), "2", lambda m: m.bias.fill_(-20)), (3, 16, 16)),
        {"S205", "S201"},
        {"2", "3"},
    ),
    "squares": (lambda: classify(stacked(5, Square, 1.3), (WIDTH,)), {"S202", "S204"}, {"0", "8"}),
    "a graph net that sums": (
        lambda: (Summed(), (torch.randn(32, WIDTH),), lambda y: y.square().mean()),
        {"S202", "S204", "S207"},
        {"layers.0", "layers.7", "layers.1", "matmul()"},
    ),
    "a batch norm of weight zero": (
        lambda: classify(fuse(convolutional(norm=True), "4.weight", 0.0), (3, 16, 16)),
        {"S201", "S205", "S207"},
        {"5", "6", "4"},
    ),
    "sixty layers with batch norm": (
        lambda: classify(
            nn.Sequential(
                *(part for _ in range(60) for part in (he(nn.Linear(WIDTH, WIDTH)), nn.BatchNorm1d(WIDTH), nn.ReLU())),
                nn.Linear(WIDTH, CLASSES),
            ),
            (WIDTH,),
        ),
        {"S204"},
        {"0"},
    ),
    "a deep linear autoencoder, too small": (
        lambda: regress(
            nn.Sequential(*(spread(nn.Linear(WIDTH, WIDTH), 0.3) for _ in range(12)), nn.Linear(WIDTH, WIDTH)), (WIDTH,)
        ),
        {"S201", "S203"},
        {"0", "11"},
    ),
}
