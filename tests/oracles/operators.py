"""PyTorch's own database of operators as cases for a gradient check.

Every case is an operator with its constants, as a function of the tensors that its sample wants differentiated. It
computes in the dtype of what it is given, so that the same case in float64 is the truth for the others. What can't be
a case is an :class:`Unusable` with its reason, so that it can be counted.

The database is a private module of torch and needs the package ``expecttest``.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils import _pytree

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: Of all inputs of a case together, and of all its outputs: gradcheck's slow mode visits every pair of them. The second
#: holds for operators that have no sample as small as the first.
MOST_ENTRIES = (200, 1000)
#: Cases per operator, of so many samples tried.
CASES = 2
SAMPLES_TRIED = 40
#: In units of roundoff: LAPACK's results depend a little on where in memory a matrix lies.
REPEATS_WITHIN = 100
#: Random cotangents behind a reference gradient: no single draw decides which entry is large.
COTANGENTS = 8


@dataclass(frozen=True, slots=True)
class Unusable:
    """Why a sample, or an operator, is no case."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reference:
    """Gradients of every input for several random cotangents, stacked along the first axis, as float64 arrays.

    ``wide`` are computed in float64 (at the very same point), ``native`` in the case's dtype; ``from_float64`` is
    False where the operator doesn't run in float64, and both are then the same.
    """

    wide: tuple
    native: tuple
    from_float64: bool

    def own_error(self, at):
        """Relative error (2-norm) of the native gradient of one input, which is the operator's own imprecision."""
        size = np.linalg.norm(self.wide[at])
        return float(np.linalg.norm(self.native[at] - self.wide[at]) / size) if size else 0.0


@dataclass(frozen=True, slots=True)
class Case:
    """One operator at one sample. ``known`` says that torch itself skips the operator in its gradient tests."""

    name: str
    sample: int
    dtype: str
    function: object
    inputs: tuple
    reference: Reference
    known: bool
    nondeterminism: float


def half_of(name):
    """``tuning`` or ``reported``, by the hash of the operator's name without its variant."""
    return ("tuning", "reported")[hashlib.sha256(name.split(":")[0].encode()).digest()[0] % 2]


def operators(dtype):
    """The differentiable operators by name, in the order of a hash, so that any first part is a fair sample."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's private modules warn about one another
        from torch.testing._internal.common_methods_invocations import op_db
    found = {
        info.name + (f":{info.variant_test_name}" if info.variant_test_name else ""): info
        for info in op_db
        if info.supports_autograd and DTYPES[dtype] in info.supported_backward_dtypes("cpu")
    }
    return dict(sorted(found.items(), key=lambda item: seed(item[0])))


def cases(name, info, dtype):
    """The first two usable samples of an operator, and why others weren't: a list of Case and Unusable."""
    found = []
    for most in MOST_ENTRIES:
        found = _cases(name, info, dtype, most)
        if any(isinstance(case, Case) for case in found):
            break
    return found


def _cases(name, info, dtype, most):
    found, usable = [], 0
    _set_seeds(seed(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # operators warn about deprecated samples
        try:
            samples = info.sample_inputs("cpu", DTYPES[dtype], requires_grad=True, small_inputs_only=True)
            for at, sample in enumerate(itertools.islice(samples, SAMPLES_TRIED)):
                found.append(case_of(name, info, at, sample, dtype, most))
                usable += isinstance(found[-1], Case)
                if usable == CASES:
                    break
        except Exception as error:  # noqa: BLE001 - a generator of samples that breaks is a reason like any other
            found.append(Unusable(f"samples raise {type(error).__name__}"))
    return found


def case_of(name, info, at, sample, dtype, most):
    """A sample as a Case, or why it is none."""
    leaves, _ = _pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    inputs = [leaf.detach().clone() for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    if not inputs:
        return Unusable("no input requires a gradient")
    if any(x.is_complex() or x.layout != torch.strided for x in inputs):
        return Unusable("complex or sparse input")
    if not all(x.isfinite().all() for x in inputs):
        return Unusable("input not finite")
    if not 0 < sum(x.numel() for x in inputs) <= most:
        return Unusable("no entries" if not any(x.numel() for x in inputs) else "too large")
    try:
        function = Operator(info, sample, DTYPES[dtype])
        outputs = function.settle(inputs)
    except Exception as error:  # noqa: BLE001
        return Unusable(f"raises {type(error).__name__}")
    if not outputs:
        return Unusable("no dense output requires a gradient")
    if sum(y.numel() for y in outputs) > most:
        return Unusable("too large")
    again = function(*inputs)
    if not all(y.isfinite().all() for y in outputs):
        return Unusable("not finite")
    if not all(map(_repeats, outputs, again)):
        return Unusable("random")
    reference = _reference(function, inputs, seed(name) + at)
    if not all(np.isfinite(g).all() for g in (*reference.native, *reference.wide)):
        return Unusable("gradient not finite")
    known = _skipped_by_torch(info)
    if known and _is_wrong(function, inputs):
        return Unusable("torch's gradient is wrong, and its tests skip it")
    return Case(name, at, dtype, function, tuple(inputs), reference, known, info.gradcheck_nondet_tol)


def _repeats(one, other):
    return (one - other).norm() <= REPEATS_WITHIN * torch.finfo(one.dtype).eps * one.norm()


class Operator:
    """An operator with a sample's constants: a function of the tensors that the sample wants differentiated."""

    def __init__(self, info, sample, dtype):
        leaves, self._tree = _pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
        self._info, self._after = info, sample.output_process_fn_grad
        self._varied = [at for at, x in enumerate(leaves) if isinstance(x, torch.Tensor) and x.requires_grad]
        self._own = [leaf.detach() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        self._leaves = {torch.float64: [_widened(leaf, dtype) for leaf in self._own], dtype: self._own}
        self._kept = None

    def settle(self, inputs):
        """Keep the outputs that require gradients, from now on, and give their values."""
        outputs = self(*[x.detach().requires_grad_() for x in inputs])
        dense = [at for at, y in enumerate(outputs) if y.layout == torch.strided and y.numel()]
        self._kept = [at for at in dense if outputs[at].requires_grad]
        return [outputs[at].detach() for at in self._kept]

    def __call__(self, *inputs):
        leaves = list(self._leaves.get(inputs[0].dtype, self._own))
        for at, x in zip(self._varied, inputs, strict=True):
            leaves[at] = x
        first, args, keywords = _pytree.tree_unflatten(leaves, self._tree)
        # As torch's own gradient tests do: the wrapper keeps a matrix symmetric, what comes after fixes free signs.
        output = self._info.gradcheck_wrapper(self._info.get_op(), first, *args, **keywords)
        output = self._after(output) if self._after is not None else output
        parts = [y for y in _pytree.tree_leaves(output) if isinstance(y, torch.Tensor)]
        parts = [torch.view_as_real(y.resolve_conj()) if y.is_complex() else y for y in parts]
        parts = [y for y in parts if y.is_floating_point()]
        return tuple(parts) if self._kept is None else tuple(parts[at] for at in self._kept)


def _reference(function, inputs, draw):
    drawn = cotangents(function, inputs, draw)
    native = _stacked([pulled_back(function, inputs, cotangent) for cotangent in drawn])
    try:
        wide = _stacked([pulled_back(function, [x.double() for x in inputs], w) for w in drawn])
    except Exception:  # noqa: BLE001 - whatever an operator without float64 raises
        return Reference(native, native, from_float64=False)
    return Reference(wide, native, from_float64=True)


def _stacked(gradients):
    return tuple(np.stack(of_one_input) for of_one_input in zip(*gradients, strict=True))


def cotangents(function, inputs, draw):
    """Random cotangents that the outputs' dtype holds."""
    generator = torch.Generator().manual_seed(draw)
    with torch.no_grad():
        outputs = function(*inputs)
    return [[torch.randn(y.shape, generator=generator).to(y.dtype) for y in outputs] for _ in range(COTANGENTS)]


def pulled_back(function, inputs, cotangent):
    """Autograd's gradients as float64 arrays; zero where there is none."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    outputs = function(*leaves)
    cotangent = [w if w.dtype == y.dtype else w.to(y.dtype) for w, y in zip(cotangent, outputs, strict=True)]
    found = torch.autograd.grad(outputs, leaves, cotangent, allow_unused=True)
    return [np.zeros(tuple(x.shape)) if g is None else array(g) for x, g in zip(inputs, found, strict=True)]


def array(tensor):
    return tensor.detach().to_dense().double().resolve_conj().numpy().copy()


def _widened(leaf, dtype):
    """A constant of the float64 twin: same values, and a dtype that was the case's own becomes float64."""
    if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
        return leaf.double()
    if isinstance(leaf, torch.Tensor) and leaf.is_complex():
        return leaf.to(torch.complex128)
    return torch.float64 if leaf is dtype else leaf


@functools.cache
def _skipping():
    from torch.testing._internal.opinfo.core import DecorateInfo

    return DecorateInfo


def _skipped_by_torch(info):
    """Whether torch's own test of this gradient, in float64, is skipped or expected to fail."""
    place = ("TestBwdGradients", "test_fn_grad", "cpu", torch.float64, {"dtype": torch.float64})
    marks = [mark for mark in info.decorators if isinstance(mark, _skipping()) and mark.is_active(*place)]
    return any("skip" in str(mark.decorators).lower() or "expectedFail" in str(mark.decorators) for mark in marks)


def seed(name):
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[1:5], "big")


def _is_wrong(function, inputs):
    """Whether gradcheck refuses the gradient where nothing is rounded."""
    leaves = [x.detach().double().requires_grad_() for x in inputs]
    outputs = function(*leaves)
    return all(y.dtype == torch.float64 for y in outputs) and not torch.autograd.gradcheck(
        function, leaves, raise_exception=False
    )


def _set_seeds(draw):
    torch.manual_seed(draw)
    random.seed(draw)
    np.random.seed(draw)
