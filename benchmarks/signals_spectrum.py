"""What the largest singular value of a model's Jacobian costs, how far off it is and what error is stated; and growth.

python benchmarks/signals_spectrum.py

Costs are CPU times on one thread in units of one forward pass of the same batch, without gradients. *sigma* is the
search for the largest singular value of the whole model with all that comes before it (the recorded pass, looking
whether samples are independent, running the first of them alone); *whole* adds the mean square and the variance, and
*stages* the stages of the main path. The truth is a search in float64 on the same samples until nothing moves.
"""

from __future__ import annotations

import copy
import math
import time

import numpy as np
import torch
from signals_cost import mlp, residual, transformer
from torch import nn

from gradvitals import Case
from gradvitals.frameworks.torch.linearisation import linearised
from gradvitals.maths.krylov import lanczos
from gradvitals.maths.spectrum import MOST_STEPS, TOLERANCE, spectrum
from gradvitals.signals.measure_spectrum import measure_spectrum, steps_for

RUNS = 2
FORWARDS = 9
DEPTHS = (10, 30, 100)


def tanh_mlp(depth, width):
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.Tanh())]
    for layer in layers[::2]:
        nn.init.orthogonal_(layer.weight, 1.05)
    return nn.Sequential(*layers)


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.encoder = nn.Embedding(1000, 192), transformer_of(192, 4)
        self.head = nn.Linear(192, 1000)

    def forward(self, ids):
        return self.head(self.encoder(self.words(ids)))


def transformer_of(width, layers):
    layer = nn.TransformerEncoderLayer(width, 6, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


MODELS = {
    "MLP, ReLU, 20 x 512 to 10, batch 128": lambda: (mlp(20, 512), torch.randn(128, 512)),
    "MLP, tanh, 20 x 600, batch 64": lambda: (tanh_mlp(20, 600), torch.randn(64, 600)),
    "MLP, tanh, 20 x 600, batch 8": lambda: (tanh_mlp(20, 600), torch.randn(8, 600)),
    "residual CNN, evaluating, 16 images of 32 x 32": lambda: (residual().eval(), torch.randn(16, 3, 32, 32)),
    "transformer, 6 layers of 256, 8 x 64 tokens": lambda: (transformer().eval(), torch.randn(8, 64, 256)),
    "LSTM, 2 x 128, 16 sequences of 32": lambda: (Last(nn.LSTM(64, 128, 2, batch_first=True)), torch.randn(16, 32, 64)),
    "language model, 4 layers of 192, 16 x 32 ids": lambda: (Language(), torch.randint(1000, (16, 32))),
    "the CNN, training: one Jacobian of the batch": lambda: (residual(), torch.randn(16, 3, 32, 32)),
}


class Last(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)[0]


def fastest(run, runs=RUNS):
    times = []
    for _ in range(runs):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return min(times)


def sigma(case):
    """The largest singular value alone, formed or by steps."""
    with linearised(case) as point:
        jacobian = point.jacobian()
        if min(jacobian.shape[1:]) <= 2 * MOST_STEPS:
            return spectrum(jacobian, dense=2 * MOST_STEPS).sigma_max
        rng = np.random.default_rng(0)
        found = lanczos(jacobian, rng, tolerance=TOLERANCE, most=steps_for(point.spared))
        return math.sqrt(found.largest.max())


def truth(case):
    """In float64, by so many steps that nothing moves."""
    inputs = tuple(x.double() if x.is_floating_point() else x for x in case.args)
    with linearised(Case(copy.deepcopy(case.model).double(), inputs)) as point:
        jacobian = point.jacobian()
        return math.sqrt(lanczos(jacobian, np.random.default_rng(5), tolerance=1e-7, most=100).largest.max())


def row(name, make):
    torch.manual_seed(0)
    model, x = make()
    case = Case(model, (x,))
    with torch.no_grad():
        forward = fastest(lambda: model(x), FORWARDS)
    alone = fastest(lambda: sigma(case))
    found = measure_spectrum(case, whole_only=True).stages[0].spectrum
    whole = fastest(lambda: measure_spectrum(case, whole_only=True), 1)
    stages = fastest(lambda: measure_spectrum(case), 1)
    true = truth(case)
    print(
        f"| {name} | {1e3 * forward:.0f} | {alone / forward:.0f} | {whole / forward:.0f} | {stages / forward:.0f} "
        f"| {abs(found.sigma_max / true - 1):.0e} | {found.sigma_max_error / found.sigma_max:.0e} "
        f"| {found.square_variance:.3g} ± {found.square_variance_error:.2g} |",
        flush=True,
    )
    assert true <= (found.sigma_max + found.sigma_max_error) * (1 + 1e-5), true


def main():
    torch.set_num_threads(1)
    print("| model | forward (ms) | sigma | whole | stages | off by | stated | variance of σ² / mean² |")
    print("|---|---|---|---|---|---|---|---|")
    for name, make in MODELS.items():
        row(name, make)
    print("\n| layers of 128 | whole, with stages (s) |\n|---|---|")
    seconds = []
    for depth in DEPTHS:
        torch.manual_seed(0)
        case = Case(tanh_mlp(depth, 128), (torch.randn(8, 128),))
        seconds.append(fastest(lambda case=case: measure_spectrum(case), 1))
        print(f"| {depth} | {seconds[-1]:.2f} |", flush=True)
    exponent = math.log(seconds[-1] / seconds[0]) / math.log(DEPTHS[-1] / DEPTHS[0])
    print(f"\nexponent from {DEPTHS[0]} to {DEPTHS[-1]} layers: {exponent:.2f}")


if __name__ == "__main__":
    main()
