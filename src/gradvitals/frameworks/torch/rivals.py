"""A PyTorch kernel, its eager reference in the same dtype, and the reference in float64."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.problem import Array
from gradvitals.frameworks.rivals import Mismatch, Pass
from gradvitals.frameworks.torch.arguments import Arguments, copied
from gradvitals.frameworks.torch.behind import every_module, generators_behind
from gradvitals.frameworks.torch.entries import described, flat, moved_to, snapshot, unit_roundoff, wider, write
from gradvitals.frameworks.torch.inputs import validate
from gradvitals.frameworks.torch.layouts import laid_out
from gradvitals.frameworks.torch.objective import differentiable, scalar
from gradvitals.frameworks.torch.pullback import pulled_back
from gradvitals.frameworks.torch.replay import Replay
from gradvitals.frameworks.torch.resend import same
from gradvitals.frameworks.torch.swap import Places
from gradvitals.frameworks.torch.widening import in_float64
from gradvitals.frameworks.torch.wrt import Key, differentiated, involved, own_module
from gradvitals.frameworks.user_code import user_code
from gradvitals.vocabulary.errors import InputError, UsageError

#: What torch.compile puts into the names of a compiled module's parameters.
_COMPILED = "_orig_mod."


class TorchRivals:
    """A kernel and its reference. Use it inside ``preserved``.

    The kernel runs as it is, its own parameters moved in place; in the reference other tensors stand in the places of
    its parameters and buffers, with the kernel's values.

    Parameters
    ----------
    case : Case
        The kernel with its inputs.
    reference : torch.nn.Module or callable
        Takes the same inputs and gives the same outputs. Parameters are matched by name, or are the very same.
    wrt : optional
        See :func:`~gradvitals.frameworks.torch.wrt.differentiated`.

    Raises
    ------
    InputError
        When there is nothing to differentiate, the kernel is in float64 already, or the two return a different number
        of tensors.
    UsageError
        When a parameter of the one isn't one of the other.

    """

    def __init__(self, case: Case, reference: Callable[..., Any], wrt: Any = None) -> None:
        validate(case)
        self._case = case
        self._reference = Case(reference, case.args, case.kwargs, loss=case.loss, name="the reference")
        self._arguments = Arguments(case)
        theirs = every_module(involved(self._reference))
        modules = every_module((*involved(case, wrt), *theirs))
        self._replay = Replay(modules, generators_behind((case.model, reference, case.loss), modules))
        self._places = Places(modules)
        own = differentiated(case, self._arguments.roots, wrt)
        # An additive mask of 0 and −∞ has no neighbours.
        self._own = {k: t for k, t in own.items() if k[0] == "parameter" or bool(torch.isfinite(t).all())}
        self._keys = list(self._own)
        self._base = {key: snapshot(tensor) for key, tensor in self._own.items()}
        if not any(wider(base.dtype) != base.dtype for base in self._base.values()):
            raise InputError(
                "the kernel is in float64, where no reference is more exact",
                ", ".join(
                    f"{path} is {str(base.dtype).removeprefix('torch.')}" for (_, path), base in self._base.items()
                )
                or "no input is a finite floating-point tensor",
                "pass the inputs in the precision in which the kernel is used (x.float(), x.bfloat16()); in float64 "
                "leave reference= out",
            )
        self._coarsest = max((base.dtype for base in self._base.values()), key=unit_roundoff)
        self._mine, self._twins = self._matched(theirs)
        self.tensors = tuple(described(path, role, base, 0.0) for (role, path), base in self._base.items())
        self.sample_sizes = tuple(dict.fromkeys(int(t.shape[0]) for _, t in self._arguments.tensors() if t.ndim >= 2))
        self._found: dict[str, torch.Tensor] = {}
        self.objective = "random"
        self._look()

    def _matched(self, theirs: Sequence[torch.nn.Module]) -> tuple[dict[Key, int], dict[int, torch.Tensor]]:
        """The reference's tensor for each parameter that is differentiated, and the kernel's for each other one."""
        reference, kernel = own_module(self._reference), own_module(self._case)
        shared = Places(theirs).tensors
        mine = _state(reference)
        mine_found: dict[Key, int] = {}
        for key, tensor in self._own.items():
            if key[0] == "input":
                continue
            twin = tensor if id(tensor) in shared else mine.get(key[1].replace(_COMPILED, ""))
            if twin is None or twin.shape != tensor.shape:
                raise _unmatched(key[1], tensor, mine)
            mine_found[key] = id(twin)
        kept = _state(kernel)
        twins = {id(twin): kept[name] for name, twin in mine.items() if name in kept and kept[name].shape == twin.shape}
        if kernel is not None and reference is not None:
            for name, parameter in reference.named_parameters():
                if id(parameter) not in twins and id(parameter) not in mine_found.values():
                    raise _unmatched(name, parameter, kept, "the reference", "the kernel")
        return mine_found, {at: tensor for at, tensor in twins.items() if at not in mine_found.values()}

    def _look(self) -> None:
        """Run each once: what the outputs are, and whether they can be compared."""
        self._passed(self._kernel_outputs, {}, None, self._case)
        kernel = self._found
        self._passed(self._eager_outputs, {}, None, self._reference)
        reference = self._found
        self._passed(self._wide_outputs, {}, None, self._reference)
        if len(kernel) != len(reference):
            raise InputError(
                f"the kernel returns {len(kernel)} tensor(s) and the reference {len(reference)}",
                f"kernel: {_listed(kernel)}; reference: {_listed(reference)}",
                "wrap the one or the other in a function, so that both return the same",
            )
        narrow = [path for path, out in self._found.items() if wider(out.dtype) != out.dtype]
        if narrow:
            raise InputError(
                "the reference doesn't compute in float64",
                f"its {', '.join(narrow)} stays {self._found[narrow[0]].dtype} where all inputs are float64",
                "give a reference in plain PyTorch operations: no other kernel, no detour through NumPy",
            )
        self.outputs = tuple(described(path, "output", out, 0.0) for path, out in kernel.items())
        self._like = [out.detach() for out in kernel.values()]
        found = []
        for (path, out), expected in zip(kernel.items(), reference.values(), strict=True):
            for kind in ("shape", "dtype"):
                got, wanted = _told(out, kind), _told(expected, kind)
                if got != wanted:
                    found.append(Mismatch(path, kind, got, wanted))
        self.mismatches = tuple(found)

    def point(self, tensor: int) -> Array:
        return flat(self._base[self._keys[tensor]]).copy()

    def settled(self, tensor: int, values: Array) -> Array:
        return flat(moved_to(self._base[self._keys[tensor]], values))

    def representable(self, cotangents: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(flat(moved_to(like, part)) for like, part in zip(self._like, cotangents, strict=True))

    def kernel(self, point: Mapping[int, Array], cotangents: Sequence[Array], layout: str = "plain") -> Pass:
        return self._passed(self._kernel_outputs, point, cotangents, self._case, layout)

    def eager(self, point: Mapping[int, Array], cotangents: Sequence[Array]) -> Pass:
        return self._passed(self._eager_outputs, point, cotangents, self._reference)

    def truth(self, point: Mapping[int, Array], cotangents: Sequence[Array]) -> Pass:
        return self._passed(self._wide_outputs, point, cotangents, self._reference)

    def _passed(
        self,
        place: Any,
        moved: Mapping[int, Array],
        cotangents: Sequence[Array] | None,
        case: Case,
        layout: str = "plain",
    ) -> Pass:
        """Forwards and, with cotangents (or for a scalar), backwards."""
        elsewhere = {self._keys[at]: values for at, values in moved.items()}
        self._replay.rewind()  # before other tensors stand in the places of its buffers
        torch.clear_autocast_cache()
        with torch.enable_grad(), place(elsewhere) as (point, wide):
            inputs = {
                key[1]: tensor if wide else _handed(self._own[key], tensor)
                for key, tensor in point.items()
                if key[0] == "input"
            }
            handed = [tensor for tensor in inputs.values() if not wide and tensor.layout == torch.strided]
            before = [(tensor, tensor.detach().clone(), tensor.grad_fn) for tensor in handed]
            args, keywords = self._arguments.at(inputs, wide=wide)
            with user_code(f"{case.subject}{' in float64' if wide else ''}"):
                output = case.model(*args, **keywords)
            value, self.objective = scalar(output, case.loss)
            self._found = differentiable(output)
            outputs = list(self._found.values())
            if not outputs:
                raise InputError(
                    "the output holds no floating-point tensor",
                    f"{case.subject} returned {type(output).__name__}",
                    "return what is to be compared",
                )
            if cotangents is None:
                return Pass((), ())
            roots = outputs if value is None else [value]
            sent = [laid_out(moved_to(out.detach(), part), layout) for out, part in zip(roots, cotangents, strict=True)]
            kept = [part.clone() for part in sent]
            with user_code(f"the backward pass of {case.subject}{' in float64' if wide else ''}"):
                leaves = [point[key] for key in self._keys]
                gradients = pulled_back(roots, sent, leaves, self.tensors)
            modified = {
                "cotangent": any(not same(part, was) for part, was in zip(sent, kept, strict=True)),
                # Of what is written in place by its own operations, autograd knows.
                "input": any(now.grad_fn is by and not same(now, was) for now, was, by in before),
            }
            written = tuple(what for what, is_so in modified.items() if is_so)
            return Pass(tuple(flat(out) for out in outputs), gradients, written)

    @contextlib.contextmanager
    def _kernel_outputs(self, elsewhere: Mapping[Key, Array]) -> Iterator[tuple[dict[Key, torch.Tensor], bool]]:
        """The kernel's own parameters, moved in place for a while, and copies of inputs that lie in memory as given."""
        written = [key for key in elsewhere if key[0] == "parameter"]
        try:
            point = {}
            for key, own in self._own.items():
                if key in written:
                    write(own, elsewhere[key])
                point[key] = own if key[0] == "parameter" else self._leaf(key, elsewhere)
            yield point, False
        finally:
            for key in written:
                self._own[key].data.copy_(self._base[key])

    @contextlib.contextmanager
    def _eager_outputs(self, elsewhere: Mapping[Key, Array]) -> Iterator[tuple[dict[Key, torch.Tensor], bool]]:
        point = {key: self._leaf(key, elsewhere) for key in self._keys}
        others = {at: copied(tensor, wide=False) for at, tensor in self._twins.items()}
        with self._places.swapped({**others, **{self._mine[k]: t for k, t in point.items() if k in self._mine}}):
            yield point, False

    @contextlib.contextmanager
    def _wide_outputs(self, elsewhere: Mapping[Key, Array]) -> Iterator[tuple[dict[Key, torch.Tensor], bool]]:
        point = {key: self._leaf(key, elsewhere, wide=True) for key in self._keys}
        others = {
            at: copied(self._twins.get(at, tensor), wide=True)
            for at, tensor in self._places.tensors.items()
            if not torch.nn.parameter.is_lazy(tensor)
        }
        with (
            self._places.swapped({**others, **{self._mine[k]: t for k, t in point.items() if k in self._mine}}),
            in_float64(self._coarsest),
        ):
            yield point, True

    def _leaf(self, key: Key, elsewhere: Mapping[Key, Array], *, wide: bool = False) -> torch.Tensor:
        base = self._base[key]
        dtype = wider(base.dtype) if wide else base.dtype
        made = moved_to(base, elsewhere[key], dtype) if key in elsewhere else base.to(dtype, copy=True)
        return made.requires_grad_()


def _handed(given: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    """A copy that may be written, lying in memory as what the user gave, with its gaps; the gradient comes back."""
    if given.layout != torch.strided or leaf.stride() == given.stride() or _overlaps(given):
        return leaf.clone()
    return torch.empty_strided(given.shape, given.stride(), dtype=leaf.dtype, device=leaf.device).copy_(leaf)


def _overlaps(tensor: torch.Tensor) -> bool:
    """Whether two entries may share a place in memory (expanded, unfolded): such a tensor can't be written."""
    reach = 0
    for stride, n in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride <= reach:
            return True
        reach += stride * (n - 1)
    return False


def _state(module: torch.nn.Module | None) -> dict[str, torch.Tensor]:
    """Parameters and buffers by the names that they have when not compiled, tied ones under every name."""
    if module is None:
        return {}
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name.replace(_COMPILED, ""): tensor for name, tensor in named}


def _unmatched(
    name: str,
    tensor: torch.Tensor,
    known: Mapping[str, torch.Tensor],
    whose: str = "the kernel",
    other: str = "the reference",
) -> UsageError:
    plain = name.replace(_COMPILED, "")
    near = difflib.get_close_matches(plain, known, n=1, cutoff=0.5)
    has = ", ".join(f"{path} {tuple(t.shape)}" for path, t in known.items()) or "no parameters"
    hint = f"; did you mean {near[0]}?" if near and near[0] != plain else ""
    return UsageError(
        f"a parameter of {whose} isn't one of {other}",
        f"{name} of shape {tuple(tensor.shape)}; {other} has {has}{hint}",
        "give both modules parameters of the same names and shapes, hand weights in as inputs, or choose with wrt=",
    )


def _listed(outputs: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(f"{path} {tuple(out.shape)}" for path, out in outputs.items())


def _told(tensor: torch.Tensor, kind: str) -> str:
    return str(tuple(tensor.shape)) if kind == "shape" else str(tensor.dtype).removeprefix("torch.")
