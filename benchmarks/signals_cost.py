"""What a probe costs beside one forward and backward pass of the same model, and how that grows with depth.

python benchmarks/signals_cost.py

Times are CPU times, the least of a few runs, on one thread. The first table is of models whose pass takes 10 ms or
more, the second of one narrow MLP of growing depth (its exponent is that of the time against the number of layers, 1
is linear): where a layer takes a third of a millisecond, looking at it takes longer than running it.
"""

from __future__ import annotations

import math
import time

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import gradvitals as gv

RUNS = 5
DEPTHS = (10, 30, 100, 300, 1000)


def mlp(depth, width):
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
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


MODELS = {
    "MLP, 20 x 512, batch 128": (lambda: mlp(20, 512), (128, 512)),
    "residual CNN with batch norm, 16 images of 32 x 32": (residual, (16, 3, 32, 32)),
    "transformer, 6 layers of 256, 8 x 64 tokens": (transformer, (8, 64, 256)),
    "LSTM, 2 x 256, 32 sequences of 32": (Recurrent, (32, 32, 128)),
}


def fastest(run):
    run()
    times = []
    for _ in range(RUNS):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return min(times)


def both(model, x):
    """Seconds of one pass, and of a probe."""

    def one_pass():
        model(x).square().mean().backward()
        model.zero_grad()

    return fastest(one_pass), fastest(lambda: gv.probe(model, x, loss=lambda y: y.square().mean()))


def main():
    torch.set_num_threads(1)
    print(f"{'model':<52}{'one pass':>10}{'probe':>10}{'ratio':>8}")
    worst = 0.0
    for name, (make, shape) in MODELS.items():
        torch.manual_seed(0)
        once, probed = both(make(), torch.randn(shape))
        assert once >= 0.010, f"{name} takes only {1e3 * once:.1f} ms"
        worst = max(worst, probed / once)
        print(f"{name:<52}{1e3 * once:>7.0f} ms{1e3 * probed:>7.0f} ms{probed / once:>8.2f}")
    print(f"largest ratio {worst:.2f}\n")
    print(f"{'layers of 128, batch 128':<52}{'one pass':>10}{'probe':>10}{'ratio':>8}")
    seconds = []
    for depth in DEPTHS:
        torch.manual_seed(0)
        once, probed = both(mlp(depth, 128), torch.randn(128, 128))
        seconds.append(probed)
        print(f"{depth:<52}{1e3 * once:>7.0f} ms{1e3 * probed:>7.0f} ms{probed / once:>8.2f}")
    exponent = math.log(seconds[-1] / seconds[1]) / math.log(DEPTHS[-1] / DEPTHS[1])
    print(f"exponent of the probe's time from {DEPTHS[1]} to {DEPTHS[-1]} layers: {exponent:.2f}")


if __name__ == "__main__":
    main()
