"""Rates over seeds: sound kernels are never called wrong beside their reference, wrong ones always."""

from __future__ import annotations

import collections

import pytest
import torch

import gradvitals as gv
from gradvitals import Verdict
from oracles.kernels import SOUND, attention, causal_attention, flash, inputs

SEEDS = range(30)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = [(2, 48, 8)] * 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SOUND)
def test_a_sound_kernel_in_another_order_passes(name, dtype):
    kernel, reference, shapes = SOUND[name]
    report = gv.check(kernel, *inputs(shapes, dtype, 100), reference=reference, seed=100)
    assert report.verdict is Verdict.PASS, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SOUND)
def test_sound_kernels_pass_over_seeds(name, dtype):
    kernel, reference, shapes = SOUND[name]
    verdicts = collections.Counter(
        gv.check(kernel, *inputs(shapes, dtype, seed), reference=reference, seed=seed).verdict for seed in SEEDS
    )
    assert verdicts == {Verdict.PASS: len(SEEDS)}


#: By the precision in which they can be seen: a single entry that is 5 % off is within what bfloat16 allows.
CAUGHT = {
    torch.float32: {
        "factor 1.01", "factor 1.05", "scale missing", "tile skipped", "tile skipped backwards", "mask off by one",
        "dk transposed", "accumulated in bfloat16", "one row", "one entry", "nan in one row",
    },
    torch.bfloat16: {
        "factor 1.05", "scale missing", "tile skipped", "tile skipped backwards", "mask off by one", "dk transposed",
        "one row", "nan in one row",
    },
}  # fmt: skip
CASES = [(dtype, mistake) for dtype, mistakes in CAUGHT.items() for mistake in sorted(mistakes)]


def wrong_kernel(mistake):
    causal = mistake == "mask off by one"
    return flash(mistake, causal=causal), causal_attention if causal else attention


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "mistake"), CASES)
def test_wrong_kernels_fail_over_seeds(dtype, mistake):
    kernel, reference = wrong_kernel(mistake)
    for seed in SEEDS:
        report = gv.check(kernel, *inputs(SHAPES, dtype, seed), reference=reference, seed=seed)
        assert report.verdict is Verdict.FAIL, f"seed {seed}: {report}"
