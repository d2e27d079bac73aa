"""Whatever ``torch.set_default_device`` says, tensors of ours are where we put them: examined as without it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradvitals as gv

SOURCE = Path(gv.__file__).parent
#: What makes a tensor where the default device is.
FACTORIES = {
    *("arange", "as_tensor", "empty", "empty_strided", "eye", "full", "linspace", "ones", "rand", "randint", "randn"),
    *("randperm", "tensor", "zeros"),
}


def _made_anywhere() -> Iterator[str]:
    for path in sorted(SOURCE.rglob("*.py")):
        if "starters" in path.parts:  # the user's own code
            continue
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and isinstance(call.func.value, ast.Name)
                and (call.func.value.id, call.func.attr) in {("torch", name) for name in FACTORIES}
                and not any(keyword.arg in ("device", None) for keyword in call.keywords)
            ):
                yield f"{path.relative_to(SOURCE)}:{call.lineno}: {ast.unparse(call)}"


def test_every_tensor_that_we_make_names_its_device() -> None:
    assert list(_made_anywhere()) == []


def _loss(y: torch.Tensor) -> torch.Tensor:
    return y.square().mean()


VERBS: dict[str, Callable[..., Any]] = {
    "check": gv.check,
    "probe": gv.probe,
    "spectrum": lambda model, x, **options: gv.probe(model, x, spectrum=True, **options),
    "predict": lambda model, x, **options: gv.predict(model, x, against="probe", **options),
    "plan_init": gv.plan_init,
    "init_": gv.init_,
    "compare_init": lambda model, x, **options: gv.compare_init(model, x, steps=2, seeds=1, rates=[1e-3], **options),
    "checkup": gv.checkup,
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("with_loss", [True, False])
def test_a_default_device_changes_no_answer(verb: str, with_loss: bool) -> None:
    options = {"loss": _loss} if with_loss or verb == "compare_init" else {}
    if verb in {"plan_init", "init_"}:
        options = {}

    def asked() -> Any:
        torch.manual_seed(0)
        layers = [layer for _ in range(3) for layer in (nn.Linear(8, 8, device="cpu"), nn.Tanh())]
        with torch.random.fork_rng():
            return VERBS[verb](nn.Sequential(*layers), torch.ones(4, 8, device="cpu").cumsum(0), **options)

    expected = asked()
    with torch.device("meta"):
        report = asked()
    assert report.verdict == expected.verdict
    assert [table.rows for table in report.tables] == [table.rows for table in expected.tables]
