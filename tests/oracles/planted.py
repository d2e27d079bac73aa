"""Networks in which one activation may be planted whose backward pass is wrong, and the truth about who is at fault.

The truth is the sound twin of a network: the same weights, the same forward pass, autograd's own backward pass.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from gradvitals.frameworks import Case, opened
from gradvitals.frameworks.layer_calls import layer_calls
from gradvitals.gradients.measure_layers import measure_layers
from gradvitals.gradients.outcome import Measurement, Outcome

#: The slope of tanh that each mistake claims: at x, of y = tanh(x), times the incoming gradient.
MISTAKES = {
    "sign": lambda x, y, dout: -dout * (1 - y**2),
    "factor": lambda x, y, dout: 2 * dout * (1 - y**2),
    "formula": lambda x, y, dout: dout * (1 - y),
    "zero": lambda x, y, dout: torch.zeros_like(dout),
    "one percent": lambda x, y, dout: 1.01 * dout * (1 - y**2),
    "not finite": lambda x, y, dout: dout / torch.zeros_like(y),
}


class Wrong(torch.autograd.Function):
    """tanh with a backward pass that makes a mistake."""

    @staticmethod
    def forward(ctx, x, mistake):
        y = torch.tanh(x)
        ctx.save_for_backward(x, y)
        ctx.mistake = mistake
        return y

    @staticmethod
    def backward(ctx, dout):
        return MISTAKES[ctx.mistake](*ctx.saved_tensors, dout), None


class Planted(nn.Module):
    """tanh; with a mistake, of a backward pass that makes it."""

    def __init__(self, mistake=None):
        super().__init__()
        self.mistake = mistake

    def forward(self, x):
        return torch.tanh(x) if self.mistake is None else Wrong.apply(x, self.mistake)


class Residual(nn.Module):
    def __init__(self, channels, mistake):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.act = Planted(mistake)

    def forward(self, x):
        return x + self.act(self.relu(self.norm(self.conv(x))))


class Attention(nn.Module):
    def __init__(self, width, heads, mistake):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.cap = Planted(mistake)
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x, *, mask=None):
        batch, length, width = x.shape
        query, key, value = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = self.cap(query @ key.transpose(-1, -2))
        scores = scores if mask is None else scores.masked_fill(mask, -torch.inf)
        mixed = self.dropout(scores.softmax(-1)) @ value
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, width, mistake):
        super().__init__()
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, 2, mistake)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x, mask):
        x = x + self.attention(self.first_norm(x), mask=mask)
        return x + self.mlp(self.second_norm(x))


class Transformer(nn.Module):
    """Tokens in, logits out, the embedding tied to the head."""

    def __init__(self, mistakes):
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.blocks = nn.ModuleList(Block(8, mistake) for mistake in mistakes)

    def forward(self, tokens):
        x = self.embedding(tokens)
        mask = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
        for block in self.blocks:
            x = block(x, mask)
        return {"logits": x @ self.embedding.weight.T, "hidden": x}


class Cell(nn.Module):
    def __init__(self, mistake):
        super().__init__()
        self.gates, self.act = nn.Linear(6, 6), Planted(mistake)

    def forward(self, x, state):
        hidden, count = state
        gate, new = self.gates(torch.cat([x, hidden], -1)).chunk(2, -1)
        hidden = hidden + torch.sigmoid(gate) * self.act(new)
        return hidden, (hidden, count + 1)


class Recurrent(nn.Module):
    """A cell that is called once per step, with a nested state of tensor and number."""

    def __init__(self, mistake):
        super().__init__()
        self.cell, self.head = Cell(mistake), nn.Linear(3, 2)

    def forward(self, x):
        hidden, state = None, (x.new_zeros(len(x), 3), 0)
        for step in x.unbind(1):
            hidden, state = self.cell(step, state=state)
        return self.head(hidden)


def mlp(mistakes):
    layers = []
    for mistake in mistakes:
        layers += [nn.Linear(5, 5), Planted(mistake)]
    return nn.Sequential(*layers, nn.Linear(5, 2))


def convolutional(mistakes):
    blocks = [
        nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), Planted(mistake), nn.AvgPool2d(2, 1))
        for mistake in mistakes
    ]
    return nn.Sequential(*blocks, nn.Flatten(), nn.LazyLinear(2))


def residual(mistakes):
    return nn.Sequential(*(Residual(3, mistake) for mistake in mistakes), nn.Flatten(), nn.LazyLinear(2))


#: By name: how a network is built of its mistakes, its inputs, its number of places, and the path of a place.
NETWORKS = {
    "mlp": (mlp, lambda: torch.randn(4, 5), 4, lambda at: str(2 * at + 1)),
    "convolutional": (convolutional, lambda: torch.randn(3, 3, 6, 6), 3, lambda at: f"{at}.2"),
    "residual": (residual, lambda: torch.randn(3, 3, 4, 4), 3, lambda at: f"{at}.act"),
    "recurrent": (lambda m: Recurrent(m[0]), lambda: torch.randn(2, 4, 3), 1, lambda _: "cell.act"),
    "transformer": (Transformer, lambda: torch.randint(0, 7, (2, 4)), 3, lambda at: f"blocks.{at}.attention.cap"),
}


def loss(output):
    output = output["logits"] if isinstance(output, dict) else output
    return (output - 0.3).square().mean()


def planted(name, mistakes, seed=0, dtype=torch.float64):
    """A case of a network and of its sound twin."""
    build, inputs, places, _ = NETWORKS[name]
    mistakes = [mistakes.get(at) for at in range(places)]
    torch.manual_seed(seed)
    x = inputs()
    x = x.to(dtype) if x.is_floating_point() else x
    model, twin = build(mistakes), build([None] * places)
    model(x.float() if x.is_floating_point() else x)
    twin(x.float() if x.is_floating_point() else x)  # lazy layers
    twin.load_state_dict(model.state_dict())
    return tuple(Case(network.to(dtype), (x,), loss=loss) for network in (model, twin))


def gradients(case):
    """The tensors of a case and their gradients, as its backward pass gives them."""
    with opened(case) as problem:
        cotangent = np.random.default_rng(5).normal(size=problem.value({}).size)
        return problem.tensors, problem.gradient(cotangent if problem.objective == "random" else np.ones(1))


def truth(case, twin, sensitivity):
    """What a perfect check would say: which gradients differ from the twin's."""
    (tensors, claimed), (_, right) = gradients(case), gradients(twin)
    outcomes = []
    for one, other in zip(claimed, right, strict=True):
        expected = np.zeros(0) if other.value is None else other.value
        found = np.zeros_like(expected) if one.value is None else one.value
        size = float(np.linalg.norm(expected))
        same = bool(np.linalg.norm(found - expected) <= sensitivity * size) or size < 1e-9
        outcomes.append(Outcome("right" if same else "wrong", 0.0, 0.0, 0.0, 0.0))
    return tensors, Measurement(tuple(outcomes), tuple(claimed), 0, 0)


def located(case, twin, sensitivity=None, seed=0):
    """The layers that are found at fault, when the check of the whole is perfect."""
    with opened(case) as problem:
        coarsest = max(tensor.roundoff for tensor in problem.tensors)
    sensitivity = sensitivity or (1e-4 if coarsest < 1e-12 else 1e-3)
    tensors, measured = truth(case, twin, sensitivity)
    with layer_calls(case) as calls:
        return measure_layers(calls, tensors, measured, sensitivity=sensitivity, seed=seed)
