"""The command line, run in this process and in one of its own, in an empty folder with case files to name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gradvitals.faces.cli import main

Run = Callable[..., Result]
Shell = Callable[..., subprocess.CompletedProcess[str]]

#: Cases in NumPy, one for each verdict: so quick to examine that a test may do it often.
CASES = """
import numpy as np
import gradvitals as gv

x = np.array([1.0, 2.0, 3.0])

def right():
    return gv.Case(lambda x: (x**2).sum(), (x,), grad=lambda x: 2 * x)

def wrong():
    return gv.Case(lambda x: (x**2).sum(), (x,), grad=lambda x: x)

def unresolved():
    noise = np.random.default_rng(0)
    return gv.Case(lambda x: (x**2).sum() + noise.normal(), (x,), grad=lambda x: 2 * x)

def chatty():
    print("loading")
    def f(x):
        print("running")
        return (x**2).sum()
    return gv.Case(f, (x,), grad=lambda x: 2 * x)
"""

#: The same for torch.
NETS = """
import torch
from torch import nn

def chain(activation, depth):
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(16, 16), activation())]
    return nn.Sequential(*layers, nn.Linear(16, 3))

def batch():
    return torch.randn(32, 16, generator=torch.Generator().manual_seed(1))

def sound():
    model = chain(nn.Tanh, 2)
    return model, batch(), lambda output: output.square().mean()

def vanishing():
    return chain(nn.Sigmoid, 12), batch()

def off():
    model = chain(nn.Tanh, 5)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(0.3)
    return model, batch()

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, y):
        return torch.tanh(self.a(x)) * self.b(y)

def two():
    torch.manual_seed(0)
    return Two(), (torch.randn(6, 4), torch.randn(6, 4)), lambda output: output.square().mean()

class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x)[:, 7]

def broken():
    return Broken(), torch.ones(2, 4)

class Stopping(Broken):
    def forward(self, x):
        raise SystemExit(0)

def stopping():
    return Stopping(), torch.ones(2, 4)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder with the two files of cases; what loading them imports is forgotten afterwards."""
    (tmp_path / "cases.py").write_text(CASES, encoding="utf-8")
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def run() -> Run:
    """The command line in this process; an exception that isn't an exit code fails the test."""

    def run(*arguments: str) -> Result:
        return CliRunner(catch_exceptions=False).invoke(main, list(arguments))

    return run


@pytest.fixture
def shell() -> Shell:
    """The installed command in a process of its own; packages may be hidden from it."""

    def shell(*arguments: str, hidden: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(command()), *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=120,
            check=False,
            env={**environment(hidden), **variables},
        )

    return shell


def command() -> Path:
    """The console script beside the interpreter that runs the tests."""
    return Path(sys.executable).with_name("gradvitals")


def environment(hidden: tuple[str, ...] = ()) -> dict[str, str]:
    """The variables of a process from which packages are hidden, as if they weren't installed."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    if hidden:
        hiding = Path("hiding")
        hiding.mkdir(exist_ok=True)
        (hiding / "sitecustomize.py").write_text(textwrap.dedent(_HIDE.format(hidden=hidden)), encoding="utf-8")
        known = os.environ.get("PYTHONPATH")
        variables["PYTHONPATH"] = str(hiding.resolve()) + (f"{os.pathsep}{known}" if known else "")
    return variables


_HIDE = """
    import sys

    class Hidden:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {hidden!r}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

    sys.meta_path.insert(0, Hidden())
"""


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Let what the test starts hear Ctrl-C: a shell makes what it runs in the background deaf to it, children too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
