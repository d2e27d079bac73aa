"""What a prediction of a model of seven thousand million parameters costs: on the meta device, none has memory.

python benchmarks/signals_meta.py [tokens]
"""

from __future__ import annotations

import os
import resource
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

import gradvitals as gv


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig())
        ids = torch.zeros((1, tokens), dtype=torch.long)
    before, started, cpu = memory(), time.perf_counter(), time.process_time()
    report = gv.predict(model, ids)
    spent = time.process_time() - cpu, time.perf_counter() - started
    layers = next(table for table in report.tables if table.name == "layers")
    unknown = sum(row[layers.columns.index("forward_rms")] is None for row in layers.rows)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters:.2e} parameters, {tokens} tokens: {spent[0]:.1f} s of CPU time, {spent[1]:.1f} s in all")
    print(f"peak memory {memory():.0f} MiB, {before:.0f} MiB before; {unknown} of {len(layers.rows)} calls unknown")


if __name__ == "__main__":
    main()
