"""How long a gradient check takes, with ``torch.autograd.gradcheck`` in turns in the same process.

    python benchmarks/gradients_speed.py                       # every table
    python benchmarks/gradients_speed.py --only every-entry    # or: one-direction, default-check, transformer, size
    python benchmarks/gradients_speed.py --rounds 1 --largest 1000000

Seconds are CPU time, medians over the rounds (``OMP_NUM_THREADS=1`` is the setting of the published tables). Each
function is called once before, so that what is imported or compiled at a first call is in nobody's figure; a first
``gradcheck`` by coordinates takes too long for that.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings

import numpy as np
import torch
from torch import nn

import gradvitals as gv
from gradvitals.frameworks import Case, opened

#: Relative steps of the comparison of one direction: those of gradcheck.
STEP = 1e-6


class Block(nn.Module):
    """A transformer block, written out: torch's own takes a fused path of its own in places."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.gelu, self.down = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x):
        samples, tokens, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(samples, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(width // self.heads), dim=-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(samples, tokens, width))
        return x + self.down(self.gelu(self.up(self.norm2(x))))


def mlp(width=64, hidden=3, rows=16):
    layers = [part for _ in range(hidden) for part in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(width, 10)), torch.randn(rows, width)


def convolutions():
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, 2, padding=1), nn.Conv2d(32, 32, 3, 2, padding=1)]
    hidden = [part for layer in layers for part in (layer, nn.Tanh())]
    return nn.Sequential(*hidden, nn.Flatten(), nn.Linear(512, 10)), torch.randn(4, 3, 16, 16)


def block():
    return Block(), torch.randn(2, 16, 32)


MODELS = {"MLP": mlp, "convolutional net": convolutions, "transformer block": block}


def made(build):
    """A model, its input, a loss, and the same as a function of the parameters, as gradcheck wants it."""
    torch.manual_seed(0)
    model, x = build()
    target = torch.randn_like(model(x))
    names = [name for name, _ in model.named_parameters()]

    def loss(y):
        return (y - target).square().mean()

    def function(*values):
        return loss(torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,)))

    values = tuple(parameter.detach().clone().requires_grad_() for parameter in model.parameters())
    return model, x, loss, names, function, values


def seconds(function):
    began = time.process_time()
    function()
    return time.process_time() - began


def in_turns(ours, theirs, rounds):
    """Median seconds of both, A B A B."""
    taken = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return tuple(statistics.median(column) for column in zip(*taken, strict=True))


def must_pass(report):
    if report.verdict.value != "pass":
        message = f"a sound model got {report.verdict.value}:\n{report}"
        raise RuntimeError(message)
    return report


def every_entry(rounds):
    print("| every entry, float64 | parameters | check(exhaustive=True) | gradcheck, slow | ratio |")
    print("|---|---|---|---|---|")
    for name, build in MODELS.items():
        model, x, loss, names, function, values = made(build)

        def ours(model=model, x=x, loss=loss, names=names):
            must_pass(gv.check(model, x, loss=loss, wrt=names, exhaustive=True))

        def theirs(function=function, values=values):
            torch.autograd.gradcheck(function, values)

        ours()
        own, peer = in_turns(ours, theirs, rounds)
        print(
            f"| {name} | {sum(v.numel() for v in values)} | {own:.2f} s | {peer:.2f} s | {peer / own:.1f} |", flush=True
        )


def one_direction(rounds):
    print("| one random direction at one step | both points and the gradient | gradcheck, fast | ratio |")
    print("|---|---|---|---|")
    for name, build in MODELS.items():
        model, x, loss, names, function, values = made(build)
        rng = np.random.default_rng(0)
        with opened(Case(model, (x,), loss=loss), names) as problem:
            base = [problem.point(at) for at in range(len(names))]

            def ours(problem=problem, base=base, rng=rng):
                directions = [np.where(rng.random(part.size) < 0.5, -1.0, 1.0) for part in base]
                ahead, behind = (
                    {at: part + sign * STEP * u for at, (part, u) in enumerate(zip(base, directions, strict=True))}
                    for sign in (1, -1)
                )
                values = problem.values([ahead, behind])
                gradient = problem.gradient(np.ones(1))
                claimed = sum(float(g.value @ u) for g, u in zip(gradient, directions, strict=True))
                measured = float(values[0, 0] - values[1, 0]) / (2 * STEP)
                if abs(measured - claimed) > 1e-5 * abs(claimed) + 1e-7:
                    message = f"{measured} against {claimed}"
                    raise RuntimeError(message)

            def theirs(function=function, values=values):
                torch.autograd.gradcheck(function, values, fast_mode=True)

            ours(), theirs()
            own, peer = in_turns(ours, theirs, max(rounds, 15))
        print(f"| {name} | {1e3 * own:.2f} ms | {1e3 * peer:.2f} ms | {peer / own:.1f} |", flush=True)


def default_check(rounds):
    print("| the default check | points | check | gradcheck, fast | ratio |")
    print("|---|---|---|---|---|")
    for name, build in MODELS.items():
        model, x, loss, names, function, values = made(build)
        reports = []

        def ours(model=model, x=x, loss=loss, names=names, reports=reports):
            reports.append(must_pass(gv.check(model, x, loss=loss, wrt=names)))

        def theirs(function=function, values=values):
            torch.autograd.gradcheck(function, values, fast_mode=True)

        ours(), theirs()
        own, peer = in_turns(ours, theirs, max(rounds, 9))
        points = reports[-1].cost["forwards"] + reports[-1].cost["backwards"]
        print(f"| {name} | {points} | {1e3 * own:.1f} ms | {1e3 * peer:.1f} ms | {peer / own:.2f} |", flush=True)


def encoder():
    """Eight layers of twelve tensors, a norm and a head: 100 tensors."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
    stack = nn.TransformerEncoder(layer, 8, norm=nn.LayerNorm(32), enable_nested_tensor=False)
    return nn.Sequential(stack, nn.Linear(32, 10)), torch.randn(2, 8, 32)


def transformer(_rounds):
    print("| a transformer of 100 tensors, dropout on | points | CPU time | resolution (worst tensor) |")
    print("|---|---|---|---|")
    for dtype in (torch.float64, torch.float32):
        torch.manual_seed(0)
        model, x = encoder()
        model, x = model.to(dtype), x.to(dtype)
        names = [name for name, _ in model.named_parameters()]
        gv.check(model, x, wrt=names)
        began = time.process_time()
        report = gv.check(model, x, wrt=names)
        took = time.process_time() - began
        (table,) = [table for table in report.tables if table.name == "tensors"]
        worst = max(row[table.columns.index("resolution")] for row in table.rows)
        points = report.cost["forwards"] + report.cost["backwards"]
        kind = str(dtype).removeprefix("torch.")
        print(f"| {kind}, {len(table.rows)} tensors: {report.verdict.value} | {points} | {took:.2f} s | {worst:.1e} |")


def size(rounds, largest):
    """MLPs of ever more parameters, on few rows, so that it is the parameters that cost."""
    print("| parameters | points | check | points' own time | gradcheck, fast |")
    print("|---|---|---|---|---|")
    counts, costs = [], []
    for wanted in (10**3, 10**4, 10**5, 10**6, 10**7):
        if wanted > largest:
            break
        width = max(8, round(math.sqrt(wanted / 3)))
        model, x, loss, names, function, values = made(lambda width=width: mlp(width, 3, 4))
        reports = []

        def ours(model=model, x=x, loss=loss, names=names, reports=reports):
            reports.append(must_pass(gv.check(model, x, loss=loss, wrt=names)))

        def theirs(function=function, values=values):
            torch.autograd.gradcheck(function, values, fast_mode=True)

        ours(), theirs()
        own, peer = in_turns(ours, theirs, rounds)
        with torch.no_grad():
            plain = statistics.median(seconds(lambda model=model, x=x: model(x)) for _ in range(15))
        points = reports[-1].cost["forwards"] + reports[-1].cost["backwards"]
        counts.append(sum(v.numel() for v in values))
        costs.append(own)
        print(f"| {counts[-1]} | {points} | {own:.3f} s | {points * plain:.3f} s | {peer:.3f} s |", flush=True)
    if len(counts) > 1:
        exponent = np.polyfit(np.log(counts), np.log(costs), 1)[0]
        last = math.log(costs[-1] / costs[-2]) / math.log(counts[-1] / counts[-2])
        print(f"\nCPU time grows as parameters^{exponent:.2f} (from the last but one to the last: ^{last:.2f}).")


def main():
    tables = {
        "every-entry": every_entry,
        "one-direction": one_direction,
        "default-check": default_check,
        "transformer": transformer,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*tables, "size"], help="one table")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--largest", type=int, default=10**7, help="parameters of the largest MLP")
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")  # of gradcheck, about inputs that need no double precision
    for name, table in tables.items():
        if options.only in {None, name}:
            table(options.rounds)
            print()
    if options.only in {None, "size"}:
        size(options.rounds, options.largest)


if __name__ == "__main__":
    main()
