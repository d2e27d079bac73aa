"""What ``init_`` costs: passes through the model, seconds beside those of one pass, and planning a large model.

Passes are counted from outside: calls of the model's forward method, and runs of autograd's engine. Drawing the weights
is timed apart (``fill``), by starting the model without inputs. *In passes* is what is left of ``init_``, in units
of one forward and backward pass.

python benchmarks/weights_cost.py
"""

from __future__ import annotations

import contextlib
import statistics
import time
import warnings

import torch
from torch import nn

import gradvitals as gv

REPEATS = 3
#: What ``auto`` may take besides drawing the weights, and the seconds for the plan of 10⁹ parameters.
PASSES, PLAN_SECONDS = 10, 10.0


def mlp(depth, width=256):
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.GELU())]
    return nn.Sequential(*layers, nn.Linear(width, 10)), torch.randn(256, width)


def cnn(depth, channels=32):
    layers, last = [], 3
    for _ in range(depth):
        layers += [nn.Conv2d(last, channels, 3, padding=1), nn.ReLU()]
        last = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 10)), torch.randn(
        32, 3, 16, 16
    )


def transformer(depth, width=128):
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False), torch.randn(8, 32, width)


MODELS = {
    "MLP, 50 layers": lambda: mlp(50),
    "CNN, 20 layers": lambda: cnn(20),
    "transformer, 6 layers": lambda: transformer(6),
}


@contextlib.contextmanager
def counted(model):
    """Calls of the model and of autograd's engine."""
    counts = {"forwards": 0, "backwards": 0}
    forward, engine = model.forward, torch.autograd.graph._engine_run_backward  # noqa: SLF001

    def called(*args, **kwargs):
        counts["forwards"] += 1
        return forward(*args, **kwargs)

    def ran(*args, **kwargs):
        counts["backwards"] += 1
        return engine(*args, **kwargs)

    model.forward = called
    places = [module for module in (torch.autograd, torch.autograd.graph) if hasattr(module, "_engine_run_backward")]
    for place in places:
        place._engine_run_backward = ran  # noqa: SLF001
    try:
        yield counts
    finally:
        del model.forward
        for place in places:
            place._engine_run_backward = engine  # noqa: SLF001


def seconds(work):
    work()
    taken = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def one_pass(model, x):
    model.zero_grad(set_to_none=True)
    model(x).square().mean().backward()
    model.zero_grad(set_to_none=True)


def row(name):
    model, x = MODELS[name]()
    with counted(model) as counts:
        gv.init_(model, x)
    passes = seconds(lambda: one_pass(model, x))
    fill = seconds(lambda: gv.init_(model))
    whole = seconds(lambda: gv.init_(model, x))
    total = counts["forwards"], counts["backwards"]
    inside = (whole - fill) / passes
    print(
        f"| {name} | {total[0]} | {total[1]} | {1000 * passes:.0f} | {1000 * fill:.0f} | {1000 * whole:.0f} "
        f"| {inside:.1f} | {'reached' if max(total) <= PASSES else 'missed'} |"
    )


def large():
    """A decoder of 1.2·10⁹ parameters on the meta device."""
    with torch.device("meta"):
        model, _ = transformer(24, 2048)
    x = torch.empty(1, 64, 2048, device="meta")
    count = sum(parameter.numel() for parameter in model.parameters())
    for what, inputs in (("without inputs", ()), ("with inputs", (x,))):
        began = time.process_time()
        rows = len(gv.plan_init(model, *inputs).table("plan"))
        taken = time.process_time() - began
        judged = "reached" if taken < PLAN_SECONDS else "missed"
        print(f"Plan of {count / 1e9:.2f}·10⁹ parameters on meta, {what}: {rows} rows, {taken:.2f} s ({judged}: 10 s).")


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| model | forward passes | backward passes | one pass (ms) | fill (ms) | init_ (ms) | in passes | goal |")
    print("|---|---|---|---|---|---|---|---|")
    for name in MODELS:
        row(name)
    print(f"\nGoal: at most {PASSES} passes.")
    large()


if __name__ == "__main__":
    main()
