"""NumPy and PyTorch behind one small protocol; JAX will stand beside them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from gradvitals.frameworks.case import Case, as_case, load_case
from gradvitals.frameworks.problem import Problem
from gradvitals.frameworks.tree import leaves

__all__ = ["Case", "Problem", "as_case", "framework_of", "load_case", "opened"]


def framework_of(case: Case) -> str:
    """``"torch"`` when the model is a torch module or an input a torch tensor, else ``"numpy"``.

    A framework that isn't imported can't be in a case, so none is imported to find out.
    """
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        trees = [*((f"{at}", value) for at, value in enumerate(case.args)), *case.keywords.items()]
        values = [value for root, tree in trees for _, value in leaves(tree, root)]
        if isinstance(case.model, torch.nn.Module) or any(isinstance(value, torch.Tensor) for value in values):
            return "torch"
    return "numpy"


@contextlib.contextmanager
def opened(case: Case, wrt: Sequence[str] | None = None) -> Iterator[Problem]:
    """Open a case as a Problem; on leaving, the model and every random state are as they were before."""
    if framework_of(case) == "torch":
        from gradvitals.frameworks.torch.problem import TorchProblem
        from gradvitals.frameworks.torch.state import preserved

        with preserved(case.model):
            yield TorchProblem(case, wrt)
    else:
        from gradvitals.frameworks.numpy import NumpyProblem
        from gradvitals.frameworks.user_code import HostRandomState

        state = HostRandomState.capture()
        try:
            yield NumpyProblem(case, wrt)
        finally:
            state.restore()
