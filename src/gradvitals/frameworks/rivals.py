"""The seam between a comparison and a framework: a kernel, its reference as it is, and the reference in float64."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gradvitals.frameworks import framework_of
from gradvitals.frameworks.case import Case
from gradvitals.frameworks.problem import Array, Gradient, Tensor
from gradvitals.vocabulary.errors import UsageError


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward and backward pass: each output as a flat float64 array, and the gradient of each tensor.

    ``modified`` names what was written into on the way: ``"cotangent"``, ``"input"``.
    """

    outputs: tuple[Array, ...]
    gradients: tuple[Gradient, ...]
    modified: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An output that isn't like the reference's: ``kind`` is ``"shape"`` or ``"dtype"``."""

    path: str
    kind: str
    got: str
    expected: str


class Rivals(Protocol):
    """A kernel and its reference at one point.

    Points are flat float64 arrays by tensor, those of tensors that aren't named are the given ones; cotangents are flat
    arrays, one per output, or a single number where a scalar is differentiated. The random state is the same at every
    pass.
    """

    tensors: tuple[Tensor, ...]
    #: The outputs as the kernel gives them, of role ``"output"``.
    outputs: tuple[Tensor, ...]
    mismatches: tuple[Mismatch, ...]
    #: Numbers that may be the N of a mean.
    sample_sizes: tuple[int, ...]
    #: As a Problem has it: "loss", "output-loss" or "random".
    objective: str

    def point(self, tensor: int) -> Array:
        """The given values of one tensor."""
        ...

    def settled(self, tensor: int, values: Array) -> Array:
        """The values that the tensor really takes when it is asked to take these."""
        ...

    def representable(self, cotangents: Sequence[Array]) -> tuple[Array, ...]:
        """Cotangents as the dtype of the outputs holds them."""
        ...

    def kernel(self, point: Mapping[int, Array], cotangents: Sequence[Array], layout: str = "plain") -> Pass:
        """The kernel in its own precision; the cotangents may lie in memory in another way."""
        ...

    def eager(self, point: Mapping[int, Array], cotangents: Sequence[Array]) -> Pass:
        """The reference in the kernel's precision."""
        ...

    def truth(self, point: Mapping[int, Array], cotangents: Sequence[Array]) -> Pass:
        """The reference in float64."""
        ...


@contextlib.contextmanager
def opened_rivals(case: Case, reference: Callable[..., Any], wrt: Any = None) -> Iterator[Rivals]:
    """Open a kernel beside its reference; on leaving, models and every random state are as they were before.

    Raises
    ------
    UsageError
        When they aren't PyTorch code.

    """
    if case.grad is not None or case.vjp is not None:
        raise UsageError(
            "reference= and a hand-written gradient (grad=, vjp=) don't go together yet",
            f"check({case.subject}, ..., reference=...)",
            "leave reference= out: the gradient is then checked against measured slopes; or put the kernel into a "
            "torch.autograd.Function and give a PyTorch reference",
        )
    framework = framework_of(case)
    if framework != "torch":
        raise UsageError(
            "reference= is for PyTorch kernels",
            f"check({case.subject}, ..., reference=...) with inputs of {'JAX' if framework == 'jax' else 'NumPy'}",
            "leave reference= out: the gradient is then checked against measured slopes; or pass torch tensors",
        )
    from gradvitals.frameworks.torch.rivals import TorchRivals
    from gradvitals.frameworks.torch.state import preserved
    from gradvitals.frameworks.torch.wrt import involved

    modules = [*involved(case, wrt), *involved(Case(reference, case.args, case.kwargs), None)]
    with preserved(case.model, also=modules):
        yield TorchRivals(case, reference, wrt)
