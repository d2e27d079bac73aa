"""What `weights_training.py` trains: networks for digits and for short texts, and the starts that are compared."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

# ---- data ----


@dataclass(frozen=True)
class Data:
    """Inputs and labels in three parts."""

    train: tuple[torch.Tensor, torch.Tensor]
    valid: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]


def split(x, y, test):
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return Data((x[: -2 * test], y[: -2 * test]), (x[-2 * test : -test], y[-2 * test : -test]), (x[-test:], y[-test:]))


@functools.cache
def digits(*, images):
    from sklearn.datasets import load_digits

    x, y = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    x = x.float()
    x = (x - x.mean()) / x.std()
    return split(x.reshape(-1, 1, 8, 8) if images else x, y, 300)


ANIMALS = ("fox", "owl", "cat", "dog", "hen", "cow", "pig", "ape", "bat", "elk")
ADJECTIVES = ("old", "red", "shy", "big", "sad", "new")
THINGS = ("cake", "book", "coat", "drum", "lamp", "rope")
SENTENCES = (
    "the {a} {giver} gave the {b} {taker} a {thing}",
    "the {b} {taker} was given a {thing} by the {a} {giver}",
    "a {thing} was what the {a} {giver} gave the {b} {taker}",
    "from the {a} {giver} came a {thing} for the {b} {taker}",
)


@functools.cache
def stories():
    """Who gave, or who got? The answer, one of ten animals, needs the order of the words and the question."""
    generator = torch.Generator().manual_seed(0)

    def choose(options):
        return options[int(torch.randint(len(options), (), generator=generator))]

    words, texts, labels = {"<pad>": 0}, [], []
    for _ in range(6000):
        giver = choose(ANIMALS)
        taker = choose([animal for animal in ANIMALS if animal != giver])
        who = choose(("gave", "got"))
        sentence = choose(SENTENCES).format(
            a=choose(ADJECTIVES), b=choose(ADJECTIVES), giver=giver, taker=taker, thing=choose(THINGS)
        )
        texts.append([words.setdefault(word, len(words)) for word in f"who {who} ? {sentence}".split()])
        labels.append(ANIMALS.index(giver if who == "gave" else taker))
    length = max(map(len, texts))
    x = torch.tensor([text + [0] * (length - len(text)) for text in texts])
    return split(x, torch.tensor(labels), 500)


# ---- networks ----

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid}
WIDTH, CHANNELS, BLOCKS = 64, 16, 50


def mlp(depth, activation):
    hidden = [layer for _ in range(depth - 1) for layer in (nn.Linear(WIDTH, WIDTH), ACTIVATIONS[activation]())]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, 10))


def head(kind):
    if kind == "pool":
        return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10)
    return nn.Flatten(), nn.Linear(CHANNELS * 64, 10)


def cnn(depth, activation, kind):
    hidden = []
    for at in range(depth - 1):
        hidden += [nn.Conv2d(CHANNELS if at else 1, CHANNELS, 3, padding=1), ACTIVATIONS[activation]()]
    return nn.Sequential(*hidden, *head(kind))


#: Hidden widths that change along the way.
WIDTHS = {
    "rising": (32,) * 14 + (64,) * 13 + (128,) * 12,
    "falling": (64,) * 14 + (32,) * 13 + (16,) * 12,
    "alternating": (32, 64, 128, 64) * 10,
    "bottleneck": (64,) * 12 + (10,) + (64,) * 11,
    "odd": (65,) * 39,
    "wide": (128,) * 49,
}
#: Not in the table of activations, for which every depth is run.
OTHERS = {"selu": nn.SELU}


def shaped(shape, activation):
    """A plain network with other widths than 64."""
    sides = (64, *WIDTHS[shape])
    hidden = [
        layer
        for inputs, outputs in itertools.pairwise(sides)
        for layer in (nn.Linear(inputs, outputs), (ACTIVATIONS | OTHERS)[activation]())
    ]
    return nn.Sequential(*hidden, nn.Linear(sides[-1], 10))


def strided(activation):
    """Twelve convolutions, of which two halve the image, before an average pool."""
    hidden, channels = [], 1
    for at in range(12):
        wanted = CHANNELS * 2 ** (at // 4)
        stride = 2 if at in {4, 8} else 1
        hidden += [nn.Conv2d(channels, wanted, 3, padding=1, stride=stride), ACTIVATIONS[activation]()]
        channels = wanted
    return nn.Sequential(*hidden, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class Rows(nn.Module):
    """A recurrent network that reads an image row by row."""

    def __init__(self, kind):
        super().__init__()
        self.recurrent = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind](8, WIDTH, num_layers=2, batch_first=True)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x):
        return self.head(self.recurrent(x[:, 0])[0][:, -1])


class Residual(nn.Module):
    """x + W₂φ(W₁φ(x)), with neither normalisation nor a scale of its own."""

    def __init__(self, layer):
        super().__init__()
        self.first, self.second, self.act = layer(), layer(), nn.ReLU()

    def forward(self, x):
        return x + self.second(self.act(self.first(self.act(x))))


def residual_mlp():
    blocks = [Residual(lambda: nn.Linear(WIDTH, WIDTH)) for _ in range(BLOCKS)]
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), *blocks, nn.ReLU(), nn.Linear(WIDTH, 10))


def residual_cnn():
    blocks = [Residual(lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)) for _ in range(BLOCKS)]
    return nn.Sequential(nn.Conv2d(1, CHANNELS, 3, padding=1), *blocks, nn.ReLU(), *head("flatten"))


class Attending(nn.Module):
    """One layer of a transformer: attention and two linear layers, each added to what comes in."""

    def __init__(self, norm):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.up, self.act, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        self.norm = norm
        if norm:
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def attend(self, x):
        return self.attention(x, x, x, need_weights=False)[0]

    def feed(self, x):
        return self.down(self.act(self.up(x)))

    def forward(self, x):
        if self.norm == "pre":
            x = x + self.attend(self.norm1(x))
            return x + self.feed(self.norm2(x))
        if self.norm == "post":
            x = self.norm1(x + self.attend(x))
            return self.norm2(x + self.feed(x))
        x = x + self.attend(x)
        return x + self.feed(x)


class Reader(nn.Module):
    """A transformer of twelve layers that reads a text and names one of ten animals."""

    def __init__(self, norm):
        super().__init__()
        x = stories().train[0]
        self.words = nn.Embedding(int(x.max()) + 1, WIDTH)
        self.places = nn.Embedding(x.shape[1], WIDTH)
        self.layers = nn.Sequential(*[Attending(norm) for _ in range(12)])
        self.last = nn.LayerNorm(WIDTH) if norm == "pre" else nn.Identity()
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, tokens):
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.last(self.layers(x)).mean(1))


@dataclass(frozen=True)
class Network:
    """How it is built, what it is trained on, and the accuracy (%) that ``auto`` is to reach.

    ``task``: "classes" to name, "tokens" to name one by one, or "values" to come near. ``stacked``: its copies are
    trained faster together, as one network of batched products. For convolutions and attention that gains nothing.
    """

    build: Callable[[], nn.Module]
    data: Callable[[], Data]
    activation: str
    plain: bool = False
    goal: float | None = None
    stacked: bool = False
    task: str = "classes"


def networks():
    flat, images = functools.partial(digits, images=False), functools.partial(digits, images=True)
    made = {}
    for depth in (50, 100):
        for activation in ACTIVATIONS:
            made[f"mlp{depth}-{activation}"] = Network(
                functools.partial(mlp, depth, activation), flat, activation, plain=True, goal=92.0, stacked=True
            )
    for kind in ("flatten", "pool"):
        for activation in ("relu", "tanh", "sigmoid"):
            made[f"cnn50-{kind}-{activation}"] = Network(
                functools.partial(cnn, 50, activation, kind), images, activation, plain=True, goal=85.0
            )
    for shape, activation in (
        *itertools.product(("rising", "alternating"), ("relu", "sigmoid")),
        ("bottleneck", "relu"),
        ("falling", "tanh"),
        ("odd", "relu"),
        ("wide", "selu"),
    ):
        built = functools.partial(shaped, shape, activation)
        made[f"mlp-{shape}-{activation}"] = Network(built, flat, activation, plain=True, goal=92.0, stacked=True)
    for activation in ("relu", "sigmoid"):
        built = functools.partial(strided, activation)
        made[f"cnn12-strided-{activation}"] = Network(built, images, activation, plain=True, goal=85.0)
    for kind in ("lstm", "gru", "rnn"):
        made[f"rows-{kind}"] = Network(functools.partial(Rows, kind), images, "tanh")
    made["residual-mlp50"] = Network(functools.partial(residual_mlp), flat, "relu", stacked=True)
    made["residual-cnn50"] = Network(functools.partial(residual_cnn), images, "relu")
    for norm in ("none", "pre", "post"):
        built = functools.partial(Reader, "" if norm == "none" else norm)
        made[f"transformer12-{norm}"] = Network(built, functools.partial(stories), "gelu")
    return made


# ---- schemes ----


MIXING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


def transposed(module):
    """Is it transformers' linear layer, whose weight has the inputs first?"""
    return type(module).__name__ == "Conv1D"


def matrices(model):
    """The weights that mix, as the usual recipes treat them: packed query, key and value one by one."""
    for module in model.modules():
        if isinstance(module, MIXING):
            yield module.weight
        elif isinstance(module, nn.MultiheadAttention):
            yield from module.in_proj_weight.chunk(3)
        elif transposed(module):
            yield module.weight.T


def gain_of(activation):
    """The gain that torch's table has; that of ReLU for GELU and SiLU, which it lacks."""
    return nn.init.calculate_gain(activation if activation in {"relu", "tanh", "sigmoid"} else "relu")


def fill(model, draw):
    with torch.no_grad():
        for weight in matrices(model):
            draw(weight)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()


def lsuv(model, x):
    from lsuv import lsuv_with_singlebatch

    lsuv_with_singlebatch(model, x, verbose=False)


def gradvitals(model, x, seed, method):
    import gradvitals as gv

    gv.init_(model, x, method=method, seed=seed)


def start(scheme, model, x, activation, seed):
    if scheme == "default":
        return
    if scheme == "xavier":
        fill(model, nn.init.xavier_uniform_)
    elif scheme == "kaiming":
        fill(model, functools.partial(nn.init.kaiming_normal_, nonlinearity="relu"))
    elif scheme == "orthogonal":
        fill(model, functools.partial(nn.init.orthogonal_, gain=gain_of(activation)))
    elif scheme == "lsuv":
        lsuv(model, x)
    else:
        gradvitals(model, x, seed, scheme)


PEERS = ("default", "xavier", "kaiming", "orthogonal", "lsuv")
SCHEMES = (*PEERS, "auto")
