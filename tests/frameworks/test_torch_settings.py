"""Settings that make torch compute with fewer digits are named as they were set, by their older or newer names."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from gradvitals.frameworks.torch.settings import lowered_precision

MATMUL, CUDNN = "torch.backends.cuda.matmul", "torch.backends.cudnn"
#: What is set, and what is then in force on the CPU and, for convolutions too, on a GPU.
CASES = [
    (f"{MATMUL}.allow_tf32 = True", [], [f"{MATMUL}.allow_tf32", f"{CUDNN}.allow_tf32"]),
    (f"{MATMUL}.fp32_precision = 'tf32'", [], [f"{MATMUL}.fp32_precision='tf32'", f"{CUDNN}.allow_tf32"]),
    (f"{CUDNN}.allow_tf32 = False", [], []),
    (f"{CUDNN}.conv.fp32_precision = 'ieee'", [], [f"{CUDNN}.rnn.fp32_precision='tf32'"]),
    (
        "torch.set_float32_matmul_precision('high')",
        ["torch.set_float32_matmul_precision('high')"],
        [f"{MATMUL}.allow_tf32", f"{CUDNN}.allow_tf32"],
    ),
    (
        "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
        ["torch.backends.mkldnn.matmul.fp32_precision='bf16'"],
        [f"{CUDNN}.allow_tf32"],
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "on_cpu", "on_gpu"), CASES)
def test_a_setting_is_named_and_never_raises(setting, on_cpu, on_gpu):
    # In a process of its own: torch refuses to set by the older names what was set by the newer ones.
    code = (
        "import torch\nfrom gradvitals.frameworks.torch.settings import lowered_precision\n"
        f"{setting}\nprint([list(lowered_precision([device])) for device in ('cpu', 'cuda')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([on_cpu, on_gpu])


def test_what_cudnn_may_do_is_named_only_where_it_may_be_asked():
    def named(*operations):
        return "torch.backends.cudnn.allow_tf32" in lowered_precision(["cuda"], operations)

    assert torch.backends.cudnn.allow_tf32
    assert named("ConvolutionBackward0")
    assert named("CudnnRnnBackward0")
    assert named("Function", "AddmmBackward0")
    assert not named("AddmmBackward0", "AccumulateGrad")


def test_coarser_sums_of_products_are_named_under_autocast(monkeypatch):
    name = f"{MATMUL}.allow_bf16_reduced_precision_reduction"
    assert name not in lowered_precision(["cuda"])
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    assert name in lowered_precision(["cuda"])
