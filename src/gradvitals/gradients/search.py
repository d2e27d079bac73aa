"""The search through all tensors for those whose gradient is wrong.

All tensors are moved at once, each by as much as makes it contribute alike, along a few random directions. Where
nothing is missing, all of them are right at once. Where something is, the tensors are bisected; tensors too weak to
be resolved in company are examined again without the strong ones.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from gradvitals.frameworks.problem import Array
from gradvitals.gradients.company import LOOKS, Company, gathered, relative_to
from gradvitals.gradients.counted import BudgetSpent, Counted
from gradvitals.gradients.measure_base import Base, with_gradients
from gradvitals.gradients.measure_kinks import Kinks, bent_outputs, outside, without
from gradvitals.gradients.measure_lines import (
    CLEAR,
    COARSE,
    EXACT,
    SHORT_AGAIN,
    SUSPECT_AT,
    Line,
    confirmed,
    measure_rays,
    measure_shortly,
    read,
)
from gradvitals.gradients.measure_rays import Ray
from gradvitals.maths.detection import detectable
from gradvitals.maths.differences import MEDIAN_TO_STD, ladder_for

#: Random directions per group of tensors: so many at least and at most. With normal directions what is missing is
#: N(0, ‖error‖²) whatever the error's pattern, so that the chance of overlooking it can be computed: ``detectable``.
LEAST_DIRECTIONS, MOST_DIRECTIONS = 2, 20
#: So many at most in 16-bit formats, whose lines are coarse.
_MOST_IN_16_BIT = 24
#: Lines of a wrong tensor alone: enough to tell the kind of mistake.
_OF_A_WRONG_ONE = 6
#: In 16-bit formats, tensors too weak to be resolved are moved up to so many times farther.
_FARTHER = 8.0
#: Directions on which something was missing in company that are followed through its parts.
_ALONG = 2
#: So many at most where what is open can be asked in float64.
_MOST_IN_A_HURRY = 6
#: No further direction is asked for when this share of the sensitivity is resolved; nor, when the usual number of
#: points is spent, at that one.
_AMPLE, _ENOUGH = 0.02, 0.2
#: In float64, where all errors are far smaller than what is asked for, at once.
_ENOUGH_EXACTLY = 0.9
#: Points that a check of something sound takes, forward passes of the backward ones included.
USUAL_POINTS = 52
#: Of so few tensors each gets a line of its own, and entries that are shown.
FEW_TENSORS = 4
#: A line has shown enough when its bar is this share of what is asked for.
_WELL_WITHIN, _WELL_WITHIN_16_BIT = 0.03, 0.3
#: A gradient that differs by so many unit roundoffs at a neighbour has crossed a kink.
_COARSELY = 32.0
#: Outputs are left out when kinks make up this share of a line's error (of its square).
_MOSTLY_KINKS = 0.25
#: Plainly missing is what exceeds the bar so many times: then a group is taken apart, and its parts are confirmed.
_PLAINLY = 20.0
#: There tensors that change F little may be moved so many times farther: 1e-4 of their size at most.
_FARTHER_AT_A_GLANCE = 64.0


class Search:
    """The examination of groups of tensors; remembers what each tensor's lines showed."""

    def __init__(
        self,
        problem: Counted,
        base: Base,
        sensitivity: float,
        rng: np.random.Generator,
        *,
        patient: bool = True,
    ) -> None:
        self.problem = problem
        #: ``given`` keeps the cotangent, which outputs at kinks may be taken out of.
        self.base = self.given = base
        self.sensitivity = sensitivity
        self.rng = rng
        self._is_coarse = base.gradient_roundoff >= COARSE
        #: Where another form of the problem can be asked, no more than the usual number of points is spent here.
        self.patient = patient
        #: Whether a group in which something is missing is taken apart, or left unresolved.
        self.bisects = True
        #: The tensors of such groups.
        self.missing: set[int] = set()
        #: Whether a glance has settled everything.
        self.is_clear = False
        self._status: dict[int, str] = {}
        #: The relative error that would have shown, and the lines that say so.
        self.resolution: dict[int, float] = {}
        self.lines: dict[int, list[Line]] = {}
        #: Tensors of which something seemed to be missing farther away, where that decides nothing.
        self._seeming: set[int] = set()
        #: Resolutions that no further line can better: something was missing of one of these tensors, and hid since.
        self._hidden: dict[int, float] = {}
        self.kinks = Kinks(np.zeros(base.value.size, dtype=bool))
        #: What a gradient that is zero by itself is compared with.
        self._reference = max((base.strength(at) for at in range(len(base.points))), default=0.0) or float(
            np.linalg.norm(base.cotangent * base.value)
        )

    @property
    def _most(self) -> int:
        if not self.patient:
            return _MOST_IN_A_HURRY
        return _MOST_IN_16_BIT if self._is_coarse else MOST_DIRECTIONS

    def status(self, at: int) -> str:
        """Right, wrong or unresolved."""
        return self._status.get(at, "unresolved")

    def is_at_a_kink(self, at: int) -> bool:
        """Whether kinks make up most of what is open about a tensor."""
        coarsely = _COARSELY * self.base.gradient_roundoff
        return at not in self._hidden and any(
            not math.isfinite(line.error)
            or line.slack > _MOSTLY_KINKS * line.bar
            or line.kinks > _MOSTLY_KINKS * line.error
            or line.own > coarsely * abs(line.analytic)  # at neighbours the gradient is that of another side
            for line in self.lines.get(at, ())
        )

    def examine(
        self, group: Sequence[int], *, farther: bool = False, shown: Sequence[Mapping[int, Array]] = ()
    ) -> None:
        """Settle every tensor of the group; weak ones, which change F little, may be moved ``farther``. Along the
        directions ``shown`` something was missing in company: along its part through the group it may be again.
        """
        if not group:
            return
        if self.base.roundoff <= EXACT and not farther and not shown:
            seen = "unclear"
            with contextlib.suppress(BudgetSpent):
                seen = self._at_a_glance(group)
            if seen == "right" or (len(group) == 1 and self.status(group[0]) == "wrong"):
                return
            if seen == "wrong" and len(group) > 1:
                self._take_apart(group, [], farther=farther)
                return
        company = gathered(self.base, group, _FARTHER if farther else 1.0)
        # So far away a function may bend in ways that no error bar sees: what seems missing there decides nothing.
        lines = self._missing_again(company, shown)
        wrong = bool(lines)
        together: Mapping[int, float] = {}
        if not wrong or len(group) == 1:
            asked, found, together = self._ask(company, suspicious=not farther)
            lines, wrong = [*lines, *asked], wrong or found
            company = replace(company, base=self.base)  # outputs at kinks may have been left out
        if wrong and len(group) > 1:
            if not self.bisects:
                self._settle(group, lines, dict.fromkeys(group, math.inf), wrong=False)
                self.missing |= set(group)
                return
            there = [line.direction for line in lines if line.suspect(company.material)]
            self._take_apart(group, there, farther=farther)
            if any(self.status(at) == "wrong" for at in group):
                return
            # What hides from both halves is still missing from one of them, however often they are asked.
            most = max(abs(line.missing) for line in lines)
            lines, wrong = [line.widened(most) for line in lines], False
            self._hidden |= self._resolved(lines, company)
        resolved = {**self._resolved(lines, company), **together}
        self._settle(group, lines, resolved, wrong=wrong)

    def _take_apart(self, group: Sequence[int], shown: Sequence[Mapping[int, Array]], *, farther: bool) -> None:
        half = len(group) // 2
        for part in (group[:half], group[half:]):
            self.examine(part, farther=farther, shown=shown)

    def _settle(self, group: Sequence[int], lines: list[Line], resolved: Mapping[int, float], *, wrong: bool) -> None:
        for at in group:
            self.lines[at] = lines
            self.resolution[at] = max(resolved[at], self._hidden.get(at, 0.0))
            right = "right" if self.resolution[at] <= self.sensitivity else "unresolved"
            self._status[at] = "wrong" if wrong else right

    def _missing_again(self, company: Company, shown: Sequence[Mapping[int, Array]]) -> list[Line]:
        """The lines along parts of directions on which something is missing, confirmed."""
        parts = [{at: direction[at] for at in company.group} for direction in shown[:_ALONG]]
        with contextlib.suppress(BudgetSpent):
            lines = [line for _, line in measure_rays(self.problem, self.base, parts)] if parts else []
            suspects = [line for line in lines if line.suspect(company.material)]
            if suspects and confirmed(self.problem, self.base, suspects[0], company.material):
                return suspects
        return []

    def glance(self, group: Sequence[int]) -> bool:
        """Settle a group by a few steps along two directions, where these leave nothing open; whether they did."""
        self.is_clear = self._at_a_glance(group) == "right"
        return self.is_clear

    def _at_a_glance(self, group: Sequence[int]) -> str:
        """Right, and settled; wrong, where something is plainly missing; or unclear."""
        company = gathered(self.base, group, _FARTHER_AT_A_GLANCE)
        directions = [company.direction(self.rng) for _ in range(LEAST_DIRECTIONS)]
        lines = measure_shortly(self.problem, self.base, directions)
        material, usual = company.material, max(company.contributions)
        if not usual or not all(line.bar <= max(CLEAR * usual, material) for line in lines):
            return "unclear"
        if any(line.suspect(_PLAINLY * max(line.bar, material)) for line in lines):
            if len(group) == 1:
                self._see_wrong(company, lines)
            return "wrong"
        if any(line.suspect(material) for line in lines):
            return "unclear"
        # Two steps tell noise only roughly: what is missing counts as an error, so that the resolution stays true.
        lines = [line.widened(abs(line.missing)) for line in lines]
        resolved = self._resolved(lines, company)
        if max(resolved.values()) > _ENOUGH_EXACTLY * self.sensitivity:
            return "unclear"
        self._settle(group, lines, resolved, wrong=False)
        return "right"

    def _see_wrong(self, company: Company, lines: list[Line]) -> None:
        """Of one tensor of which something is plainly missing: confirm it, with lines enough to tell the mistake."""
        worst = max(lines, key=lambda line: abs(line.missing) / line.bar if line.bar else math.inf)
        try:
            if confirmed(self.problem, self.base, worst, company.material, SHORT_AGAIN):
                more = _OF_A_WRONG_ONE - len(lines)
                directions = [company.direction(self.rng) for _ in range(more)]
                lines += measure_shortly(self.problem, self.base, directions)
                self._settle(company.group, lines, self._resolved(lines, company), wrong=True)
        except BudgetSpent:
            return

    def examine_alone(self, group: Sequence[int]) -> None:
        """Examine again, without the strong ones, those tensors that are too weak to be resolved in company."""
        weak = [at for at in group if self.status(at) == "unresolved" and self._resolvable_alone(at)]
        if not weak or len(group) == 1:
            return
        half = len(weak) // 2
        for part in (weak[:half], weak[half:]) if len(weak) == len(group) else (weak,):
            self.examine(part, farther=self._is_coarse)
            if seeming := [at for at in part if at in self._seeming and self.status(at) == "unresolved"]:
                self.examine(seeming)
            self.examine_alone(part)

    def look_closer(self, group: Sequence[int]) -> None:
        """A line of its own for each tensor that is right in company, as far as the usual number of points goes."""
        if not 1 < len(group) <= FEW_TENSORS:
            return
        for at in group:
            lines = self.lines.get(at, [])
            if self.status(at) != "right" or any(set(line.direction) == {at} for line in lines):
                continue
            if lines and self.problem.count.points + self.cost() > USUAL_POINTS:
                return
            own, wrong, _ = self._ask(Company(self.base, {at: self.base.scales[at]}), most=1)
            self.lines[at] = [*lines, *own]
            if wrong:
                self._status[at] = "wrong"

    def suspects(self, at: int) -> list[Line]:
        """The lines that say that a tensor is wrong or, below float64, that the function is too rough to tell."""
        lines, base = self.lines.get(at, []), self.base
        if self.status(at) == "wrong":
            return [line for line in lines if line.suspect(base.material * abs(line.analytic))]
        if at in self.missing:
            return [line for line in lines if line.suspect(base.material * abs(line.analytic))]
        open_ones = lines if self.status(at) == "unresolved" and base.roundoff > EXACT else []
        return [line for line in open_ones if base.in_stairs or base.is_rough(line.analytic)]

    def _ask(
        self, company: Company, *, most: int | None = None, suspicious: bool = True
    ) -> tuple[list[Line], bool, dict[int, float]]:
        """Lines through a group; True with them when one shows, confirmed, that something is missing; and the
        resolution where together they say another than each alone.
        """
        most = most or self._most
        rays: list[Ray] = []
        lines: list[Line] = []
        bounds: dict[int, float] = {}
        verdicts: dict[int, bool] = {}
        try:
            while len(rays) < most:
                count = min(1 if rays and not self._is_coarse else LEAST_DIRECTIONS, most - len(rays))
                directions = [company.direction(self.rng) for _ in range(count)]
                enough = self._needed(company)
                for ray, line in measure_rays(self.problem, self.base, directions, enough=enough):
                    rays.append(ray)
                    lines.append(line)
                self._reference = self._reference or rays[-1].rate(self.base)
                spoilt = next((line for line in lines if not math.isfinite(line.error)), lines[-1])
                if self._leaves_out_kinks(rays, spoilt, company):
                    lines, verdicts = [read(self.base, ray) for ray in rays], {}
                    company = replace(company, base=self.base)
                if not suspicious:
                    verdicts = dict.fromkeys(range(len(lines)), False)
                    seems = any(line.suspect(company.material) for line in lines)
                    self._seeming |= set(company.reach) if seems else set()
                judged = self._judged(lines, company.material, verdicts)
                wrong = any(verdicts.values())
                if wrong and (len(company.reach) > 1 or len(rays) >= _OF_A_WRONG_ONE):
                    break
                is_open = max(self._resolved(judged, company).values()) > self.sensitivity
                if not wrong and len(lines) in LOOKS and is_open:
                    bounds = company.bounded(judged, self._reference)
                    if max(bounds.values()) <= self.sensitivity:
                        break
                    bounds = {}
                if not wrong and self._has_seen_enough(judged, company):
                    break
        except BudgetSpent:  # a suspicion that there was no time to confirm stays one
            verdicts = {number: verdicts.get(number, False) for number in range(len(lines))}
            judged = self._judged(lines, company.material, verdicts)
        wrong = any(verdicts.values())
        if not bounds and not wrong and lines and company.entries > 1:
            bounds = company.shown(lines, self._reference)
        return judged, wrong, bounds

    def _judged(self, lines: Sequence[Line], material: float, verdicts: dict[int, bool]) -> list[Line]:
        """The lines with bars that hold; ``verdicts`` remembers, by line, which suspicions were confirmed."""
        # Kinks nearby bend one line more and another less: their typical size is what any of the lines may be off by.
        kinks = MEDIAN_TO_STD * float(np.median([line.kinks for line in lines])) if lines else 0.0
        judged = []
        for number, line in enumerate(line.widened(kinks) for line in lines):
            if line.suspect(material) and number not in verdicts:
                known = any(verdicts.values())
                verdicts[number] = known or confirmed(self.problem, self.base, line, material)
            # A suspicion that doesn't repeat itself widens the bar, so that the resolution stays true.
            doubtful = line.suspect(material) and not verdicts.get(number, False)
            judged.append(line.widened(abs(line.missing)) if doubtful else line)
        return judged

    def _has_seen_enough(self, lines: Sequence[Line], company: Company) -> bool:
        worst = max(self._resolved(lines, company).values())
        # Of a single entry in a coarse format other lines only tell the same again, by other roundings.
        single = self._is_coarse and company.entries == 1
        spent = single or self.problem.count.points + self.cost() > USUAL_POINTS
        exactly = self.base.gradient_roundoff <= EXACT
        share = _AMPLE if not spent else 1.0 if self._is_coarse else _ENOUGH
        share = max(share, _ENOUGH_EXACTLY) if exactly else share
        if worst <= share * self.sensitivity:
            return True
        # Noise is the same along all lines: when the best one is too coarse, more of them won't do, unless together.
        best = min(lines, key=lambda line: line.bar)
        alike = list(lines) * (LOOKS[-1] // len(lines))
        together = company.bounded(alike, self._reference) if alike else {0: math.inf}
        return (
            min(self._resolved([best] * self._most, company)[company.group[0]], max(together.values()))
            > self.sensitivity
        )

    def _leaves_out_kinks(self, rays: Sequence[Ray], line: Line, company: Company) -> bool:
        """Leave outputs at kinks out of the cotangent where they spoil the lines; True when that was done just now."""
        base = self.base
        if self.problem.objective != "random" or base.value.size == 1 or self.kinks.masked.any():
            return False
        spoilt = not math.isfinite(line.error) or line.kinks**2 > _MOSTLY_KINKS * line.error**2
        if not spoilt or line.bar <= self._needed(company):
            return False
        masked = bent_outputs(base, rays) & (base.cotangent != 0)
        if not masked.any() or masked[base.cotangent != 0].all():
            return False
        cotangent, gradients = without(self.problem, base, masked)
        self.base = with_gradients(self.problem, base, cotangent, gradients, self.rng)
        concerned = [at for at in company.reach if not np.array_equal(base.gradients[at], self.base.gradients[at])]
        # The long steps of 16-bit formats bend so much that the slopes on both sides of a kink can't be told apart.
        beyond = 0.0 if self._is_coarse else outside(self.problem, base, masked, rays[-1])
        self.kinks = Kinks(masked, beyond, tuple(concerned))
        return True

    def _needed(self, company: Company) -> float:
        """What a line may miss without another step being asked for."""
        usual = float(np.median(company.contributions))
        share = _WELL_WITHIN_16_BIT if self._is_coarse else _WELL_WITHIN
        return max(share * self.sensitivity * usual, company.material)

    def cost(self) -> int:
        """Points that one more line takes."""
        start, stop = ladder_for(self.base.roundoff).middle
        return 2 * (stop - start)

    def _resolved(self, lines: Sequence[Line], company: Company) -> dict[int, float]:
        """The relative error of each tensor that the lines would have shown."""
        return company.resolved(lines, self._reference)

    def _resolvable_alone(self, at: int) -> bool:
        """Whether, without the others, the function's noise and the gradient's own rounding leave enough to be seen."""
        own = self.base.scales[at] * float(np.linalg.norm(self.base.gradient_errors[at]))
        # Alone it may be moved farther: the noise counts least at the longest step.
        noise = self.base.projected_noise / (math.sqrt(2) * float(ladder_for(self.base.roundoff).steps[0]))
        bars = [SUSPECT_AT * math.hypot(noise, own)] * self._most
        farther = _FARTHER if self._is_coarse else 1.0
        resolution = max(
            relative_to(self.base, at, detectable(bars), farther * self.base.strength(at), self._reference),
            2 * self.base.material,
        )
        return resolution <= self.sensitivity
