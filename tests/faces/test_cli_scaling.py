"""``gradvitals scaling``: a factory that takes a size, swept."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faces.conftest import Run

SIZED = """
import torch
from torch import nn
import gradvitals as gv

def make(width):
    x, target = torch.randn(16, 4), torch.randn(16, 1)
    model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))
    return model, x, lambda y: (y - target).square().mean()

def both(*, width, depth=1):
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.Tanh())]
    return gv.Case(nn.Sequential(nn.Linear(4, width), *layers, nn.Linear(width, 1)), (torch.ones(8, 4),), name="tower")

def fails(width):
    raise ValueError(f"no such width as {width}")

ready = nn.Linear(4, 4), torch.ones(2, 4)
"""


def test_a_factory_of_the_width_is_swept_on_the_inputs_of_its_smallest_model(run: Run):
    Path("sized.py").write_text(SIZED)
    result = run("scaling", "sized.py:make", "--widths", "64,16,256", "--steps", "1", "--json", "-", "--quiet")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["subject"], report["settings"]["widths"]) == (0, "make", [64, 16, 256])
    assert [finding["name"] for finding in report["findings"]] == ["update-grows"]
    assert report["cost"]["models"] == 9


def test_width_and_depth_are_swept_one_with_the_other_at_its_least(run: Run):
    Path("sized.py").write_text(SIZED)
    asked = ("--widths", "8,32", "--depths", "1,3", "--steps", "0", "--seeds", "1", "--json", "-", "--quiet")
    report = json.loads(run("scaling", "sized.py:both", *asked).stdout)
    assert report["subject"] == "tower"
    (rows,) = (table["rows"] for table in report["tables"] if table["name"] == "scaling")
    assert {row[3] for row in rows} == {"width", "depth"}


def test_what_no_sweep_can_be_made_of_is_refused_with_what_to_write(run: Run):
    Path("sized.py").write_text(SIZED)
    for asked, said in (
        (("make",), "no sizes were given"),
        (("make", "--widths", "64"), "too few widths"),
        (("make", "--depths", "2,4"), "make_model doesn't take the depth"),
        (("make", "--widths", "2,x"), "isn't made of sizes"),
        (("fails", "--widths", "2,4"), "no such width as 2"),
        (("ready", "--widths", "2,4"), "one size only"),
        (("none", "--widths", "2,4"), "has no function 'none'"),
    ):
        result = run("scaling", f"sized.py:{asked[0]}", *asked[1:])
        assert (result.exit_code, said in result.stderr) == (2, True), (asked, result.stderr)
