"""Tensors of another device never meet those of the CPU: shown on one that is made of the CPU's memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).resolve().parents[1] / "oracles" / "second_device_checks.py"
NOTED = {
    "wrong": ["fail", ["G101"]],
    "wrong layer": ["fail", ["G101"]],
    "wrong beside reference": ["fail", ["G101"]],
    "kinks": ["pass", ["G106"]],
    "surrogate": ["pass", ["G108"]],
    "probe of attention": ["pass", ["S208"]],
    "spectrum": ["pass", ["S208"]],
}


@pytest.mark.slow
def test_checks_on_another_device_give_what_they_give_on_the_cpu():
    done = subprocess.run([sys.executable, str(CHECKS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    given = json.loads(done.stdout.splitlines()[-1])
    assert len(given) >= 20
    assert {name: found[:2] for name, found in given.items()} == {n: NOTED.get(n, ["pass", []]) for n in given}
    # With dropout too, whose random numbers are drawn in another way there than by vmap.
    assert {name for name, (*_, how) in given.items() if how == "batched"} >= {"network", "exhaustive", "float16"}


@pytest.mark.slow
def test_the_second_device_refuses_what_a_gpu_refuses():
    code = f"""
import sys; sys.path.insert(0, {str(CHECKS.parent)!r})
import torch
from second_device import second_device
with second_device():
    there, here = torch.ones(2, device="second"), torch.ones(2)
    mixed = (lambda: there + here, lambda: here[there.long()], lambda: torch.cat([here, there]))
    for what in (*mixed, lambda: there.numpy()):
        try:
            what()
        except (RuntimeError, TypeError):
            print("refused")
    print((there + torch.tensor(2.0)).cpu(), (there * 3).device)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["refused"] * 4 + ["tensor([3., 3.]) second:0"]
