"""The tables of ``benchmarks/gradients_operators.py``, from its result files."""

from __future__ import annotations

import statistics
import sys
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from oracles import operator_mutants

PASSED = {"pass", "warn"}
COTANGENT_KINDS = operator_mutants.COTANGENT_KINDS

#: What is to be reached, by dtype: the figure's name, and the least or most that it may be.
GOALS = {
    "float64": {"refused beyond gradcheck": "= 0", "× 1.001": "≥ 99"},
    "float32": {"refused": "≤ 0.2", "unresolved": "≤ 3", "× 1.01": "≥ 99", "entry 1 %": "≥ 99", "× 1.001": "≥ 97"},
    "bfloat16": {"refused": "≤ 0.5", "unresolved": "≤ 15", "× 2": "≥ 98", "sign": "≥ 98", "flipped": "≥ 98"},
    "float16": {},
}
GOALS_OF_ALL = {"silent": "≤ 0.5", **dict.fromkeys(COTANGENT_KINDS, "= 100"), "points (median)": "≤ 60"}
#: A gradient that is really off by more than this is refused rightly: what ``check`` asks for by default.
SENSITIVITY = {"float64": 1e-4, "float32": 1e-3, "bfloat16": 1e-1, "float16": 1e-1}
#: One that is off by more than this many times its size cancels to nothing, and says nothing of the operator.
CANCELLED = 10.0


def figures(records, dtype):
    """What one judge reached on some operators: percentages, and the cost of a pass."""
    correct = [r for r in records if r["kind"] == "correct"]
    wrong = [r for r in records if r["kind"] != "correct"]
    passed = [r for r in correct if r["verdict"] in PASSED]
    found = {
        "cases": len(correct),
        "refused": percent(is_refused(r) and not is_imprecise(r, dtype) for r in correct),
        "refused rightly": sum(is_refused(r) and is_imprecise(r, dtype) for r in correct),
        "unresolved": percent(r["verdict"] in {"inconclusive", "timeout"} for r in correct),
    }
    for kind in operator_mutants.KINDS:
        found[kind] = percent(r["verdict"] == "fail" for r in wrong if r["kind"] == kind and is_there(r))
    found["small entries"] = sum(not is_there(r) for r in wrong)
    found["mutants"] = len(wrong)
    found["mutants unresolved"] = percent(r["verdict"] == "inconclusive" for r in wrong)
    found["silent"] = percent(r["silent"] for r in wrong) if any("resolution" in r for r in wrong) else None
    found["tensor named"] = percent(r["named"] for r in wrong if r["verdict"] == "fail" and "named" in r)
    found["points (median)"] = statistics.median(r["points"] for r in passed) if passed else None
    found["points (p90)"] = percentile(90, [r["points"] for r in passed])
    found["CPU ms (median)"] = 1000 * statistics.median(r["seconds"] for r in passed) if passed else None
    return found


def is_there(record):
    """Whether the spoilt entry is large enough to count in the gradient that was asked for as well: a judge chooses its
    own cotangent, and that may have made little of it. Other kinds of mistakes always are.
    """
    share = operator_mutants.ENTRY_KINDS.get(record["kind"])
    return share is None or record["change"] >= share * operator_mutants.LEAST_ENTRY


def is_refused(record):
    return record["verdict"] in {"fail", "error"}


def is_imprecise(record, dtype):
    """Whether the operator's own backward pass rounds so badly that its gradient is wrong."""
    return any(SENSITIVITY[dtype] < error <= CANCELLED for error in record["own_error"])


def percent(values):
    values = list(values)
    return 100 * sum(values) / len(values) if values else None


def percentile(share, values):
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1] if len(values) > 1 else None


def grouped(results):
    """The records by dtype, judge and half, in that order of appearance."""
    groups = defaultdict(list)
    for result in results:
        for record in result["records"]:
            groups[result["dtype"], result["judge"], result["half"]].append(record | {"operator": result["operator"]})
    return groups


def all_figures(results):
    """The figures of every group; refusals of ours are set against those of gradcheck, where both were asked."""
    groups = grouped(results)
    found = {key: figures(records, key[0]) for key, records in groups.items()}
    for (dtype, judge, half), values in found.items():
        peers = groups.get((dtype, "gradcheck slow", half))
        if judge.startswith("gradvitals") and peers:
            theirs = {(r["operator"], r["sample"]) for r in peers if r["kind"] == "correct" and r["verdict"] != "pass"}
            ours = [r for r in groups[dtype, judge, half] if r["kind"] == "correct"]
            refused = {(r["operator"], r["sample"]) for r in ours if is_refused(r) and not is_imprecise(r, dtype)}
            values["refused beyond gradcheck"] = len(refused - theirs)
    return found


def overview(found):
    """One line per dtype, judge and half."""
    columns = [name for name in next(iter(found.values())) if name != "refused beyond gradcheck"]
    lines = [["dtype", "judge", "half", *(f"{name} %" if is_share(name) else name for name in columns)]]
    lines += [[*key, *(shown(values[name], name) for name in columns)] for key, values in found.items()]
    return lines


def goals(found):
    """What is to be reached beside what is, for each of our judges."""
    lines = [["dtype", "judge", "figure", "to reach", "tuning half", "reported half", ""]]
    ours = dict.fromkeys((dtype, judge) for dtype, judge, _ in found if judge.startswith("gradvitals"))
    for dtype, judge in ours:
        for name, goal in (GOALS[dtype] | GOALS_OF_ALL).items():
            halves = [found.get((dtype, judge, half), {}).get(name) for half in ("tuning", "reported")]
            label = f"{name} %" if is_share(name) else name
            verdict = "" if halves[1] is None else "reached" if reaches(halves[1], goal) else "**not reached**"
            lines.append([dtype, judge, label, goal, *(shown(value, name) for value in halves), verdict])
    return lines


def reaches(value, goal):
    sign, bound = goal.split()
    return {"≤": value <= float(bound), "≥": value >= float(bound), "=": value == float(bound)}[sign]


def is_share(name):
    return name in {"refused", "unresolved", "mutants unresolved", "silent", "tensor named", *operator_mutants.KINDS}


def shown(value, name):
    if value is None:
        return "–"
    if is_share(name):
        return f"{value:.2f}" if name in {"refused", "silent"} else f"{value:.1f}"
    return f"{value:.1f}" if "CPU" in name else f"{value:.0f}"


def left_out(results):
    """What was no case, and which mutants didn't count, by reason: of one judge per dtype, for all have the same."""
    lines = [["dtype", "what", "count"]]
    for dtype in dict.fromkeys(result["dtype"] for result in results):
        first = {result["operator"]: result for result in results if result["dtype"] == dtype}
        counts = Counter()
        for result in first.values():
            counts.update(result["left_out"])
        lines.append([dtype, "operators", len(first)])
        lines += [[dtype, f"left out: {reason}", count] for reason, count in counts.most_common()]
    return lines


def show(lines):
    """As a Markdown table."""
    texts = [[str(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for at, line in enumerate(texts):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
        if at == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print()


def show_all(results):
    if not results:
        print("no results")
        return
    found = all_figures(results)
    for lines in (overview(found), goals(found), left_out(results)):
        show(lines)


def list_failures(results):
    """Every answer of ours that should have been another, a line each."""
    for (dtype, judge, half), records in grouped(results).items():
        if not judge.startswith("gradvitals"):
            continue
        own_errors = {(r["operator"], r["sample"]): r["own_error"] for r in records if r["kind"] == "correct"}
        for record in records:
            is_correct = record["kind"] == "correct"
            if record["verdict"] in (PASSED if is_correct else {"fail"}):
                continue
            place = f"{dtype} · {judge} · {half} · {record['operator']} #{record['sample']} · {record['kind']}"
            own = ", ".join(f"{error:.1e}" for error in own_errors[record["operator"], record["sample"]])
            told = "SILENT" if record.get("silent") else record["verdict"]
            print(f"{place}: {told}; {reason_of(record)}; the operator's own error: {own}")


def reason_of(record):
    if "error" in record:
        return record["error"]
    facts = [f"change {record['change']:.1e}"] if "change" in record else []
    if "resolution" in record:
        facts.append(f"resolution {float(record['resolution']):.1e}, entry {float(record['entry_resolution']):.1e}")
    facts += [" ".join(filter(None, finding)) for finding in record.get("findings", [])]
    facts += ["torch itself skips it"] if record.get("known") else []
    return ", ".join(facts) or "–"
