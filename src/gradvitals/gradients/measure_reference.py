"""Measure a kernel against its reference: the errors of both, over several points and cotangents, from the reference in
float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gradvitals.frameworks.problem import Array, Tensor
from gradvitals.frameworks.rivals import Pass, Rivals
from gradvitals.gradients.tally import Tally, agreement
from gradvitals.vocabulary.errors import InputError

if TYPE_CHECKING:  # importing it takes as long as half of gradvitals
    from numpy.typing import NDArray

#: Trials to begin with, and at most: each has its own cotangent, and inputs that differ by an ulp from the given ones.
#: Eight know a ratio of RMS errors within 1–15 % (one standard error, measured on attention, layer norm and softmax).
TRIALS, MOST_TRIALS = 8, 24
#: A ratio must be this many standard errors above what is allowed.
SURE = 3.0
#: A slice, or an entry, may stand out from the rest by so much: the worst of thousands of sound ones, see
#: ``tests/gradients/test_reference_calibration.py``.
SLICE_ALLOWANCE, ENTRY_ALLOWANCE = 3.0, 8.0
#: Where the eager version itself is off by this share of the tensor, or one roundoff of the inputs moves it by as much,
#: the precision doesn't determine it.
UNDETERMINED = 0.3
#: An error this many times above such noise is no noise.
BEYOND_NOISE = 30.0
#: A gradient is zero by design where all of it, relative to the largest contribution, is this share of a roundoff.
_ZERO = 1e-6
#: What is sent back through a scalar, trial by trial: numbers that every type holds. From .backward() itself only 1
#: comes; a weighted sum of losses, or a loss scale, sends others.
_SCALARS = (1.0, -2.0, 1.5, -0.75)
#: Trials take place this close to the given inputs, relatively, but at most so many units in the last place away: of a
#: scalar, the neighbours one unit away are too few to tell luck from accuracy.
_NEAR, _MOST_UNITS = 2.0**-8, 64.0
#: Perturbed inputs that show the conditioning.
_MOVES = 2
#: To tell imprecision from a mistake, inputs are moved by so many times the relative error, at most this far, so often.
_FAR, _FARTHEST, _STRAYS = 8.0, 2.0**-4, 3
#: A kink lies exactly at the inputs where the gradient in float64 jumps, by this share of its largest entry, between so
#: many points this far away, relatively: a smooth gradient changes by 1e-9 there, a thousand times that if steep.
_ASIDE, _SIDES, _JUMP = 1e-9, 6, 1e-5


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came out for one output or gradient.

    ``status`` is right, wrong or unresolved; ``missing`` says that the kernel gave no gradient, ``got_shape`` that it
    has another shape. ``moved`` is how much the truth moves by one unit roundoff of the inputs, relatively. ``slices``
    holds each slice's error beside the eager version's, for every way to cut the tensor; ``agreement`` the cosine
    between errors at different places, near 1 for a mistake and near 0 for rounding (None where it wasn't needed);
    ``agreement_apart`` is that of the entries that stand out.
    """

    tensor: Tensor
    tally: Tally
    status: str
    moved: float
    local: float
    slices: tuple[Array, ...]
    entry: int
    missing: bool = False
    got_shape: tuple[int, ...] | None = None
    reason: str = ""
    agreement: float | None = None
    agreement_apart: float = 0.0

    @property
    def conditioning(self) -> float:
        """The relative change of the truth over that of the inputs."""
        return self.moved / self.tensor.roundoff

    @property
    def broken_count(self) -> int:
        return 0 if self.tally.broken is None else int(self.tally.broken.sum())


@dataclass(frozen=True, slots=True)
class Compared:
    """All outputs and gradients, and what it took: ``passes`` forwards and backwards, of all three.

    ``modified`` says what the kernel wrote into: ``"cotangent"``, ``"input"``.
    """

    outputs: tuple[Comparison, ...]
    gradients: tuple[Comparison, ...]
    trials: int
    passes: int
    modified: tuple[str, ...] = ()


def compare(
    rivals: Rivals, *, ratio: float, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> Compared:
    """Let a kernel and its reference run side by side until it is clear which tensors stay within the ratio.

    Parameters
    ----------
    rivals : Rivals
    ratio : float
        How many times the eager version's error is allowed.
    seed : int
        Of cotangents and neighbouring points.
    progress : callable, optional
        Called with (passes done, passes expected).

    """
    return _Match(rivals, ratio, np.random.default_rng(seed), progress).result()


class _Match:
    def __init__(
        self, rivals: Rivals, ratio: float, rng: np.random.Generator, progress: Callable[[int, int], None] | None
    ) -> None:
        self._rivals = rivals
        self._ratio = ratio
        self._rng = rng
        self._progress = progress
        self._done = 0
        self._modified: tuple[str, ...] = ()
        self._points = [rivals.point(at) for at in range(len(rivals.tensors))]
        self._subjects = (*rivals.outputs, *rivals.tensors)
        self._tallies = [Tally(tensor.shape, tensor.dtype) for tensor in self._subjects]
        self._missing = [False] * len(self._subjects)
        self._shapes: list[tuple[int, ...] | None] = [None] * len(self._subjects)
        self._stopped = [False] * len(self._subjects)
        self._cotangents: tuple[Array, ...] = ()
        self._truth = Pass((), ())
        self._places: list[tuple[dict[int, Array], tuple[Array, ...]]] = []

    def result(self) -> Compared:
        for trial in range(TRIALS):
            self._try(trial)
        moved = self._moved()
        trials = TRIALS
        compared = self._judged(moved)
        while trials < MOST_TRIALS and any(c.reason == "close" for c in compared):
            for _ in range(TRIALS):
                self._try(trials)
                trials += 1
            compared = self._judged(moved)
        kinked = self._kinked(compared)
        if kinked:
            smooth, self._tallies = self._tallies, [Tally(t.shape, t.dtype) for t in self._subjects]
            for trial in range(TRIALS):
                self._try(trial, at_kinks=kinked)
            self._tallies = [mine if at in kinked else smooth[at] for at, mine in enumerate(self._tallies)]
            compared = self._judged(moved)
        compared = self._strayed(compared)
        count = len(self._rivals.outputs)
        return Compared(tuple(compared[:count]), tuple(compared[count:]), trials, self._done, self._modified)

    def _try(self, trial: int, *, at_kinks: Sequence[int] = ()) -> None:
        """One trial; of the tensors that have kinks, any sub-gradient is right."""
        point = {} if trial == 0 else self._beside()
        cotangents = self._drawn(trial)
        self._places.append((point, cotangents))
        kernel = self._ran(self._rivals.kernel, point, cotangents)
        eager = self._ran(self._rivals.eager, point, cotangents)
        truth = self._ran(self._rivals.truth, point, cotangents)
        self._modified = tuple(dict.fromkeys((*self._modified, *kernel.modified)))
        if trial == 0:
            _require_gradient(kernel, truth)
            self._cotangents, self._truth = cotangents, truth
        for at, (got, beside, right) in enumerate(zip(kernel.outputs, eager.outputs, truth.outputs, strict=True)):
            self._tallies[at].add(got, beside, right)
        for at, (mine, theirs, true) in enumerate(
            zip(kernel.gradients, eager.gradients, truth.gradients, strict=True), start=len(kernel.outputs)
        ):
            size = self._subjects[at].size
            got, beside, right = (np.zeros(size) if g.value is None else g.value for g in (mine, theirs, true))
            if at in at_kinks:
                low, high = self._hull(point, cotangents)[at - len(kernel.outputs)]
                got, beside = (np.where(_at_kink(low, high, value), right, value) for value in (got, beside))
            self._tallies[at].add(got, beside, right)
            self._missing[at] |= mine.value is None and not mine.stopped
            self._shapes[at] = self._shapes[at] or mine.got_shape
            self._stopped[at] |= mine.stopped

    def _ran(
        self,
        run: Callable[[Mapping[int, Array], Sequence[Array]], Pass],
        point: Mapping[int, Array],
        cotangents: Sequence[Array],
    ) -> Pass:
        found = run(point, cotangents)
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, max(3 * TRIALS + _MOVES, self._done))
        return found

    def _drawn(self, trial: int) -> tuple[Array, ...]:
        if self._rivals.objective != "random":
            return (np.array([_SCALARS[trial % len(_SCALARS)]]),)
        return self._rivals.representable([self._rng.standard_normal(out.size) for out in self._rivals.outputs])

    def _beside(self) -> dict[int, Array]:
        """A point nearby: every entry a few units in the last place away, so that all of them round anew."""
        near = {}
        for at, (x, tensor) in enumerate(zip(self._points, self._rivals.tensors, strict=True)):
            ulp = 2 * tensor.roundoff
            units = round(min(max(_NEAR / ulp, 1.0), _MOST_UNITS))
            near[at] = self._rivals.settled(at, x * (1 + ulp * self._rng.integers(-units, units + 1, x.size)))
        return near

    def _moved(self) -> list[float]:
        """How much the truth moves, relatively, when inputs and cotangents move by one unit roundoff."""
        squares = np.zeros(len(self._subjects))
        base = [*self._truth.outputs, *(g.value for g in self._truth.gradients)]
        for _ in range(_MOVES):
            point = {
                at: x * (1 + tensor.roundoff * self._rng.choice((-1.0, 1.0), x.size))
                for at, (x, tensor) in enumerate(zip(self._points, self._rivals.tensors, strict=True))
            }
            sent = self._cotangents
            if self._rivals.objective == "random":
                sent = tuple(
                    w * (1 + out.roundoff * self._rng.choice((-1.0, 1.0), w.size))
                    for w, out in zip(sent, self._rivals.outputs, strict=True)
                )
            found = self._ran(self._rivals.truth, point, sent)
            there = [*found.outputs, *(g.value for g in found.gradients)]
            for at, (one, other) in enumerate(zip(base, there, strict=True)):
                if one is not None and other is not None:
                    apart = one - other
                    squares[at] += float(np.sum(np.square(apart[np.isfinite(apart)]))) / _MOVES
        sizes = [0.0 if one is None else float(np.linalg.norm(one[np.isfinite(one)])) for one in base]
        return [math.sqrt(s) / size if size else 0.0 for s, size in zip(squares, sizes, strict=True)]

    def _judged(self, moved: Sequence[float]) -> list[Comparison]:
        largest, scales = self._contributions()
        found = []
        for at, (tensor, tally) in enumerate(zip(self._subjects, self._tallies, strict=True)):
            is_zero = False
            if tensor.role != "output":
                scale = scales[at - len(self._rivals.outputs)]
                least = tensor.roundoff * largest / (scale or 1.0)  # a bias that starts at zero has no size
                is_zero = math.sqrt(float(np.mean(tally.truth))) <= _ZERO * least
                tally.least = least if is_zero else 0.0
            slices = tuple(tally.slices())
            local = max(
                [float(s.max(initial=0.0)) / SLICE_ALLOWANCE for s in slices] + [tally.worst_entry() / ENTRY_ALLOWANCE],
                default=0.0,
            )
            status, reason = self._status(at, moved[at], local, is_zero=is_zero)
            found.append(
                Comparison(
                    tensor,
                    tally,
                    status,
                    moved[at],
                    local,
                    slices,
                    self._place(tally),
                    missing=self._missing[at],
                    got_shape=self._shapes[at],
                    reason=reason,
                )
            )
        return found

    def _status(self, at: int, moved: float, local: float, *, is_zero: bool) -> tuple[str, str]:
        tally = self._tallies[at]
        if self._shapes[at] is not None or (tally.broken is not None and tally.broken.any()):
            return "wrong", ""
        if self._stopped[at]:
            return "unresolved", "stopped"
        if tally.lost == self._subjects[at].size:
            return "unresolved", "value-not-finite"
        beside = tally.ratio
        within = beside.value <= self._ratio and local <= self._ratio
        off = tally.eager_error
        if is_zero:
            noise = beside.value <= BEYOND_NOISE * self._ratio
            return ("right", "") if within else ("unresolved", "noise") if noise else ("wrong", "")
        if max(off, moved) >= UNDETERMINED:
            if beside.value > BEYOND_NOISE * self._ratio:
                return "wrong", ""
            return "unresolved", "ill-conditioned" if off < BEYOND_NOISE * moved else "reference-differs"
        if within:
            return "right", ""
        if local > self._ratio or beside.value * math.exp(-SURE * beside.error / beside.value) > self._ratio:
            return "wrong", ""
        return "unresolved", "close"

    def _contributions(self) -> tuple[float, list[float]]:
        """The most that a tensor's gradient contributes when it moves by its own size, and those sizes."""
        scales = [float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0 for x in self._points]
        tallies = self._tallies[len(self._rivals.outputs) :]
        sizes = [math.sqrt(float(np.mean(tally.truth))) * s for tally, s in zip(tallies, scales, strict=True)]
        return max(sizes, default=0.0), scales

    @staticmethod
    def _place(tally: Tally) -> int:
        """The entry that shows it best: not finite, or farthest off."""
        if tally.broken is not None and tally.broken.any():
            return int(np.argmax(tally.broken))
        kernel, _, truth = tally.first[0]
        return int(np.argmax(np.abs(kernel - truth))) if truth.size else 0

    def _kinked(self, compared: Sequence[Comparison]) -> list[int]:
        """Gradients that aren't right and that have a kink, or a tie, where they are worst."""
        start = len(self._rivals.outputs)
        found = []
        for at, c in enumerate(compared[start:]):
            if c.status == "right" or c.broken_count or c.missing or c.got_shape is not None:
                continue
            place = self._places[int(np.argmax(c.tally.kernel))]
            low, high = self._hull(*place)[at]
            mine = self._ran(self._rivals.kernel, *place).gradients[at].value
            true = self._ran(self._rivals.truth, *place).gradients[at].value
            if mine is not None and np.any(_at_kink(low, high, mine) & (mine != true)):
                found.append(start + at)
        return found

    def _hull(self, point: Mapping[int, Array], cotangents: Sequence[Array]) -> list[tuple[Array, Array]]:
        """The least and the largest gradient, entry by entry, hardly away from a point."""
        found: list[list[Array]] = [[] for _ in self._points]
        for _ in range(_SIDES):
            near = {}
            for at, x in enumerate(self._points):
                here = point.get(at, x)
                size = float(np.sqrt(np.mean(here**2))) or 1.0
                near[at] = here + _ASIDE * size * self._rng.uniform(-1, 1, x.size)
            for at, gradient in enumerate(self._ran(self._rivals.truth, near, cotangents).gradients):
                found[at].append(np.zeros(self._points[at].size) if gradient.value is None else gradient.value)
        return [(np.min(values, axis=0), np.max(values, axis=0)) for values in found]

    def _strayed(self, compared: Sequence[Comparison]) -> list[Comparison]:
        """Where something is wrong: does the error stay the same at other places, as a mistake's does?"""
        wrong = [at for at, c in enumerate(compared) if c.status == "wrong" and not self._missing[at]]
        small = [compared[at].tally.kernel_error for at in wrong if compared[at].tally.kernel_error < 1]
        if not small:
            return list(compared)
        step = min(_FAR * max(small), _FARTHEST)
        errors = {at: [compared[at].tally.first[0][0] - compared[at].tally.first[0][2]] for at in wrong}
        for _ in range(_STRAYS):
            point = {
                at: self._rivals.settled(at, x * (1 + step * self._rng.uniform(-1, 1, x.size)))
                for at, x in enumerate(self._points)
            }
            sent = self._cotangents
            if self._rivals.objective == "random":
                sent = self._rivals.representable([w * (1 + step * self._rng.uniform(-1, 1, w.size)) for w in sent])
            mine = self._ran(self._rivals.kernel, point, sent)
            true = self._ran(self._rivals.truth, point, sent)
            values = [
                *zip(mine.outputs, true.outputs, strict=True),
                *((m.value, t.value) for m, t in zip(mine.gradients, true.gradients, strict=True)),
            ]
            for at in wrong:
                one, other = values[at]
                if one is not None and other is not None:
                    errors[at].append(np.nan_to_num(one - other, posinf=0.0, neginf=0.0))
        return [
            replace(c, agreement=agreement(errors[at]), agreement_apart=self._agreement_apart(c, errors[at]))
            if at in errors and c.tally.kernel_error < 1
            else c
            for at, c in enumerate(compared)
        ]

    def _agreement_apart(self, c: Comparison, errors: Sequence[Array]) -> float:
        """The same of the entries that stand out: beside all others' rounding a mistake in a few can't be seen.

        Chosen for being large, they would be smaller elsewhere if they were rounding.
        """
        apart = c.tally.standing_out(ENTRY_ALLOWANCE * self._ratio)
        chosen = [error[apart] for error in errors]
        sizes = [float(np.linalg.norm(error)) for error in chosen]
        if not len(apart) or min(sizes) == 0:
            return 0.0
        return agreement(chosen) * min(1.0, float(np.median(sizes[1:])) / sizes[0])


def _require_gradient(kernel: Pass, truth: Pass) -> None:
    if all(g.value is None for g in truth.gradients) and any(g.value is not None for g in kernel.gradients):
        raise InputError(
            "no gradient comes back through the reference",
            "the kernel has one and the reference has none, for every tensor",
            "give a reference in differentiable operations: no detach(), .item() or detour through NumPy",
        )


def _at_kink(low: Array, high: Array, value: Array) -> NDArray[np.bool_]:
    """Where a gradient jumps, and this is one of the sub-gradients."""
    size = float(np.max(np.abs(np.concatenate([low, high])), initial=0.0))
    found: NDArray[np.bool_] = (high - low > _JUMP * size) & (low <= value) & (value <= high)
    return found
