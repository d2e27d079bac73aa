"""Does ``gradvitals.check`` say what is wrong with a backward pass, and where? With torch's gradcheck beside it.

Every case of ``tests/oracles/wrong_backwards.py``, in its own dtype. *kind*: the first finding names the kind of
mistake rightly; *tensors*: exactly the tensors whose gradients are wrong are called wrong; *entry*: where only a part
of a tensor is wrong, the entry that the finding points at lies in it; *one finding*: what has one cause makes one
finding. ``torch.autograd.gradcheck`` takes torch functions and modules only, and knows pass and fail.

    python benchmarks/gradients_mistakes.py                    # the table of the documentation
    python benchmarks/gradients_mistakes.py --failures         # and every case that isn't right in all of it
    python benchmarks/gradients_mistakes.py --seeds 3
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch

from oracles import wrong_backwards

#: What people are told to use where there is no float64.
RECOMMENDED_FLOAT32 = {"eps": 1e-3, "atol": 1e-2, "rtol": 1e-2}


def gradcheck(case, seed):
    """Whether torch's gradcheck refuses the case; None where it can't be asked."""
    (model, *inputs), keywords = case.arguments(seed)
    if not all(isinstance(value, torch.Tensor) for value in inputs):
        return None
    parameters = dict(model.named_parameters()) if isinstance(model, torch.nn.Module) else {}
    leaves = [value.detach().clone().requires_grad_() for value in inputs]
    loss = keywords.get("loss") or (lambda out: out)

    def function(*tensors):
        if not parameters:
            return loss(model(*tensors))
        given = dict(zip(parameters, tensors[len(leaves) :], strict=True))
        return loss(torch.func.functional_call(model, given, tensors[: len(leaves)]))

    everything = (*leaves, *parameters.values())
    settings = RECOMMENDED_FLOAT32 if everything[0].dtype == torch.float32 else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gradcheck warns about float32; that it is used here is the point
        return not torch.autograd.gradcheck(function, everything, raise_exception=False, **settings)


def records(seeds):
    for case in wrong_backwards.cases():
        for seed in range(seeds):
            begin = time.process_time()
            report = case.check(seed)
            seconds = time.process_time() - begin
            yield case, seed, wrong_backwards.judged(case, report), gradcheck(case, seed), seconds


def share(values):
    """A percentage with what it is of, or a dash where there is nothing to count."""
    known = [bool(value) for value in values if value is not None]
    return f"{100 * sum(known) / len(known):.1f} ({sum(known)}/{len(known)})" if known else "–"


def line(name, group):
    judged = [outcome for _, _, outcome, _, _ in group]
    return [
        name,
        len(group),
        share(outcome.kind for outcome in judged),
        share(outcome.tensors for outcome in judged),
        share(outcome.entry for outcome in judged),
        share(outcome.findings == 1 for outcome in judged),
        share(refused for *_, refused, _ in group),
        f"{sum(seconds for *_, seconds in group) / len(group):.2f}",
    ]


def table(found):
    """One line per kind of mistake, then the cases that were tuned on, those held out, and all."""
    groups = defaultdict(list)
    for record in found:
        groups[min(record[0].kinds)].append(record)
    yield ["mistake", "cases", "kind %", "tensors %", "entry %", "one finding %", "gradcheck refuses %", "CPU s"]
    for kind in sorted(groups):
        yield line(kind, groups[kind])
    yield line("**looked at while made**", [record for record in found if not record[0].is_held_out])
    yield line("**held out**", [record for record in found if record[0].is_held_out])
    yield line("**all**", found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--failures", action="store_true", help="list every case that isn't right in all of it")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # CPU seconds are compared
    found = list(records(asked.seeds))
    for at, cells in enumerate(table(found)):
        print("| " + " | ".join(map(str, cells)) + " |")
        if at == 0:
            print("|" + "---|" * len(cells))
    if asked.failures:
        for case, seed, outcome, *_ in found:
            if not (outcome.kind and outcome.tensors and outcome.entry is not False):
                print(f"{case.name} (seed {seed}): said {outcome.said}, expected {' or '.join(sorted(case.kinds))}")


if __name__ == "__main__":
    main()
