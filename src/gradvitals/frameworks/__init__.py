"""NumPy, PyTorch and JAX behind one small protocol."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from gradvitals.frameworks.case import Case, as_case, load_case
from gradvitals.frameworks.problem import Problem
from gradvitals.frameworks.tree import leaves

__all__ = ["Case", "Problem", "as_case", "framework_of", "load_case", "opened"]


def framework_of(case: Case) -> str:
    """``"torch"`` when the model is a torch module or an input a torch tensor; ``"jax"`` when an input holds an array
    of JAX's or the function is transformed by JAX; else ``"numpy"``.

    A framework that isn't imported can't be in a case, so none is imported to find out.
    """
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        trees = [*((f"{at}", value) for at, value in enumerate(case.args)), *case.keywords.items()]
        values = [value for root, tree in trees for _, value in leaves(tree, root)]
        if isinstance(case.model, torch.nn.Module) or any(isinstance(value, torch.Tensor) for value in values):
            return "torch"
    if hasattr(sys.modules.get("jax"), "Array"):
        from gradvitals.frameworks.jax.recognition import is_jax

        if is_jax(case):
            return "jax"
    return "numpy"


@contextlib.contextmanager
def opened(case: Case, wrt: Any = None, *, outputs: Any = None) -> Iterator[Problem]:
    """Open a case as a Problem; on leaving, the model and every random state are as they were before."""
    framework = framework_of(case)
    if framework == "torch":
        from gradvitals.frameworks.torch.problem import TorchProblem
        from gradvitals.frameworks.torch.state import preserved
        from gradvitals.frameworks.torch.wrt import involved

        with preserved(case.model, also=involved(case, wrt)):
            yield TorchProblem(case, wrt, outputs=outputs)
    else:
        from gradvitals.frameworks.user_code import HostRandomState

        state = HostRandomState.capture()
        try:
            if framework == "jax":
                from gradvitals.frameworks.jax.problem import JaxProblem

                yield JaxProblem(case, wrt, outputs=outputs)
            else:
                from gradvitals.frameworks.numpy import NumpyProblem

                yield NumpyProblem(case, wrt)
        finally:
            state.restore()
