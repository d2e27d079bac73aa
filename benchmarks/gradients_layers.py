"""Does ``gradvitals.check`` refuse a correct layer, and does it catch the wrong ones? With torch's gradcheck beside it.

Every layer of ``tests/oracles/layer_zoo.py`` × NumPy and torch × float64 and float32 × seeds, correct and with each
mistake in the gradient of each tensor that counts (changes that gradient by at least half the mistake's nominal size).

    python benchmarks/gradients_layers.py                      # the table of the documentation
    python benchmarks/gradients_layers.py --layers lstm_cell --seeds 2 --failures
    python benchmarks/gradients_layers.py --resolution         # is the stated resolution true?
    python benchmarks/gradients_layers.py --networks           # sound networks with kinks, chance, vanishing gradients

One result file per row under ``--results``; a run that was stopped goes on where it was, ``--fresh`` starts again.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import statistics
import sys
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
import torch  # noqa: E402 - the oracles of the tests must be importable first

import gradvitals as gv  # noqa: E402
from oracles import layer_check, layer_zoo, mutations, sound_networks, torch_layers  # noqa: E402

#: What people are told to use where there is no float64 (PyTorch forum and issue threads on float32 gradcheck).
RECOMMENDED_FLOAT32 = {"eps": 1e-3, "atol": 1e-2, "rtol": 1e-2}

#: Multiples of the stated resolution at which ``--resolution`` tries to be caught.
MULTIPLES = (1.0, 1.5, 3.3, 10.0)

KINDS = ("sign", "double", "percent", "zero-largest", "zero-median", "transposed", "missing-1/N")


def by_gradvitals(layer, tensor, mutation, seed, *, framework, dtype):
    """Verdict, whether the tensor alone is named, whether the cause is right, and what the check cost."""
    calls = Counter()
    counted = count_calls(layer, framework, calls)
    begin = time.process_time()
    report = layer_check.check(counted, framework, dtype, tensor, mutation, seed=seed)
    seconds = time.process_time() - begin
    outcome = {
        "verdict": report.verdict.value,
        "seconds": seconds,
        "evaluations": calls["forward"],
        "codes": sorted({finding.code for finding in report.findings}),
    }
    if mutation is not None:
        found = layer_check.wrong_findings(report)
        outcome["named"] = layer_check.tensors_called_wrong(report) == {tensor}
        outcome["likely"] = found[0].evidence.get("likely") if len(found) == 1 else None
    return outcome


def by_gradcheck(layer, tensor, mutation, _seed, *, dtype, settings):
    """The same from torch.autograd.gradcheck, which knows pass and fail."""
    calls = Counter()
    function = count_calls(layer, "torch", calls).torch_function
    if mutation is not None:
        function = torch_layers.spoil_function(function, list(layer.inputs).index(tensor), mutation.spoil)
    inputs = [value.requires_grad_() for value in layer.tensors(dtype)]
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gradcheck warns about float32; that it is used here is the point
        passed = torch.autograd.gradcheck(function, inputs, raise_exception=False, **settings)
    seconds = time.process_time() - begin
    return {"verdict": "pass" if passed else "fail", "seconds": seconds, "evaluations": calls["forward"]}


def count_calls(layer, framework, calls):
    """The layer with its forward counted."""
    name = "torch_function" if framework == "torch" else "numpy_forward"
    function = getattr(layer, name)

    @functools.wraps(function)
    def counted(*inputs):
        calls["forward"] += 1
        return function(*inputs)

    return dataclasses.replace(layer, **{name: counted})


def judges(framework, dtype):
    """Who is asked, by name."""
    found = {"gradvitals": functools.partial(by_gradvitals, framework=framework, dtype=dtype)}
    if framework == "torch":
        found["gradcheck"] = functools.partial(by_gradcheck, dtype=dtype, settings={})
        if dtype == "float32":
            found["gradcheck 1e-3/1e-2"] = functools.partial(by_gradcheck, dtype=dtype, settings=RECOMMENDED_FLOAT32)
    return found


def row(name, framework, dtype, size, seeds):
    """All outcomes of one layer: a list of records."""
    records = []
    for seed in range(seeds):
        layer = layer_zoo.draw(name, seed, size)
        cases = [(None, None), *((t, m) for t in layer.inputs for m in layer.mutations(t).values())]
        for (tensor, mutation), (judge, ask) in itertools.product(cases, judges(framework, dtype).items()):
            case = {"judge": judge, "layer": name, "framework": framework, "dtype": dtype, "size": size, "seed": seed}
            case |= {"tensor": tensor, "kind": mutation.kind if mutation else "correct"}
            records.append(case | ask(layer, tensor, mutation, seed))
    return records


def resolution_row(name, framework, dtype, size, seeds):
    """Errors that are a multiple of the resolution that a pass states, of three shapes: are they caught?"""
    records = []
    for seed in range(seeds):
        layer = layer_zoo.draw(name, seed, size)
        table = layer_check.check(layer, framework, dtype, seed=seed).table("tensors")
        for stated, multiple in itertools.product(table.records(), MULTIPLES):
            tensor, shape = stated["path"], layer.inputs[stated["path"]].shape
            whole, single = multiple * stated["resolution"], multiple * stated["entry_resolution"]
            case = {"layer": name, "framework": framework, "dtype": dtype, "size": size, "seed": seed}
            case |= {"tensor": tensor, "multiple": multiple}
            index = np.unravel_index((7 * seed + 3) % layer.inputs[tensor].size, shape)
            for mutation in (
                mutations.scaled("scaled", 1 + whole),
                mutations.shuffled("shuffled", whole, shape, seed),
                mutations.entry_added("entry", index, single),
            ):
                report = layer_check.check(layer, framework, dtype, tensor, mutation, seed=seed)
                told = single if mutation.kind == "entry" else whole
                case |= {"resolution": told / multiple, "kind": mutation.kind, "verdict": report.verdict.value}
                records.append(dict(case))
    return records


def network_row(name, dtype, seeds):
    """Verdicts of one sound network."""
    records = []
    for seed in range(seeds):
        model, x, loss = sound_networks.draw(name, dtype, seed)
        begin = time.process_time()
        report = gv.check(model, x, loss=loss, seed=seed)
        record = {"network": name, "dtype": dtype, "seed": seed, "verdict": report.verdict.value}
        record |= {"seconds": time.process_time() - begin, "evaluations": report.cost["forwards"]}
        doubtful = [row["path"] for row in report.table("tensors").records() if row["status"] != "right"]
        records.append(record | {"doubtful": doubtful})
    return records


def share(values):
    """A percentage, or a dash where there is nothing to count."""
    values = list(values)
    return f"{100 * sum(values) / len(values):.1f}" if values else "–"


def mutant_table(records):
    """One line per judge, framework, dtype and size."""
    groups = defaultdict(list)
    for record in records:
        groups[record["framework"], record["dtype"], record["size"], record["judge"]].append(record)
    head = ["framework", "dtype", "size", "judge", "correct", "refused", "unresolved", "mutants"]
    head += [*KINDS, "named %", "cause %", "evaluations", "CPU ms"]
    lines = [head]
    for key, group in sorted(groups.items()):
        right = [r for r in group if r["kind"] == "correct"]
        wrong = [r for r in group if r["kind"] != "correct"]
        refused = sum(r["verdict"] == "fail" for r in right)
        unresolved = sum(r["verdict"] == "inconclusive" for r in right)
        line = [*key, len(right), refused, unresolved, len(wrong)]
        line += [share(r["verdict"] == "fail" for r in wrong if r["kind"] == kind) for kind in KINDS]
        line.append(share(r["named"] for r in wrong if "named" in r))
        line.append(share(cause_is_right(r) for r in wrong if "likely" in r and layer_check.cause_of(r["kind"])))
        line.append(f"{statistics.median(r['evaluations'] for r in right):.0f}")
        line.append(f"{1000 * statistics.median(r['seconds'] for r in right):.1f}")
        lines.append(line)
    return lines


def cause_is_right(record):
    return record["likely"] == layer_check.cause_of(record["kind"])


def resolution_table(records):
    """How often an error of so many times the stated resolution is caught."""
    groups = defaultdict(list)
    for record in records:
        groups[record["framework"], record["dtype"], record["size"], record["kind"]].append(record)
    lines = [["framework", "dtype", "size", "error", "median resolution", *(f"×{m:g} caught %" for m in MULTIPLES)]]
    for key, group in sorted(groups.items()):
        median = statistics.median(r["resolution"] for r in group)
        caught = [share(r["verdict"] == "fail" for r in group if r["multiple"] == m) for m in MULTIPLES]
        lines.append([*key, f"{median:.1e}", *caught])
    return lines


def network_table(records):
    """One line per network and dtype."""
    groups = defaultdict(list)
    for record in records:
        groups[record["network"], record["dtype"]].append(record)
    lines = [["network", "dtype", "seeds", "refused", "unresolved", "evaluations", "CPU ms"]]
    for key, group in sorted(groups.items()):
        verdicts = Counter(record["verdict"] for record in group)
        line = [*key, len(group), verdicts["fail"], verdicts["inconclusive"]]
        line.append(f"{statistics.median(r['evaluations'] for r in group):.0f}")
        line.append(f"{1000 * statistics.median(r['seconds'] for r in group):.0f}")
        lines.append(line)
    return lines


def is_failure(record):
    """Whether the record breaks what the table is to show: refused or unresolved, missed, misnamed, misexplained."""
    if record.get("judge", "gradvitals") != "gradvitals":
        return False
    if "network" in record:
        return record["verdict"] != "pass"
    if "multiple" in record:
        return record["multiple"] >= 3 and record["verdict"] != "fail"
    if record["kind"] == "correct":
        return record["verdict"] != "pass"
    explained = not layer_check.cause_of(record["kind"]) or cause_is_right(record)
    return record["verdict"] != "fail" or not record["named"] or not explained


def show(lines):
    """As a Markdown table."""
    texts = [[str(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for at, line in enumerate(texts):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
        if at == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", default=layer_zoo.LAYERS, choices=layer_zoo.LAYERS)
    parser.add_argument("--frameworks", nargs="+", default=["numpy", "object", "torch"])
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32"])
    parser.add_argument("--sizes", nargs="+", default=["small"], choices=["small", "medium"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--resolution", action="store_true", help="try the stated resolution instead of the mutants")
    parser.add_argument("--networks", action="store_true", help="examine sound networks instead of layers")
    parser.add_argument("--failures", action="store_true", help="list every case that should have ended otherwise")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "benchmarks" / "gradients_layers")
    return parser.parse_args()


def main():
    asked = arguments()
    torch.set_num_threads(1)  # CPU seconds are compared
    if asked.networks:
        measure, table, grid = network_row, network_table, itertools.product(sound_networks.NETWORKS, asked.dtypes)
    else:
        measure, table = (resolution_row, resolution_table) if asked.resolution else (row, mutant_table)
        grid = itertools.product(asked.layers, asked.frameworks, asked.dtypes, asked.sizes)
    asked.results.mkdir(parents=True, exist_ok=True)
    records = []
    for case in grid:
        what = "-".join((measure.__name__, gv.__version__, *case, str(asked.seeds))).replace(" ", "_")
        file = asked.results / f"{what}.json"
        if asked.fresh or not file.exists():
            print(what, file=sys.stderr)
            file.write_text(json.dumps(measure(*case, asked.seeds)))
        records += json.loads(file.read_text())
    show(table(records))
    if asked.failures:
        for record in filter(is_failure, records):
            print(json.dumps(record))


if __name__ == "__main__":
    main()
