"""A PyTorch module or callable as a Problem: autograd's gradient is the claim, evaluations without autograd are the
truth.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.problem import Array, Gradient, agree
from gradvitals.frameworks.torch import pullback
from gradvitals.frameworks.torch.arguments import Arguments, copied
from gradvitals.frameworks.torch.batched import Batch
from gradvitals.frameworks.torch.behind import every_module, generators_behind
from gradvitals.frameworks.torch.custom import custom_functions, is_own, nodes, operations
from gradvitals.frameworks.torch.cuts import Cuts
from gradvitals.frameworks.torch.entries import described, flat, moved_to, real_dtype, unit_roundoff, wider
from gradvitals.frameworks.torch.inner_gradients import InnerGradients
from gradvitals.frameworks.torch.inputs import validate
from gradvitals.frameworks.torch.layouts import LAYOUTS
from gradvitals.frameworks.torch.leaves import LeafSweep, leaf_sweeps
from gradvitals.frameworks.torch.objective import Objective
from gradvitals.frameworks.torch.placement import Placement
from gradvitals.frameworks.torch.replay import Replay
from gradvitals.frameworks.torch.resend import TorchPullback, made_ready
from gradvitals.frameworks.torch.settings import autocast_roundoff, lowered_precision
from gradvitals.frameworks.torch.surrogates import Surrogates
from gradvitals.frameworks.torch.swap import Places
from gradvitals.frameworks.torch.widening import in_float64, uncompiled
from gradvitals.frameworks.torch.wrt import Key, differentiated, involved
from gradvitals.frameworks.tree import leaves
from gradvitals.frameworks.user_code import user_code
from gradvitals.vocabulary.errors import InputError, ModelError, UsageError

_AS_IT_IS = contextlib.nullcontext()


class TorchProblem:
    """A module or callable with its inputs.

    The model itself runs, its own parameters moved in place for an evaluation and back; in float64 others stand in
    their places. Modes and contexts (training, autocast) are those at the call. Use it inside ``preserved``.

    Parameters
    ----------
    case : Case
    wrt : str, module, parameter, sequence or mapping of these, optional
        The tensors to differentiate, see :func:`~gradvitals.frameworks.torch.wrt.differentiated`.
    outputs : str, int, or sequence of them, optional
        What of the output is differentiated, see :class:`~gradvitals.frameworks.torch.objective.Objective`.

    Raises
    ------
    InputError
        From ``validate``; when nothing can be differentiated, or the output holds no floating-point tensor.
    UsageError
        When a name in ``wrt`` or ``outputs`` fits nothing, or ``grad=`` or ``vjp=`` come with torch tensors.

    """

    layouts = LAYOUTS
    sends_alone = True
    #: Autograd hands one cotangent to every branch behind a sum.
    shares_cotangents = True

    def __init__(self, case: Case, wrt: Any = None, *, outputs: Any = None) -> None:
        if case.grad is not None or case.vjp is not None:
            raise UsageError(
                "grad= and vjp= are for NumPy functions",
                f"check({case.subject}, ...) with torch tensors",
                "leave them out: autograd's gradient is checked; put a hand-written one in a torch.autograd.Function",
            )
        self._case = case
        self._arguments = Arguments(case)
        validate(case, self._arguments.roots)
        modules = every_module(involved(case, wrt))
        self._replay = Replay(modules, generators_behind((case.model, case.loss), modules))
        self._places = Places(modules)
        self._own = differentiated(case, self._arguments.roots, wrt)
        self._at = Placement(self._own)
        self._base, self._keys = self._at.base, self._at.keys
        rounding = autocast_roundoff([tensor.device.type for tensor in self._base.values()])
        self.tensors = tuple(described(path, role, base, rounding) for (role, path), base in self._base.items())
        self._widest: dict[int, torch.Tensor] = {}
        self.surrogates = Surrogates(modules)
        self._call = f"{case.subject}()"
        self._objective = Objective(case.loss, outputs, self._call)
        self._outputs: list[torch.Tensor] = []
        self._paths: tuple[str, ...] = ()
        self._operations: tuple[str, ...] = ()
        self._hand_written: tuple[str, ...] | None = None
        self.objective = "random"
        self.roundoff = max(tensor.roundoff for tensor in self.tensors)
        self.wide = False
        self._modules = modules
        self._batch = Batch(self, modules, case.model, case.loss)
        inputs = [tensor for _, tensor in self._arguments.tensors()]
        self.sample_sizes = tuple(dict.fromkeys(int(t.shape[0]) for t in inputs if t.ndim >= 2))
        self._inner = InnerGradients()
        #: F at the point, as it was found on opening.
        self.start = self._first_value()
        #: F as the latest gradient's own forward pass gave it, at the point; and that pass, to be handed out once.
        self.start_again: Array | None = None
        self._recorded: TorchPullback | None = None
        self._size = self.start.size
        self._native_outputs = self._outputs
        if self.objective != "random":
            sizes = [t.numel() for t in inputs if t.is_floating_point()]
            self.sample_sizes = tuple(dict.fromkeys((*self.sample_sizes, *sizes)))
        if len(self._outputs) > 1:
            self._leave_out_constants()

    def _first_value(self) -> Array:
        """F at the point; where the code takes gradients of its own, it is evaluated so that it can."""
        try:
            return self.value({})
        except ModelError as error:
            if not self._inner.are_wanted(error):
                raise
        self._batch.reason = "takes-gradients"
        return self.value({})

    def _leave_out_constants(self) -> None:
        """Outputs that no gradient can come back from, beside others, aren't differentiated: counts, statistics."""
        with torch.enable_grad(), self._at.placed({}, differentiable=True) as point:
            outputs = self._run(point, recording=True)
        constant = [path for path, output in zip(self._paths, outputs, strict=True) if not output.requires_grad]
        if len(constant) < len(outputs) and self._objective.leave_out(constant):
            self.start = self.value({})
            self._size = self.start.size
            self._native_outputs = self._outputs

    @property
    def left_out(self) -> tuple[str, ...]:
        """Outputs that aren't differentiated, because no gradient can come back from them."""
        return self._objective.left_out

    def shadow(self, within: Array | None = None) -> TorchProblem | None:
        if all(wider(base.dtype) == base.dtype for base in self._base.values()):
            return None
        native = self.value({})
        shadow = copy.copy(self)
        shadow.wide = True
        shadow._recorded = None  # noqa: SLF001 - it is of this class
        shadow._widest = {  # noqa: SLF001 - it is of this class
            at: copied(tensor, wide=True).requires_grad_(tensor.requires_grad)
            for at, tensor in self._places.tensors.items()
            if wider(tensor.dtype) != tensor.dtype and not torch.nn.parameter.is_lazy(tensor)
        }
        shadow._batch = Batch(shadow, self._modules, self._case.model, self._case.loss)  # noqa: SLF001 - it is of this class
        if not shadow.gives(native, self.roundoff, within):
            return None
        shadow.roundoff = 2.0**-53
        return shadow

    def gives(self, native: Array, roundoff: float, within: Array | None = None) -> bool:
        """Whether evaluations are in float64 throughout and give the value that was computed natively."""
        try:
            with self._inner.allowed():
                self._outputs = self._run(self._inner.leaves(self._at.widened({})), wide=True, watched=self._widest)
            self.start = np.concatenate([flat(output) for output in self._outputs])
            same = agree(self.start, native, roundoff, within)
        except (ModelError, InputError):  # a kernel for one dtype, a constant of another
            return False
        return same and all(output.dtype == wider(output.dtype) for output in self._outputs)

    def point(self, tensor: int) -> Array:
        return flat(self._base[self._keys[tensor]]).copy()

    def rounded(self, tensor: int, values: Array) -> Array:
        base = self._base[self._keys[tensor]]
        if self.wide or wider(base.dtype) == base.dtype:
            return values
        return flat(moved_to(base, values))

    def value(self, moved: Mapping[int, Array]) -> Array:
        with self._inner.allowed():
            if self.wide:
                self._outputs = self._run(self._inner.leaves(self._at.widened(moved)), wide=True)
            else:
                with self._at.placed(moved, differentiable=self._inner.wanted) as point:
                    self._outputs = self._run(point)
        return np.concatenate([flat(output) for output in self._outputs])

    def values(self, points: Sequence[Mapping[int, Array]]) -> Array:
        return self._batch.values(points, self._size)

    @property
    def evaluation(self) -> str:
        return self._batch.evaluation

    def sweeps(self) -> tuple[LeafSweep, ...]:
        """Faster ways to the entries of parameters than moving them one by one."""
        numbers = {id(own): at for at, own in enumerate(self._own.values())}
        return () if self._batch.reason else leaf_sweeps(self, involved(self._case), numbers)

    def tensor_at(self, at: int, values: Array) -> torch.Tensor:
        """Flat values of shape (..., size) as the tensor takes them: (..., *shape), in its dtype and on its device."""
        base = self._base[self._keys[at]]
        if base.layout != torch.strided:
            raise InputError("sparse tensors aren't batched", self._keys[at][1], "evaluate single points")
        numbers = torch.from_numpy(values)
        if base.is_complex():
            numbers = torch.view_as_complex(numbers.reshape(*values.shape[:-1], -1, 2).clone())
        dtype = wider(base.dtype) if self.wide else base.dtype
        return numbers.to(base.device, dtype).reshape(*values.shape[:-1], *base.shape)

    def outputs_at(self, moved: Mapping[int, torch.Tensor]) -> list[torch.Tensor]:
        """Outputs as real views, with some tensors replaced, which may be those of ``torch.func.vmap``."""
        elsewhere = {self._keys[at]: tensor for at, tensor in moved.items()}
        with torch.no_grad(), self._at.placed({}) as here:
            point = self._at.widened({}) if self.wide else here
            outputs = self._run(point | elsewhere, wide=self.wide)
            return [torch.view_as_real(output) if output.is_complex() else output for output in outputs]

    @property
    def output_roundoff(self) -> Array:
        return np.concatenate([np.full(flat(out).size, unit_roundoff(out.dtype)) for out in self._outputs])

    @property
    def output_sizes(self) -> tuple[int, ...]:
        return tuple(output.numel() * (2 if output.is_complex() else 1) for output in self._outputs)

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple((*output.shape, 2) if output.is_complex() else tuple(output.shape) for output in self._outputs)

    @property
    def input_shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        given = [(path, value) for root, tree in self._arguments.roots for path, value in leaves(tree, root)]
        return tuple((path, tuple(value.shape)) for path, value in given if isinstance(value, torch.Tensor))

    def hand_written(self) -> tuple[str, ...]:
        if self._hand_written is None:
            with torch.enable_grad(), self._at.placed({}, differentiable=True) as point:
                self._hand_written = custom_functions(nodes(self._run(point, recording=True)), self._own)
        return self._hand_written

    def cuts(self) -> tuple[str, ...]:
        with torch.enable_grad(), self._at.placed({}, differentiable=True) as point, Cuts() as seen:
            self._run(point, recording=True)
        cuts: tuple[str, ...] = seen.found
        return cuts

    @property
    def output_dtypes(self) -> tuple[torch.dtype, ...]:
        """In the user's precision."""
        return tuple(output.dtype for output in self._native_outputs)

    def representable(self, cotangent: Array) -> Array:
        parts = zip(self._native_outputs, pullback.split(cotangent, self._native_outputs), strict=True)
        return np.concatenate([flat(moved_to(like, part)) for like, part in parts])

    def gradient(self, cotangent: Array, moved: Mapping[int, Array] | None = None) -> tuple[Gradient, ...]:
        with self.recorded(moved or {}, wide=False) as (starts, outputs):
            if self._hand_written is None:
                graph = list(nodes(outputs))
                self._operations, self._hand_written = operations(graph), custom_functions(graph, self._own)
            if not moved:
                made = self._resendable(outputs, starts, own=())
                is_plain = not (self._hand_written or self._at.inputs) and self._replay.is_still
                self.start_again, self._recorded = made.value, made if is_plain else None
            return self._pulled_back(outputs, cotangent, starts)

    def _resendable(
        self, outputs: Sequence[torch.Tensor], starts: Sequence[torch.Tensor | None], own: Sequence[Any]
    ) -> TorchPullback:
        return TorchPullback(outputs, starts, self.tensors, draws=self._replay.has_drawn(), own=own)

    def pullback(
        self,
        moved: Mapping[int, Array] | None = None,
        *,
        layout: str = "plain",
        shared: Sequence[tuple[int, int]] = (),
        only: Sequence[int] | None = None,
    ) -> TorchPullback:
        """A forward pass that takes several cotangents back."""
        known, self._recorded = self._recorded, None
        if known is not None and layout == "strided" and not (moved or shared) and only is None:
            known.is_known = True
            return known  # without inputs there is nothing to be laid out otherwise
        with torch.enable_grad(), self._at.placed(moved or {}) as point:
            starts, handed = made_ready(point, layout, shared, only)
            outputs = self._run(handed, recording=True)
            return self._resendable(outputs, starts, own=[node for node in nodes(outputs) if is_own(node)])

    def lowered_precision(self) -> tuple[str, ...]:
        """The settings in force that make it compute with fewer digits than its dtypes have."""
        return lowered_precision([base.device.type for base in self._base.values()], self._operations)

    def wide_gradient(self, cotangent: Array, moved: Mapping[int, Array] | None = None) -> tuple[Gradient, ...] | None:
        if not self.wide:
            return None
        try:
            with self.recorded(moved or {}, wide=True) as (starts, outputs):
                return self._pulled_back(outputs, cotangent, starts)
        except (ModelError, InputError):
            return None

    @contextlib.contextmanager
    def recorded(
        self, moved: Mapping[int, Array], *, wide: bool
    ) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
        """One leaf per tensor and the outputs, with the graph between them; in float64 if wanted."""
        with torch.enable_grad():
            if not wide:
                with self._at.placed(moved, differentiable=True) as point:
                    yield list(point.values()), self._run(point, recording=True)
                return
            point = {key: tensor.requires_grad_() for key, tensor in self._at.widened(moved).items()}
            for key, tensor in point.items():
                if key[0] == "parameter":  # hooks on a parameter are part of its backward pass
                    for hook in (self._own[key]._backward_hooks or {}).values():  # noqa: SLF001
                        tensor.register_hook(hook)  # type: ignore[no-untyped-call]
            outputs = self._run(point, wide=True, recording=True)
            with self._in_float64():
                yield list(point.values()), outputs

    def tangent(self, direction: Mapping[int, Array]) -> Array | None:
        try:
            # Of the kernels for attention only the plain one has a forward mode.
            with torch.no_grad(), uncompiled(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
                moves = {self._keys[at]: values for at, values in direction.items()}
                with self._at.placed({}) as here:
                    point = self._at.widened({}) if self.wide else here
                    for key, values in moves.items():
                        like = point[key].detach()
                        point[key] = forward_ad.make_dual(  # type: ignore[no-untyped-call]
                            like, moved_to(self._base[key], values, like.dtype)
                        )
                    replaced = [*self._widest, *(id(self._own[key]) for key in moves)]
                    outputs = self._run(point, wide=self.wide, watched=replaced)
                found = [forward_ad.unpack_dual(output) for output in outputs]  # type: ignore[no-untyped-call]
        except (ModelError, InputError, RuntimeError):  # an operation without a forward mode
            return None
        return np.concatenate(
            [flat(torch.zeros_like(part.primal) if part.tangent is None else part.tangent) for part in found]
        )

    def _pulled_back(
        self, outputs: list[torch.Tensor], cotangent: Array, starts: list[torch.Tensor]
    ) -> tuple[Gradient, ...]:
        parts = [
            moved_to(out.detach(), part) for out, part in zip(outputs, pullback.split(cotangent, outputs), strict=True)
        ]
        with user_code(f"the backward pass of {self._case.subject}"):
            return pullback.pulled_back(outputs, parts, starts, self.tensors)

    def _in_float64(self) -> contextlib.AbstractContextManager[None]:
        coarsest = max(self._base.values(), key=lambda base: unit_roundoff(base.dtype))
        return in_float64(real_dtype(coarsest.dtype))

    def _run(
        self,
        point: Mapping[Key, torch.Tensor],
        *,
        wide: bool = False,
        watched: Collection[int] = (),
        recording: bool = False,
    ) -> list[torch.Tensor]:
        """Outputs at a point, or the one scalar that they become; the random state is that of the start.

        Replaced tensors that are ``watched``, by their ids, mustn't be used from anywhere else. A run that is
        ``recording`` is differentiated: in it surrogates are what they are.
        """
        inputs = {path: tensor for (role, path), tensor in point.items() if role == "input"}
        others = {
            id(self._own[key]): t for key, t in point.items() if key[0] == "parameter" and t is not self._own[key]
        }
        self._replay.rewind()
        torch.clear_autocast_cache()  # or a parameter's cast from before it was moved is used again
        args, keywords = self._arguments.at(inputs, wide=wide)
        if wide:
            buffers = {at: self._places.tensors[at] for at in self._widest}
            moving = {at: copied(t, wide=True) for at, t in buffers.items() if self._replay.is_moving(t)}
            others = {**self._widest, **moving, **others}
        meant = self.surrogates.at_work(differentiating=recording)
        around: contextlib.AbstractContextManager[Any] = _AS_IT_IS
        if others or wide:  # most evaluations need none of it, and entering it takes longer than a small function
            around = self._replaced(others, watched, wide=wide)
        with user_code(self._call), around, meant:
            tensors, self.objective = self._objective.of(self._case.model(*args, **keywords))
        self._paths = tuple(tensors)
        return list(tensors.values())

    @contextlib.contextmanager
    def _replaced(self, others: Mapping[int, torch.Tensor], watched: Collection[int], *, wide: bool) -> Iterator[None]:
        mode = self._in_float64() if wide else _AS_IT_IS
        with self._places.swapped(others), mode, self._places.only_replaced(watched):
            yield
