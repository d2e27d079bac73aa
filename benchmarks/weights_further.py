"""Networks for `weights_training.py --further`: a list that was written down before any of them was started or trained.

The networks of `weights_networks.py` were there while ``init_`` was built. These weren't: shallow and deep, with and
without norm layers, convolutions, recurrence, attention, tasks of other kinds than naming one of ten.
"""

from __future__ import annotations

import functools
import itertools
import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from weights_networks import Data, Network, digits, split, stories

# ---- data ----


def standardised(x):
    return (x - x.mean(0)) / x.std(0).clamp(min=1e-6)


@functools.cache
def measurements():
    """Breast cancer, benign or not, from thirty measurements."""
    from sklearn.datasets import load_breast_cancer

    x, y = (torch.from_numpy(array) for array in load_breast_cancer(return_X_y=True))
    return split(standardised(x.float()), y, 120)


@functools.cache
def wines():
    """Three kinds of wine, the thirteen measurements as they are: some in thousands, some in tenths."""
    from sklearn.datasets import load_wine

    x, y = (torch.from_numpy(array) for array in load_wine(return_X_y=True))
    return split(x.float(), y, 45)


@functools.cache
def progress():
    """How a disease went on in a year, from ten measurements: a number."""
    from sklearn.datasets import load_diabetes

    x, y = (torch.from_numpy(array) for array in load_diabetes(return_X_y=True))
    return split(standardised(x.float()), standardised(y.float()[:, None]), 100)


@functools.cache
def picture():
    """The grey values of an image of waves at points in the square."""
    x = 2 * torch.rand(4000, 2, generator=torch.Generator().manual_seed(0)) - 1
    y = torch.sin(9 * x[:, :1]) * torch.cos(7 * x[:, 1:]) + torch.sin(12 * x.square().sum(1, keepdim=True))
    return split(x, standardised(y), 500)


@functools.cache
def rebuilt():
    """Digits that are to come out as they went in."""
    data = digits(images=False)
    return Data(*((part[0], part[0]) for part in (data.train, data.valid, data.test)))


@functools.cache
def cleaned():
    """Noisy digits, which are to come out clean."""
    data = digits(images=True)
    generator = torch.Generator().manual_seed(0)
    parts = (data.train[0], data.valid[0], data.test[0])
    return Data(*((part + 0.7 * torch.randn(part.shape, generator=generator), part) for part in parts))


@functools.cache
def waves():
    """Four forms of wave of any period and phase, in noise: 64 values each, in one channel."""
    generator = torch.Generator().manual_seed(0)

    def random(low, high):
        return low + (high - low) * torch.rand(3000, 1, generator=generator)

    turns = torch.arange(64.0) / random(8, 24) + random(0, 1)
    share = turns % 1
    forms = (
        torch.sin(2 * math.pi * turns),
        torch.where(share < 0.5, 1.0, -1.0),
        2 * share - 1,
        4 * (share - 0.5).abs() - 1,
    )
    labels = torch.randint(4, (3000,), generator=generator)
    x = torch.stack(forms, 1)[torch.arange(3000), labels] + 0.4 * torch.randn(3000, 64, generator=generator)
    return split(x[:, None], labels, 500)


@functools.cache
def sums():
    """The adding problem: two of sixteen numbers are marked, and their sum is asked."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(6000, 16, generator=generator)
    marks = torch.zeros(6000, 16)
    for half in (0, 8):
        marks.scatter_(1, half + torch.randint(8, (6000, 1), generator=generator), 1.0)
    return split(torch.stack([numbers, marks], 2), (numbers * marks).sum(1, keepdim=True), 500)


@functools.cache
def copies():
    """Four tokens, to be said again after three blanks."""
    generator = torch.Generator().manual_seed(0)
    said = torch.randint(2, 8, (6000, 4), generator=generator)
    x = torch.cat([said, torch.zeros(6000, 3, dtype=torch.long), torch.ones(6000, 4, dtype=torch.long)], 1)
    return split(x, said, 500)


@functools.cache
def topics():
    """Bags of twelve words of 200: each of eight topics has its own frequencies."""
    generator = torch.Generator().manual_seed(0)
    frequencies = torch.softmax(1.2 * torch.randn(8, 200, generator=generator), 1)
    labels = torch.randint(8, (4000,), generator=generator)
    return split(torch.multinomial(frequencies[labels], 12, generator=generator), labels, 500)


@functools.cache
def clouds():
    """Sets of twenty points on one of four curves, turned, in noise."""
    generator = torch.Generator().manual_seed(0)
    at, angle = (2 * math.pi * torch.rand(3000, n, generator=generator) for n in (20, 1))
    curves = ((at.cos(), at.sin()), (at.cos(), 0.3 * at.sin()), ((2 * at).sin(), at.sin()), (at.cos() ** 3, at.sin()))
    labels = torch.randint(4, (3000,), generator=generator)
    u, v = (torch.stack(part, 1)[torch.arange(3000), labels] for part in zip(*curves, strict=True))
    x = torch.stack([angle.cos() * u - angle.sin() * v, angle.sin() * u + angle.cos() * v], 2)
    return split(x + 0.1 * torch.randn(x.shape, generator=generator), labels, 500)


@functools.cache
def words():
    """The texts of `stories`: after every word the next one."""
    data = stories()
    return Data(*((part[0][:, :-1], part[0][:, 1:]) for part in (data.train, data.valid, data.test)))


# ---- networks ----


class Sine(nn.Module):
    """sin(ωx), as networks of coordinates have it."""

    def __init__(self, frequency=1.0):
        super().__init__()
        self.frequency = frequency

    def forward(self, x):
        return torch.sin(self.frequency * x)


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Added(nn.Module):
    """What comes in, and what a branch makes of it."""

    def __init__(self, branch, way=None):
        super().__init__()
        self.branch, self.way = branch, way or nn.Identity()

    def forward(self, x):
        return self.way(x) + self.branch(x)


def mlp(sides, activation, *between):
    layers = []
    for inputs, outputs in itertools.pairwise(sides[:-1]):
        layers += [nn.Linear(inputs, outputs), activation(), *(make() for make in between)]
    return nn.Sequential(*layers, nn.Linear(*sides[-2:]))


def deep(depth, activation, *between, inputs=64, width=64, outputs=10):
    return mlp((inputs, *[width] * (depth - 1), outputs), activation, *between)


def normed_mlp(depth):
    layers = [(nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()) for _ in range(depth - 1)]
    return nn.Sequential(*itertools.chain(*layers), nn.Linear(64, 10))


def conv(inputs, outputs, size=3, **options):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


def lenet():
    return nn.Sequential(
        *(conv(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), conv(6, 16), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 10)),
    )


def vgg():
    layers, inputs = [], 1
    for channels in (8, 16, 32):
        for _ in range(3):
            layers += [conv(inputs, channels), nn.ReLU()]
            inputs = channels
        layers += [nn.MaxPool2d(2)]
    head = (nn.Flatten(), nn.Linear(32, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return nn.Sequential(*layers, *head)


def separable():
    layers = [conv(1, 16), nn.ReLU6()]
    for _ in range(8):
        layers += [conv(16, 16, groups=16), nn.ReLU6(), conv(16, 16, 1), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def resnet(*, norm):
    def once(inputs, outputs, stride=1):
        return [conv(inputs, outputs, stride=stride, bias=not norm), *([nn.BatchNorm2d(outputs)] if norm else [])]

    layers, inputs = [*once(1, 8), nn.ReLU()], 8
    for channels in (8, 16, 32):
        for _ in range(3):
            stride = 2 if channels > inputs else 1
            branch = nn.Sequential(*once(inputs, channels, stride), nn.ReLU(), *once(channels, channels))
            way = nn.Conv2d(inputs, channels, 1, stride) if channels > inputs else None
            layers += [Added(branch, way), nn.ReLU()]
            inputs = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class DenseNet(nn.Module):
    """Every convolution sees what all before it gave."""

    def __init__(self):
        super().__init__()
        self.first = conv(1, 8)
        self.layers = nn.ModuleList([conv(8 + 6 * at, 6) for at in range(8)])
        self.head = nn.Linear(56, 10)

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = torch.cat([x, layer(F.relu(x))], 1)
        return self.head(F.relu(x).mean((2, 3)))


def conv1d():
    layers = []
    for at in range(12):
        layers += [nn.Conv1d(16 if at else 1, 16, 5, padding=2), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 4))


class UNet(nn.Module):
    """Down to a quarter and up again, with the way across."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.low = (self.twice(*sides) for sides in ((1, 8), (8, 16), (16, 32)))
        self.wide2, self.wide1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.up2, self.up1, self.out = self.twice(32, 16), self.twice(16, 8), nn.Conv2d(8, 1, 1)

    @staticmethod
    def twice(inputs, outputs):
        return nn.Sequential(conv(inputs, outputs), nn.ReLU(), conv(outputs, outputs), nn.ReLU())

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        low = self.low(F.max_pool2d(two, 2))
        two = self.up2(torch.cat([two, self.wide2(low)], 1))
        return self.out(self.up1(torch.cat([one, self.wide1(two)], 1)))


class Highway(nn.Module):
    """A gate says how much of the layer, and how much of what came in, goes on."""

    def __init__(self):
        super().__init__()
        self.layer, self.gate = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x):
        gate = torch.sigmoid(self.gate(x))
        return gate * torch.relu(self.layer(x)) + (1 - gate) * x


def glu():
    layers = [layer for _ in range(12) for layer in (nn.Linear(64, 128), nn.GLU())]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def swapped(layer):
    return nn.Sequential(Apply(lambda x: x.transpose(1, 2)), layer, Apply(lambda x: x.transpose(1, 2)))


def mixer():
    def branch(across):
        side = 16 if across else 32
        layer = nn.Sequential(nn.Linear(side, 2 * side), nn.GELU(), nn.Linear(2 * side, side))
        return Added(nn.Sequential(nn.LayerNorm(32), swapped(layer) if across else layer))

    patches = (nn.Conv2d(1, 32, 2, 2), nn.Flatten(2), Apply(lambda x: x.transpose(1, 2)))
    blocks = [branch(across) for _ in range(6) for across in (True, False)]
    return nn.Sequential(*patches, *blocks, nn.LayerNorm(32), Apply(lambda x: x.mean(1)), nn.Linear(32, 10))


class ViT(nn.Module):
    """Patches, a token for the class, and torch's own encoder layers."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 2, 2)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(0.02 * torch.randn(1, 17, 32))
        layer = functools.partial(
            nn.TransformerEncoderLayer, 32, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers, self.norm = nn.Sequential(*[layer() for _ in range(6)]), nn.LayerNorm(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(self.norm(self.layers(x))[:, 0])


class GPT(nn.Module):
    """transformers' GPT-2, four layers, which starts its weights itself."""

    def __init__(self):
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
        x = words().train[0]
        self.model = GPT2LMHeadModel(
            GPT2Config(vocab_size=int(x.max()) + 1, n_positions=x.shape[1], n_embd=48, n_layer=4, n_head=4, **none)
        )

    def forward(self, tokens):
        return self.model(tokens).logits


class Recurrent(nn.Module):
    """A recurrent network over a sequence, of which the last output is read."""

    def __init__(self, kind, inputs, outputs, **options):
        super().__init__()
        self.recurrent = kind(inputs, 48, batch_first=True, **options)
        self.head = nn.Linear(48 * (2 if options.get("bidirectional") else 1), outputs)

    def forward(self, x):
        return self.head(self.recurrent(x)[0][:, -1])


class Copier(nn.Module):
    """Tokens in, and the last four outputs as tokens."""

    def __init__(self):
        super().__init__()
        self.words, self.recurrent, self.head = nn.Embedding(8, 16), nn.GRU(16, 48, batch_first=True), nn.Linear(48, 8)

    def forward(self, tokens):
        return self.head(self.recurrent(self.words(tokens))[0][:, -4:])


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.hidden, self.head = nn.EmbeddingBag(200, 32), nn.Linear(32, 32), nn.Linear(32, 8)

    def forward(self, tokens):
        return self.head(F.relu(self.hidden(self.words(tokens))))


class Pooling(nn.Module):
    """A learnt query says which places of a sequence count."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv1d(1, 32, 7, 2, 3), nn.ReLU(), nn.Conv1d(32, 32, 5, 2, 2), nn.ReLU())
        self.score, self.hidden, self.head = nn.Linear(32, 1), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x):
        x = self.features(x).transpose(1, 2)
        x = (torch.softmax(self.score(x), 1) * x).sum(1)
        return self.head(F.relu(self.hidden(x)))


class WideDeep(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.deep = nn.Linear(30, 2), mlp((30, 64, 32, 16, 2), nn.ReLU)

    def forward(self, x):
        return self.wide(x) + self.deep(x)


class DeepSets(nn.Module):
    def __init__(self):
        super().__init__()
        self.each, self.all = mlp((2, 48, 48, 48), nn.ReLU), mlp((48, 48, 4), nn.ReLU)

    def forward(self, x):
        return self.all(self.each(x).sum(1))


def rows(recurrent):
    """A recurrent network that reads an image row by row."""
    return nn.Sequential(nn.Flatten(1, 2), recurrent())


def stack(block, count):
    return nn.Sequential(*[block() for _ in range(count)], nn.Linear(64, 10))


def further():
    make, flat = functools.partial, functools.partial(digits, images=False)
    images = functools.partial(digits, images=True)
    made = {
        "mlp3-relu": Network(make(mlp, (64, 100, 100, 10), nn.ReLU), flat, "relu", stacked=True),
        "mlp4-tanh-measurements": Network(make(mlp, (30, 32, 32, 32, 2), nn.Tanh), measurements, "tanh", stacked=True),
        "mlp5-gelu-wines": Network(make(deep, 5, nn.GELU, inputs=13, outputs=3), wines, "gelu", stacked=True),
    }
    for name, activation in (
        *(("elu", nn.ELU), ("mish", nn.Mish), ("softplus", nn.Softplus), ("softsign", nn.Softsign), ("sin", Sine)),
        *(("hardswish", nn.Hardswish), ("prelu", nn.PReLU)),
    ):
        made[f"mlp30-{name}"] = Network(make(deep, 30, activation), flat, name, plain=True, stacked=True)
    leaky = make(nn.LeakyReLU, 0.2)
    made |= {
        "mlp60-leaky": Network(make(deep, 60, leaky), flat, "relu", plain=True, stacked=True),
        "mlp50-dropout": Network(make(deep, 50, nn.ReLU, make(nn.Dropout, 0.1)), flat, "relu"),
        "mlp30-batchnorm": Network(make(normed_mlp, 30), flat, "relu"),
        "mlp12-glu": Network(glu, flat, "sigmoid", stacked=True),
        "highway20": Network(make(stack, Highway, 20), flat, "relu", stacked=True),
        "regression20-tanh": Network(
            make(deep, 20, nn.Tanh, inputs=10, width=32, outputs=1), progress, "tanh", task="values", stacked=True
        ),
        "siren5": Network(
            make(deep, 5, make(Sine, 10.0), inputs=2, outputs=1), picture, "sin", task="values", stacked=True
        ),
        "autoencoder": Network(make(mlp, (64, 48, 24, 8, 24, 48, 64), nn.ReLU), rebuilt, "relu", task="values"),
        "lenet": Network(lenet, images, "tanh"),
        "vgg": Network(vgg, images, "relu"),
        "separable": Network(separable, images, "relu"),
        "resnet-batchnorm": Network(make(resnet, norm=True), images, "relu"),
        "resnet-plain": Network(make(resnet, norm=False), images, "relu"),
        "densenet": Network(DenseNet, images, "relu"),
        "unet": Network(UNet, cleaned, "relu", task="values"),
        "conv1d": Network(conv1d, waves, "relu"),
        "mixer": Network(mixer, images, "gelu"),
        "vit": Network(ViT, images, "gelu"),
        "gpt": Network(GPT, words, "gelu", task="tokens"),
        "lstm-sums": Network(make(Recurrent, nn.LSTM, 2, 1), sums, "tanh", task="values"),
        "gru-copies": Network(Copier, copies, "tanh", task="tokens"),
        "bilstm-rows": Network(make(rows, make(Recurrent, nn.LSTM, 8, 10, bidirectional=True)), images, "tanh"),
        "rnn4-rows": Network(make(rows, make(Recurrent, nn.RNN, 8, 10, num_layers=4)), images, "tanh"),
        "bag": Network(Bag, topics, "relu"),
        "attention-pooling": Network(Pooling, waves, "relu"),
        "wide-deep": Network(WideDeep, measurements, "relu"),
        "deepsets": Network(DeepSets, clouds, "relu"),
    }
    return made
