"""Healthy networks of structures that no other list holds, with the traps that real ones set.

Branches, heads and gates that start at zero, one block used many times, inputs that are binary, sparse or positive,
gradients that are stopped on purpose, parameters that are frozen or unused. Each is a factory
``() -> (model, inputs, loss)``.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from oracles.verdicts import BATCH, CLASSES, HE, WIDTH, Residual, classify, he, plain, spread
from oracles.verdicts_unseen import images


def labelled(model, *inputs):
    """Cross entropy with random classes, one for each sample of the first input."""
    target = torch.randint(0, CLASSES, (len(inputs[0]),))
    return model, inputs, lambda y: F.cross_entropy(y, target)


def smooth_images(channels=3, size=16):
    """Positive and smooth, as photographs are."""
    return F.interpolate(torch.rand(BATCH, channels, 4, 4), size=(size, size), mode="bilinear")


def zero(layer):
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def conv_norm(inputs, outputs, size=1, groups=1, activation=nn.ReLU):
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), *([activation()] if activation else [])]


def grouped(width=32, inner=16, groups=4):
    """ResNeXt's branch."""
    return nn.Sequential(
        *conv_norm(width, inner), *conv_norm(inner, inner, 3, groups), *conv_norm(inner, width, activation=None)
    )


class Shuffle(nn.Module):
    """ShuffleNet's unit: half of the channels pass by, then the halves are interleaved."""

    def __init__(self, width=32):
        super().__init__()
        half = width // 2
        self.body = nn.Sequential(
            *conv_norm(half, half), *conv_norm(half, half, 3, half, activation=None), *conv_norm(half, half)
        )

    def forward(self, x):
        kept, worked = x.chunk(2, 1)
        joined = torch.stack([kept, self.body(worked)], 2)
        return joined.flatten(1, 2)


class Excited(nn.Module):
    """EfficientNet's block: expand, depthwise, squeeze and excite, project."""

    def __init__(self, width=16, factor=4):
        super().__init__()
        wide = factor * width
        self.expand = nn.Sequential(
            *conv_norm(width, wide, activation=nn.SiLU), *conv_norm(wide, wide, 3, wide, nn.SiLU)
        )
        self.squeeze, self.excite = nn.Conv2d(wide, 4, 1), nn.Conv2d(4, wide, 1)
        self.project = nn.Sequential(*conv_norm(wide, width, activation=None))

    def forward(self, x):
        y = self.expand(x)
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return x + self.project(y * gate)


class Waves(nn.Module):
    """WaveNet: dilated causal convolutions, tanh times sigmoid, skips that are summed."""

    def __init__(self, width=24, depth=5):
        super().__init__()
        self.first = nn.Conv1d(4, width, 1)
        self.filters, self.gates = (
            nn.ModuleList(nn.Conv1d(width, width, 2, dilation=2**at) for at in range(depth)) for _ in range(2)
        )
        self.residuals, self.skips = (nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(depth)) for _ in range(2))
        self.head = nn.Conv1d(width, CLASSES, 1)

    def forward(self, x):
        x, total = self.first(x), 0
        for at, (filtered, gate) in enumerate(zip(self.filters, self.gates, strict=True)):
            padded = F.pad(x, (2**at, 0))
            y = torch.tanh(filtered(padded)) * torch.sigmoid(gate(padded))
            total = total + self.skips[at](y)
            x = x + self.residuals[at](y)
        return self.head(F.relu(total))[..., -1]


class Sentences(nn.Module):
    """Sentences of different lengths, packed, read in both directions."""

    def __init__(self, width=24):
        super().__init__()
        self.embed = nn.Embedding(60, width, padding_idx=0)
        self.read = nn.LSTM(width, width, 2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, ids):
        lengths = (ids > 0).sum(1)
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        _, (state, _) = self.read(packed)
        return self.head(torch.cat([state[-2], state[-1]], 1))


def sentences():
    ids = torch.randint(1, 60, (BATCH, 14))
    lengths = torch.randint(3, 15, (BATCH,))
    return labelled(Sentences(), ids.masked_fill(torch.arange(14)[None] >= lengths[:, None], 0))


class Operator(nn.Module):
    """DeepONet: a function's samples through the branch, places through the trunk, and their products."""

    def __init__(self, width=32):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, width))
        self.trunk = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, width))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, function, places):
        return self.branch(function) @ self.trunk(places).T + self.bias


def operator():
    function, target = torch.randn(BATCH, 20).cumsum(1) / 4, torch.randn(BATCH, 30).cumsum(1) / 4
    return Operator(), (function, torch.linspace(0, 1, 30)[:, None]), lambda y: F.mse_loss(y, target)


class Flow(nn.Module):
    """RealNVP: couplings whose last layers start at zero, so that the whole begins as the identity."""

    def __init__(self, depth=6, half=4):
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(half, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), zero(nn.Linear(32, 2 * half)))
            for _ in range(depth)
        )

    def forward(self, x):
        one, two = x.chunk(2, 1)
        volume = 0
        for net in self.nets:
            scale, shift = net(one).chunk(2, 1)
            scale = torch.tanh(scale)
            one, two = two * scale.exp() + shift, one
            volume = volume + scale.sum(1)
        return torch.cat([one, two], 1), volume


def flow():
    x = torch.randn(BATCH, 8) @ torch.randn(8, 8) / 2 + 1
    return Flow(), (x,), lambda y: (y[0].square().sum(1) / 2 - y[1]).mean()


class Quantised(nn.Module):
    """VQ-VAE: the nearest code, with the gradient passed straight through."""

    def __init__(self, codes=32, width=8):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 24, 4, 2, 1), nn.ReLU(), nn.Conv2d(24, width, 4, 2, 1), nn.BatchNorm2d(width)
        )
        self.codebook = nn.Embedding(codes, width)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(width, 24, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(24, 3, 4, 2, 1)
        )

    def forward(self, x):
        z = self.encoder(x).permute(0, 2, 3, 1)
        nearest = torch.cdist(z.flatten(0, 2), self.codebook.weight).argmin(1).view(z.shape[:3])
        q = self.codebook(nearest)
        passed = z + (q - z).detach()
        return self.decoder(passed.permute(0, 3, 1, 2)), F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())


def quantised():
    x = smooth_images()
    return Quantised(), (x,), lambda y: F.mse_loss(y[0], x) + y[1]


class Vision(nn.Module):
    """A vision transformer: patches, a class token, torch's attention, a head that starts at zero."""

    def __init__(self, width=32, depth=4):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, F.gelu, batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(width), zero(nn.Linear(width, CLASSES))

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Pairs(nn.Module):
    """Signature verification: one trunk for both images, and their distance."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            *(nn.Conv2d(1, 8, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(8, 16, 5), nn.Tanh(), nn.AvgPool2d(2)),
            *(nn.Flatten(), nn.Linear(16 * 9, 32), nn.Tanh(), nn.Linear(32, 16)),
        )

    def forward(self, one, two):
        return F.pairwise_distance(self.trunk(one), self.trunk(two))


def pairs():
    same = (torch.arange(BATCH) % 2).float()

    def contrast(distance):
        return (same * distance.square() + (1 - same) * F.relu(1 - distance).square()).mean()

    return Pairs(), (torch.randn(BATCH, 1, 24, 24), torch.randn(BATCH, 1, 24, 24)), contrast


class Equilibrium(nn.Module):
    """A deep equilibrium model by forty rounds of a contraction; the input enters at each."""

    def __init__(self, rounds=40):
        super().__init__()
        self.inputs, self.state, self.head = (
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, WIDTH, bias=False),
            nn.Linear(WIDTH, CLASSES),
        )
        nn.init.orthogonal_(self.state.weight, 0.7)
        self.rounds = rounds

    def forward(self, x):
        given = self.inputs(x)
        z = torch.zeros_like(given)
        for _ in range(self.rounds):
            z = torch.tanh(self.state(z) + given)
        return self.head(z)


class ActorCritic(nn.Module):
    """The network that learnt Atari: bytes in, a policy of gain 0.01 and a value out."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(4, 16, 8, 4), nn.Conv2d(16, 32, 4, 2), nn.Conv2d(32, 32, 3, 1), nn.Linear(128, 64)]
        self.policy, self.value = nn.Linear(64, 6), nn.Linear(64, 1)
        for layer, gain in zip((*layers, self.policy, self.value), (HE, HE, HE, HE, 0.01, 1.0), strict=True):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)
        self.trunk = nn.Sequential(
            *(part for layer in layers[:3] for part in (layer, nn.ReLU())), nn.Flatten(), layers[3], nn.ReLU()
        )

    def forward(self, frames):
        x = self.trunk(frames.float() / 255)
        return self.policy(x), self.value(x)[:, 0]


def actor_critic():
    frames = (255 * smooth_images(4, 44)).byte()
    action, advantage, returns = torch.randint(0, 6, (BATCH,)), torch.randn(BATCH), torch.randn(BATCH)

    def loss(y):
        chosen = y[0].log_softmax(-1).gather(1, action[:, None])[:, 0]
        return -(chosen * advantage).mean() + 0.5 * F.mse_loss(y[1], returns)

    return ActorCritic(), (frames,), loss


class Hyper(nn.Module):
    """A network that draws the weights of another one, for each sample its own."""

    def __init__(self, inputs=8, width=16, outputs=4):
        super().__init__()
        self.shapes = ((width, inputs), (outputs, width))
        self.condition = nn.Sequential(nn.Linear(6, 64), nn.ReLU())
        self.draws = nn.ModuleList(nn.Linear(64, a * b) for a, b in self.shapes)
        for draw, (_, fan) in zip(self.draws, self.shapes, strict=True):
            nn.init.normal_(draw.weight, std=1 / math.sqrt(8 * fan))
            nn.init.zeros_(draw.bias)

    def forward(self, x, condition):
        h = self.condition(condition)
        first, second = (draw(h).unflatten(1, shape) for draw, shape in zip(self.draws, self.shapes, strict=True))
        y = torch.tanh(torch.bmm(first, x[:, :, None]))
        return torch.bmm(second, y)[:, :, 0]


def hyper():
    target = torch.randn(BATCH, 4)
    return Hyper(), (torch.randn(BATCH, 8), torch.randn(BATCH, 6)), lambda y: F.mse_loss(y, target)


class MixtureDensity(nn.Module):
    def __init__(self, parts=5):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.shares, self.means, self.spreads = (nn.Linear(32, parts) for _ in range(3))

    def forward(self, x):
        h = self.trunk(x)
        return self.shares(h).log_softmax(-1), self.means(h), F.softplus(self.spreads(h)) + 1e-3


def mixture_density():
    y = torch.rand(128, 1) * 2 - 1
    x = y + 0.3 * torch.sin(2 * math.pi * y)

    def likelihood(out):
        shares, means, spreads = out
        return -(shares - ((y - means) / spreads).square() / 2 - spreads.log()).logsumexp(-1).mean()

    return MixtureDensity(), (x,), likelihood


class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder, transposed; black and white pixels."""

    def __init__(self, widths=(64, 48, 24, 12)):
        super().__init__()
        self.encoder = nn.ModuleList(he(nn.Linear(a, b)) for a, b in itertools.pairwise(widths))
        self.biases = nn.ParameterList(torch.zeros(width) for width in reversed(widths[:-1]))

    def forward(self, x):
        for layer in self.encoder:
            x = F.elu(layer(x))
        for at, (layer, bias) in enumerate(zip(reversed(self.encoder), self.biases, strict=True)):
            x = F.linear(x, layer.weight.T, bias)
            x = x if at == len(self.biases) - 1 else F.elu(x)
        return x


def tied():
    x = (torch.rand(BATCH, 64) < 0.2).float()
    return Tied(), (x,), lambda y: F.binary_cross_entropy_with_logits(y, x)


class RootMeanSquare(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class Rotary(nn.Module):
    """Attention with rotated and normed queries and keys, two of which share one key."""

    def __init__(self, width, heads=4, shared=2):
        super().__init__()
        self.size, self.heads, self.keys = width // heads, heads, heads // shared
        self.q, self.k, self.v, self.out = (
            nn.Linear(width, n * self.size, bias=False) for n in (heads, self.keys, self.keys, heads)
        )
        self.q_norm, self.k_norm = RootMeanSquare(self.size), RootMeanSquare(self.size)

    def rotate(self, x):
        half = self.size // 2
        angles = torch.arange(x.shape[2])[:, None] * 10000 ** (-torch.arange(half) / half)
        one, two = x.chunk(2, -1)
        return torch.cat([one * angles.cos() - two * angles.sin(), one * angles.sin() + two * angles.cos()], -1)

    def forward(self, x):
        samples, length, _ = x.shape
        q, k, v = (layer(x).view(samples, length, -1, self.size).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = self.rotate(self.q_norm(q)), self.rotate(self.k_norm(k))
        k, v = (part.repeat_interleave(self.heads // self.keys, 1) for part in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(samples, length, -1))


class SwiGLU(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.gate, self.up, self.down = (
            nn.Linear(width, inner, bias=False),
            nn.Linear(width, inner, bias=False),
            nn.Linear(inner, width, bias=False),
        )

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


def llama(width=32, depth=4, vocabulary=50):
    blocks = []
    for _ in range(depth):
        blocks += [Residual(Rotary(width), norm=RootMeanSquare(width))]
        blocks += [Residual(SwiGLU(width, 80), norm=RootMeanSquare(width))]
    head = nn.Linear(width, vocabulary, bias=False)
    model = nn.Sequential(nn.Embedding(vocabulary, width), *blocks, RootMeanSquare(width), head)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            last = name.endswith(("out.weight", "down.weight"))
            nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * depth) if last else 1))
    ids = torch.randint(0, vocabulary, (8, 12))
    return model, (ids,), lambda y: F.cross_entropy(y[:, :-1].reshape(-1, vocabulary), ids[:, 1:].reshape(-1))


class Recycled(nn.Module):
    """One block used six times (ALBERT), with a penalty on the distance in the attention (ALiBi)."""

    def __init__(self, width=32, heads=4, rounds=6):
        super().__init__()
        self.embed = nn.Embedding(50, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head, self.heads, self.rounds = nn.Linear(width, CLASSES), heads, rounds

    def attend(self, x):
        samples, length, width = x.shape
        q, k, v = self.qkv(x).view(samples, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        places = torch.arange(length)
        distance = (places[:, None] - places[None]).abs()
        bias = -(2.0 ** -torch.arange(1, 1 + self.heads))[:, None, None] * distance
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(y.transpose(1, 2).reshape(samples, length, width))

    def forward(self, ids):
        x = self.embed(ids)
        for _ in range(self.rounds):
            x = x + self.attend(self.norms[0](x))
            x = x + self.feed(self.norms[1](x))
        return self.head(self.norms[2](x).mean(1))


class Splines(nn.Module):
    """A Kolmogorov-Arnold layer with bumps in place of splines."""

    def __init__(self, inputs, outputs, bumps=8):
        super().__init__()
        self.norm, self.base = nn.LayerNorm(inputs), nn.Linear(inputs, outputs)
        self.bumps = nn.Linear(inputs * bumps, outputs, bias=False)
        nn.init.normal_(self.bumps.weight, std=0.1 / math.sqrt(inputs))
        self.register_buffer("grid", torch.linspace(-2, 2, bumps))

    def forward(self, x):
        near = torch.exp(-((self.norm(x)[..., None] - self.grid) * 7 / 4).square())
        return self.base(F.silu(x)) + self.bumps(near.flatten(1))


def squash(x):
    square = x.square().sum(-1, keepdim=True)
    return square / (1 + square) * x * torch.rsqrt(square + 1e-8)


class Capsules(nn.Module):
    """Capsules whose routing starts even."""

    def __init__(self):
        super().__init__()
        self.conv, self.primary = nn.Conv2d(1, 32, 5), nn.Conv2d(32, 32, 5, 2)
        self.votes = nn.Parameter(0.25 * torch.randn(64, CLASSES, 8, 8))

    def forward(self, x):
        u = self.primary(F.relu(self.conv(x)))
        u = squash(u.view(len(x), 4, 8, -1).transpose(2, 3).reshape(len(x), -1, 8))
        votes = torch.einsum("nid,icde->nice", u, self.votes)
        logits = torch.zeros_like(votes[..., 0])
        for _ in range(3):
            y = squash((logits.softmax(2)[..., None] * votes).sum(1))
            logits = logits + (votes * y[:, None]).sum(-1)
        return (y.square().sum(-1) + 1e-8).sqrt()


def capsules():
    target = F.one_hot(torch.randint(0, CLASSES, (BATCH,)), CLASSES)

    def margin(length):
        return (
            (target * F.relu(0.9 - length).square() + 0.5 * (1 - target) * F.relu(length - 0.1).square()).sum(1).mean()
        )

    return Capsules(), (smooth_images(1, 15),), margin


class GatedConvolutions(nn.Module):
    """Convolutions with gated linear units and skips of half the variance (Gehring et al., 2017)."""

    def __init__(self, width=32, depth=6):
        super().__init__()
        self.embed, self.head = nn.Embedding(40, width), nn.Linear(width, CLASSES)
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(spread(nn.Conv1d(width, 2 * width, 3, padding=1), 2.0))
            for _ in range(depth)
        )

    def forward(self, ids):
        x = self.embed(ids).transpose(1, 2)
        for layer in self.layers:
            x = (F.glu(layer(x), 1) + x) * math.sqrt(0.5)
        return self.head(x.mean(2))


class Recommender(nn.Module):
    """DLRM: bags of embeddings, dense features, their products two by two."""

    def __init__(self, width=16, tables=4):
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(500, width, mode="sum") for _ in range(tables))
        self.bottom = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, width), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(width + 10, 32), nn.ReLU(), nn.Linear(32, 1))
        for table in self.tables:
            nn.init.uniform_(table.weight, -0.25, 0.25)

    def forward(self, dense, sparse):
        x = self.bottom(dense)
        all_ = torch.stack([x, *(table(ids) for table, ids in zip(self.tables, sparse.unbind(1), strict=True))], 1)
        row, column = torch.tril_indices(5, 5, -1)
        return self.top(torch.cat([x, (all_ @ all_.transpose(1, 2))[:, row, column]], 1))[:, 0]


def recommender():
    clicked = torch.randint(0, 2, (64,)).float()
    inputs = (torch.randn(64, 6), torch.randint(0, 500, (64, 4, 3)))
    return Recommender(), inputs, lambda y: F.binary_cross_entropy_with_logits(y, clicked)


class Phrases(nn.Module):
    """Convolutions of three widths over frozen embeddings, the largest over time; a head for another task idles."""

    def __init__(self, width=32):
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(torch.randn(100, width))
        self.convolutions = nn.ModuleList(nn.Conv1d(width, 16, size) for size in (3, 4, 5))
        self.dropout, self.head, self.other = nn.Dropout(), nn.Linear(48, CLASSES), nn.Linear(48, 3)

    def forward(self, ids):
        x = self.embed(ids).transpose(1, 2)
        return self.head(self.dropout(torch.cat([F.relu(c(x)).amax(2) for c in self.convolutions], 1)))


class Masked(nn.Linear):
    def __init__(self, sources, places):
        super().__init__(len(sources), len(places))
        strict = len(places) == 16
        self.register_buffer("mask", ((places[:, None] > sources) if strict else (places[:, None] >= sources)).float())
        nn.init.normal_(self.weight)
        with torch.no_grad():
            self.weight *= HE / self.mask.sum(1, keepdim=True).clamp(min=1).sqrt()
            self.bias.zero_()

    def forward(self, x):
        return F.linear(x, self.weight * self.mask, self.bias)


def autoregressive():
    """MADE: each output sees only the inputs before it; they are zeros and ones."""
    places, hidden = torch.arange(16), torch.arange(60) % 15
    model = nn.Sequential(Masked(places, hidden), nn.ReLU(), Masked(hidden, hidden), nn.ReLU(), Masked(hidden, places))
    x = (torch.rand(64, 16) < 0.3).float()
    return model, (x,), lambda y: F.binary_cross_entropy_with_logits(y, x)


class Points(nn.Module):
    """PointNet: the same layers for each point, the largest over all of them."""

    def __init__(self):
        super().__init__()
        self.each = nn.Sequential(
            *(
                part
                for a, b in ((3, 32), (32, 48), (48, 96))
                for part in (nn.Conv1d(a, b, 1), nn.BatchNorm1d(b), nn.ReLU())
            )
        )
        self.all = nn.Sequential(nn.Linear(96, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, CLASSES))

    def forward(self, x):
        return self.all(self.each(x).amax(2))


class Neighbours(nn.Module):
    """Graph attention, two layers, on a graph of 40 nodes with a few links each."""

    def __init__(self, width=32):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(16, width, bias=False), nn.Linear(width, CLASSES, bias=False)])
        self.sources, self.targets = (
            nn.ModuleList([nn.Linear(width, 1, bias=False), nn.Linear(CLASSES, 1, bias=False)]) for _ in range(2)
        )
        self.register_buffer("links", (torch.rand(40, 40) < 0.1) | torch.eye(40, dtype=torch.bool))

    def forward(self, x):
        for at, layer in enumerate(self.layers):
            h = layer(x)
            scores = F.leaky_relu(self.targets[at](h) + self.sources[at](h).T, 0.2)
            h = scores.masked_fill(~self.links, -math.inf).softmax(1) @ h
            x = h if at else F.elu(h)
        return x


class Sometimes(nn.Module):
    """Stochastic depth: a branch that is left out for each sample with some probability."""

    def __init__(self, width, drop):
        super().__init__()
        self.branch, self.drop = nn.Sequential(*conv_norm(width, width, 3), *conv_norm(width, width, 3)), drop

    def forward(self, x):
        kept = (torch.rand(len(x), 1, 1, 1) > self.drop).float() / (1 - self.drop)
        return x + kept * self.branch(x)


class ConvNext(nn.Module):
    def __init__(self, width=24):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


class Radiance(nn.Module):
    """NeRF: sines of a place, ReLU layers with the input once more half way, a density and a colour."""

    def __init__(self, width=64, octaves=6):
        super().__init__()
        inputs = 3 + 6 * octaves
        self.first = nn.ModuleList(he(nn.Linear(inputs if at == 0 else width, width)) for at in range(4))
        self.second = nn.ModuleList(he(nn.Linear(width + inputs if at == 0 else width, width)) for at in range(3))
        self.density, self.colour = nn.Linear(width, 1), nn.Linear(width, 3)
        self.register_buffer("octaves", 2.0 ** torch.arange(octaves))

    def forward(self, places):
        angles = (places[..., None] * self.octaves).flatten(1)
        given = torch.cat([places, angles.sin(), angles.cos()], 1)
        x = given
        for layer in self.first:
            x = F.relu(layer(x))
        x = torch.cat([x, given], 1)
        for layer in self.second:
            x = F.relu(layer(x))
        return F.softplus(self.density(x)), torch.sigmoid(self.colour(x))


def radiance():
    colour = torch.rand(128, 3)

    def loss(y):
        return F.mse_loss((1 - torch.exp(-y[0])) * y[1], colour)

    return Radiance(), (torch.rand(128, 3) * 2 - 1,), loss


class TimeBlock(nn.Module):
    """Group norm, SiLU, a shift that depends on the time, a second convolution that starts at zero."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, inputs), nn.GroupNorm(4, outputs)
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1), zero(nn.Conv2d(outputs, outputs, 3, 1, 1))
        self.time, self.skip = nn.Linear(16, outputs), nn.Conv2d(inputs, outputs, 1)

    def forward(self, x, time):
        y = self.conv1(F.silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(y)))


class Diffusion(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.time, self.first = nn.Sequential(nn.Linear(1, 16), nn.SiLU()), nn.Conv2d(3, width, 3, padding=1)
        self.down, self.middle = TimeBlock(width, width), TimeBlock(width, width)
        self.up, self.norm = TimeBlock(2 * width, width), nn.GroupNorm(4, width)
        self.last = zero(nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x, time):
        time = self.time(time)
        high = self.down(self.first(x), time)
        low = self.middle(F.avg_pool2d(high, 2), time)
        y = self.up(torch.cat([F.interpolate(low, scale_factor=2), high], 1), time)
        return self.last(F.silu(self.norm(y)))


def diffusion():
    noise, time = torch.randn(8, 3, 16, 16), torch.rand(8, 1)
    x = F.interpolate(torch.randn(8, 3, 4, 4), scale_factor=4)
    given = (1 - time)[..., None, None].sqrt() * x + time[..., None, None].sqrt() * noise
    return Diffusion(), (given, time), lambda y: F.mse_loss(y, noise)


class SimSiam(nn.Module):
    """Two views, a predictor, and a gradient that is stopped on one side."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            *(
                part
                for _ in range(3)
                for part in (nn.Linear(WIDTH, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU())
            ),
            nn.Linear(WIDTH, 32, bias=False),
            nn.BatchNorm1d(32, affine=False),
        )
        self.predictor = nn.Sequential(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 32))

    def forward(self, one, two):
        one, two = self.encoder(one), self.encoder(two)
        return [F.cosine_similarity(self.predictor(p), z.detach()) for p, z in ((one, two), (two, one))]


def sim_siam():
    x = torch.randn(BATCH, WIDTH)
    views = tuple(x + 0.4 * torch.randn_like(x) for _ in range(2))
    return SimSiam(), views, lambda y: -(y[0].mean() + y[1].mean()) / 2


class FixupBlock(nn.Module):
    """No norm: a first convolution shrunk by the depth, a second of zero, and learned numbers around them."""

    def __init__(self, width, depth):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        spread(self.conv1, HE / math.sqrt(depth))
        zero(self.conv2)
        self.bias1, self.bias2, self.bias3, self.bias4 = (nn.Parameter(torch.zeros(1)) for _ in range(4))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        y = F.relu(self.conv1(x + self.bias1) + self.bias2)
        return F.relu(x + self.scale * self.conv2(y + self.bias3) + self.bias4)


def fixup(depth=6, width=16):
    stem = (spread(nn.Conv2d(3, width, 3, padding=1), HE), nn.ReLU())
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), zero(nn.Linear(width, CLASSES)))
    return nn.Sequential(*stem, *(FixupBlock(width, depth) for _ in range(depth)), *head)


def student():
    """A small network that follows the soft answers of a frozen one, both run at once."""
    teacher = plain(4, nn.ReLU, HE).requires_grad_(requires_grad=False).eval()
    model = nn.ModuleDict({"teacher": teacher, "student": plain(2, nn.ReLU, HE)})
    model.forward = lambda x: (model["student"](x), model["teacher"](x))

    def loss(y):
        return F.kl_div((y[0] / 4).log_softmax(-1), (y[1] / 4).softmax(-1), reduction="batchmean")

    return model, (torch.randn(BATCH, WIDTH),), loss


HEALTHY_FURTHER = {
    "ResNeXt": lambda: labelled(
        images(*(part for _ in range(3) for part in (Residual(grouped()), nn.ReLU())), width=32), smooth_images()
    ),
    "ShuffleNet": lambda: classify(images(*(Shuffle() for _ in range(4)), width=32), (3, 12, 12)),
    "EfficientNet": lambda: labelled(images(*(Excited() for _ in range(4))), smooth_images()),
    "WaveNet": lambda: classify(Waves(), (4, 40)),
    "packed sentences, both directions": sentences,
    "DeepONet": operator,
    "RealNVP that starts as the identity": flow,
    "VQ-VAE": quantised,
    "vision transformer, head at zero": lambda: labelled(Vision(), smooth_images()),
    "one trunk for two images": pairs,
    "deep equilibrium, forty rounds": lambda: classify(Equilibrium(), (WIDTH,)),
    "actor and critic from bytes": actor_critic,
    "hypernetwork": hyper,
    "mixture density": mixture_density,
    "autoencoder with tied weights, black and white": tied,
    "Llama": llama,
    "one block used six times, with ALiBi": lambda: labelled(Recycled(), torch.randint(0, 50, (BATCH, 10))),
    "Kolmogorov-Arnold network": lambda: classify(
        nn.Sequential(Splines(16, 24), Splines(24, 24), Splines(24, CLASSES)), (16,)
    ),
    "capsules": capsules,
    "gated convolutions": lambda: labelled(GatedConvolutions(), torch.randint(0, 40, (BATCH, 12))),
    "recommender": recommender,
    "phrases, frozen embeddings, an idle head": lambda: labelled(Phrases(), torch.randint(0, 100, (BATCH, 15))),
    "MADE, zeros and ones": autoregressive,
    "PointNet": lambda: labelled(Points(), torch.randn(BATCH, 3, 40)),
    "graph attention": lambda: labelled(Neighbours(), F.normalize((torch.rand(40, 16) < 0.3).float() + 1e-3, dim=1)),
    "stochastic depth": lambda: classify(images(*(Sometimes(16, 0.1 * at) for at in range(1, 6))), (3, 12, 12)),
    "ConvNeXt": lambda: labelled(images(*(ConvNext() for _ in range(5)), width=24), smooth_images()),
    "NeRF": radiance,
    "diffusion U-Net, last convolutions at zero": diffusion,
    "SimSiam": sim_siam,
    "Fixup with learned numbers": lambda: classify(fixup(), (3, 12, 12)),
    "student of a frozen teacher": student,
}
