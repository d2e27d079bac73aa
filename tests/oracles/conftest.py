"""The slow obvious truths of ``tests/oracles`` are imported by name, however pytest is started."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

#: What can't be imported here isn't looked through for examples.
collect_ignore = [] if importlib.util.find_spec("triton") else ["triton_kernels.py"]
