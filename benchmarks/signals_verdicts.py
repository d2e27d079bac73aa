"""Verdicts on networks whose signal is known: false alarms on healthy ones, illnesses found, layers named rightly.

python benchmarks/signals_verdicts.py            # --seeds 5, --only unseen|further|blind|canonical|everyday|workshop

The networks are those of tests/oracles/verdicts.py: healthy ones with the traps among them (branches or heads that
start at zero, LayerScale, adapters, frozen parts, inputs that are all alike), and sick ones with a known layer; and
those of tests/oracles/structures.py, and of verdicts_unseen.py, verdicts_further.py, verdicts_blind.py,
verdicts_canonical.py, verdicts_everyday.py and verdicts_workshop.py beside it, the last six written down after the
rules were made (each alone: ``--only``).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

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

#: The lists that were written down after the rules, in that order.
LATER = {
    "unseen": (HEALTHY_UNSEEN, SICK_UNSEEN),
    "further": (HEALTHY_FURTHER, SICK_FURTHER),
    "blind": (HEALTHY_BLIND, SICK_BLIND),
    "canonical": (HEALTHY_CANONICAL, SICK_CANONICAL),
    "everyday": (HEALTHY_EVERYDAY, SICK_EVERYDAY),
    "workshop": (HEALTHY_WORKSHOP, SICK_WORKSHOP),
}


def serious(make, seed):
    torch.manual_seed(seed)
    model, inputs, loss = make()
    findings = probe(model, *inputs, loss=loss, seed=seed).findings
    return [finding for finding in findings if finding.severity >= Severity.WARNING]


def chosen(only):
    if only is not None:
        return LATER[only]
    healthy, sick = {**HEALTHY, **STRUCTURES}, dict(SICK)
    for more_healthy, more_sick in LATER.values():
        healthy |= more_healthy
        sick |= more_sick
    return healthy, sick


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=LATER, help="one of the lists written down after the rules, and no other")
    given = parser.parse_args()
    seeds = range(given.seeds)
    alarms = found = right = 0
    print("healthy")
    healthy, sick = chosen(given.only)
    for name, make in healthy.items():
        raised = [finding for seed in seeds for finding in serious(make, seed)]
        alarms += bool(raised)
        print(f"  {name:<60}{', '.join(sorted({finding.code for finding in raised})) or 'nothing'}")
    print("sick")
    for name, (make, codes, paths) in sick.items():
        runs = [[finding for finding in serious(make, seed) if finding.code in codes] for seed in seeds]
        found += sum(map(bool, runs)) / len(runs)
        named = [bool({finding.site.path for finding in run} & paths) for run in runs]
        right += sum(named) / len(runs)
        sites = sorted({f"{finding.code} at {finding.site.path}" for run in runs for finding in run})
        print(f"  {name:<60}{', '.join(sites) or 'MISSED'}{'' if all(named) else '  WRONG LAYER'}")
    print(f"networks with a false alarm at warning or above: {alarms} of {len(healthy)}")
    print(f"illnesses found: {found / len(sick):.1%}, with the layer at fault: {right / len(sick):.1%} of {len(sick)}")


if __name__ == "__main__":
    main()
