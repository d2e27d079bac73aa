"""Networks of further structures whose signal is known: a third list, which no rule was made for.

As in oracles/verdicts_unseen.py, what a sick one should be found to have, and where, follows from how it was made, and
was written down before any rule had looked at it. The healthy ones are in oracles/further_structures.py.
"""

from __future__ import annotations

import copy
import itertools
import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from oracles.further_structures import HEALTHY_FURTHER, Flow, labelled
from oracles.verdicts import (
    BATCH,
    CLASSES,
    HE,
    WIDTH,
    Adapted,
    Attention,
    BasicBlock,
    Language,
    Read,
    Residual,
    changed,
    classify,
    he,
    plain,
    predict_next,
    regress,
    spread,
)
from oracles.verdicts_unseen import Modulated, SoftMixture, Words, fuse, images

__all__ = ["HEALTHY_FURTHER", "SICK_FURTHER"]


def calls(path, count, first=0):
    """A path and its later calls."""
    return {path if at == 0 else f"{path} #{at}" for at in range(first, count)}


def drawn(layer, deviation):
    nn.init.normal_(layer.weight, std=deviation)
    nn.init.zeros_(layer.bias)
    return layer


def filled(value):
    return lambda layer: layer.bias.fill_(value)


def pooled(*layers, width=16):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


# ---- by a factor per layer, or at one layer ----


def squared_deviation(depth=8, width=16):
    """Convolutions whose deviation is the variance that He et al. give."""
    fans = [27] + [9 * width] * (depth - 1)
    layers = (drawn(nn.Conv2d(fan // 9, width, 3, padding=1), 2 / fan) for fan in fans)
    return pooled(*(part for layer in layers for part in (layer, nn.ReLU())))


def unscaled(depth=6):
    """Every weight from torch.randn, as it is."""
    layers = (drawn(nn.Linear(WIDTH, WIDTH), 1.0) for _ in range(depth))
    return nn.Sequential(
        *(part for layer in layers for part in (layer, nn.ReLU())), drawn(nn.Linear(WIDTH, CLASSES), 1.0)
    )


def wide_behind_maps():
    """One layer of deviation one, behind 32 maps of 32 × 32."""
    return nn.Sequential(
        *(he(nn.Conv2d(3, 32, 3, padding=1)), nn.ReLU(), nn.Flatten()),
        *(drawn(nn.Linear(32 * 32 * 32, WIDTH), 1.0), nn.ReLU(), he(nn.Linear(WIDTH, CLASSES))),
    )


def shrinking_norm():
    norm = nn.LayerNorm(WIDTH)
    nn.init.constant_(norm.weight, 1e-4)
    layers = [he(nn.Linear(WIDTH, WIDTH)), nn.LayerNorm(WIDTH), nn.ReLU(), he(nn.Linear(WIDTH, WIDTH)), norm, nn.ReLU()]
    layers += [part for _ in range(3) for part in (he(nn.Linear(WIDTH, WIDTH)), nn.ReLU())]
    return nn.Sequential(*layers, he(nn.Linear(WIDTH, CLASSES)))


def sigmoid_autoencoder(widths=(64, 48, 32, 16, 8, 16, 32, 48, 64)):
    layers = (nn.Linear(a, b) for a, b in itertools.pairwise(widths))
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.Sigmoid())))


def residual_convolutions(depth=20, width=16):
    def twice():
        one, two = (spread(nn.Conv2d(width, width, 3, padding=1), HE) for _ in range(2))
        return nn.Sequential(one, nn.ReLU(), two)

    return pooled(spread(nn.Conv2d(3, width, 3, padding=1), 1.0), *(Residual(twice()) for _ in range(depth)))


class Growing(nn.Module):
    """A recurrent cell with ReLU that starts from one and a half times the identity."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.RNNCell(8, 32, nonlinearity="relu"), nn.Linear(32, CLASSES)
        with torch.no_grad():
            self.cell.weight_hh.copy_(1.5 * torch.eye(32))

    def forward(self, x):
        h = x.new_zeros(len(x), 32)
        for step in range(x.shape[1]):
            h = self.cell(x[:, step], h)
        return self.head(h)


class Carried(nn.Module):
    """What is read at the first step is carried for sixty, by a tanh that halves it."""

    def __init__(self, steps=60):
        super().__init__()
        self.inputs, self.hidden = nn.Linear(8, 32, bias=False), nn.Linear(32, 32, bias=False)
        self.head, self.steps = nn.Linear(32, CLASSES), steps
        nn.init.orthogonal_(self.hidden.weight, 0.5)

    def forward(self, x):
        h = torch.tanh(self.inputs(x))
        for _ in range(self.steps):
            h = torch.tanh(self.hidden(h))
        return self.head(h)


class Crossed(nn.Module):
    """A cross network whose weights are drawn without a scale: a product of eight of its own inputs."""

    def __init__(self, width=16, depth=8):
        super().__init__()
        self.layers = nn.ModuleList(drawn(nn.Linear(width, width), 1.0) for _ in range(depth))
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        y = x
        for layer in self.layers:
            y = x * layer(y) + y
        return self.head(y)


def closed_updates():
    """A gated recurrent unit whose update gate keeps the old state, which is zero."""
    model = Read(nn.GRU(8, 32, batch_first=True))
    with torch.no_grad():
        model.recurrent.bias_ih_l0[32:64] = 20.0
    return model


def adapters_of_zero():
    """Low-rank adapters both of whose factors are zero: neither ever gets a gradient."""
    model = nn.Sequential(
        *(part for _ in range(3) for part in (Adapted(he(nn.Linear(WIDTH, WIDTH))), nn.ReLU())),
        nn.Linear(WIDTH, CLASSES).requires_grad_(requires_grad=False),
    )
    for at in (0, 2, 4):
        nn.init.zeros_(model[at].down.weight)
    return model


class Unmodulated(Modulated):
    """FiLM whose generator starts at zero, and whose scale is not one plus what it gives."""

    def forward(self, x):
        conditions = self.generator(x.mean((2, 3))).chunk(6, -1)
        for at, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            scale, shift = (part[:, :, None, None] for part in conditions[2 * at : 2 * at + 2])
            x = F.relu(norm(convolution(x)) * scale + shift)
        return self.head(x.mean((2, 3)))


def group_normed(depth=4):
    layers = []
    for at in range(depth):
        layers += [nn.Conv2d(3 if at == 0 else 16, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU()]
    return pooled(*layers)


# ---- dead and saturated ----


class Cosines(nn.Module):
    """Attention by cosines, times a learned number that has grown to a thousand."""

    def __init__(self, width=32, scale=1000.0):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x):
        q, k = F.normalize(self.q(x), dim=-1), F.normalize(self.k(x), dim=-1)
        return x + (self.scale * q @ k.transpose(1, 2)).softmax(-1) @ self.v(x)


class Sequence(nn.Module):
    def __init__(self, *blocks, width=32):
        super().__init__()
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(width, CLASSES)

    def forward(self, x):
        return self.head(self.blocks(x).mean(1))


class HardGate(nn.Module):
    """Squeeze and excite as in MobileNetV3, with a bias that shuts every gate."""

    def __init__(self, width=16):
        super().__init__()
        self.down, self.up, self.gate = nn.Linear(width, 4), nn.Linear(4, width), nn.Hardsigmoid()
        nn.init.constant_(self.up.bias, -10.0)

    def forward(self, x):
        return x * self.gate(self.up(F.relu(self.down(x.mean((2, 3))))))[:, :, None, None]


class ShutHighway(nn.Module):
    def __init__(self, depth=6):
        super().__init__()
        self.layers = nn.ModuleList(he(nn.Linear(WIDTH, WIDTH)) for _ in range(depth))
        self.gates = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Sigmoid()) for _ in range(depth))
        self.head = nn.Linear(WIDTH, CLASSES)
        for gate in self.gates:
            nn.init.constant_(gate[0].bias, -20.0)

    def forward(self, x):
        for layer, gate in zip(self.layers, self.gates, strict=True):
            share = gate(x)
            x = share * F.relu(layer(x)) + (1 - share) * x
        return self.head(x)


class Forgetful(nn.Module):
    """Long short-term memory by hand, whose forget gate is stuck at zero."""

    def __init__(self, width=24):
        super().__init__()
        self.forget, self.enter, self.leave = (
            nn.Sequential(nn.Linear(8 + width, width), nn.Sigmoid()) for _ in range(3)
        )
        self.propose, self.head, self.width = nn.Linear(8 + width, width), nn.Linear(width, CLASSES), width
        nn.init.constant_(self.forget[0].bias, -20.0)

    def forward(self, x):
        h = c = x.new_zeros(len(x), self.width)
        for step in range(x.shape[1]):
            given = torch.cat([x[:, step], h], 1)
            c = self.forget(given) * c + self.enter(given) * torch.tanh(self.propose(given))
            h = self.leave(given) * torch.tanh(c)
        return self.head(h)


def normed_tanh(depth=3):
    layers = [part for _ in range(depth) for part in (he(nn.Linear(WIDTH, WIDTH)), nn.BatchNorm1d(WIDTH), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


# ---- collapsed ----


class LargestWord(nn.Module):
    """The largest over time, with the padding among the words: its vector is larger than all of them."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(200, 32)
        self.body = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES))
        with torch.no_grad():
            self.embed.weight[0] = 8.0

    def forward(self, ids):
        return self.body(self.embed(ids).amax(1))


def padded_words():
    ids = torch.randint(1, 200, (BATCH, 12))
    ids[:, 8:] = 0
    return labelled(LargestWord(), ids)


class OnlyAttention(nn.Module):
    """Attention alone, without skips: positions become alike at once (Dong et al., 2021)."""

    def __init__(self, width=32, depth=8):
        super().__init__()
        self.layers = nn.ModuleList(nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(layer(x, x, x, need_weights=False)[0])
        return self.head(x)


class Smoothed(nn.Module):
    """A graph network of thirty means over neighbours: nodes become alike."""

    def __init__(self, nodes=40, depth=30):
        super().__init__()
        self.layers = nn.ModuleList(spread(nn.Linear(32, 32), HE) for _ in range(depth))
        self.head = nn.Linear(32, CLASSES)
        links = ((torch.rand(nodes, nodes) < 0.2) | torch.eye(nodes, dtype=torch.bool)).float()
        self.register_buffer("links", links / links.sum(1, keepdim=True))

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(self.links @ x))
        return self.head(x)


def drowned_tokens():
    """Positions ten thousand times larger than words."""
    model = Language(depth=2)
    nn.init.normal_(model.places.weight)
    nn.init.normal_(model.tokens.weight, std=1e-4)
    return predict_next(model)


# ---- cloned ----


def cloned_experts():
    """Experts that are copies, behind a router that starts at zero: they can never part."""
    model = SoftMixture()
    for at in range(1, len(model.experts)):
        model.experts[at] = copy.deepcopy(model.experts[0])
    nn.init.zeros_(model.router.weight)
    nn.init.zeros_(model.router.bias)
    return model


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        branch = nn.Sequential(he(nn.Conv2d(3, 16, 3, padding=1)), nn.ReLU(), he(nn.Conv2d(16, 16, 3, padding=1)))
        self.branches = nn.ModuleList(copy.deepcopy(branch) for _ in range(3))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(F.relu(sum(branch(x) for branch in self.branches)).mean((2, 3)))


class Ensemble(nn.Module):
    def __init__(self):
        super().__init__()
        member = Read(nn.LSTM(8, 16, batch_first=True))
        self.members = nn.ModuleList(copy.deepcopy(member) for _ in range(3))

    def forward(self, x):
        return sum(member(x) for member in self.members) / 3


# ---- not finite ----


class UnexponentiatedFlow(Flow):
    """Couplings whose scale itself, not its logarithm, is what starts at zero."""

    def forward(self, x):
        one, two = x.chunk(2, 1)
        volume = 0
        for net in self.nets:
            scale, shift = net(one).chunk(2, 1)
            one, two = two * scale + shift, one
            volume = volume + torch.log(scale.abs()).sum(1)
        return torch.cat([one, two], 1), volume


class Distances(nn.Module):
    """All pairs, each with itself among them, by a root of a sum of squares."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(he(nn.Linear(WIDTH, WIDTH)), nn.ReLU(), he(nn.Linear(WIDTH, 16)))

    def forward(self, x):
        y = self.encoder(x)
        return (y[:, None] - y[None]).pow(2).sum(-1).sqrt()


def half_attention():
    """Queries and keys of several hundred, in half precision."""
    model = nn.Sequential(nn.Linear(8, WIDTH), Attention(WIDTH, 4), nn.Linear(WIDTH, CLASSES))
    with torch.no_grad():
        model[1].qkv.weight *= 1500.0
    return model.half(), (torch.randn(8, 10, 8).half(),), lambda y: y.float().square().mean()


class Unguarded(Words):
    """The mean over words, with nothing against a sentence that has none."""

    def forward(self, ids):
        seen = (ids > 0).float()[..., None]
        return self.body((self.embed(ids) * seen).sum(1) / seen.sum(1))


def empty_sentence():
    ids = torch.randint(1, 5000, (BATCH, 12))
    ids[3] = 0
    return labelled(Unguarded(), ids)


class Wide(nn.Module):
    """A variational autoencoder whose log-variances come out in the hundreds."""

    def __init__(self):
        super().__init__()
        self.encoder, self.mean = nn.Sequential(he(nn.Linear(WIDTH, 64)), nn.ReLU()), nn.Linear(64, 8)
        self.variance, self.decoder = drawn(nn.Linear(64, 8), 100.0), nn.Linear(8, WIDTH)

    def forward(self, x):
        h = self.encoder(x)
        mean = self.mean(h)
        return self.decoder(mean + torch.randn_like(mean) * torch.exp(self.variance(h) / 2))


class Padded(nn.Module):
    """torch's attention, with one sample that is padding altogether."""

    def __init__(self):
        super().__init__()
        self.first, self.attention = nn.Linear(16, 32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x):
        hidden = torch.arange(x.shape[1])[None] >= (torch.arange(len(x)) % x.shape[1])[:, None]
        y = self.first(x)
        return self.head((y + self.attention(y, y, y, key_padding_mask=hidden)[0]).mean(1))


class InstanceNorm(nn.Module):
    """By hand, with the unbiased variance, which one pixel hasn't got."""

    def forward(self, x):
        return (x - x.mean((2, 3), keepdim=True)) * torch.rsqrt(x.var((2, 3), keepdim=True) + 1e-5)


def one_pixel():
    layers = []
    for inputs, outputs in ((3, 16), (16, 16), (16, 16)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), InstanceNorm(), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, CLASSES))


def weight_normed_zeros():
    layer = nn.Linear(WIDTH, WIDTH)
    nn.init.zeros_(layer.weight)
    layers = [he(nn.Linear(WIDTH, WIDTH)), nn.ReLU(), nn.utils.parametrizations.weight_norm(layer), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


class Gamma(nn.Module):
    """A gamma correction of images that were normalised before."""

    def forward(self, x):
        return torch.pow(x, 1 / 2.2)


class HalfNorm(nn.Module):
    """A root mean square by hand, in the precision of what comes in."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def half_norm():
    """Hidden states of several hundred: squares overflow, the mean is infinite, and what is left is zero."""
    first = drawn(nn.Linear(WIDTH, WIDTH), 50.0)
    model = nn.Sequential(first, HalfNorm(WIDTH), nn.Linear(WIDTH, CLASSES))
    return model.half(), (torch.randn(BATCH, WIDTH).half(),), lambda y: y.float().square().mean()


def broken_recurrence():
    model = Read(nn.LSTM(8, 32, batch_first=True))
    with torch.no_grad():
        model.recurrent.weight_hh_l0[0, 0] = math.nan
    return model


def clones(*parts, members):
    """The same parameters of several members."""
    return {f"{member}.{part}" for member in members for part in parts}


SICK_FURTHER = {
    # by a factor per layer: the ends of the way
    "convolutions with the variance for a deviation": (
        lambda: classify(squared_deviation(), (3, 12, 12)),
        {"S201", "S203"},
        {"0", "14", "15", "16", "17", "18"},
    ),
    "weights from torch.randn as they are": (
        lambda: classify(unscaled(), (WIDTH,)),
        {"S202", "S204"},
        {"0", "10", "11", "12"},
    ),
    "an autoencoder of eight sigmoids": (
        lambda: regress(sigmoid_autoencoder(), (WIDTH,)),
        {"S203", "S207"},
        {"0"} | {str(at) for at in range(3, 16)},
    ),
    "residual convolutions without norm or scaling": (
        lambda: classify(residual_convolutions(), (3, 10, 10)),
        {"S202", "S204"},
        {"0", "1.+", "19.+", "20.+", "20", "21", "23"},
    ),
    "ReLU cells at one and a half times the identity": (
        lambda: regress(Growing(), (50, 8)),
        {"S202", "S204"},
        calls("cell", 50),
    ),
    "a state that tanh carries and halves, sixty steps": (
        lambda: classify(Carried(), (8,)),
        {"S201", "S203"},
        {"inputs"} | calls("hidden", 60) | calls("tanh()", 61),
    ),
    "a cross network without a scale": (
        lambda: regress(Crossed(), (16,)),
        {"S202", "S204"},
        {"layers.0", "layers.7", "mul() #7", "+ #7", "head"},
    ),
    # at one layer
    "a dense layer of deviation one behind large maps": (
        lambda: classify(wide_behind_maps(), (3, 32, 32)),
        {"S202"},
        {"3"},
    ),
    "a layer norm of weight 1e-4": (
        lambda: classify(shrinking_norm(), (WIDTH,)),
        {"S201", "S203"},
        {"4", "5"},
    ),
    "a group norm of weight zero": (
        lambda: classify(fuse(group_normed(), "4.weight", 0.0), (3, 12, 12)),
        {"S201", "S203", "S205", "S207"},
        {"4", "5", "6"},
    ),
    "FiLM at zero without one plus": (
        lambda: classify(Unmodulated(), (3, 12, 12)),
        {"S201", "S203", "S205", "S207"},
        {"generator", "mul()", "+", "relu()"},
    ),
    "a recurrent unit that never updates": (
        lambda: classify(closed_updates(), (20, 8)),
        {"S201", "S203"},
        {"recurrent"},
    ),
    "adapters with two factors of zero": (
        lambda: classify(adapters_of_zero(), (WIDTH,)),
        {"S201", "S203"},
        {f"{at}.{part}{name}" for at in (0, 2, 4) for part in ("down", "up") for name in ("", ".weight")},
    ),
    # dead
    "softplus behind a bias of -30": (
        lambda: classify(changed(plain(4, nn.Softplus, 1.0), "4", filled(-30.0)), (WIDTH,)),
        {"S201", "S205"},
        {"4", "5"},
    ),
    "dead inside a residual block": (
        lambda: classify(
            fuse(images(*(BasicBlock(16, 16) for _ in range(4))), "3.norm1.bias", -8.0),
            (3, 12, 12),
        ),
        {"S205"},
        {"3.norm1", "3.relu()"},
    ),
    "dead GELU in one block of a GPT": (
        lambda: predict_next(fuse(Language(depth=4), "blocks.5.branch.1.bias", -30.0)),
        {"S201", "S205"},
        {"blocks.5.branch.1", "blocks.5.branch.2"},
    ),
    # saturated
    "cosine attention at a thousand": (
        lambda: classify(Sequence(Cosines(scale=3.0), Cosines()), (12, 32)),
        {"S206"},
        {"blocks.1.softmax()"},
    ),
    "hard gates that are shut": (
        lambda: classify(
            pooled(
                *(he(nn.Conv2d(3, 16, 3, padding=1)), nn.ReLU(), HardGate()),
                *(he(nn.Conv2d(16, 16, 3, padding=1)), nn.ReLU()),
            ),
            (3, 12, 12),
        ),
        {"S201", "S203", "S205", "S206"},
        {"2.up", "2.gate", "2.mul()", "2"},
    ),
    "a highway whose gates are shut": (
        lambda: classify(ShutHighway(), (WIDTH,)),
        {"S206"},
        {f"gates.{at}.{part}" for at in range(6) for part in (0, 1)},
    ),
    "a forget gate stuck at zero": (
        lambda: classify(Forgetful(), (20, 8)),
        {"S206"},
        calls("forget.0", 20) | calls("forget.1", 20),
    ),
    "tanh behind a batch norm of weight 50": (
        lambda: classify(fuse(normed_tanh(), "4.weight", 50.0), (WIDTH,)),
        {"S206"},
        {"4", "5"},
    ),
    # collapsed
    "the largest over words and padding": (padded_words, {"S207"}, {"amax()", "body.0"}),
    "attention without skips": (
        lambda: classify_positions(OnlyAttention()),
        {"S207"},
        {f"{kind}.{at}" for kind in ("layers", "norms") for at in range(1, 8)},
    ),
    "a graph net of thirty means": (
        lambda: labelled(Smoothed(), torch.randn(40, 32)),
        {"S207"},
        {f"layers.{at}" for at in range(4, 30)} | calls("matmul()", 30, 4) | calls("relu()", 30, 4),
    ),
    "positions that drown the words": (
        drowned_tokens,
        {"S207"},
        {"+", "places", "blocks.0.branch.0"},
    ),
    # cloned
    "copied experts behind a router of zeros": (
        lambda: classify(cloned_experts(), (WIDTH,)),
        {"S208"},
        clones("0.weight", "2.weight", members=[f"experts.{at}" for at in range(4)]),
    ),
    "copied branches of an inception block": (
        lambda: classify(Inception(), (3, 10, 10)),
        {"S208"},
        clones("0.weight", "2.weight", members=[f"branches.{at}" for at in range(3)]),
    ),
    "copied recurrent networks": (
        lambda: classify(Ensemble(), (12, 8)),
        {"S208"},
        clones(
            *(f"recurrent.{part}_{kind}_l0" for part in ("weight", "bias") for kind in ("ih", "hh")),
            *("head.weight", "head.bias"),
            members=[f"members.{at}" for at in range(3)],
        ),
    ),
    # not finite
    "the logarithm of a scale that starts at zero": (
        lambda: (
            UnexponentiatedFlow(),
            (torch.randn(BATCH, 8),),
            lambda y: (y[0].square().sum(1) / 2 - y[1]).mean(),
        ),
        {"S211"},
        {"log()"},
    ),
    "the root of a distance to itself, backwards": (
        lambda: (Distances(), (torch.randn(BATCH, WIDTH),), lambda y: y.mean()),
        {"S211"},
        {"sqrt()", "sum()", "encoder.2"},
    ),
    "attention that overflows in half precision": (half_attention, {"S211"}, {"1.matmul()"}),
    "the mean of an empty sentence": (empty_sentence, {"S211"}, {"div()"}),
    "the exponential of a large log-variance": (lambda: regress(Wide(), (WIDTH,)), {"S211"}, {"exp()"}),
    "torch's attention over padding alone": (
        lambda: classify(Padded(), (8, 16)),
        {"S211"},
        {"attention", "attention.softmax()"},
    ),
    "the variance of one pixel": (lambda: classify(one_pixel(), (3, 8, 8)), {"S211"}, {"7", "7.var()"}),
    "weight norm of zeros": (
        lambda: classify(weight_normed_zeros(), (WIDTH,)),
        {"S211"},
        {"2", "2.parametrizations.weight", "2.parametrizations.weight.0", "2.parametrizations.weight.0._weight_norm()"},
    ),
    "gamma correction of normalised images": (
        lambda: classify(
            pooled(*(Gamma(), he(nn.Conv2d(3, 16, 3, padding=1)), nn.ReLU())),
            (3, 10, 10),
        ),
        {"S211"},
        {"0", "0.pow()"},
    ),
    "a root mean square in half precision": (half_norm, {"S201", "S211"}, {"1", "1.pow()"}),
    "a recurrent weight that is NaN": (lambda: classify(broken_recurrence(), (10, 8)), {"S211"}, {"recurrent"}),
}


def classify_positions(model):
    target = torch.randint(0, CLASSES, (BATCH, 10))
    return model, (torch.randn(BATCH, 10, 32),), lambda y: F.cross_entropy(y.flatten(0, 1), target.flatten())
