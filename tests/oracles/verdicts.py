"""Networks whose signal is known: healthy ones, traps among them, and sick ones with the layer that is at fault.

Each is a factory ``() -> (model, inputs, loss)``; a sick one comes with the codes of which one must be found, and the
layers of which one must be named. Sizes are small, the structures are those of real networks.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

BATCH, WIDTH, CLASSES = 32, 64, 10
HE = math.sqrt(2)  # the gain that He et al. give to a ReLU


def classify(model, shape):
    """A batch of noise of a shape, and cross entropy with random classes."""
    x = torch.randn(BATCH, *shape)
    target = torch.randint(0, CLASSES, (BATCH,))
    return model, (x,), lambda y: F.cross_entropy(y, target)


def regress(model, shape):
    """The same with the mean square of the output."""
    return model, (torch.randn(BATCH, *shape),), lambda y: y.square().mean()


def he(layer):
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def spread(layer, gain):
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def plain(depth, activation, gain=None, width=WIDTH):
    """An MLP; ``gain`` None leaves torch's own weights."""
    layers = []
    for _ in range(depth):
        layer = nn.Linear(width, width)
        layers += [layer if gain is None else spread(layer, gain), activation()]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def convolutional(*, norm, depth=6, gain=HE):
    layers, channels = [], 3
    for at in range(depth):
        layers += [spread(nn.Conv2d(channels, 16, 3, padding=1), gain)]
        layers += [nn.BatchNorm2d(16)] if norm else []
        layers += [nn.ReLU()] + ([nn.MaxPool2d(2)] if at in {1, 3} else [])
        channels = 16
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))


class Residual(nn.Module):
    """x + α·f(x), with what f ends in left to the caller."""

    def __init__(self, branch, *, alpha=None, norm=None):
        super().__init__()
        self.branch, self.norm = branch, norm
        self.alpha = None if alpha is None else nn.Parameter(torch.tensor(alpha))

    def forward(self, x):
        inner = self.branch(x if self.norm is None else self.norm(x))
        return x + (inner if self.alpha is None else self.alpha * inner)


class Scale(nn.Module):
    """LayerScale: a learned factor per channel, very small at the start."""

    def __init__(self, size, value):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((size,), value))

    def forward(self, x):
        return x * self.gamma


def branch(last_gain=HE, activation=nn.ReLU, width=WIDTH):
    return nn.Sequential(spread(nn.Linear(width, width), HE), activation(), spread(nn.Linear(width, width), last_gain))


def residual(depth, make, *, alpha=None, norm=False, width=WIDTH):
    blocks = (Residual(make(), alpha=alpha, norm=nn.LayerNorm(width) if norm else None) for _ in range(depth))
    return nn.Sequential(nn.Linear(width, width), *blocks, nn.LayerNorm(width), nn.Linear(width, CLASSES))


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride=1, *, zero=False):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = (
            None
            if stride == 1
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )
        if zero:
            nn.init.zeros_(self.norm2.weight)

    def forward(self, x):
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(inner + (x if self.shortcut is None else self.shortcut(x)))


def resnet(*, zero):
    stages = [BasicBlock(16, 16, zero=zero) for _ in range(2)]
    for inputs, outputs in ((16, 24), (24, 32)):
        stages += [BasicBlock(inputs, outputs, 2, zero=zero), BasicBlock(outputs, outputs, zero=zero)]
    stem = (nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


class Attention(nn.Module):
    """Written by hand, with a causal mask."""

    def __init__(self, width, heads, *, scaled=True, hide_all=False):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.scaled, self.hide_all = heads, scaled, hide_all

    def forward(self, x):
        samples, length, width = x.shape
        q, k, v = self.qkv(x).view(samples, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / (math.sqrt(width // self.heads) if self.scaled else 1)
        hidden = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(0 if self.hide_all else 1)
        weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(samples, length, width))


class Language(nn.Module):
    """A small GPT: token and position embeddings, pre-norm blocks, a head tied to the embedding."""

    def __init__(self, depth=4, width=32, vocabulary=50, length=12, *, attention=Attention, scale=None):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)
        blocks = []
        for _ in range(depth):
            mix = [nn.LayerNorm(width), attention(width, 4)]
            feed = [nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)]
            more = [] if scale is None else [Scale(width, scale)]
            blocks += [Residual(nn.Sequential(*mix, *more)), Residual(nn.Sequential(*feed, *copy.deepcopy(more)))]
        self.blocks, self.norm = nn.Sequential(*blocks), nn.LayerNorm(width)

    def forward(self, ids):
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        return self.norm(self.blocks(x)) @ self.tokens.weight.T


def predict_next(model, length=12):
    ids = torch.randint(0, 50, (8, length))
    return model, (ids,), lambda y: F.cross_entropy(y[:, :-1].reshape(-1, 50), ids[:, 1:].reshape(-1))


class Adapted(nn.Module):
    """A frozen layer and a low-rank adapter whose second factor starts at zero."""

    def __init__(self, layer, rank=4):
        super().__init__()
        self.layer = layer.requires_grad_(requires_grad=False)
        self.down, self.up = (
            nn.Linear(layer.in_features, rank, bias=False),
            nn.Linear(rank, layer.out_features, bias=False),
        )
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


class Read(nn.Module):
    """A recurrent layer, and a head on its last output."""

    def __init__(self, recurrent):
        super().__init__()
        self.recurrent, self.head = recurrent, nn.Linear(recurrent.hidden_size, CLASSES)

    def forward(self, x):
        return self.head(self.recurrent(x)[0][:, -1])


class Cells(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.cell, self.head = nn.RNNCell(8, 32), nn.Linear(32, CLASSES)
        nn.init.orthogonal_(self.cell.weight_hh, gain=gain)

    def forward(self, x):
        h = x.new_zeros(len(x), 32)
        for step in range(x.shape[1]):
            h = self.cell(x[:, step], h)
        return self.head(h)


class Between(nn.Module):
    """Three layers with a function behind the second."""

    def __init__(self, function, width=16):
        super().__init__()
        self.a, self.b, self.c, self.function = (
            nn.Linear(width, width),
            nn.Linear(width, width),
            nn.Linear(width, CLASSES),
            function,
        )

    def forward(self, x):
        return self.c(self.function(self.b(torch.tanh(self.a(x)))))


class Twins(nn.Module):
    """Towers side by side whose outputs are averaged; copies of one of them, or each drawn by itself."""

    def __init__(self, *, copied):
        super().__init__()
        first = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))
        others = (
            copy.deepcopy(first)
            if copied
            else nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))
            for _ in range(2)
        )
        self.towers = nn.ModuleList([first, *others])

    def forward(self, x):
        return torch.stack([tower(x) for tower in self.towers]).mean(0)


class Siamese(nn.Module):
    """A network and the frozen copy that follows it slowly (a momentum encoder, a target network)."""

    def __init__(self):
        super().__init__()
        self.online = plain(2, nn.ReLU, HE)
        self.target = copy.deepcopy(self.online).requires_grad_(requires_grad=False)

    def forward(self, x):
        return self.online(x) - self.target(x.roll(1, 0))


class Squeeze(nn.Module):
    """Squeeze and excitation: a sigmoid gate on the channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 4), nn.Linear(4, 16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        x = F.relu(self.conv(x))
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return self.head((x * gate[:, :, None, None]).mean((2, 3)))


def changed(model, path, change):
    with torch.no_grad():
        change(model.get_submodule(path))
    return model


def scaled_by(factor):
    return lambda layer: layer.weight.mul_(factor)


def encoder(depth=3, *, norm_first=False):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


HEALTHY = {
    "MLP, ReLU, He, 20 layers": lambda: classify(plain(20, nn.ReLU, HE), (WIDTH,)),
    "MLP, ReLU, torch's weights, 3 layers": lambda: classify(plain(3, nn.ReLU), (WIDTH,)),
    "MLP, tanh, Xavier, 15 layers": lambda: classify(plain(15, nn.Tanh, 1.2), (WIDTH,)),
    "MLP, GELU, 10 layers": lambda: classify(plain(10, nn.GELU, 1.5), (WIDTH,)),
    "MLP, SELU, LeCun, 20 layers": lambda: classify(plain(20, nn.SELU, 1.0), (WIDTH,)),
    "MLP, sigmoid, 2 layers": lambda: classify(plain(2, nn.Sigmoid), (WIDTH,)),
    "LeNet": lambda: classify(convolutional(norm=False, depth=2), (3, 16, 16)),
    "VGG with batch norm": lambda: classify(convolutional(norm=True), (3, 16, 16)),
    "VGG with batch norm, torch's small weights": lambda: classify(convolutional(norm=True, gain=0.5), (3, 16, 16)),
    "ResNet": lambda: classify(resnet(zero=False), (3, 16, 16)),
    "ResNet, last norms start at zero": lambda: classify(resnet(zero=True), (3, 16, 16)),
    "residual MLP, ReZero": lambda: classify(residual(12, branch, alpha=0.0), (WIDTH,)),
    "residual MLP, last layers start at zero (Fixup)": lambda: classify(residual(12, lambda: branch(0.0)), (WIDTH,)),
    "residual MLP, branches scaled by depth": lambda: classify(residual(16, lambda: branch(0.25)), (WIDTH,)),
    "residual MLP, pre-norm": lambda: classify(residual(16, branch, norm=True), (WIDTH,)),
    "GPT": lambda: predict_next(Language()),
    "GPT, LayerScale of 1e-5": lambda: predict_next(Language(depth=6, scale=1e-5)),
    "transformer encoder of torch, post-norm": lambda: regress(encoder(), (6, 32)),
    "transformer encoder of torch, pre-norm, evaluating": lambda: regress(encoder(norm_first=True).eval(), (6, 32)),
    "low-rank adapters on frozen layers": lambda: classify(
        nn.Sequential(
            *(part for _ in range(4) for part in (Adapted(he(nn.Linear(WIDTH, WIDTH))), nn.ReLU())),
            nn.Linear(WIDTH, CLASSES),
        ),
        (WIDTH,),
    ),
    "frozen backbone, new head": lambda: classify(
        nn.Sequential(plain(6, nn.ReLU, HE)[:-1].requires_grad_(requires_grad=False), nn.Linear(WIDTH, CLASSES)),
        (WIDTH,),
    ),
    "head that starts at zero": lambda: classify(changed(plain(5, nn.ReLU, HE), "10", scaled_by(0.0)), (WIDTH,)),
    "LSTM, 30 steps": lambda: classify(Read(nn.LSTM(8, 32, batch_first=True)), (30, 8)),
    "GRU, two layers, both directions": lambda: regress(Read(nn.GRU(8, 32, 2, batch_first=True)), (20, 8)),
    "RNN cells, orthogonal": lambda: classify(Cells(1.0), (25, 8)),
    "towers drawn by themselves": lambda: classify(Twins(copied=False), (WIDTH,)),
    "frozen copy beside its original": lambda: regress(Siamese(), (WIDTH,)),
    "gates": lambda: classify(Squeeze(), (3, 8, 8)),
    "autoencoder with a narrow middle": lambda: regress(
        nn.Sequential(
            *(
                part
                for a, b in ((64, 32), (32, 8), (8, 4), (4, 8), (8, 32))
                for part in (he(nn.Linear(a, b)), nn.ELU())
            ),
            nn.Linear(32, 64),
        ),
        (64,),
    ),
    "one sample in the batch": lambda: (
        plain(6, nn.ReLU, HE),
        (torch.randn(1, WIDTH),),
        lambda y: y.square().mean(),
    ),
    "inputs that are all alike": lambda: (
        plain(6, nn.ReLU, HE),
        (torch.ones(8, WIDTH),),
        lambda y: y.square().mean(),
    ),
    "an Adam-sized gradient": lambda: (
        plain(6, nn.ReLU, HE),
        (torch.randn(BATCH, WIDTH),),
        lambda y: 1e-4 * y.square().mean(),
    ),
}

_FAR = ("S201", "S203")
SICK = {
    # vanishing and exploding by a factor per layer: the end of the way is named
    "MLP, sigmoid, 15 layers": (lambda: classify(plain(15, nn.Sigmoid), (WIDTH,)), {"S203"}, {"0"}),
    "MLP, ReLU, torch's weights, 25 layers": (lambda: classify(plain(25, nn.ReLU), (WIDTH,)), {"S203"}, {"0"}),
    "MLP, ReLU, too small, 15 layers": (lambda: classify(plain(15, nn.ReLU, 0.6), (WIDTH,)), set(_FAR), {"0", "28"}),
    "MLP, tanh, too small, 20 layers": (lambda: classify(plain(20, nn.Tanh, 0.5), (WIDTH,)), set(_FAR), {"0", "38"}),
    "VGG without norm, too small": (
        lambda: classify(convolutional(norm=False, depth=10, gain=0.5), (3, 16, 16)),
        set(_FAR),
        {"0", "20"},
    ),
    "MLP, ReLU, too large, 15 layers": (
        lambda: classify(plain(15, nn.ReLU, 3.0), (WIDTH,)),
        {"S202", "S204"},
        {"0", "28"},
    ),
    "MLP, GELU, too large, 12 layers": (
        lambda: classify(plain(12, nn.GELU, 3.0), (WIDTH,)),
        {"S202", "S204"},
        {"0", "22"},
    ),
    "residual MLP without norm or scaling": (
        lambda: classify(residual(24, lambda: branch(2.0)), (WIDTH,)),
        {"S202", "S204"},
        {"1.+", "23.+", "24.+", "0", "24"},
    ),
    "RNN cells, far too large": (
        lambda: regress(nn.Sequential(Linearised(1.5)), (40, 8)),
        {"S202", "S204"},
        {"0.hidden", "0.hidden #38", "0.hidden #39"},
    ),
    "RNN that forgets at once": (lambda: classify(Cells(0.05), (25, 8)), {"S203"}, {"cell"}),
    # one layer at fault
    "one layer ten thousand times too small": (
        lambda: classify(changed(plain(8, nn.ReLU, HE), "6", scaled_by(1e-4)), (WIDTH,)),
        set(_FAR),
        {"6"},
    ),
    "one layer ten thousand times too large": (
        lambda: classify(changed(plain(8, nn.ReLU, HE), "8", scaled_by(1e4)), (WIDTH,)),
        {"S202", "S204"},
        {"8"},
    ),
    "one convolution all zero": (
        lambda: classify(changed(convolutional(norm=False), "5", scaled_by(0.0)), (3, 16, 16)),
        {"S201", "S205"},
        {"5", "6"},
    ),
    # dead and saturated
    "dead behind one bias": (
        lambda: classify(changed(plain(6, nn.ReLU, HE), "4", lambda layer: layer.bias.fill_(-50)), (WIDTH,)),
        {"S205"},
        {"5", "4"},
    ),
    "three quarters dead": (
        lambda: classify(changed(plain(6, nn.ReLU, HE), "4", lambda layer: layer.bias[:56].fill_(-50)), (WIDTH,)),
        {"S205"},
        {"5", "4"},
    ),
    "dead channels": (
        lambda: classify(changed(convolutional(norm=True), "1", lambda layer: layer.bias.fill_(-20)), (3, 16, 16)),
        {"S205"},
        {"2", "1"},
    ),
    "dead SiLU": (
        lambda: classify(changed(plain(6, nn.SiLU, 1.7), "4", lambda layer: layer.bias.fill_(-50)), (WIDTH,)),
        {"S205"},
        {"5", "4"},
    ),
    "tanh driven to its bounds": (
        lambda: classify(changed(plain(4, nn.Tanh, 1.0), "2", scaled_by(20.0)), (WIDTH,)),
        {"S206"},
        {"3", "2"},
    ),
    "sigmoid driven to its bounds": (
        lambda: classify(changed(plain(3, nn.Sigmoid), "2", lambda layer: layer.bias.fill_(12.0)), (WIDTH,)),
        {"S206"},
        {"3", "2"},
    ),
    "inputs in their hundreds before a tanh": (
        lambda: (plain(2, nn.Tanh), (300 * torch.randn(BATCH, WIDTH),), lambda y: y.square().mean()),
        {"S206"},
        {"1", "0"},
    ),
    "attention without its scale, far too large": (
        lambda: predict_next(
            changed(
                Language(attention=lambda *a: Attention(*a, scaled=False)), "blocks.2.branch.1.qkv", scaled_by(20.0)
            )
        ),
        {"S206"},
        {"blocks.2.branch.1.softmax()"},
    ),
    # collapsed
    "biases drown the inputs": (
        lambda: classify(
            nn.Sequential(
                *(part for _ in range(12) for part in (biased(nn.Linear(WIDTH, WIDTH)), nn.Tanh())),
                nn.Linear(WIDTH, CLASSES),
            ),
            (WIDTH,),
        ),
        {"S207", "S203"},
        {"4", "6", "8", "10", "12", "0"},
    ),
    "a bias a million times the weights": (
        lambda: classify(
            changed(
                plain(6, nn.ReLU, HE),
                "4",
                lambda layer: (layer.weight.mul_(1e-6), layer.bias.uniform_(0.5, 1.5)),
            ),
            (WIDTH,),
        ),
        {"S207", "S203"},
        {"4"},
    ),
    "a mean over the batch": (
        lambda: classify(
            nn.Sequential(
                he(nn.Linear(WIDTH, WIDTH)),
                nn.ReLU(),
                BatchMean(),
                he(nn.Linear(WIDTH, WIDTH)),
                nn.ReLU(),
                he(nn.Linear(WIDTH, WIDTH)),
                nn.ReLU(),
                nn.Linear(WIDTH, CLASSES),
            ),
            (WIDTH,),
        ),
        {"S207"},
        {"2", "3"},
    ),
    # cloned
    "towers that are copies": (
        lambda: classify(Twins(copied=True), (WIDTH,)),
        {"S208"},
        {"towers.1.0.weight", "towers.2.0.weight"},
    ),
    "heads that are copies": (
        lambda: classify(Heads(), (WIDTH,)),
        {"S208"},
        {"heads.1.weight", "heads.2.weight", "heads.3.weight"},
    ),
    # not finite
    "logarithm of a negative number": (lambda: classify(Between(torch.log), (16,)), {"S211"}, {"log()"}),
    "0/0": (lambda: classify(Between(lambda x: x / (x - x)), (16,)), {"S211"}, {"div()"}),
    "row that is masked altogether": (
        lambda: predict_next(Language(attention=lambda *a: Attention(*a, hide_all=True))),
        {"S211"},
        {"blocks.0.branch.1.softmax()"},
    ),
    "root at zero, backwards": (
        lambda: classify(Between(lambda x: (x - x).square().sqrt() + x), (16,)),
        {"S211"},
        {"sqrt()"},
    ),
    "a weight that is NaN": (
        lambda: classify(
            changed(plain(8, nn.ReLU, HE), "10", lambda layer: layer.weight[0, :1].fill_(math.nan)), (WIDTH,)
        ),
        {"S211"},
        {"10"},
    ),
    "overflow in half precision": (
        lambda: halved(changed(plain(5, nn.ReLU, HE), "6", scaled_by(1e5))),
        {"S211"},
        {"6"},
    ),
    "exponential of large numbers": (
        lambda: classify(Between(lambda x: torch.exp(200 * x.abs())), (16,)),
        {"S211"},
        {"exp()"},
    ),
}


class Linearised(nn.Module):
    """A recurrent loop without a bound: its state grows for ever."""

    def __init__(self, gain):
        super().__init__()
        self.inputs, self.hidden = nn.Linear(8, 32), nn.Linear(32, 32, bias=False)
        nn.init.orthogonal_(self.hidden.weight, gain=gain)

    def forward(self, x):
        h = x.new_zeros(len(x), 32)
        for step in range(x.shape[1]):
            h = self.hidden(h) + self.inputs(x[:, step])
        return h


class BatchMean(nn.Module):
    """A mistake in the axis: the mean over the samples in place of that over the features."""

    def forward(self, x):
        return x.mean(0, keepdim=True).expand_as(x) + 1e-7 * x


class Heads(nn.Module):
    """An ensemble whose members were made by copying one."""

    def __init__(self):
        super().__init__()
        self.trunk, head = he(nn.Linear(WIDTH, WIDTH)), nn.Linear(WIDTH, CLASSES)
        self.heads = nn.ModuleList(copy.deepcopy(head) for _ in range(4))

    def forward(self, x):
        x = F.relu(self.trunk(x))
        return sum(head(x) for head in self.heads) / 4


def biased(layer):
    nn.init.normal_(layer.weight, std=0.3 / math.sqrt(layer.in_features))
    nn.init.normal_(layer.bias, std=1.0)
    return layer


def halved(model):
    return model.half(), (torch.randn(BATCH, WIDTH).half(),), lambda y: y.float().square().mean()
