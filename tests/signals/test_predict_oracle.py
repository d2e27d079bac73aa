"""What theory says, against the same model drawn and measured many times."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from oracles.drawn_networks import agreement


def dense(width, depth, activation, gain):
    layers = []
    for _ in range(depth):
        layer = nn.Linear(width, width)
        nn.init.normal_(layer.weight, std=gain / math.sqrt(width))
        nn.init.zeros_(layer.bias)
        layers += [layer, activation()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


@pytest.mark.parametrize(
    ("activation", "gain"),
    [(nn.Tanh, 1.3), (nn.ReLU, 2**0.5), (nn.GELU, 1.5), (nn.SiLU, 1.7), (nn.Sigmoid, 1.8), (nn.SELU, 1.0)],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_plain_networks(activation, gain):
    found = agreement(lambda: (dense(192, 10, activation, gain), (torch.randn(48, 192),)), draws=10)
    assert found.unmodelled == ()
    assert found.tensors == "fake"
    assert found.worst("forward")[0] < 0.02
    assert found.worst("backward")[0] < 0.05
    assert found.inside("forward") > 0.9


class SelfGated(nn.Module):
    """SiLU spelled out: two functions of one signal, multiplied."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(256, 256), nn.Linear(256, 8)

    def forward(self, x):
        z = 2 * self.first(x)
        return self.last(z * torch.sigmoid(z))


def test_a_product_of_two_functions_of_one_signal_is_one_function():
    found = agreement(lambda: (SelfGated(), (torch.randn(64, 256),)), draws=8)
    assert found.worst("forward")[0] < 0.01
    assert found.worst("backward")[0] < 0.03


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(128, 256), nn.Linear(128, 256), nn.Linear(256, 128)

    def forward(self, x):
        return x + self.down(functional.silu(self.gate(x)) * self.up(x))


class Squeezed(nn.Module):
    """A squeeze-and-excitation block."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 64, 3, padding=1), nn.Linear(64, 64), nn.Linear(64, 64)
        self.head = nn.Linear(64, 8)

    def forward(self, x):
        y = torch.relu(self.conv(x))
        gate = torch.sigmoid(self.two(torch.relu(self.one(y.mean((2, 3))))))
        return self.head((y * gate[:, :, None, None]).mean((2, 3)))


class RmsNorm(nn.Module):
    """Written by hand, as models have it."""

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Joined(nn.Module):
    """Concatenation, pieces, and another order."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.last = nn.Linear(128, 96), nn.Linear(128, 160), nn.Linear(256, 8)

    def forward(self, x):
        y = torch.cat([self.left(x), torch.tanh(self.right(x))], dim=-1)
        a, b = y.reshape(len(x), 2, 128).transpose(1, 2).unbind(-1)
        return self.last(torch.cat([b, a], dim=-1))


class Tokens(nn.Module):
    """Embeddings, attention with a causal mask, a pooled head."""

    def __init__(self, *, causal):
        super().__init__()
        self.embed, self.place = nn.Embedding(40, 64), nn.Parameter(torch.randn(12, 64))
        self.q, self.k, self.v, self.out = (nn.Linear(64, 64) for _ in range(4))
        self.norm, self.head, self.causal = nn.LayerNorm(64), nn.Linear(64, 8), causal

    def forward(self, ids):
        x = self.embed(ids) + self.place
        y = self.norm(x)
        q, k, v = (layer(y).unflatten(-1, (4, 16)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return self.head(x[:, -1] if self.causal else x.mean(1))


def images():
    return torch.randn(8, 3, 16, 16)


def convolutional(norm):
    return nn.Sequential(
        *(nn.Conv2d(3, 48, 3, padding=1, bias=False), norm(48), nn.ReLU()),
        *(nn.Conv2d(48, 64, 3, stride=2, padding=1, groups=2, bias=False), norm(64), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, padding=1, bias=False), norm(64), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 8)),
    )


class Biased(nn.Module):
    """Attention with a table of biases by relative position, capped scores, and a mask that hides keys."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(64, 64) for _ in range(4))
        self.table = nn.Embedding(23, 4)
        self.head = nn.Linear(64, 8)

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (4, 16)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        at = torch.arange(12)
        bias = self.table(at[None] - at[:, None] + 11).permute(2, 0, 1)[None]
        scores = 5 * torch.tanh(q @ k.transpose(-1, -2) / 4 / 5) + bias
        scores = torch.where(at[None] <= at[:, None], scores, torch.finfo(scores.dtype).min)
        mixed = scores.softmax(-1) @ v
        return self.head(x + self.out(mixed.transpose(1, 2).flatten(2)))


class DropPath(nn.Module):
    """Whole branches left out at random, sample by sample."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(nn.LayerNorm(128), nn.Linear(128, 128)) for _ in range(4))

    def forward(self, x):
        for branch in self.branches:
            kept = torch.floor(0.8 + torch.rand(x.shape[0], 1))
            x = x + branch(x) / 0.8 * kept
        return x


class Dense(nn.Module):
    """Channels of different sizes side by side, normalised together."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 24, 3, padding=1), nn.Linear(72, 8)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, 16, 3, padding=1, bias=False))
            for n in (24, 40, 56)
        )

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(torch.relu(x).mean((2, 3)))


class Points(nn.Module):
    """A maximum over all points of a set."""

    def __init__(self):
        super().__init__()
        self.each, self.head = nn.Sequential(nn.Conv1d(3, 64, 1), nn.ReLU(), nn.Conv1d(64, 128, 1)), nn.Linear(128, 8)

    def forward(self, x):
        return self.head(self.each(x).amax(-1))


class Messages(nn.Module):
    """Rows taken and added by known positions, as graph networks do it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(32, 128), nn.Linear(128, 8)
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("edges", torch.randint(0, 30, (2, 90), generator=generator))

    def forward(self, x):
        y = torch.tanh(self.first(x))
        return self.last(y + torch.zeros_like(y).index_add(0, self.edges[1], y[self.edges[0]]))


class OwnLoss(nn.Module):
    """A model that computes its loss itself, as those of Hugging Face do."""

    def __init__(self):
        super().__init__()
        self.layers = dense(128, 3, nn.Tanh, 1.3)

    def forward(self, x):
        y = self.layers(x)
        return {"loss": functional.cross_entropy(y, torch.arange(len(x)) % 4), "logits": y}


def mobile():
    """Convolutions of single channels, whose variances differ from channel to channel."""
    layers = [nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    for _ in range(2):
        layers += [nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
        layers += [nn.Conv2d(32, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 8))


def upsampled(mode):
    return nn.Sequential(
        *(nn.Conv2d(3, 48, 3, stride=2, padding=1), nn.Tanh(), nn.Upsample(scale_factor=2, mode=mode)),
        nn.Conv2d(48, 16, 3, padding=1),
    )


class Bags(nn.Module):
    """Rows of a table averaged, added up, or their largest entries."""

    def __init__(self, mode):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(50, 96, mode=mode), nn.Linear(96, 8)

    def forward(self, ids):
        return self.head(torch.relu(self.bag(ids)))


class Pairs(nn.Module):
    """A bilinear form of two signals."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(24, 96), nn.Linear(24, 64)
        self.form, self.head = nn.Bilinear(96, 64, 48), nn.Linear(48, 8)

    def forward(self, x):
        return self.head(self.form(torch.tanh(self.left(x)), torch.tanh(self.right(x))))


class Columns(nn.Module):
    """Windows laid side by side, mixed as vectors, and added back into an image."""

    def __init__(self, *, folded):
        super().__init__()
        self.first, self.folded = nn.Conv2d(3, 24, 3, padding=1), folded
        self.mix = nn.Linear(24 * 9, 24 * 9 if folded else 64)
        self.last = nn.Conv2d(24, 8, 3) if folded else nn.Linear(64, 8)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        mixed = self.mix(functional.unfold(x, 3, padding=1).transpose(1, 2))
        if not self.folded:
            return self.last(torch.relu(mixed))
        return self.last(functional.fold(mixed.transpose(1, 2), x.shape[2:], 3, padding=1))


class Picked(nn.Module):
    """Positions picked by ``gather``: the same of every sample, or of each its own."""

    def __init__(self, *, own):
        super().__init__()
        self.first, self.head, self.own = nn.Linear(24, 128), nn.Linear(128, 8), own

    def forward(self, x):
        y = torch.tanh(self.first(x))
        at = (torch.arange(len(x)) % 8)[:, None] if self.own else torch.tensor([[0, 2, 5]]).expand(len(x), 3)
        return self.head(torch.gather(y, 1, at[..., None].expand(*at.shape, 128)).sum(1))


CASES = {
    "means of rows of a table": (lambda: (Bags("mean"), (torch.randint(0, 50, (16, 7)),)), 0.02, 0.05),
    "sums of rows of a table": (lambda: (Bags("sum"), (torch.randint(0, 50, (16, 7)),)), 0.02, 0.05),
    "the largest of rows of a table": (lambda: (Bags("max"), (torch.randint(0, 50, (16, 7)),)), 0.02, 0.05),
    "a bilinear form": (lambda: (Pairs(), (torch.randn(16, 24),)), 0.03, 0.05),
    "windows as columns": (lambda: (Columns(folded=False), (torch.randn(4, 3, 10, 10),)), 0.03, 0.06),
    "windows of large images as columns": (lambda: (Columns(folded=False), (torch.randn(4, 3, 24, 24),)), 0.03, 0.06),
    "columns folded back": (lambda: (Columns(folded=True), (torch.randn(4, 3, 10, 10),)), 0.03, 0.06),
    "columns folded back into large images": (
        lambda: (Columns(folded=True), (torch.randn(4, 3, 24, 24),)),
        0.03,
        0.06,
    ),
    "the same positions of all samples": (lambda: (Picked(own=False), (torch.randn(16, 8, 24),)), 0.02, 0.05),
    "each sample's own position": (lambda: (Picked(own=True), (torch.randn(16, 8, 24),)), 0.02, 0.05),
    "biased, capped and masked scores": (lambda: (Biased(), (torch.randn(4, 12, 64),)), 0.03, 0.10),
    "branches left out": (lambda: (DropPath(), (torch.randn(64, 128),)), 0.03, 0.05),
    "channels side by side": (lambda: (Dense(), (images(),)), 0.03, 0.10),
    "the largest of all": (lambda: (Points(), (torch.randn(8, 3, 40),)), 0.06, 0.10),
    "messages over edges": (lambda: (Messages(), (torch.randn(30, 32),)), 0.03, 0.05),
    "a loss inside": (lambda: (OwnLoss(), (torch.randn(48, 128),)), 0.03, 0.06),
    "single channels": (lambda: (mobile(), (images(),)), 0.03, 0.15),
    "bilinear upsampling": (lambda: (upsampled("bilinear"), (images(),)), 0.03, 0.06),
    "nearest upsampling": (lambda: (upsampled("nearest"), (images(),)), 0.03, 0.06),
    "padding that reflects": (
        lambda: (
            nn.Sequential(nn.ReflectionPad2d(2), nn.Conv2d(3, 48, 5), nn.ReLU(), nn.Conv2d(48, 8, 3)),
            (images(),),
        ),
        0.03,
        0.06,
    ),
    "channels into pixels": (
        lambda: (nn.Sequential(nn.Conv2d(3, 64, 3), nn.PixelShuffle(2), nn.Conv2d(16, 8, 3)), (images(),)),
        0.03,
        0.06,
    ),
    "windows that overlap": (
        lambda: (
            nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.MaxPool2d(3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            (images(),),
        ),
        0.03,
        0.10,
    ),
    "gated": (lambda: (nn.Sequential(Gated(), Gated(), nn.Linear(128, 8)), (torch.randn(32, 128),)), 0.02, 0.05),
    "squeeze and excitation": (lambda: (Squeezed(), (images(),)), 0.03, 0.10),
    "rms norm by hand": (
        lambda: (nn.Sequential(nn.Linear(64, 192), RmsNorm(), nn.Linear(192, 8)), (3 * torch.randn(32, 64),)),
        0.02,
        0.05,
    ),
    "pieces joined": (lambda: (Joined(), (torch.randn(32, 128),)), 0.02, 0.05),
    "attention": (lambda: (Tokens(causal=False), (torch.randint(0, 40, (4, 12)),)), 0.03, 0.08),
    "causal attention": (lambda: (Tokens(causal=True), (torch.randint(0, 40, (4, 12)),)), 0.03, 0.08),
    "batch norm": (lambda: (convolutional(nn.BatchNorm2d), (images(),)), 0.03, 0.10),
    "group norm": (lambda: (convolutional(lambda n: nn.GroupNorm(4, n)), (images(),)), 0.03, 0.10),
    "dropout": (
        lambda: (
            nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.4), nn.Linear(256, 8)),
            (torch.randn(32, 64),),
        ),
        0.02,
        0.05,
    ),
    "max pooling": (
        lambda: (
            nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 49, 8)),
            (images(),),
        ),
        0.03,
        0.08,
    ),
    "average pooling": (
        lambda: (
            nn.Sequential(nn.Conv2d(3, 64, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64 * 49, 8)),
            (images(),),
        ),
        0.03,
        0.05,
    ),
    "a transposed convolution": (
        lambda: (
            nn.Sequential(nn.Conv2d(3, 64, 3, stride=2, padding=1), nn.GELU(), nn.ConvTranspose2d(64, 16, 4, 2, 1)),
            (images(),),
        ),
        0.02,
        0.05,
    ),
    "a recurrent cell over time": (
        lambda: (nn.Sequential(nn.Linear(24, 24), Last(nn.GRU(24, 128, batch_first=True))), (torch.randn(16, 6, 24),)),
        0.08,
        0.20,
    ),
}


class Last(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        return self.cell(x)[0][:, -1]


@pytest.mark.parametrize("name", CASES)
def test_one_family_of_operations(name):
    make, forward, backward = CASES[name]
    found = agreement(make, draws=10)
    assert found.unmodelled == ()
    assert found.worst("forward")[0] < forward, found.worst("forward")
    assert found.worst("backward")[0] < backward, found.worst("backward")


def test_capped_scores_and_their_softmax_have_a_size_and_a_gradient_of_their_own():
    found = agreement(lambda: (Biased(), (torch.randn(4, 12, 64),)), draws=10)
    for call in ("tanh()#0", "softmax()#0"):
        for logs in (found.forward[call], found.backward[call]):
            assert abs(logs.mean()) < 0.04 + 2 * logs.std(ddof=1) / math.sqrt(len(logs))


@pytest.mark.parametrize(
    "loss",
    [lambda y: functional.cross_entropy(y, torch.arange(48) % 4), lambda y: (y - 1).square().mean()],
    ids=["cross entropy", "mean square"],
)
def test_a_loss_is_called_with_outputs_drawn_from_their_moments(loss):
    found = agreement(lambda: (dense(128, 4, nn.Tanh, 1.3), (torch.randn(48, 128),)), draws=10, loss=loss)
    assert found.worst("backward")[0] < 0.05


class LastState(nn.Module):
    """Of a recurrent layer's two outputs only the second is used."""

    def __init__(self):
        super().__init__()
        self.read, self.head = nn.GRU(32, 64, batch_first=True), nn.Linear(64, 8)

    def forward(self, x):
        return self.head(self.read(x)[1][0])


def test_a_layer_has_the_gradient_of_the_first_output_that_one_reaches():
    found = agreement(lambda: (LastState(), (torch.randn(8, 6, 32),)), draws=8)
    assert "read#0" in found.backward
    assert found.worst("backward", only=lambda path: path.startswith("read"))[0] < 0.05


class DroppedWeights(nn.Module):
    """Attention spelled out, with a dropout on its weights."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(64, 64) for _ in range(4))
        self.drop = nn.Dropout(0.4)

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (4, 16)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        weights = self.drop((q @ k.transpose(-1, -2) / 4).softmax(-1))
        return self.out((weights @ v).transpose(1, 2).flatten(2))


def test_attention_weights_are_shown_before_and_behind_their_dropout():
    found = agreement(lambda: (DroppedWeights(), (torch.randn(8, 12, 64),)), draws=8)
    assert {"softmax()#0", "drop#0"} <= set(found.forward) & set(found.backward)
    assert found.worst("forward")[0] < 0.03, found.worst("forward")
    assert found.worst("backward")[0] < 0.06, found.worst("backward")
