"""Networks for `weights_spreads.py`: written down before they were measured, and used nowhere else here."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from weights_networks import digits, stories

# ---- data: what goes in, and labels among ten (or the image itself) ----


def flat():
    return digits(images=False)


def images():
    return digits(images=True)


def resized(part, side):
    return F.interpolate(part[0], size=(side, side), mode="bilinear"), part[1]


@functools.cache
def large():
    data = images()
    return type(data)(*(resized(part, 32) for part in (data.train, data.valid, data.test)))


@functools.cache
def volumes():
    """A digit that grows fainter from slice to slice."""
    data, fading = images(), torch.linspace(1, -1, 8).view(1, 1, 8, 1, 1)
    return type(data)(*((part[0].unsqueeze(2) * fading, part[1]) for part in (data.train, data.valid, data.test)))


@functools.cache
def rows():
    data = images()
    return type(data)(*((part[0][:, 0], part[1]) for part in (data.train, data.valid, data.test)))


@functools.cache
def sounds():
    """Which of ten tones is in the noise?"""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (1800,), generator=generator)
    phase = 6.283 * torch.rand(1800, 1, generator=generator)
    time = torch.arange(512.0)
    x = torch.sin(0.05 * 1.3 ** labels[:, None] * time + phase) + 0.5 * torch.randn(1800, 512, generator=generator)
    x = x.unsqueeze(1)
    return type(flat())((x[:1200], labels[:1200]), (x[1200:1500], labels[1200:1500]), (x[1500:], labels[1500:]))


# ---- plain networks ----


class Called(nn.Module):
    """An activation that is a function of one's own."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def stack(activation, widths, *, bias=True, after=lambda: ()):
    """Linear layers, each with its activation (made anew) and what comes after it."""
    hidden = [
        layer
        for at, (inputs, outputs) in enumerate(itertools.pairwise((64, *widths)))
        for layer in (nn.Linear(inputs, outputs, bias=bias), activation(at), *after())
    ]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], 10, bias=bias))


def alternating(at):
    return (nn.ReLU, nn.Tanh, nn.GELU, nn.ELU, nn.Hardswish)[at % 5]()


class Matrices(nn.Module):
    """Weights that lie in a list and are used by functions."""

    def __init__(self, depth):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.empty(64, 64)) for _ in range(depth)])
        for weight in self.weights:
            nn.init.kaiming_uniform_(weight, a=5**0.5)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        for weight in self.weights:
            x = F.linear(x, weight)
            x = x * torch.tanh(F.softplus(x))
        return self.head(x)


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.avg_pool2d(torch.tanh(self.conv1(x)), 2)
        x = F.avg_pool2d(torch.tanh(self.conv2(x)), 2)
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x.flatten(1))))))


class Visual(nn.Module):
    """Thirteen convolutions with max-pools in between, and three linear layers with dropout."""

    def __init__(self):
        super().__init__()
        widths = (8, 8, 16, 16, 32, 32, 32, 64, 64, 64, 64, 64, 64)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise((1, *widths)))
        self.fc1, self.fc2, self.fc3 = nn.Linear(256, 128), nn.Linear(128, 128), nn.Linear(128, 10)

    def forward(self, x):
        for at, conv in enumerate(self.convs):
            x = F.relu(conv(x))
            if at in {1, 3, 6, 9}:
                x = F.max_pool2d(x, 2)
        x = F.dropout(F.relu(self.fc1(x.flatten(1))), 0.3, self.training)
        return self.fc3(F.dropout(F.relu(self.fc2(x)), 0.3, self.training))


def audio():
    layers = [nn.Conv1d(1, 16, 16, stride=4), nn.ReLU(), nn.MaxPool1d(2)]
    channels = 16
    for wanted in (16, 16, 32, 32, 32, 64, 64, 64):
        layers += [nn.Conv1d(channels, wanted, 3, padding=1), nn.ReLU()]
        if wanted != channels:
            layers.append(nn.MaxPool1d(2))
        channels = wanted
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 10))


def volume():
    layers, channels = [], 1
    for at, wanted in enumerate((8, 8, 16, 16, 32, 32)):
        layers += [nn.Conv3d(channels, wanted, 3, padding=1), nn.LeakyReLU(0.1)]
        if at in {1, 3}:
            layers.append(nn.MaxPool3d(2))
        channels = wanted
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10))


def separable(activation):
    """Depthwise and pointwise convolutions in turn."""
    layers = [nn.Conv2d(1, 16, 3, padding=1), activation()]
    for inputs, outputs, stride in ((16, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1), (64, 64, 1)):
        layers += [nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs), activation()]
        layers += [nn.Conv2d(inputs, outputs, 1), activation()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def grouped():
    """Grouped convolutions whose channels are shuffled in between."""
    layers = [nn.Conv2d(1, 32, 3, padding=1), nn.SiLU()]
    for _ in range(12):
        layers += [nn.Conv2d(32, 32, 3, padding=1, groups=4), nn.ChannelShuffle(4), nn.SiLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 10))


class AutoEncoder(nn.Module):
    """From 32 × 32 to 64 numbers and back, with transposed convolutions."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise((1, 16, 32, 64))
        )
        self.code, self.grow = nn.Linear(1024, 64), nn.Linear(64, 1024)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise((64, 32, 16, 1))
        )

    def forward(self, x):
        for layer in self.down:
            x = F.elu(layer(x))
        x = F.elu(self.grow(self.code(x.flatten(1)))).view(-1, 64, 4, 4)
        for layer in self.up[:-1]:
            x = F.elu(layer(x))
        return self.up[-1](x)


class Siamese(nn.Module):
    """One tower for an image and for its mirror image; told apart by what they share."""

    def __init__(self):
        super().__init__()
        widths = (16, 16, 32, 32, 32, 32)
        self.tower = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise((1, *widths)))
        self.mix, self.head = nn.Linear(256, 64), nn.Linear(64, 10)

    def embed(self, x):
        for at, layer in enumerate(self.tower):
            x = F.relu(layer(x))
            if at in {1, 3}:
                x = F.max_pool2d(x, 2)
        return x.flatten(1)

    def forward(self, x):
        return self.head(F.relu(self.mix(torch.cat([self.embed(x), self.embed(x.flip(-1))], 1))))


def dilated():
    layers = [nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.GELU()]
    for dilation in (1, 1, 2, 2, 4, 4, 8, 8, 1, 1):
        layers += [nn.Conv2d(24, 24, 3, padding=dilation, dilation=dilation, bias=False), nn.GELU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24 * 256, 10, bias=False))


def reflected():
    layers, channels = [], 1
    for at, wanted in enumerate((16, 16, 16, 32, 32, 32, 64, 64, 64)):
        stride = 2 if at in {3, 6} else 1
        layers += [nn.Conv2d(channels, wanted, 3, stride, padding=1, padding_mode="reflect"), nn.Hardswish()]
        channels = wanted
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 64, 10))


class Repeated(nn.Module):
    """One linear layer, used fifteen times."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        for _ in range(15):
            x = torch.tanh(self.again(x))
        return self.head(x)


class Maxout(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 128) for _ in range(depth))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).unflatten(-1, (64, 2)).amax(-1)
        return self.head(x)


def large_kernels():
    """The first layers see much, and far apart."""
    return nn.Sequential(
        nn.Conv2d(1, 24, 7, stride=2, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(24, 48, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        *(layer for _ in range(3) for layer in (nn.Conv2d(48, 48, 3, padding=1), nn.ReLU())),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(432, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


# ---- networks with a structure ----


class Basic(nn.Module):
    """Two normalised convolutions and a way around them."""

    def __init__(self, inputs, outputs, stride, norm, squeeze=0):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = norm(outputs), norm(outputs)
        around = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs)] if inputs != outputs else []
        self.around = nn.Sequential(*around)
        self.squeeze, self.excite = (
            (nn.Linear(outputs, squeeze), nn.Linear(squeeze, outputs)) if squeeze else (None, None)
        )

    def forward(self, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.squeeze is not None:
            y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))[:, :, None, None]
        return F.relu(y + self.around(x))


def resnet(norm, **options):
    stages = ((16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))
    blocks = [Basic(*stage, norm, **options) for stage in stages]
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        norm(16),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


class Depthwise(nn.Module):
    """A depthwise convolution, a norm over channels, and two linear layers, added to what came in."""

    def __init__(self, width):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)


def modern():
    return nn.Sequential(
        nn.Conv2d(1, 32, 2, stride=2),
        *(Depthwise(32) for _ in range(6)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(32),
        nn.Linear(32, 10),
    )


class Gated(nn.Module):
    """Causal attention and a gated unit behind RMS norms."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate, self.up = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x):
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(64, 64)
        self.layers = nn.Sequential(*(Gated(64, 4) for _ in range(6)))
        self.norm, self.head = nn.RMSNorm(64), nn.Linear(64, 10, bias=False)

    def forward(self, tokens):
        return self.head(self.norm(self.layers(self.words(tokens)))[:, -1])


class Encoder(nn.Module):
    """PyTorch's own encoder on the rows of an image."""

    def __init__(self, *, norm_first):
        super().__init__()
        self.lift = nn.Linear(8, 64)
        self.places = nn.Parameter(0.02 * torch.randn(8, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.1, batch_first=True, norm_first=norm_first)
        self.encoder, self.head = nn.TransformerEncoder(layer, 6), nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.encoder(self.lift(x) + self.places).mean(1))


class Patches(nn.Module):
    """A vision transformer with a token of its own for the class."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(1, 64, 4, stride=4)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, 64)), nn.Parameter(0.02 * torch.randn(1, 65, 64))
        self.attention = nn.ModuleList(nn.MultiheadAttention(64, 4, batch_first=True) for _ in range(5))
        self.feed = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)) for _ in range(5)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(5))
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        for attention, norm, feed in zip(self.attention, self.norms, self.feed, strict=True):
            y = norm(x)
            x = x + attention(y, y, y, need_weights=False)[0]
            x = x + feed(x)
        return self.head(self.norm(x[:, 0]))


class Hourglass(nn.Module):
    """Down, up, and at every size a way across that is concatenated; returns the image."""

    def __init__(self, norm):
        super().__init__()

        def convolved(inputs, outputs):
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), norm(outputs), nn.LeakyReLU(0.2))

        self.down = nn.ModuleList(convolved(a, b) for a, b in itertools.pairwise((1, 16, 32, 64)))
        self.middle = convolved(64, 64)
        self.up = nn.ModuleList(convolved(a, b) for a, b in ((128, 32), (64, 16), (32, 16)))
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, x):
        kept = []
        for layer in self.down:
            x = layer(x)
            kept.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for layer, across in zip(self.up, reversed(kept), strict=True):
            x = layer(torch.cat([F.interpolate(x, scale_factor=2), across], 1))
        return self.head(x)


class Carried(nn.Module):
    """Convolutions whose gates say how much of the input is kept."""

    def __init__(self, depth):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(16, 32, 3, padding=1) for _ in range(depth))
        for layer in self.layers:
            nn.init.constant_(layer.bias[16:], -2.0)
        self.head = nn.Linear(1024, 10)

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            new, gate = layer(x).chunk(2, 1)
            gate = torch.sigmoid(gate)
            x = gate * F.elu(new) + (1 - gate) * x
        return self.head(x.flatten(1))


class Grown(nn.Module):
    """Every layer reads all that came before it; no norms."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(16 + 8 * at, 8, 3, padding=1) for at in range(10))
        self.head = nn.Linear(96, 10)

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(F.relu(x)))], 1)
        return self.head(x.mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.recurrent = kind(8, 48, batch_first=True, **options)
        self.head = nn.Linear(96 if options.get("bidirectional") else 48, 10)

    def forward(self, x):
        return self.head(self.recurrent(x)[0].mean(1))


class Cells(nn.Module):
    """Two cells that are called step by step, and a norm between them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.GRUCell(8, 48), nn.LSTMCell(48, 48)
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 10)

    def forward(self, x):
        a = b = c = x.new_zeros(len(x), 48)
        for at in range(x.shape[1]):
            a = self.first(x[:, at], a)
            b, c = self.second(self.norm(a), (b, c))
        return self.head(b)


class Experts(nn.Module):
    """Of eight small networks two are asked, layer by layer."""

    def __init__(self, depth):
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(depth))
        self.routers = nn.ModuleList(nn.Linear(64, 8, bias=False) for _ in range(depth))
        self.up = nn.ParameterList(nn.Parameter(torch.randn(8, 64, 128) / 8) for _ in range(depth))
        self.down = nn.ParameterList(nn.Parameter(torch.randn(8, 128, 64) / 128**0.5) for _ in range(depth))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = self.first(x)
        for norm, router, up, down in zip(self.norms, self.routers, self.up, self.down, strict=True):
            y = norm(x)
            best, at = router(y).softmax(-1).topk(2, -1)
            hidden = F.gelu(torch.einsum("bi,eio->beo", y, up))
            answers = torch.einsum("bei,eio->beo", hidden, down)
            chosen = answers.gather(1, at.unsqueeze(-1).expand(-1, -1, 64))
            x = x + (chosen * best.unsqueeze(-1)).sum(1)
        return self.head(x)


class GatedConvolutions(nn.Module):
    """Sound through gated linear units, every second one with a way around; no norms."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(1, 32, 8, stride=4)
        self.layers = nn.ModuleList(nn.Conv1d(32, 64, 5, padding=2) for _ in range(8))
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.first(x)
        for at, layer in enumerate(self.layers):
            y = F.glu(layer(x), 1)
            x = (x + y) * 0.5**0.5 if at % 2 else y
        return self.head(x.mean(-1))


class Waves(nn.Module):
    """Dilated convolutions with tanh and sigmoid gates; what all of them skip is summed."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(1, 24, 2)
        self.both = nn.ModuleList(nn.Conv1d(24, 48, 2, dilation=2**at) for at in range(7))
        self.on = nn.ModuleList(nn.Conv1d(24, 24, 1) for _ in range(7))
        self.skip = nn.ModuleList(nn.Conv1d(24, 48, 1) for _ in range(7))
        self.end, self.head = nn.Conv1d(48, 48, 1), nn.Conv1d(48, 10, 1)

    def forward(self, x):
        x, total = self.first(x), 0
        for both, on, skip in zip(self.both, self.on, self.skip, strict=True):
            new, gate = both(x).chunk(2, 1)
            y = torch.tanh(new) * torch.sigmoid(gate)
            total = total + skip(y)[..., -64:]
            x = on(y) + x[..., -y.shape[-1] :]
        return self.head(F.relu(self.end(F.relu(total)))).mean(-1)


class Bags(nn.Module):
    """Which parts of a bag matter is learnt by gated attention."""

    def __init__(self):
        super().__init__()
        self.lift = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.value, self.gate, self.score = nn.Linear(64, 32), nn.Linear(64, 32), nn.Linear(32, 4)
        self.head = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x):
        x = self.lift(x)
        scores = self.score(torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x))).softmax(1)
        return self.head(torch.einsum("bnh,bnw->bhw", scores, x).flatten(1))


class Modulated(nn.Module):
    """The top half of a digit, whose features are scaled and shifted by what the lower half says."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.condition = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.film = nn.ModuleList(nn.Linear(64, 32) for _ in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4))
        self.head = nn.Linear(512, 10)

    def forward(self, x):
        top, low = x[:, :, :4], self.condition(x[:, :, 4:].flatten(1))
        y = F.relu(self.first(top))
        for conv, film in zip(self.convs, self.film, strict=True):
            scale, shift = film(low)[:, :, None, None].chunk(2, 1)
            y = y + F.relu((1 + scale) * conv(y) + shift)
        return self.head(y.flatten(1))


class Crossed(nn.Module):
    """Cross layers (the input times a layer of the state) beside a deep part."""

    def __init__(self):
        super().__init__()
        self.cross = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))
        self.deep = nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()
        )
        self.head = nn.Linear(96, 10)

    def forward(self, x):
        y = x
        for layer in self.cross:
            y = y + x * layer(y)
        return self.head(torch.cat([y, self.deep(x)], 1))


class Latents(nn.Module):
    """A few learnt queries read the rows of an image, and speak with one another in between."""

    def __init__(self):
        super().__init__()
        self.lift, self.latents = nn.Linear(8, 32), nn.Parameter(0.02 * torch.randn(4, 64))
        self.read = nn.ModuleList(nn.MultiheadAttention(64, 2, kdim=32, vdim=32, batch_first=True) for _ in range(3))
        self.talk = nn.ModuleList(nn.MultiheadAttention(64, 4, batch_first=True) for _ in range(3))
        self.feed = nn.ModuleList(nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(9))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = self.lift(x)
        y = self.latents.expand(len(x), -1, -1)
        for at, (read, talk, feed) in enumerate(zip(self.read, self.talk, self.feed, strict=True)):
            y = y + read(self.norms[3 * at](y), x, x, need_weights=False)[0]
            z = self.norms[3 * at + 1](y)
            y = y + talk(z, z, z, need_weights=False)[0]
            y = y + feed(self.norms[3 * at + 2](y))
        return self.head(y.mean(1))


class Euler(nn.Module):
    """Small steps along one field of velocities."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.lift = nn.Linear(64, 48)
        self.field = nn.Sequential(nn.Linear(48, 96), nn.Tanh(), nn.Linear(96, 48))
        self.head = nn.Linear(48, 10)

    def forward(self, x):
        x = self.lift(x)
        for _ in range(self.steps):
            x = x + self.field(x) / self.steps
        return self.head(x)


class Branches(nn.Module):
    """Three ways of unlike depth whose ends are concatenated."""

    def __init__(self):
        super().__init__()
        self.short = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
        self.long = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(64, 64), nn.ReLU())))
        self.conv = nn.Sequential(
            *(layer for a, b in ((1, 8), (8, 8), (8, 16)) for layer in (nn.Conv2d(a, b, 3), nn.ReLU())), nn.Flatten()
        )
        self.join, self.head = nn.Linear(32 + 64 + 64, 64), nn.Linear(64, 10)

    def forward(self, x):
        flat = x.flatten(1)
        return self.head(F.relu(self.join(torch.cat([self.short(flat), self.long(flat), self.conv(x)], 1))))


def normed_mlp():
    return stack(lambda _: nn.GELU(), (64,) * 20, after=lambda: (nn.BatchNorm1d(64),))


class Public(nn.Module):
    """A classifier of texts from transformers."""

    def __init__(self, family, **sizes):
        super().__init__()
        import transformers

        usual = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
        config = getattr(transformers, f"{family}Config")(vocab_size=64, num_labels=10, **usual | sizes)
        self.model = getattr(transformers, f"{family}ForSequenceClassification")(config)

    def forward(self, tokens):
        return self.model(tokens).logits


# ---- the list ----


@dataclass(frozen=True)
class Case:
    build: object
    data: object
    plain: bool = False
    #: What comes in is to come out.
    copies: bool = False


def mish(x):
    return x * torch.tanh(F.softplus(x))


def squared_relu(x):
    return F.relu(x).square()


def function(f):
    return lambda _: Called(f)


def cases():
    plain = {
        "mlp30-elu": (lambda: stack(lambda _: nn.ELU(), (64,) * 29), flat),
        "mlp30-softplus": (lambda: stack(lambda _: nn.Softplus(), (64,) * 29), flat),
        "mlp40-mish-dropout": (lambda: stack(lambda _: nn.Mish(), (64,) * 39, after=lambda: (nn.Dropout(0.1),)), flat),
        "mlp30-hardtanh": (lambda: stack(lambda _: nn.Hardtanh(), (64,) * 29), flat),
        "mlp40-leaky-unbiased": (lambda: stack(lambda _: nn.LeakyReLU(0.2), (64,) * 39, bias=False), flat),
        "mlp30-prelu": (lambda: stack(lambda _: nn.PReLU(), (64,) * 29), flat),
        "mlp35-softsign-narrowing": (lambda: stack(lambda _: nn.Softsign(), tuple(range(96, 26, -2))), flat),
        "mlp30-celu": (lambda: stack(lambda _: nn.CELU(0.5), (80,) * 29), flat),
        "mlp50-selu-dropout": (
            lambda: stack(lambda _: nn.SELU(), (64,) * 49, after=lambda: (nn.AlphaDropout(0.05),)),
            flat,
        ),
        "mlp25-sine": (lambda: stack(function(torch.sin), (64,) * 24), flat),
        "mlp15-squared-relu": (lambda: stack(function(squared_relu), (64,) * 14), flat),
        "mlp31-mixed": (lambda: stack(alternating, (64, 96, 48) * 10), flat),
        "matrices25-mish": (lambda: Matrices(24), flat),
        "maxout20": (lambda: Maxout(19), flat),
        "repeated-tanh": (Repeated, flat),
        "lenet-tanh": (LeNet, large),
        "visual16-relu": (Visual, large),
        "large-kernels-relu": (large_kernels, large),
        "audio10-relu": (audio, sounds),
        "volume7-leaky": (volume, volumes),
        "separable14-relu6": (lambda: separable(nn.ReLU6), images),
        "grouped14-silu": (grouped, images),
        "dilated12-gelu": (dilated, large),
        "reflected10-hardswish": (reflected, large),
        "siamese-relu": (Siamese, images),
    }
    structured = {
        "resnet-batch": (lambda: resnet(nn.BatchNorm2d), images),
        "resnet-group": (lambda: resnet(lambda n: nn.GroupNorm(4, n)), images),
        "resnet-squeeze": (lambda: resnet(nn.BatchNorm2d, squeeze=8), images),
        "resnet-none": (lambda: resnet(lambda _: nn.Identity()), images),
        "modern": (modern, images),
        "causal-gated": (Causal, stories),
        "encoder-post": (lambda: Encoder(norm_first=False), rows),
        "encoder-pre": (lambda: Encoder(norm_first=True), rows),
        "patches": (Patches, large),
        "highway-conv": (lambda: Carried(12), images),
        "dense-none": (Grown, images),
        "lstm3-both-ways": (lambda: Recurrent(nn.LSTM, num_layers=3, bidirectional=True), rows),
        "gru4": (lambda: Recurrent(nn.GRU, num_layers=4), rows),
        "rnn2-relu": (lambda: Recurrent(nn.RNN, num_layers=2, nonlinearity="relu"), rows),
        "cells": (Cells, rows),
        "experts": (lambda: Experts(4), flat),
        "gated-convolutions": (GatedConvolutions, sounds),
        "waves": (Waves, sounds),
        "bags": (Bags, rows),
        "modulated": (Modulated, images),
        "crossed": (Crossed, flat),
        "latents": (Latents, rows),
        "euler": (lambda: Euler(12), flat),
        "branches": (Branches, images),
        "mlp21-batch": (normed_mlp, flat),
        "RoFormer": (lambda: Public("RoFormer", embedding_size=64), stories),
        "SqueezeBERT": (lambda: Public("SqueezeBert", embedding_size=64), stories),
        "ConvBERT": (lambda: Public("ConvBert", embedding_size=64), stories),
    }
    found = {name: Case(build, data, plain=True) for name, (build, data) in plain.items()}
    found["autoencoder-elu"] = Case(AutoEncoder, large, plain=True, copies=True)
    found |= {name: Case(build, data) for name, (build, data) in structured.items()}
    found["hourglass-none"] = Case(lambda: Hourglass(lambda _: nn.Identity()), large, copies=True)
    found["hourglass-group"] = Case(lambda: Hourglass(lambda n: nn.GroupNorm(4, n)), large, copies=True)
    return found
