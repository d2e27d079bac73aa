"""NumPy, PyTorch and JAX behind one small protocol."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from gradvitals.frameworks.case import Case, as_case, load_case
from gradvitals.frameworks.problem import Problem
from gradvitals.frameworks.tree import leaves
from gradvitals.vocabulary.errors import UsageError

__all__ = ["Case", "Problem", "as_case", "burnt_in", "framework_of", "load_case", "opened", "penalty"]


def framework_of(case: Case, wrt: Any = None) -> str:
    """``"torch"`` when the model is a torch module or an input a torch tensor; ``"jax"`` when an input holds an array
    of JAX's or the function is transformed by JAX; ``"torch"`` again when a function without a gradient of its own
    uses a torch module; else ``"numpy"``.

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
    if torch is not None and case.grad is None and case.vjp is None:
        from gradvitals.frameworks.torch.wrt import involved

        if involved(case, wrt):
            return "torch"
    return "numpy"


def burnt_in(case: Case, wrt: Any, steps: int, optimizer: Callable[..., Any] | None) -> tuple[Case, Any]:
    """A case with a copy of its model that was trained for some steps, and ``wrt`` with parts of the copy."""
    _require_torch(case, wrt, "burn_in=")
    from gradvitals.frameworks.torch import burn_in

    return burn_in.burnt_in(case, wrt, steps, optimizer)


def penalty(case: Case, regularisation: Callable[..., Any]) -> Case:
    """A regularisation term as a case of its own."""
    _require_torch(case, None, "regularisation=")
    from gradvitals.frameworks.torch.penalty import penalty as torch_penalty

    return torch_penalty(case, regularisation)


def _require_torch(case: Case, wrt: Any, what: str) -> None:
    framework = framework_of(case, wrt)
    if framework != "torch":
        raise UsageError(
            f"{what} is for PyTorch",
            f"{case.subject} is a function of {framework}",
            "leave it out, or write the function in torch",
        )


@contextlib.contextmanager
def opened(case: Case, wrt: Any = None, *, outputs: Any = None, order: int = 1) -> Iterator[Problem]:
    """Open a case as a Problem; on leaving, the model and every random state are as they were before.

    ``wrt`` chooses what is differentiated, ``outputs`` what of the output; of ``order`` 2 the function is the gradient.
    """
    framework = framework_of(case, wrt)
    if outputs is not None and framework != "jax":
        _require_torch(case, wrt, "outputs=")
    if order != 1 and framework != "jax":
        _require_torch(case, wrt, "order=2")
    if framework == "torch":
        from gradvitals.frameworks.torch.problem import TorchProblem
        from gradvitals.frameworks.torch.state import preserved, without_our_noise
        from gradvitals.frameworks.torch.wrt import involved

        with without_our_noise(), preserved(case.model, also=involved(case, wrt)):
            problem = TorchProblem(case, wrt, outputs=outputs)
            if order == 1:
                yield problem
            else:
                from gradvitals.frameworks.torch.second_order import SecondOrderProblem

                yield SecondOrderProblem(problem)
    else:
        from gradvitals.frameworks.user_code import HostRandomState

        state = HostRandomState.capture()
        try:
            if framework == "jax":
                from gradvitals.frameworks.jax.problem import JaxProblem
                from gradvitals.frameworks.jax.state import attributes_kept

                with attributes_kept(case):
                    yield JaxProblem(case, wrt, outputs=outputs, order=order)
            else:
                from gradvitals.frameworks.numpy import NumpyProblem

                yield NumpyProblem(case, wrt)
        finally:
            state.restore()
