"""Judge short trainings from several starts: which is ahead (W307), which stand still (W308), which diverged (W309)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from gradvitals.vocabulary.finding import Fact, Finding, Severity, Site
from gradvitals.vocabulary.rule import Rule, Threshold
from gradvitals.weights.recipes import METHODS
from gradvitals.weights.trials import Outcome

AHEAD = Rule(
    "W307",
    Severity.INFO,
    {
        "more": Threshold(
            2.0,
            "standard errors of the difference of mean losses, with many seeds",
            "Student (1908): five of a hundred pairs of equal starts differ by more; with few seeds his larger values",
        )
    },
)
STUCK = Rule(
    "W308",
    Severity.INFO,
    {
        "fall": Threshold(
            0.05,
            "share of the lowest first loss",
            "digits, 30 ReLU layers, 200 Adam steps: starts that stay at chance end 0.1 % below the lowest first loss, "
            "the slowest one that trains 73 % below",
        )
    },
)
DIVERGED = Rule("W309", Severity.INFO, {})
RULES = (AHEAD, STUCK, DIVERGED)

#: Student's two-sided 5 % values (1908) by degrees of freedom, twice the seeds less two. Where seeds are unequal, for
#: the comparison was interrupted, the next smaller one counts.
_STUDENT = {2: 4.30, 4: 2.78, 6: 2.45, 8: 2.31, 10: 2.23, 12: 2.18, 14: 2.14, 16: 2.12, 18: 2.10}
#: The start that the model has as it is: where it fails, something is to be done.
_PRESENT = "built"


def judge_starts(found: Sequence[Outcome]) -> tuple[Finding, ...]:
    """Findings on what was trained, the worst first; ``found`` has the best start first."""
    diverged = [outcome for outcome in found if not math.isfinite(outcome.last)]
    finite = [outcome for outcome in found if math.isfinite(outcome.last)]
    stuck = _stuck(finite)
    findings = [_ahead(finite)] if len(finite) > 1 and finite[0] not in stuck else []
    findings += [*_diverged(diverged, of=len(found)), *_stand_still(stuck, of=len(found))]
    return tuple(sorted(findings, key=lambda finding: -finding.severity))


def _diverged(diverged: Sequence[Outcome], *, of: int) -> Iterator[Finding]:
    if not diverged:
        return
    facts: dict[str, Fact] = {"starts": _names(diverged), "broken": sum(outcome.broken for outcome in diverged)}
    if not any(math.isfinite(trial.losses[0]) for outcome in diverged for trial in outcome.trials):
        facts["likely"] = "from-the-start"
    severity = Severity.ERROR if len(diverged) == of else _severity(DIVERGED, diverged)
    yield Finding("W309", severity, Site(""), facts)


def _stuck(finite: Sequence[Outcome]) -> list[Outcome]:
    """Starts that end hardly below where the best of all began: a large first loss that falls to chance is no success.

    Chance is about what the smallest outputs give, which have the lowest first loss.
    """
    lowest = min((outcome.first for outcome in finite if math.isfinite(outcome.first)), default=math.inf)
    return [outcome for outcome in finite if lowest - outcome.last <= STUCK["fall"] * abs(lowest)]


def _stand_still(stuck: Sequence[Outcome], *, of: int) -> Iterator[Finding]:
    if not stuck:
        return
    facts: dict[str, Fact] = {
        "starts": _names(stuck),
        "loss_last": min(outcome.last for outcome in stuck),
        "steps": stuck[0].trials[0].steps,
    }
    if len(stuck) == of:
        facts["likely"] = "all-starts"
    severity = Severity.WARNING if len(stuck) == of else _severity(STUCK, stuck)
    yield Finding("W308", severity, Site(""), facts)


def _ahead(finite: Sequence[Outcome]) -> Finding:
    best, *others = finite
    level = [outcome for outcome in others if not _is_behind(outcome, best)]
    behind = [outcome for outcome in others if outcome not in level]
    facts: dict[str, Fact] = {
        "start": best.method,
        "rate": best.rate,
        "loss_last": best.last,
        "seeds": len(best.trials),
    }
    facts |= {"method": best.method} if best.method in METHODS else {}
    if level:
        facts |= {"likely": "level", "level": _names(level)}
    if behind:
        facts |= {"second": behind[0].method, "second_loss": behind[0].last}
        step = best.first_below(behind[0].last)
        facts |= {} if step is None else {"caught_up": step}
    if len(best.trials) == 1:
        facts["likely"] = "one-seed"
    return Finding("W307", AHEAD.severity, Site(""), facts)


def _is_behind(outcome: Outcome, best: Outcome) -> bool:
    """Whether two starts differ by more than their seeds do (Welch's test, at equal numbers of seeds).

    Losses that are all positive are compared as ratios: they may lie orders of magnitude apart.
    """
    lasts = [[trial.last for trial in one.trials] for one in (best, outcome)]
    if min(map(len, lasts)) < 2:
        return False
    if min(map(min, lasts)) > 0:
        lasts = [[math.log(last) for last in one] for one in lasts]
    difference = statistics.fmean(lasts[1]) - statistics.fmean(lasts[0])
    error = math.sqrt(sum(statistics.variance(one) / len(one) for one in lasts))
    freedom = sum(map(len, lasts)) - 2
    more = AHEAD["more"] if freedom > max(_STUDENT) else _STUDENT[max(at for at in _STUDENT if at <= freedom)]
    return difference > more * error


def _severity(rule: Rule, outcomes: Sequence[Outcome]) -> Severity:
    return Severity.WARNING if _PRESENT in _names(outcomes) else rule.severity


def _names(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    return tuple(outcome.method for outcome in outcomes)
