"""A seventh list of networks whose signal is known: small models with the slips that happen in writing them by hand.

As in oracles/verdicts_canonical.py, what a sick one should be found to have, and where, follows from how it was made,
and was written down before any rule had looked at it. The healthy ones are in oracles/workshop_structures.py.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from oracles.blind_structures import BLOCKS, VOCABULARY, next_word, public, words
from oracles.canonical_structures import Block, Tensors, following
from oracles.everyday_structures import mobilenet
from oracles.further_structures import labelled, smooth_images
from oracles.verdicts import BATCH, CLASSES, WIDTH, changed, classify, he, plain, spread
from oracles.verdicts_blind import altered, at
from oracles.verdicts_everyday import Applied, Function, Recurrent, scaled
from oracles.verdicts_further import calls
from oracles.workshop_structures import HEALTHY_WORKSHOP

__all__ = ["HEALTHY_WORKSHOP", "SICK_WORKSHOP"]


class Growing(nn.Module):
    """A GPT without its norms, every weight of deviation 0.2."""

    def __init__(self, depth=12):
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.blocks = nn.Sequential(*(Block(WIDTH, 4) for _ in range(depth)))
        for block in self.blocks:
            block.norm1, block.norm2 = nn.Identity(), nn.Identity()
            for module in block.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=0.2)

    def forward(self, x):
        return self.head(self.blocks(self.embed(x)))


def opt():
    model = public("OPTForCausalLM", "OPT", vocab_size=VOCABULARY, ffn_dim=128, word_embed_proj_dim=64, **_OPT)
    return next_word(model, words())


_OPT = {key: size for key, size in BLOCKS.items() if key != "intermediate_size"}


class Repeated(nn.Module):
    """One layer thirty times, with weights that are twice too large."""

    def __init__(self, rounds=30):
        super().__init__()
        self.layer, self.head, self.rounds = spread(nn.Linear(WIDTH, WIDTH), 2.8), nn.Linear(WIDTH, CLASSES), rounds

    def forward(self, x):
        for _ in range(self.rounds):
            x = F.relu(self.layer(x))
        return self.head(x)


class Attending(nn.Module):
    """Words weighed by a softmax; over the last axis, which is of length one, where that of the words was meant."""

    def __init__(self, width=32):
        super().__init__()
        self.embed, self.score = nn.Embedding(VOCABULARY, width), nn.Linear(width, 1)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.embed(x)
        return self.head((torch.softmax(self.score(x), -1) * x).sum(1))


class Summed(nn.Module):
    """The probabilities themselves are summed, in place of what they weigh: one, whatever comes in."""

    def __init__(self):
        super().__init__()
        self.body, self.score = nn.Sequential(he(nn.Linear(WIDTH, WIDTH)), nn.ReLU()), nn.Linear(WIDTH, 16)
        self.head = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, CLASSES))

    def forward(self, x):
        return self.head(torch.softmax(self.score(self.body(x)), 1).sum(1, keepdim=True))


class Twice(nn.Module):
    """A ReLU behind a ReLU whose sign was turned."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = he(nn.Linear(WIDTH, 32)), he(nn.Linear(32, 32)), nn.Linear(32, CLASSES)
        self.first, self.second = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        return self.head(self.two(self.second(-self.first(self.one(x)))))


class Faded(nn.Module):
    """The stream itself, not what is added to it, goes through a scale per channel that starts at 1e-6."""

    def __init__(self, depth=4):
        super().__init__()
        self.layers = nn.ModuleList(he(nn.Linear(WIDTH, WIDTH)) for _ in range(depth))
        self.scale, self.head = nn.Parameter(torch.full((WIDTH,), 1e-6)), nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        for number, layer in enumerate(self.layers):
            x = F.relu(layer(x))
            x = self.scale * x if number == 2 else x
        return self.head(x)


def hidden(function, gain=1.0):
    return labelled(Applied(Function(function), gain), torch.randn(BATCH, WIDTH))


class Counts(nn.Module):
    """Logarithms of counts, some of which are zero."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, CLASSES))

    def forward(self, x):
        return self.net(torch.log(x))


def ignored():
    """Every label is one that the loss ignores."""
    x, target = torch.randn(BATCH, WIDTH), torch.full((BATCH,), -100)
    return plain(3, nn.ReLU), (x,), lambda y: F.cross_entropy(y, target)


def divergence():
    """A divergence from labels by hand, with the logarithm of their zeros."""
    x, target = torch.randn(BATCH, WIDTH), F.one_hot(torch.randint(0, CLASSES, (BATCH,)), CLASSES).float()
    return plain(3, nn.ReLU), (x,), lambda y: (target * (target.log() - y.log_softmax(1))).sum(1).mean()


def half_sum():
    """A mean by hand in half precision: the sum overflows first."""
    model = Applied(Function(lambda x: x / x.abs().sum()), 100.0).half()
    target = torch.randint(0, CLASSES, (2048,))
    return model, (torch.randn(2048, WIDTH).half(),), lambda y: F.cross_entropy(y.float(), target)


def one_filter():
    """A convolution of which every filter is the same one."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES)),
    )
    with torch.no_grad():
        model[3].weight.copy_(model[3].weight[:1].expand_as(model[3].weight))
        model[3].bias.zero_()
    return labelled(model, smooth_images())


class Thrice(nn.Module):
    """Three towers of one network's weights, that were to see the same words in different ways."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 32)
        self.towers = nn.ModuleList(nn.GRU(32, 32, batch_first=True) for _ in range(3))
        for tower in self.towers[1:]:
            tower.load_state_dict(self.towers[0].state_dict())
        self.head = nn.Linear(32, CLASSES)

    def forward(self, ids):
        x = self.embed(ids)
        return self.head(torch.stack([tower(x)[0][:, -1] for tower in self.towers]).mean(0))


_TOWERS = {f"towers.{n}.{kind}_{part}_l0" for n in range(3) for kind in ("weight", "bias") for part in ("ih", "hh")}
_SMALL = "mobilenet_v2.layer.3.conv_3x3"

SICK_WORKSHOP = {
    # over depth
    "forty tanh as torch draws them": (lambda: classify(plain(40, nn.Tanh), (WIDTH,)), {"S201", "S203"}, {"0", "78"}),
    "a GPT without norms, drawn too large": (
        lambda: following(Growing()),
        {"S202", "S204"},
        {"blocks.11.+", "blocks.11.+ #1", "blocks.10.+ #1", "blocks.0.+", "embed"},
    ),
    "one layer thirty times, too large": (
        lambda: classify(Repeated(), (WIDTH,)),
        {"S202", "S204"},
        calls("layer", 30),
    ),
    # one layer
    "an OPT with one loud layer": (
        lambda: scaled(opt(), "model.decoder.layers.1.fc2.weight", 1e5),
        {"S202"},
        {"model.decoder.layers.1.fc2", "model.decoder.layers.1.+ #1"},
    ),
    "a scale of 1e-6 on the stream": (lambda: classify(Faded(), (WIDTH,)), {"S201", "S203", "S207"}, {"layers.3"}),
    "inputs in the wrong unit": (
        lambda: labelled(plain(3, nn.ReLU), 1e-8 * torch.randn(BATCH, WIDTH)),
        {"S201", "S207"},
        {"input", "0"},
    ),
    "a mask of zeros between layers": (lambda: hidden(lambda x: x * 0), {"S201", "S203"}, {"inner"}),
    # no gradient passes
    "a softmax over the wrong axis, of length one": (
        lambda: labelled(Attending(), words(BATCH, 10)),
        {"S203", "S207"},
        {"softmax()", "score"},
    ),
    "a sum of probabilities": (
        lambda: labelled(Summed(), torch.randn(BATCH, WIDTH)),
        {"S203", "S207"},
        {"softmax()", "score", "head.0"},
    ),
    "signs without their estimator": (lambda: hidden(torch.sign), {"S203"}, {"inner"}),
    "values cut to a range far too narrow": (
        lambda: hidden(lambda x: x.clamp(-1, 1), 1e4),
        {"S203", "S206"},
        {"inner", "two"},
    ),
    # dead and saturated
    "a ReLU behind a negative ReLU": (
        lambda: labelled(Twice(), torch.randn(BATCH, WIDTH)),
        {"S201", "S205"},
        {"second"},
    ),
    "a MobileNet dead in one layer": (
        lambda: altered(mobilenet(), lambda model: at(model, f"{_SMALL}.normalization.bias").fill_(-8)),
        {"S201", "S205"},
        {f"{_SMALL}.normalization", f"{_SMALL}.activation"},
    ),
    "a recurrent net with loud inputs": (
        lambda: scaled(labelled(Recurrent(nn.RNN), torch.randn(BATCH, 20, 8)), "rnn.weight_ih_l0", 100),
        {"S206"},
        {"rnn"},
    ),
    "a GRU that never updates": (
        lambda: altered(
            labelled(Recurrent(nn.GRU), torch.randn(BATCH, 20, 8)),
            lambda model: at(model, "rnn.bias_ih_l0")[32:64].fill_(30),
        ),
        {"S201", "S203", "S206", "S207"},
        {"rnn"},
    ),
    # cloned
    "a convolution of one filter": (one_filter, {"S208"}, {"3.weight", "3"}),
    "three towers with the same weights": (lambda: labelled(Thrice(), words(BATCH, 8)), {"S208"}, _TOWERS),
    # not finite
    "logarithms of counts": (
        lambda: labelled(Counts(), torch.randint(0, 5, (BATCH, 30)).float()),
        {"S211"},
        {"log()", "net.0"},
    ),
    "a root of negative numbers": (lambda: hidden(lambda x: x**0.5), {"S211"}, {"inner"}),
    "labels that are all ignored": (ignored, {"S211"}, {"loss"}),
    "the logarithm of labels": (divergence, {"S211"}, {"loss"}),
    "a sum in half precision": (half_sum, {"S211", "S201"}, {"inner"}),
    "one layer of infinite weights": (
        lambda: classify(changed(plain(3, nn.ReLU), "4", lambda layer: layer.weight.mul_(math.inf)), (WIDTH,)),
        {"S211"},
        {"4", "4.weight"},
    ),
    "a layer norm whose weight is NaN": (
        lambda: altered(
            following(Tensors(small=False)), lambda model: at(model, "blocks.3.norm1.weight").fill_(math.nan)
        ),
        {"S211"},
        {"blocks.3.norm1", "blocks.3.norm1.weight"},
    ),
}
