"""Does ``gradvitals.check`` refuse a correct operator of PyTorch? Does it catch wrong ones? With gradcheck beside it.

Every differentiable operator of PyTorch's own database (``tests/oracles/operators.py``), two samples each, correct and
with each mistake of ``tests/oracles/operator_mutants.py`` that counts. A mutant is tried where the judge passes the
correct operator; unresolved is missed. The operators are split by the hash of their name: one half is for tuning, the
other is only reported.

    python benchmarks/gradients_operators.py                          # measure what is missing; print the tables
    python benchmarks/gradients_operators.py --half tuning --dtypes float32 --judges gradvitals --failures
    python benchmarks/gradients_operators.py --ops 'linalg.*' --fresh
    python benchmarks/gradients_operators.py --correct --failures     # no mutants: what is refused, in two minutes
    python benchmarks/gradients_operators.py --shadow                 # evaluations in float64: a judge of its own
    python benchmarks/gradients_operators.py --table                  # print only, from the results that are there

One result file per judge, dtype and operator under ``--results``; a run that was stopped goes on where it was. A result
remembers the state of the source it was made with: those of another state are counted, ``--renew`` makes them again.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import fnmatch
import functools
import hashlib
import inspect
import json
import math
import signal
import statistics
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import operator_tables  # noqa: E402
import torch  # noqa: E402 - the oracles of the tests must be importable first

import gradvitals as gv  # noqa: E402
from oracles import operator_mutants, operators  # noqa: E402

#: What people are told to use where there is no float64 (PyTorch forum and issue threads on gradcheck).
RECOMMENDED = {
    "float32": {"eps": 1e-3, "atol": 1e-2, "rtol": 1e-2},
    "bfloat16": {"eps": 2.0**-4, "atol": 0.1, "rtol": 0.1},
    "float16": {"eps": 2.0**-6, "atol": 0.05, "rtol": 0.05},
}

#: How F is evaluated, where ``check`` leaves the choice.
PRECISIONS = {"gradvitals": "native", "gradvitals float64": "float64", "gradvitals auto": "auto"}
GRADCHECKS = ("gradcheck slow", "gradcheck fast", "gradcheck slow, recommended", "gradcheck fast, recommended")


class OutOfTime(BaseException):
    """A check took longer than it may; nobody's ``except Exception`` swallows it."""


@contextlib.contextmanager
def at_most(seconds):
    """Stop what runs inside after so many CPU seconds. While this watches, the process's own clock ticks coarsely on
    Linux: time with that of the thread.
    """

    def stop(*_):
        raise OutOfTime

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class Counted:
    """A function that counts the points it is evaluated at; a batch of k under vmap counts k."""

    def __init__(self, function):
        self._function = function
        self.points = 0

    def __call__(self, *inputs):
        self.points += max(map(_batched_points, inputs))
        return self._function(*inputs)


def _batched_points(x):
    points = 1
    while torch._C._functorch.is_batchedtensor(x):  # noqa: SLF001 - the public interface hides the batch
        axis = torch._C._functorch.maybe_get_bdim(x)  # noqa: SLF001
        x = torch._C._functorch.get_unwrapped(x)  # noqa: SLF001
        points *= x.shape[axis]
    return points


def by_gradvitals(case, function, position, *, precision):
    """Verdict, and what the report states of the spoilt input (of the worst one where there is none)."""
    counted = Counted(function)
    choice = {"precision": precision} if "precision" in inspect.signature(gv.check).parameters else {}
    begin = time.thread_time()
    report = gv.check(counted, *case.inputs, name=case.name, **choice)
    record = {"seconds": time.thread_time() - begin, "verdict": report.verdict.value, "points": counted.points}
    rows = list(report.table("tensors").records())
    told = rows if position is None else [rows[position]]
    record["resolution"] = _json_number(max(row["resolution"] for row in told))
    record["entry_resolution"] = _json_number(max(row["entry_resolution"] for row in told))
    record["findings"] = [[f.code, f.site.path, f.evidence.get("likely", "")] for f in report.findings]
    record["cost"] = {key: value for key, value in report.cost.items() if key != "seconds"}
    if position is not None:
        record["named"] = [row["status"] == "wrong" for row in rows] == [at == position for at in range(len(rows))]
    return record


def by_gradcheck(case, function, _position, *, settings):
    """The same from torch.autograd.gradcheck, which knows pass and fail."""
    counted = Counted(function)
    inputs = [x.detach().clone().requires_grad_() for x in case.inputs]
    begin = time.thread_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gradcheck warns about float32; that it is used here is the point
        passed = torch.autograd.gradcheck(
            counted, inputs, raise_exception=False, nondet_tol=case.nondeterminism, **settings
        )
    seconds = time.thread_time() - begin
    return {"seconds": seconds, "verdict": "pass" if passed else "fail", "points": counted.points}


def judge(name, dtype):
    """Who is asked, by name; None where there is nothing of its own to ask in this dtype."""
    if name in PRECISIONS:
        if dtype == "float64" and name != "gradvitals":
            return None
        return functools.partial(by_gradvitals, precision=PRECISIONS[name])
    settings = {"fast_mode": "fast" in name}
    if "recommended" in name:
        if dtype not in RECOMMENDED:
            return None
        settings |= RECOMMENDED[dtype]
    return functools.partial(by_gradcheck, settings=settings)


def asked(ask, case, mutant, cap):
    """The judge's answer about a case, correct (None) or with a mistake, as a record."""
    record = {"sample": case.sample, "kind": mutant.kind if mutant else "correct"}
    function, position = (mutant.function, mutant.position) if mutant else (case.function, None)
    torch.manual_seed(0)  # gradcheck draws from the global generator
    try:
        with at_most(cap):
            record |= ask(case, function, position)
    except OutOfTime:
        record |= {"verdict": "timeout", "seconds": cap}
    except ImportError:  # of the judge itself: nothing was measured
        raise
    except Exception as error:  # noqa: BLE001 - a judge that breaks on a correct operator is a result
        record |= {"verdict": "error", "error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    if mutant:
        record |= {"change": change_seen(case, mutant), "position": position}
        record["silent"] = record["verdict"] in {"pass", "warn"} and _is_above_stated(record, mutant)
    return record


def change_seen(case, mutant):
    """What the mistake did to the gradients that the judge asked for: a cotangent may have made little of an entry."""
    if mutant.position is None or not mutant.function.changes:
        return mutant.change
    entries = case.inputs[mutant.position].numel() if mutant.kind in operator_mutants.ENTRY_KINDS else 1
    return statistics.median(mutant.function.changes) * math.sqrt(entries)


def _is_above_stated(record, mutant):
    """Whether a mistake that was passed is larger than what the report says it would have caught."""
    if mutant.kind in {"expanded", "strided"} or "resolution" not in record:
        return False  # the gradient is right for the cotangents that a resolution is about; gradcheck states none
    stated = "entry_resolution" if mutant.kind in operator_mutants.ENTRY_KINDS else "resolution"
    return record["change"] > float(record[stated])


def operator_records(found, ask, cap, *, only_correct=False):
    """All answers about an operator, given its cases; and what was left out, counted."""
    records, left_out = [], Counter()
    for case in found:
        if isinstance(case, operators.Unusable):
            left_out[f"sample: {case.reason}"] += 1
            continue
        record = asked(ask, case, None, cap)
        record |= {"known": case.known, "from_float64": case.reference.from_float64}
        record["entries"] = [sum(x.numel() for x in case.inputs), sum(y.numel() for y in case.function(*case.inputs))]
        record["own_error"] = [case.reference.own_error(at) for at in range(len(case.inputs))]
        records.append(record)
        for mutant in () if only_correct else operator_mutants.mutants(case):
            if isinstance(mutant, operators.Unusable):
                left_out[f"mutant: {mutant.reason}"] += 1
            elif record["verdict"] in {"pass", "warn"}:
                records.append(asked(ask, case, mutant, cap))
    if not records:
        left_out["operator: no usable sample"] += 1
    return {"records": records, "left_out": left_out}


def state_of(name):
    """A hash of the source that a judge's results depend on, comments and formatting aside."""
    files = [ROOT / "tests" / "oracles" / f"{module}.py" for module in ("operators", "operator_mutants", "mutations")]
    if name in PRECISIONS:
        files += sorted(Path(gv.__file__).parent.rglob("*.py"))
    found = hashlib.sha256(torch.__version__.encode())
    for file in files:
        found.update(ast.dump(ast.parse(file.read_text())).encode())
    return found.hexdigest()[:16]


def measure(options, chosen):
    """Make the results that are missing (or stale, or all)."""
    states = {name: state_of(name) for name in options.judges}
    for dtype in options.dtypes:
        names = [name for name in chosen[dtype] if in_shard(name, options.shard)]
        for count, name in enumerate(names, start=1):
            cases = None
            for who in options.judges:
                ask, file = judge(who, dtype), result_file(options, who, dtype, name)
                if ask is None or not is_wanted(file, options, states[who]):
                    continue
                print(f"{dtype} {count}/{len(names)} {name} · {who}", file=sys.stderr, flush=True)
                cases = operators.cases(name, chosen[dtype][name], dtype) if cases is None else cases
                result = operator_records(cases, ask, options.cap, only_correct=options.correct)
                result = {"state": states[who], "judge": who, "dtype": dtype, "operator": name, **result}
                file.parent.mkdir(parents=True, exist_ok=True)
                part = file.with_suffix(".part")
                part.write_text(json.dumps(result))
                part.replace(file)


def is_wanted(file, options, state):
    if options.fresh or not file.exists():
        return True
    return options.renew and json.loads(file.read_text())["state"] != state


def result_file(options, who, dtype, name):
    folder = who.replace(",", "").replace(" ", "-") + ("-correct" if options.correct else "")
    return options.results / folder / dtype / f"{name.replace(':', '--')}.json"


def results(options, chosen):
    """All results that are there for what was asked; those of another state of the source are counted on stderr."""
    found, stale = [], Counter()
    for who in options.judges:
        state = state_of(who)
        for dtype in options.dtypes:
            for name in chosen[dtype]:
                file = result_file(options, who, dtype, name)
                if not file.exists():
                    continue
                found.append(json.loads(file.read_text()) | {"half": operators.half_of(name)})
                stale[who] += found[-1]["state"] != state
    for who, count in stale.items():
        if count:
            print(f"{who}: {count} results are of another state of the source; --renew", file=sys.stderr)
    return found


def in_shard(name, shard):
    at, count = shard
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % count == at


def _json_number(value):
    return value if math.isfinite(value) else str(value)


def _shard(text):
    at, count = map(int, text.split("/"))
    return at, count


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", nargs="+", default=["*"], help="patterns of operators' names")
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32", "bfloat16"], choices=operators.DTYPES)
    parser.add_argument("--half", default="all", choices=["tuning", "reported", "all"])
    parser.add_argument("--judges", nargs="+", default=["gradvitals", *GRADCHECKS], choices=[*PRECISIONS, *GRADCHECKS])
    parser.add_argument("--correct", action="store_true", help="no mutants: a quick look at what is refused")
    parser.add_argument("--shadow", action="store_true", help="ask also 'gradvitals float64'")
    parser.add_argument("--shard", type=_shard, default=(0, 1), help="i/n: of n processes, the i-th from 0")
    parser.add_argument("--cap", type=float, default=60.0, help="CPU seconds that one check may take")
    parser.add_argument("--failures", action="store_true", help="list every case that should have ended otherwise")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--renew", action="store_true", help="forget results of another state of the source")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "benchmarks" / "gradients_operators")
    options = parser.parse_args()
    if options.shadow:
        options.judges.append("gradvitals float64")
    return options


def main():
    options = arguments()
    torch.set_num_threads(1)  # CPU seconds are compared
    chosen = {
        dtype: {
            name: info
            for name, info in operators.operators(dtype).items()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in options.ops)
            and options.half in {"all", operators.half_of(name)}
        }
        for dtype in options.dtypes
    }
    if not options.table:
        measure(options, chosen)
    found = results(options, chosen)
    operator_tables.show_all(found)
    if options.failures:
        operator_tables.list_failures(found)


if __name__ == "__main__":
    main()
