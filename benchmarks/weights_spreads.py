"""How even are the signals of networks that `init_` was not made with, beside those that they had?

For every network of spreads_networks.py: the largest standard deviation of the outputs of its layers over the
smallest, of the gradients that reach them likewise, as PyTorch starts it and after ``init_`` (on data that it hasn't
seen); the last layer is left out. With --train, what 150 steps of Adam on batches of 64 come to as well: the accuracy
on a test set (%), or the error of the image that comes out, at the better of two rates on a validation set.

python benchmarks/weights_spreads.py [--networks PATTERN …] [--seeds N] [--train] [--layers]
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import math
import statistics
import warnings

import torch
import torch.nn.functional as F  # noqa: N812
from spreads_networks import cases
from torch import nn
from torch.overrides import TorchFunctionMode

import gradvitals as gv

SEEN, STEPS, BATCH = 256, 150, 64
RATES = (1e-3, 3e-4)

#: Calls that mix numbers by weights; products count where one side is a parameter.
LAYERS = (
    *(F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
    *(F.multi_head_attention_forward,),
)
PRODUCTS = (torch.matmul, torch.bmm, torch.einsum, torch.Tensor.matmul, torch.Tensor.__matmul__)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)


class Outputs(TorchFunctionMode):
    """Keeps what every layer gives, with its gradient."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def keep(self, output):
        while isinstance(output, (tuple, list)):
            output = output[0]
        output.retain_grad()
        self.kept.append(output)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func in LAYERS or (func in PRODUCTS and any(isinstance(arg, nn.Parameter) for arg in args)):
            self.keep(output)
        return output


def ratio(sizes):
    return max(sizes) / min(sizes) if min(sizes) > 0 and math.isfinite(sum(sizes)) else math.inf


def loss_of(case, model, x, y):
    return F.mse_loss(model(x), x) if case.copies else F.cross_entropy(model(x), y)


def measured(case, model, x, y):
    """Standard deviations of the hidden layers' outputs and of the gradients that reach them."""
    mode = Outputs()
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output: mode.keep(output))
        for module in model.modules()
        if isinstance(module, RECURRENT)
    ]
    with mode:
        loss = loss_of(case, model, x, y)
    loss.backward()
    for handle in handles:
        handle.remove()
    model.zero_grad(set_to_none=True)
    hidden = mode.kept[:-1]
    forward = [output.detach().double().std().item() for output in hidden]
    return forward, [output.grad.double().std().item() for output in hidden if output.grad is not None]


def started(case, scheme, seed):
    data = case.data()
    order = torch.randperm(len(data.train[0]), generator=torch.Generator().manual_seed(1000 + seed))
    torch.manual_seed(seed)
    model = case.build()
    if scheme != "default":
        gv.init_(model, data.train[0][order[:SEEN]], method=scheme, seed=seed)
    return model, order[SEEN : 2 * SEEN]


def trained(case, model, seed, rate):
    data = case.data()
    x, y = data.train
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(STEPS):
        chosen = torch.randint(len(x), (BATCH,), generator=generator)
        loss = loss_of(case, model, x[chosen], y[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        if case.copies:
            return tuple(-loss_of(case, model, *part).item() for part in (data.valid, data.test))
        parts = (data.valid, data.test)
        return tuple(100 * (model(x).argmax(-1) == y).double().mean().item() for x, y in parts)


def best(case, scheme, seeds):
    """What comes of training, over seeds, at the better rate."""
    runs = {
        rate: [trained(case, started(case, scheme, seed)[0], seed, rate) for seed in range(seeds)] for rate in RATES
    }
    at = max(runs, key=lambda rate: statistics.fmean(valid for valid, _ in runs[rate]))
    tests = [test for _, test in runs[at]]
    return statistics.fmean(tests), statistics.stdev(tests) if seeds > 1 else 0.0


def brief(value):
    if math.isinf(value):
        return "∞"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}" if value < 1e4 else f"{value:.0e}"


def row(name, case, asked):
    cells = []
    for scheme in asked.schemes:
        found = []
        for seed in range(asked.seeds):
            model, unseen = started(case, scheme, seed)
            torch.manual_seed(seed)
            data = case.data()
            found.append(measured(case, model, data.train[0][unseen], data.train[1][unseen]))
            if asked.layers and not seed:
                for at, sizes in enumerate(itertools.zip_longest(*found[0])):
                    print(
                        f"  {scheme} {at}: {' '.join('–' if size is None else format(size, '.3g') for size in sizes)}"
                    )
        forward, gradient = (statistics.median(ratio(sizes[side]) for sizes in found) for side in (0, 1))
        cells.append(f"{brief(forward)}; {brief(gradient)}")
        if asked.train:
            mean, spread = best(case, scheme, asked.seeds)
            digits = 4 if case.copies else 1
            cells[-1] += f"; {mean:.{digits}f} ± {spread:.{digits}f}"
    print(f"| {name} | {'plain' if case.plain else 'structured'} | {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["*"], metavar="PATTERN")
    parser.add_argument("--schemes", nargs="+", default=["default", "auto"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", action="store_true", help="train them as well")
    parser.add_argument("--layers", action="store_true", help="show every layer of the first seed")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"| network | kind | {' | '.join(asked.schemes)} |\n|---|---|{'---|' * len(asked.schemes)}")
    for name, case in cases().items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in asked.networks):
            row(name, case, asked)


if __name__ == "__main__":
    main()
