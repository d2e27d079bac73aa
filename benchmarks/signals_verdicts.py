"""Verdicts on networks whose signal is known: false alarms on healthy ones, illnesses found, layers named rightly.

python benchmarks/signals_verdicts.py            # --seeds 5

The networks are those of tests/oracles/verdicts.py: healthy ones with the traps among them (branches or heads that
start at zero, LayerScale, adapters, frozen parts, inputs that are all alike), and sick ones with a known layer; and
those of tests/oracles/structures.py, written down after the rules were made.
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


def serious(make, seed):
    torch.manual_seed(seed)
    model, inputs, loss = make()
    findings = probe(model, *inputs, loss=loss, seed=seed).findings
    return [finding for finding in findings if finding.severity >= Severity.WARNING]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    alarms = found = right = 0
    print("healthy")
    healthy = {**HEALTHY, **STRUCTURES}
    for name, make in healthy.items():
        raised = [finding for seed in seeds for finding in serious(make, seed)]
        alarms += bool(raised)
        print(f"  {name:<60}{', '.join(sorted({finding.code for finding in raised})) or 'nothing'}")
    print("sick")
    for name, (make, codes, paths) in SICK.items():
        runs = [[finding for finding in serious(make, seed) if finding.code in codes] for seed in seeds]
        found += sum(map(bool, runs)) / len(runs)
        named = [bool({finding.site.path for finding in run} & paths) for run in runs]
        right += sum(named) / len(runs)
        sites = sorted({f"{finding.code} at {finding.site.path}" for run in runs for finding in run})
        print(f"  {name:<60}{', '.join(sites) or 'MISSED'}{'' if all(named) else '  WRONG LAYER'}")
    print(f"networks with a false alarm at warning or above: {alarms} of {len(healthy)}")
    print(f"illnesses found: {found / len(SICK):.1%}, with the layer at fault: {right / len(SICK):.1%} of {len(SICK)}")


if __name__ == "__main__":
    main()
