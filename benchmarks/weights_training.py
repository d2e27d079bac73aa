"""Which start trains deep networks: ``init_`` beside the schemes that are in use, on real digits and a small text task.

A row is one network under one scheme. Each of its seeds draws the weights anew and trains at three learning rates: 200
steps of Adam on batches of 64, gradients clipped to norm 1. The rate is chosen by the mean accuracy on a validation
set; what is shown is the accuracy on a test set that took no part in it, its standard deviation over seeds, and how
much the standard deviations of the layers' outputs, and of the gradients that reach them, differ before the first step
(largest over smallest, hidden layers, on data that the scheme hasn't seen).

Every row has a result file under build/, written after each seed: what is there isn't trained again.

python benchmarks/weights_training.py [--networks PATTERN …] [--schemes NAME …] [--seeds N] [--shard I/N] [--table]
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
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

RESULTS = Path(__file__).resolve().parents[1] / "build" / "weights_training"
STEPS, BATCH, CLIP = 200, 64, 1.0
RATES = (1e-3, 3e-4, 1e-4)
SEEDS = 5
#: What a scheme may look at, and what the layers are measured on.
SEEN = 256
#: Below this a run isn't told from guessing among ten.
CHANCE = 15.0


# ---- data ----


@dataclass(frozen=True)
class Data:
    """Inputs and labels in three parts."""

    train: tuple[torch.Tensor, torch.Tensor]
    valid: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]


def split(x, y, test):
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return Data((x[: -2 * test], y[: -2 * test]), (x[-2 * test : -test], y[-2 * test : -test]), (x[-test:], y[-test:]))


@functools.cache
def digits(*, images):
    from sklearn.datasets import load_digits

    x, y = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    x = x.float()
    x = (x - x.mean()) / x.std()
    return split(x.reshape(-1, 1, 8, 8) if images else x, y, 300)


ANIMALS = ("fox", "owl", "cat", "dog", "hen", "cow", "pig", "ape", "bat", "elk")
ADJECTIVES = ("old", "red", "shy", "big", "sad", "new")
THINGS = ("cake", "book", "coat", "drum", "lamp", "rope")
SENTENCES = (
    "the {a} {giver} gave the {b} {taker} a {thing}",
    "the {b} {taker} was given a {thing} by the {a} {giver}",
    "a {thing} was what the {a} {giver} gave the {b} {taker}",
    "from the {a} {giver} came a {thing} for the {b} {taker}",
)


@functools.cache
def stories():
    """Who gave, or who got? The answer, one of ten animals, needs the order of the words and the question."""
    generator = torch.Generator().manual_seed(0)

    def choose(options):
        return options[int(torch.randint(len(options), (), generator=generator))]

    words, texts, labels = {"<pad>": 0}, [], []
    for _ in range(6000):
        giver = choose(ANIMALS)
        taker = choose([animal for animal in ANIMALS if animal != giver])
        who = choose(("gave", "got"))
        sentence = choose(SENTENCES).format(
            a=choose(ADJECTIVES), b=choose(ADJECTIVES), giver=giver, taker=taker, thing=choose(THINGS)
        )
        texts.append([words.setdefault(word, len(words)) for word in f"who {who} ? {sentence}".split()])
        labels.append(ANIMALS.index(giver if who == "gave" else taker))
    length = max(map(len, texts))
    x = torch.tensor([text + [0] * (length - len(text)) for text in texts])
    return split(x, torch.tensor(labels), 500)


# ---- networks ----

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid}
WIDTH, CHANNELS, BLOCKS = 64, 16, 50


def mlp(depth, activation):
    hidden = [layer for _ in range(depth - 1) for layer in (nn.Linear(WIDTH, WIDTH), ACTIVATIONS[activation]())]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, 10))


def head(kind):
    if kind == "pool":
        return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10)
    return nn.Flatten(), nn.Linear(CHANNELS * 64, 10)


def cnn(depth, activation, kind):
    hidden = []
    for at in range(depth - 1):
        hidden += [nn.Conv2d(CHANNELS if at else 1, CHANNELS, 3, padding=1), ACTIVATIONS[activation]()]
    return nn.Sequential(*hidden, *head(kind))


class Residual(nn.Module):
    """x + W₂φ(W₁φ(x)), with neither normalisation nor a scale of its own."""

    def __init__(self, layer):
        super().__init__()
        self.first, self.second, self.act = layer(), layer(), nn.ReLU()

    def forward(self, x):
        return x + self.second(self.act(self.first(self.act(x))))


def residual_mlp():
    blocks = [Residual(lambda: nn.Linear(WIDTH, WIDTH)) for _ in range(BLOCKS)]
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), *blocks, nn.ReLU(), nn.Linear(WIDTH, 10))


def residual_cnn():
    blocks = [Residual(lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)) for _ in range(BLOCKS)]
    return nn.Sequential(nn.Conv2d(1, CHANNELS, 3, padding=1), *blocks, nn.ReLU(), *head("flatten"))


class Attending(nn.Module):
    """One layer of a transformer: attention and two linear layers, each added to what comes in."""

    def __init__(self, norm):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.up, self.act, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        self.norm = norm
        if norm:
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def attend(self, x):
        return self.attention(x, x, x, need_weights=False)[0]

    def feed(self, x):
        return self.down(self.act(self.up(x)))

    def forward(self, x):
        if self.norm == "pre":
            x = x + self.attend(self.norm1(x))
            return x + self.feed(self.norm2(x))
        if self.norm == "post":
            x = self.norm1(x + self.attend(x))
            return self.norm2(x + self.feed(x))
        x = x + self.attend(x)
        return x + self.feed(x)


class Reader(nn.Module):
    """A transformer of twelve layers that reads a text and names one of ten animals."""

    def __init__(self, norm):
        super().__init__()
        x = stories().train[0]
        self.words = nn.Embedding(int(x.max()) + 1, WIDTH)
        self.places = nn.Embedding(x.shape[1], WIDTH)
        self.layers = nn.Sequential(*[Attending(norm) for _ in range(12)])
        self.last = nn.LayerNorm(WIDTH) if norm == "pre" else nn.Identity()
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, tokens):
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.last(self.layers(x)).mean(1))


@dataclass(frozen=True)
class Network:
    """How it is built, what it is trained on, and the accuracy (%) that ``auto`` is to reach."""

    build: functools.partial
    data: functools.partial
    activation: str
    plain: bool = False
    goal: float | None = None


def networks():
    flat, images = functools.partial(digits, images=False), functools.partial(digits, images=True)
    made = {}
    for depth in (50, 100):
        for activation in ACTIVATIONS:
            made[f"mlp{depth}-{activation}"] = Network(
                functools.partial(mlp, depth, activation), flat, activation, plain=True, goal=92.0
            )
    for kind in ("flatten", "pool"):
        for activation in ("relu", "tanh", "sigmoid"):
            made[f"cnn50-{kind}-{activation}"] = Network(
                functools.partial(cnn, 50, activation, kind), images, activation, plain=True, goal=85.0
            )
    made["residual-mlp50"] = Network(functools.partial(residual_mlp), flat, "relu")
    made["residual-cnn50"] = Network(functools.partial(residual_cnn), images, "relu")
    for norm in ("none", "pre", "post"):
        built = functools.partial(Reader, "" if norm == "none" else norm)
        made[f"transformer12-{norm}"] = Network(built, functools.partial(stories), "gelu")
    return made


# ---- schemes ----


def matrices(model):
    """The weights that mix, as the usual recipes treat them: packed query, key and value one by one."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            yield module.weight
        elif isinstance(module, nn.MultiheadAttention):
            yield from module.in_proj_weight.chunk(3)


def gain_of(activation):
    """The gain that torch's table has; that of ReLU for GELU and SiLU, which it lacks."""
    return nn.init.calculate_gain(activation if activation in {"relu", "tanh", "sigmoid"} else "relu")


def fill(model, draw):
    with torch.no_grad():
        for weight in matrices(model):
            draw(weight)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()


def lsuv(model, x):
    from lsuv import lsuv_with_singlebatch

    lsuv_with_singlebatch(model, x, verbose=False)


def gradvitals(model, x, seed, method):
    import gradvitals as gv

    gv.init_(model, x, method=method, seed=seed)


def start(scheme, model, x, activation, seed):
    if scheme == "default":
        return
    if scheme == "xavier":
        fill(model, nn.init.xavier_uniform_)
    elif scheme == "kaiming":
        fill(model, functools.partial(nn.init.kaiming_normal_, nonlinearity="relu"))
    elif scheme == "orthogonal":
        fill(model, functools.partial(nn.init.orthogonal_, gain=gain_of(activation)))
    elif scheme == "lsuv":
        lsuv(model, x)
    else:
        gradvitals(model, x, seed, scheme)


PEERS = ("default", "xavier", "kaiming", "orthogonal", "lsuv")
SCHEMES = (*PEERS, "auto")


# ---- measurement ----


def spreads(model, x, y):
    """Largest over smallest standard deviation of the hidden layers' outputs, and of the gradients reaching them."""
    outputs = []

    def keep(_module, _inputs, output):
        output = output[0] if isinstance(output, tuple) else output
        output.retain_grad()
        outputs.append(output)

    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.MultiheadAttention))]
    handles = [layer.register_forward_hook(keep) for layer in layers]
    F.cross_entropy(model(x), y).backward()
    for handle in handles:
        handle.remove()
    model.zero_grad(set_to_none=True)
    hidden = outputs[:-1]
    return [ratio([output.detach() for output in hidden]), ratio([output.grad for output in hidden])]


def ratio(tensors):
    sizes = [tensor.double().std().item() for tensor in tensors]
    return max(sizes) / min(sizes) if min(sizes) > 0 and math.isfinite(sum(sizes)) else math.inf


def accuracy(model, part):
    with torch.no_grad():
        return 100 * (model(part[0]).argmax(1) == part[1]).double().mean().item()


def trained(model, data, rate, steps, seed):
    """Accuracy (%) on the validation and the test set, and the loss of the last steps."""
    x, y = data.train
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(x), (BATCH,), generator=generator)
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
    model.eval()
    return {
        "rate": rate,
        "valid": accuracy(model, data.valid),
        "test": accuracy(model, data.test),
        "loss": statistics.fmean(losses[-10:]),
    }


def one_seed(network, scheme, seed, rates, steps):
    began = time.process_time()
    data = network.data()
    order = torch.randperm(len(data.train[0]), generator=torch.Generator().manual_seed(1000 + seed))
    seen, unseen = order[:SEEN], order[SEEN : 2 * SEEN]
    torch.manual_seed(seed)
    model = network.build()
    start(scheme, model, data.train[0][seen], network.activation, seed)
    forward, gradient = spreads(model, data.train[0][unseen], data.train[1][unseen])
    started = {name: value.clone() for name, value in model.state_dict().items()}
    setting = time.process_time() - began
    runs = []
    for rate in rates:
        model.load_state_dict(started)
        model.train()
        runs.append(trained(model, data, rate, steps, seed))
    return {
        "seed": seed,
        "forward_ratio": forward,
        "gradient_ratio": gradient,
        "runs": runs,
        "start_seconds": setting,
        "seconds": time.process_time() - began,
    }


# ---- result files ----


def file_of(name, scheme, steps):
    return RESULTS / ("" if steps == STEPS else f"{steps}-steps") / f"{name}.{scheme}.json"


def read(file):
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"seeds": []}


def measure(name, scheme, asked):
    """Train the seeds of a row that its file lacks."""
    file = file_of(name, scheme, asked.steps)
    file.parent.mkdir(parents=True, exist_ok=True)
    result = {"network": name, "scheme": scheme, "seeds": [] if asked.fresh else read(file)["seeds"]}
    for seed in sorted(set(range(asked.seeds)) - {row["seed"] for row in result["seeds"]}):
        result["seeds"].append(one_seed(networks()[name], scheme, seed, asked.rates, asked.steps))
        part = file.with_suffix(".part")
        part.write_text(json.dumps(result), encoding="utf-8")
        part.replace(file)
        row = result["seeds"][-1]
        told = ", ".join(f"{run['rate']:g}: {run['test']:.1f}" for run in row["runs"])
        ratios = f"[{row['forward_ratio']:.3g}; {row['gradient_ratio']:.3g}]"
        print(f"{name} {scheme} seed {seed}: {told} {ratios} {row['seconds']:.0f} s", flush=True)


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


def table(names, schemes, steps):
    print(f"| network | {' | '.join(schemes)} | rate of the last | seeds | goals |")
    print(f"|---|{'---|' * len(schemes)}---|---|---|")
    for name in names:
        rows = {scheme: row_of(name, scheme, steps) for scheme in schemes}
        ours, peers = rows[schemes[-1]], {scheme: rows[scheme] for scheme in PEERS if rows.get(scheme)}
        if not any(rows.values()):
            continue
        cells = " | ".join(str(row) if row else "–" for row in rows.values())
        judged = verdict(networks()[name], ours, peers) if ours and schemes[-1] not in PEERS else "–"
        rate, seeds = (f"{ours.rate:g}", ours.seeds) if ours else ("–", 0)
        print(f"| {name} | {cells} | {rate} | {seeds} | {judged} |")
    print(f"\nTest accuracy (%) ± standard deviation over seeds [forward; gradient spread]; {CHANCE:.0f} % is chance.")


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    names = [name for name in networks() if any(fnmatch.fnmatchcase(name, pattern) for pattern in asked.networks)]
    if not asked.table:
        part, parts = (int(number) for number in asked.shard.split("/"))
        rows = [(name, scheme) for name in names for scheme in asked.schemes]
        for name, scheme in rows[part - 1 :: parts]:
            measure(name, scheme, asked)
    table(names, asked.schemes, asked.steps)


if __name__ == "__main__":
    main()
