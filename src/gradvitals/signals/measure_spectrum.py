"""The singular values of a model's Jacobian, from end to end and stage by stage along the main path."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradvitals.frameworks.case import Case
from gradvitals.maths.spectrum import DENSE, MOST_STEPS, Formable, Spectrum, spectrum
from gradvitals.signals.measure import label
from gradvitals.signals.trunk import node, trunk
from gradvitals.vocabulary.errors import ModelError
from gradvitals.vocabulary.finding import Fact
from gradvitals.vocabulary.report import Table

if TYPE_CHECKING:  # torch is imported by whoever measures
    from gradvitals.frameworks.torch.linearisation import Linearised

#: Stages that a path is cut into at most: neighbours are taken together.
_MOST_STAGES = 64
#: Steps more for each time that fewer samples are looked at than the batch holds, and steps at most.
_MORE_STEPS, _STEPS_AT_MOST = 2, 24
#: The dimension up to which the whole model's Jacobian is formed: for its condition number.
_DENSE_WHOLE = 512


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of the main path; the spectrum is None where only Jᵀ can be multiplied with, and J is large."""

    first: str
    last: str
    spectrum: Spectrum | None


@dataclass(frozen=True, slots=True)
class Stages:
    """The whole model first, then its stages from the input to the output; and what was differentiated how.

    ``jacobian`` is ``"per-sample"``, or ``"of-batch"`` where samples depend on one another, or there is but one.
    """

    stages: tuple[Stage, ...]
    jacobian: str
    source: str
    samples: int

    @property
    def products(self) -> int:
        """Products in all."""
        return sum(stage.spectrum.products for stage in self.stages if stage.spectrum is not None)


def measure_spectrum(
    case: Case, *, seed: int = 0, whole_only: bool = False, progress: Callable[[int, int], None] | None = None
) -> Stages:
    """Run the model once more, keep the graph, and ask every stretch of it, or the whole only.

    Raises
    ------
    InputError
        When the output can't be differentiated with respect to the input.
    ModelError
        When the model or its backward pass raises.

    """
    from gradvitals.frameworks.torch.linearisation import linearised

    with linearised(case, seed=seed) as point:
        ends = _ends(point)[: 1 if whole_only else None]
        found = []
        for at, (start, end) in enumerate(ends):
            jacobian = point.jacobian(start, end)
            if jacobian is not None:
                values = _asked(jacobian, seed, point.spared, whole=at == 0)
                found.append(Stage(_name(point, start, point.source), _name(point, end, point.target), values))
                if at == 0:
                    samples = jacobian.shape[0]
            if progress is not None:
                progress(at + 1, len(ends))
        kind = "per-sample" if point.independent else "of-batch"
    return Stages(tuple(found), kind, point.source, samples)


def spectrum_table(stages: Stages) -> Table:
    """The table ``spectrum``: a row for the whole model, then one per stage."""
    columns = (
        *("first", "path", "inputs", "outputs", "sigma_max", "sigma_max_error", "mean_square", "mean_square_error"),
        *("square_variance", "square_variance_error", "condition", "products"),
    )
    return Table("spectrum", columns, ("",) * len(columns), tuple(map(_row, stages.stages)))


def _row(stage: Stage) -> tuple[Fact, ...]:
    found = stage.spectrum
    if found is None:
        return (stage.first, stage.last, *(None,) * 10)
    return (
        *(stage.first, stage.last, found.inputs, found.outputs, found.sigma_max, found.sigma_max_error),
        *(found.mean_square, found.mean_square_error, found.square_variance, found.square_variance_error),
        *(found.condition, found.products),
    )


def _ends(point: Linearised) -> list[tuple[int | None, int | None]]:
    """From where to where: the whole, then between the places that all of the signal passes, one after the other."""
    places = [level[0] for level in trunk(point.capture).levels if len(level) == 1]
    stride = -(-(len(places) + 1) // _MOST_STAGES)
    cuts: list[int | None] = [None, *places[stride - 1 :: stride], None]
    between = list(itertools.pairwise(cuts)) if len(cuts) > 2 else []
    return [(None, None), *between]


def _name(point: Linearised, at: int | None, end: str) -> str:
    return end if at is None else label(node(point.capture, at))


def steps_for(spared: float) -> int:
    """How many steps there may be where so many times fewer samples than the batch holds are looked at."""
    return min(MOST_STEPS + int(_MORE_STEPS * (spared - 1)), _STEPS_AT_MOST)


def _asked(jacobian: Formable, seed: int, spared: float, *, whole: bool) -> Spectrum | None:
    try:
        return spectrum(jacobian, seed=seed, most=steps_for(spared), dense=_DENSE_WHOLE if whole else DENSE)
    except ModelError:
        return None
