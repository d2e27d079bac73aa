"""Which start trains deep networks: ``init_`` beside the schemes that are in use, on real digits and a small text task.

A row is one network under one scheme. Each of its seeds draws the weights anew and trains at three learning rates: 200
steps of Adam on batches of 64, gradients clipped to norm 1. The rate is chosen by the mean accuracy on a validation
set; what is shown is the accuracy on a test set that took no part in it, its standard deviation over seeds, and how
much the standard deviations of the layers' outputs, and of the gradients that reach them, differ before the first step
(largest over smallest, hidden layers, on data that the scheme hasn't seen).

Every row has a result file in benchmarks/results/weights_training, which is kept with the code and written after each
seed: what is there isn't trained again, but with --fresh. Where values are asked instead of labels, what is shown is
the share (%) of their variance that is explained.

python benchmarks/weights_training.py [--further] [--networks PATTERN …] [--schemes NAME …] [--seeds N] [--shard I/N]
    [--table]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import ctypes
import fnmatch
import json
import math
import statistics
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from weights_further import further
from weights_networks import MIXING, PEERS, SCHEMES, networks, start, transposed

RESULTS = Path(__file__).resolve().parent / "results" / "weights_training"
STEPS, BATCH, CLIP = 200, 64, 1.0
RATES = (1e-3, 3e-4, 1e-4)
SEEDS = 5
#: What a scheme may look at, and what the layers are measured on.
SEEN = 256
#: Below this a run isn't told from guessing among ten.
CHANCE = 15.0


# ---- measurement ----

_LAYERS = (*MIXING, nn.MultiheadAttention, nn.RNNBase)


def spreads(model, x, y, loss):
    """Largest over smallest standard deviation of the hidden layers' outputs, and of the gradients reaching them."""
    outputs = []

    def keep(_module, _inputs, output):
        output = output[0] if isinstance(output, tuple) else output
        output.retain_grad()
        outputs.append(output)

    layers = [m for m in model.modules() if isinstance(m, _LAYERS) or transposed(m)]
    handles = [layer.register_forward_hook(keep) for layer in layers]
    loss(model(x), y).backward()
    for handle in handles:
        handle.remove()
    model.zero_grad(set_to_none=True)
    hidden = outputs[:-1]
    return [ratio([output.detach() for output in hidden]), ratio([output.grad for output in hidden])]


def ratio(tensors):
    sizes = [tensor.double().std().item() for tensor in tensors]
    if len(sizes) < 2:
        return 1.0
    return max(sizes) / min(sizes) if min(sizes) > 0 and math.isfinite(sum(sizes)) else math.inf


def tokens_loss(logits, labels):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def correct(logits, labels):
    return 100 * (logits.argmax(-1) == labels).double().flatten().mean()


def explained(outputs, values):
    """Share (%) of the variance that isn't left over."""
    left = (outputs - values).double().square().mean() / (values - values.mean(0)).double().square().mean()
    return 100 * (1 - left)


#: What a task minimises, and what is shown of it.
TASKS = {
    "classes": (F.cross_entropy, correct),
    "tokens": (tokens_loss, correct),
    "values": (F.mse_loss, explained),
}


def batches(data, seed):
    """Which examples come together, step by step."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randint(len(data.train[0]), (BATCH,), generator=generator)


def one_by_one(models, seeds, rates, data, steps, task="classes"):
    """Train every model; accuracies (%) on the validation and the test set, and the loss of the last steps."""
    return [trained(*given, data, steps, task) for given in zip(models, seeds, rates, strict=True)]


def trained(model, seed, rate, data, steps, task):
    x, y = data.train
    loss_of, score = TASKS[task]
    torch.manual_seed(seed)  # for dropout
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    losses = []
    for _, chosen in zip(range(steps), batches(data, seed), strict=False):
        loss = loss_of(model(x[chosen]), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        valid, test = (score(model(part[0]), part[1]).item() for part in (data.valid, data.test))
    return {"rate": rate, "valid": valid, "test": test, "loss": statistics.fmean(losses[-10:])}


def together(models, seeds, rates, data, steps, task="classes"):
    """The same, of models that differ in their weights only, as one: every product is a batch of products."""
    x, y = data.train
    loss_of, score = TASKS[task]
    stacked = {name: value.detach() for name, value in stack_module_state(models)[0].items()}

    def logits(weights, x):
        return functional_call(models[0], weights, (x,))

    slope = vmap(grad_and_value(lambda weights, x, y: loss_of(logits(weights, x), y)))
    groups = {rate: slice(rates.index(rate), rates.index(rate) + rates.count(rate)) for rate in rates}
    parts = {rate: [value[group] for value in stacked.values()] for rate, group in groups.items()}
    optimizer = torch.optim.Adam([{"params": part, "lr": rate} for rate, part in parts.items()], fused=True)
    losses = []
    for _, chosen in zip(range(steps), zip(*(batches(data, seed) for seed in seeds), strict=True), strict=False):
        at = torch.stack(chosen)
        slopes, loss = slope(stacked, x[at], y[at])
        norms = sum(slope.flatten(1).square().sum(1) for slope in slopes.values()).sqrt()
        clip = (CLIP / (norms + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_ has it
        for name, each in slopes.items():
            each.mul_(clip.view(-1, *[1] * (each.ndim - 1)))
            for rate, part in zip(groups, optimizer.param_groups, strict=True):
                part["params"][list(slopes).index(name)].grad = each[groups[rate]]
        optimizer.step()
        losses.append(loss)
    last = torch.stack(losses[-10:]).double().mean(0).tolist()
    with torch.no_grad():
        valid, test = (
            [score(outputs, part[1]).item() for outputs in vmap(logits, (0, None))(stacked, part[0])]
            for part in (data.valid, data.test)
        )
    return [
        {"rate": rate, "valid": v, "test": t, "loss": end}
        for rate, v, t, end in zip(rates, valid, test, last, strict=True)
    ]


def started(network, scheme, seed):
    """A model with its start, and what is known of it before it is trained."""
    data = network.data()
    order = torch.randperm(len(data.train[0]), generator=torch.Generator().manual_seed(1000 + seed))
    count = min(SEEN, len(order) // 2)
    seen, unseen = order[:count], order[count : 2 * count]
    torch.manual_seed(seed)
    model = network.build()
    start(scheme, model, data.train[0][seen], network.activation, seed)
    forward, gradient = spreads(model, *(part[unseen] for part in data.train), TASKS[network.task][0])
    return model, {"seed": seed, "forward_ratio": forward, "gradient_ratio": gradient}


def rows(network, scheme, seeds, rates, steps):
    """What some seeds of a row give, at every learning rate."""
    began = time.process_time()
    found = [started(network, scheme, seed) for seed in seeds]
    copies = [(copy.deepcopy(model), row["seed"], rate) for rate in rates for model, row in found]
    train = together if network.stacked else one_by_one
    runs = train(*map(list, zip(*copies, strict=True)), network.data(), steps, network.task)
    seconds = (time.process_time() - began) / len(seeds)
    return [row | {"runs": runs[at :: len(seeds)], "seconds": seconds} for at, (_, row) in enumerate(found)]


def keep_memory():
    """Let glibc keep what is freed: a third of the time is spent on getting the same pages again at every step."""
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        for option, value in ((mmap_threshold, 1 << 30), (trim_threshold, (1 << 31) - 1), (top_pad, 1 << 28)):
            ctypes.CDLL(None).mallopt(option, value)


# ---- result files ----


def file_of(name, scheme, steps):
    return RESULTS / ("" if steps == STEPS else f"{steps}-steps") / f"{name}.{scheme}.json"


def read(file):
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"seeds": []}


def measure(name, network, scheme, asked):
    """Train the seeds of a row that its file lacks."""
    file = file_of(name, scheme, asked.steps)
    file.parent.mkdir(parents=True, exist_ok=True)
    result = {"network": name, "scheme": scheme, "seeds": [] if asked.fresh else read(file)["seeds"]}
    missing = sorted(set(range(asked.seeds)) - {row["seed"] for row in result["seeds"]})
    for seeds in [missing] if network.stacked and missing else [[seed] for seed in missing]:
        result["seeds"] += rows(network, scheme, seeds, asked.rates, asked.steps)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(result), encoding="utf-8")
        part.replace(file)
        for row in result["seeds"][-len(seeds) :]:
            told = ", ".join(f"{run['rate']:g}: {run['test']:.1f}" for run in row["runs"])
            ratios = f"[{row['forward_ratio']:.3g}; {row['gradient_ratio']:.3g}]"
            print(f"{name} {scheme} seed {row['seed']}: {told} {ratios} {row['seconds']:.0f} s", flush=True)


# ---- the table ----


@dataclass(frozen=True)
class Row:
    """What the seeds of one network under one scheme say."""

    mean: float
    spread: float
    rate: float
    forward: float
    gradient: float
    seeds: int

    def __str__(self):
        return f"{self.mean:.1f} ± {self.spread:.1f} [{brief(self.forward)}; {brief(self.gradient)}]"


def brief(value):
    if math.isinf(value):
        return "∞"
    return f"{value:.2f}" if value < 10 else f"{value:.0f}" if value < 1e4 else f"{value:.0e}"


def row_of(name, scheme, steps):
    seeds = read(file_of(name, scheme, steps))["seeds"]
    if not seeds:
        return None
    rates = [run["rate"] for run in seeds[0]["runs"]]
    at = max(range(len(rates)), key=lambda at: statistics.fmean(row["runs"][at]["valid"] for row in seeds))
    tests = [row["runs"][at]["test"] for row in seeds]
    return Row(
        statistics.fmean(tests),
        statistics.stdev(tests) if len(tests) > 1 else 0.0,
        rates[at],
        statistics.median(row["forward_ratio"] for row in seeds),
        statistics.median(row["gradient_ratio"] for row in seeds),
        len(seeds),
    )


def verdict(network, ours, peers):
    """What of the goals is missed."""
    missed = []
    best = max(peers.values(), key=lambda row: row.mean, default=None)
    if best and ours.mean < best.mean - math.hypot(ours.spread, best.spread):
        missed.append(f"{next(name for name, row in peers.items() if row is best)} wins")
    if network.goal and ours.mean < network.goal:
        missed.append(f"below {network.goal:.0f} %")
    if network.plain and ours.forward > 1.05:
        missed.append("forward > 1.05")
    if network.plain and ours.gradient > 2.5:
        missed.append("gradient > 2.5")
    return ", ".join(missed) or "reached"


def table(chosen, schemes, steps):
    print(f"| network | {' | '.join(schemes)} | rate of the last | seeds | goals |")
    print(f"|---|{'---|' * len(schemes)}---|---|---|")
    for name, network in chosen.items():
        rows = {scheme: row_of(name, scheme, steps) for scheme in schemes}
        ours, peers = rows[schemes[-1]], {scheme: rows[scheme] for scheme in PEERS if rows.get(scheme)}
        if not any(rows.values()):
            continue
        cells = " | ".join(str(row) if row else "–" for row in rows.values())
        judged = verdict(network, ours, peers) if ours and schemes[-1] not in PEERS else "–"
        rate, seeds = (f"{ours.rate:g}", ours.seeds) if ours else ("–", 0)
        print(f"| {name} | {cells} | {rate} | {seeds} | {judged} |")
    print(f"\nTest accuracy (%) ± standard deviation over seeds [forward; gradient spread]; {CHANCE:.0f} % is chance.")


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--further", action="store_true", help="the networks of weights_further.py")
    parser.add_argument("--networks", nargs="+", default=["*"], metavar="PATTERN", help="such as 'mlp50-*'")
    parser.add_argument(
        "--schemes", nargs="+", default=list(SCHEMES), help="peers, or methods of init_; the last is judged"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS, help="others than the default are kept apart")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="train the I-th of N parts of the rows")
    parser.add_argument("--fresh", action="store_true", help="train again what is there already")
    parser.add_argument("--table", action="store_true", help="only show what is there")
    return parser.parse_args()


def main():
    asked = parsed()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    keep_memory()
    chosen = {
        name: network
        for name, network in (further() if asked.further else networks()).items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in asked.networks)
    }
    if not asked.table:
        part, parts = (int(number) for number in asked.shard.split("/"))
        asked_for = [(name, scheme) for name in chosen for scheme in asked.schemes]
        for name, scheme in asked_for[part - 1 :: parts]:
            measure(name, chosen[name], scheme, asked)
    table(chosen, asked.schemes, asked.steps)


if __name__ == "__main__":
    main()
