"""Where tests need a GPU, and where they only need Triton, which can also interpret its kernels on the CPU."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

KERNELS = Path(__file__).resolve().parents[1] / "oracles" / "triton_kernels.py"


def pytest_collection_modifyitems(items):
    """A test marked ``cuda`` is skipped where there is no GPU."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def device():
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def kernels(device):
    """The kernels in Triton: compiled for the GPU, else interpreted on the CPU."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton isn't installed")
    if device == "cuda":
        yield _loaded()
        return
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton was imported before, to compile for a GPU")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")  # Triton reads it when it is imported, and later again
        yield _loaded()


def _loaded():
    spec = importlib.util.spec_from_file_location(KERNELS.stem, KERNELS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
