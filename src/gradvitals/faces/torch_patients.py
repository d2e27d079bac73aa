"""The demo's PyTorch patients, on scikit-learn's handwritten digits: vanishing, exploding, a wrong autograd.Function,
and a sound network.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from gradvitals._checkup import checkup
from gradvitals.faces.demo import Examination, Progress
from gradvitals.frameworks import Case
from gradvitals.gradients import check
from gradvitals.signals.verb import probe
from gradvitals.vocabulary.finding import Fact
from gradvitals.vocabulary.report import Table
from gradvitals.weights.verb import init_

DEPTH, WIDTH, CLASSES = 20, 64, 10
#: The same for every network, before and after treatment: Adam with this learning rate, batch and number of steps. The
#: rate falls to a hundredth, so that the accuracy at the end doesn't depend on the last few batches.
LEARNING_RATE, BATCH, STEPS = 1e-3, 64, 300
_LAST_RATE = 0.01
#: The test accuracy is measured every so many steps.
_LOOK_EVERY = 10
_TRAINED_ON, _EXAMINED_ON = 1400, 256
#: How many times too large the weights of the exploding network are, whose ReLUs want a gain of √2 (He et al., 2015).
_TOO_LARGE = 5.0
#: What init_ gives a tanh. The sound network has no kinks: near one, a float32 slope is at times hard to resolve.
_SOUND_DEPTH, _SOUND_GAIN = 8, 1.2


@dataclass(frozen=True)
class Digits:
    """Handwritten digits, 8 × 8 pixels, scaled to mean 0 and standard deviation 1: float32 (N, 64) and int64 (N,)."""

    x: torch.Tensor
    y: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor

    @classmethod
    def load(cls, seed: int) -> Digits:
        """Read the data that scikit-learn ships, in a random order."""
        from sklearn.datasets import load_digits

        pixels, classes = load_digits(return_X_y=True)
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed), device="cpu")
        x, y = (
            torch.tensor(pixels, dtype=torch.float32, device="cpu")[order],
            torch.tensor(classes, device="cpu")[order],
        )
        x = (x - x[:_TRAINED_ON].mean()) / x[:_TRAINED_ON].std()
        return cls(x[:_TRAINED_ON], y[:_TRAINED_ON], x[_TRAINED_ON:], y[_TRAINED_ON:])

    def case(self, model: nn.Module, name: str) -> Case:
        """The model with some of the data and the usual loss."""
        target = self.y[:_EXAMINED_ON]
        return Case(
            model, (self.x[:_EXAMINED_ON],), loss=lambda output: nn.functional.cross_entropy(output, target), name=name
        )


def network(activation: type[nn.Module], seed: int, *, depth: int = DEPTH, gain: float | None = None) -> nn.Module:
    """A plain network with PyTorch's own weights, or normal ones of standard deviation gain/√fan_in."""
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    widths = [WIDTH] * depth + [CLASSES]  # of the inputs and of each layer: `depth` layers in all
    layers: dict[str, nn.Module] = {}
    for number, (fan_in, fan_out) in enumerate(itertools.pairwise(widths), start=1):
        linear = nn.Linear(fan_in, fan_out)
        if gain is not None:
            nn.init.normal_(linear.weight, std=gain / math.sqrt(fan_in))
            nn.init.zeros_(linear.bias)
        layers[f"layer{number}"] = linear
        if number < depth:
            layers[f"{activation.__name__.lower()}{number}"] = activation()
    torch.set_rng_state(generator_state)
    return nn.Sequential(collections.OrderedDict(layers))


class ForgetfulSquare(torch.autograd.Function):
    """x² whose backward forgets the 2."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, dout: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = ctx.saved_tensors[0]
        return dout * x


class Square(ForgetfulSquare):
    """x² with the right backward."""

    @staticmethod
    def backward(ctx: Any, dout: torch.Tensor) -> torch.Tensor:
        return 2 * ForgetfulSquare.backward(ctx, dout)


def examinations(seed: int, progress: Progress | None) -> Iterator[Examination]:
    """Vanishing, exploding, the wrong function, and the sound network."""
    with _one_thread():
        data = Digits.load(seed)
        training = _Training(data, seed, progress, expected=4 * (STEPS + 1))
        yield _treated("vanishing", ("gradient-vanishing", "inputs-collapsed"), network(nn.Sigmoid, seed), training)
        exploding = network(nn.ReLU, seed, gain=_TOO_LARGE * math.sqrt(2))
        yield _treated("exploding", ("signal-exploding", "gradient-exploding"), exploding, training)
        x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed), device="cpu")
        wrong = check(ForgetfulSquare.apply, x, seed=seed, name="ForgetfulSquare")
        right = check(Square.apply, x, seed=seed, name="Square")
        yield Examination("wrong-function", ("gradient-wrong",), wrong, right, wrong)
        sound = network(nn.Tanh, seed, depth=_SOUND_DEPTH, gain=_SOUND_GAIN)
        healthy = checkup(data.case(sound, "sound network"), seed=seed)
        yield Examination("sound", (), healthy, None, healthy)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """So small matrices gain nothing from a second thread, and lose a lot where another program wants the core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _treated(key: str, expected: tuple[str, ...], model: nn.Module, training: _Training) -> Examination:
    """Examine, train; start the same network anew with init_, examine and train again."""
    case = training.data.case(model, f"{key} network")
    seed = training.seed
    ill = probe(case, seed=seed)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    curve_before = training.run(model)
    model.load_state_dict(weights)
    treatment = init_(case, seed=seed)
    healthy = probe(case, seed=seed)
    curve_after = training.run(model)
    tables = (
        *(table for table in ill.tables if table.name == "gains"),
        replace(ill.table("layers"), name="before"),
        replace(healthy.table("layers"), name="after"),
        _training_table(curve_before, curve_after),
        *(table for table in treatment.tables if table.name == "plan"),
    )
    shown = replace(ill, tables=tables, settings={**ill.settings, "steps": STEPS, "learning_rate": LEARNING_RATE})
    return Examination(key, expected, ill, healthy, shown, curve_before[-1][2], curve_after[-1][2])


#: Steps, loss, and test accuracy in percent.
_Curve = list[tuple[int, float, float]]


class _Training:
    """Trains networks on the digits, all in the same way."""

    def __init__(self, data: Digits, seed: int, progress: Progress | None, expected: int) -> None:
        self.data = data
        self.seed = seed
        self._progress = progress
        self._expected = expected
        self._done = 0

    def run(self, model: nn.Module) -> _Curve:
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, _LAST_RATE, STEPS)
        generator = torch.Generator().manual_seed(self.seed)
        curve: _Curve = []
        for step in range(STEPS + 1):
            chosen = torch.randint(len(self.data.x), (BATCH,), generator=generator, device="cpu")
            loss = nn.functional.cross_entropy(model(self.data.x[chosen]), self.data.y[chosen])
            if step % _LOOK_EVERY == 0:
                curve.append((step, float(loss.detach()), self._accuracy(model)))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._expected)
        return curve

    @torch.no_grad()
    def _accuracy(self, model: nn.Module) -> float:
        right = model(self.data.x_test).argmax(1) == self.data.y_test
        return round(100 * float(right.float().mean()), 1)


def _training_table(before: _Curve, after: _Curve) -> Table:
    columns = ("step", "loss_before", "loss_after", "accuracy_before", "accuracy_after")
    rows: list[tuple[Fact, ...]] = [
        (step, loss, loss_after, accuracy, accuracy_after)
        for (step, loss, accuracy), (_, loss_after, accuracy_after) in zip(before, after, strict=True)
    ]
    return Table("training", columns, ("", "", "", "%", "%"), tuple(rows))
