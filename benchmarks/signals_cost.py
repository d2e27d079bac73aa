"""What probe and predict cost beside passes of the same model, and how that grows with depth.

python benchmarks/signals_cost.py

Times are CPU times, the least of a few runs, on one thread. A probe is compared with one pass forwards and backwards, a
prediction with one forward pass. The first table is of models whose pass takes 10 ms or more, the second of one narrow
tanh net of growing depth, whose weights are orthogonal (the exponents are those of the time against the number of
layers, 1 is linear): where a layer takes a third of a millisecond, looking at it takes longer than running it.
"""

from __future__ import annotations

import math
import time

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import gradvitals as gv

RUNS = 2
DEPTHS = (10, 100, 1000)


def mlp(depth, width):
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(*layers, nn.Linear(width, 10))


def orthogonal(depth, width):
    """A net that stays well over a thousand layers: of a sick one the report predicts its remedy, too."""
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.Tanh())]
    for layer in layers[::2]:
        nn.init.orthogonal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers, nn.Linear(width, 10))


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, x):
        inner = F.relu(self.norms[0](self.first(x)), inplace=True)
        return F.relu(x + self.norms[1](self.second(inner)), inplace=True)


def residual():
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), *(Block(32) for _ in range(5)), nn.MaxPool2d(2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )


def transformer():
    layer = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent, self.head = nn.LSTM(128, 256, 2, batch_first=True), nn.Linear(256, 10)

    def forward(self, x):
        return self.head(self.recurrent(x)[0][:, -1])


class Encoder(nn.Module):
    """BERT or ViT of Hugging Face transformers from its configuration, with its base model's sizes."""

    def __init__(self, name, layers):
        super().__init__()
        import transformers

        more = {"image_size": 224} if name == "ViT" else {"vocab_size": 2000}
        config = getattr(transformers, f"{name}Config")(num_hidden_layers=layers, **more)
        self.model = getattr(transformers, f"{name}Model")(config, add_pooling_layer=False)

    def forward(self, x):
        return self.model(x).last_hidden_state


MODELS = {
    "MLP, 20 x 512, batch 128": (lambda: mlp(20, 512), lambda: torch.randn(128, 512)),
    "MLP, 10 x 1024, batch 256": (lambda: mlp(10, 1024), lambda: torch.randn(256, 1024)),
    "residual CNN with batch norm, 16 images of 32 x 32": (residual, lambda: torch.randn(16, 3, 32, 32)),
    "transformer, 6 layers of 256, 8 x 64 tokens": (transformer, lambda: torch.randn(8, 64, 256)),
    "BERT base, 2 layers, 4 x 128 tokens": (lambda: Encoder("Bert", 2), lambda: torch.randint(0, 2000, (4, 128))),
    "ViT base, 2 layers, 2 images of 224 x 224": (lambda: Encoder("ViT", 2), lambda: torch.randn(2, 3, 224, 224)),
    "LSTM, 2 x 256, 32 sequences of 32": (Recurrent, lambda: torch.randn(32, 32, 128)),
}


def fastest(run):
    run()
    times = []
    for _ in range(RUNS):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return min(times)


def costs(model, x):
    """Seconds of a forward pass, of one forwards and backwards, of a probe, and of a prediction."""

    def loss(y):
        return y.square().mean()

    def one_pass():
        loss(model(x)).backward()
        model.zero_grad()

    return (
        fastest(lambda: model(x)),
        fastest(one_pass),
        fastest(lambda: gv.probe(model, x, loss=loss)),
        fastest(lambda: gv.predict(model, x, loss=loss)),
    )


def show(name, forward, once, probed, predicted):
    times = "".join(f"{1e3 * seconds:>10.0f}" for seconds in (forward, once, probed, predicted))
    print(f"{name:<52}{times}{probed / once:>10.2f}{predicted / forward:>10.2f}", flush=True)


def main():
    torch.set_num_threads(1)
    head = f"{'forward':>10}{'pass':>10}{'probe':>10}{'predict':>10}{'probe/p':>10}{'predict/f':>10}"
    print(f"{'model':<52}{head}  (ms)")
    for name, (make, inputs) in MODELS.items():
        torch.manual_seed(0)
        measured = costs(make(), inputs())
        assert measured[1] >= 0.010, f"{name} takes only {1e3 * measured[1]:.1f} ms"
        show(name, *measured)
    print(f"\n{'layers of 128, batch 128':<52}{head}")
    rows = []
    for depth in DEPTHS:
        torch.manual_seed(0)
        rows.append(costs(orthogonal(depth, 128), torch.randn(128, 128)))
        show(str(depth), *rows[-1])
    for at, name in ((2, "probe"), (3, "prediction")):
        exponent = math.log(rows[-1][at] / rows[1][at]) / math.log(DEPTHS[-1] / DEPTHS[1])
        print(f"exponent of the {name}'s time from {DEPTHS[1]} to {DEPTHS[-1]} layers: {exponent:.2f}")


if __name__ == "__main__":
    main()
