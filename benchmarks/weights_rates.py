"""Is the learning rate that ``init_`` advises a good one? Beside the best of three usual rates.

Each network is started by ``init_`` and trained as in `weights_training.py`, at the advised rate and at 1e-3, 3e-4 and
1e-4. The best of the three is chosen on the validation set, by the mean over the seeds; what is shown is the accuracy
on the test set. The advised rate passes where it isn't worse by more than both spreads over the seeds together, or by
what so few test examples can't tell.

python benchmarks/weights_rates.py [--networks PATTERN …] [--seeds N]
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import math
import statistics
import warnings

import torch
from weights_networks import networks
from weights_training import RATES, SEEN, STEPS, keep_memory, one_by_one, together

import gradvitals as gv

#: Networks of every kind that trains in seconds.
CHOSEN = ("mlp50-*", "mlp100-relu", "mlp100-tanh", "mlp100-sigmoid", "mlp-*", "cnn12-*", "rows-*", "residual-mlp50")


def started(network, seed):
    data = network.data()
    order = torch.randperm(len(data.train[0]), generator=torch.Generator().manual_seed(1000 + seed))
    torch.manual_seed(seed)
    model = network.build()
    report = gv.init_(model, data.train[0][order[:SEEN]], seed=seed)
    return model, report


def row(name, seeds):
    """Mean and deviation of the test accuracy at the advised rate and at the best of the usual ones."""
    network = networks()[name]
    found = [started(network, seed) for seed in range(seeds)]
    advised = found[0][1].settings["learning_rate"]
    warned = any(finding.code == "W306" for finding in found[0][1].findings)
    rates = tuple(dict.fromkeys((*RATES, advised)))
    copies = [(copy.deepcopy(model), seed, rate) for rate in rates for seed, (model, _) in enumerate(found)]
    train = together if network.stacked else one_by_one
    runs = train(*map(list, zip(*copies, strict=True)), network.data(), STEPS)
    by_rate = {rate: [run for run in runs if run["rate"] == rate] for rate in rates}
    best = max(RATES, key=lambda rate: statistics.fmean(run["valid"] for run in by_rate[rate]))
    tests = {rate: [run["test"] for run in by_rate[rate]] for rate in rates}
    means = {rate: statistics.fmean(test) for rate, test in tests.items()}
    spreads = {rate: statistics.stdev(test) if seeds > 1 else 0.0 for rate, test in tests.items()}
    share = means[best] / 100
    told = 100 * math.sqrt(2 * share * (1 - share) / len(network.data().test[1]) / seeds)
    allowed = max(math.hypot(spreads[best], spreads[advised]), 2 * told)
    reached = means[advised] >= means[best] - allowed
    others = ", ".join(f"{means[rate]:.1f}" for rate in RATES)
    print(
        f"| {name} | {advised:g} | {means[advised]:.1f} ± {spreads[advised]:.1f} | {best:g} | {means[best]:.1f} ± "
        f"{spreads[best]:.1f} | {others} | {'yes' if warned else 'no'} | {'reached' if reached else 'missed'} |",
        flush=True,
    )
    return reached


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(CHOSEN), metavar="PATTERN")
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    keep_memory()
    print("| network | advised | accuracy there | best of three | accuracy there | at 1e-3, 3e-4, 1e-4 | W306 | goal |")
    print("|---|---|---|---|---|---|---|---|")
    names = [name for name in networks() if any(fnmatch.fnmatchcase(name, pattern) for pattern in asked.networks)]
    reached = [row(name, asked.seeds) for name in names]
    print(f"\nAs good as the best of three on {sum(reached)} of {len(reached)} networks.")


if __name__ == "__main__":
    main()
