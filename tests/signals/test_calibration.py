"""False alarms and detections over seeds: what the README may claim."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from gradvitals.signals import probe
from gradvitals.vocabulary import Severity
from oracles.networks import CLASSES, ILL, SOUND

SEEDS = 30


def examine(make, batch, seed):
    """With a loss in half of the cases, with a random cotangent in the others."""
    torch.manual_seed(seed)
    model, x = make(), batch()
    target = torch.randint(0, CLASSES, (len(x),))
    return probe(model, x, loss=(lambda y: F.cross_entropy(y.flatten(1), target)) if seed % 2 else None, seed=seed)


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_found_in_a_sound_network(name):
    found = [finding for seed in range(SEEDS) for finding in examine(*SOUND[name], seed).findings]
    assert [finding for finding in found if finding.severity >= Severity.WARNING] == []


@pytest.mark.parametrize("name", ILL)
def test_every_ill_network_gets_its_findings_and_no_others(name):
    make, batch, expected = ILL[name]
    for seed in range(SEEDS):
        report = examine(make, batch, seed)
        assert {finding.code for finding in report.findings} == expected, f"seed {seed}"
        assert report.verdict.value == "fail"
