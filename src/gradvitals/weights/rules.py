"""Judge a survey of the weights: rules W301 to W304, and the learning rate: W306."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from gradvitals.frameworks.capture import Call
from gradvitals.frameworks.weights import Weight
from gradvitals.signals.measure import consumers
from gradvitals.vocabulary.finding import Fact, Finding, Severity, Site
from gradvitals.vocabulary.rule import Rule, Threshold
from gradvitals.weights.departures import departures, scheme_name, worst_path
from gradvitals.weights.learning_rate import FAILS_ABOVE, USUAL
from gradvitals.weights.measure import Survey
from gradvitals.weights.rules_scheme import SCHEME_MISMATCHED, scheme_mismatched

_TOTAL_SOURCE = (
    "Zhang et al. (2021), AUTOTRAINER, for ‖g₁‖/‖g_L‖; digits (300 Adam steps, best of three rates) ReLU networks "
    "lose up to 4 points of accuracy above 1e-3 and 10 below, and 4 to 12 beyond 1e2"
)
VARIANCE_OFF = Rule(
    "W301",
    Severity.WARNING,
    {
        "least": Threshold(1e-3, "factor on the RMS over depth", _TOTAL_SOURCE),
        "most": Threshold(70.0, "factor on the RMS over depth", _TOTAL_SOURCE),
        "edge": Threshold(
            1.2,
            "largest singular value over that of a random matrix",
            "80 000 fresh matrices (normal, uniform, truncated, orthogonal; 8 to 784 wide) reach 1.12; layers trained "
            "for 300 steps lie at 1.2 to 1.5; the edge is Marchenko and Pastur's (1967)",
        ),
        "scattered": Threshold(
            0.25,
            "standard deviation over RMS of a normalisation's weight",
            "training leaves it near 1, and this near 0; drawn around 0 it is 1, drawn uniformly from [0, 1] 0.5",
        ),
        "trained": Threshold(0.5, "share of layers beyond the edge", "so that one odd layer isn't taken for training"),
    },
)
SYMMETRIC = Rule("W302", Severity.WARNING, {})
NOT_FINITE = Rule("W304", Severity.ERROR, {})
SENSITIVE = Rule(
    "W306",
    Severity.INFO,
    {
        "fails": Threshold(
            FAILS_ABOVE,
            "usual learning rate over the advised one",
            "digits, 50 and 100 layers, 200 Adam steps: three times the advised rate and more fell back to chance",
        )
    },
)
RULES = (VARIANCE_OFF, SYMMETRIC, SCHEME_MISMATCHED, NOT_FINITE, SENSITIVE)

#: Layers whose RMS differs less than this from the plan aren't named.
_NAMED = 1.1
_MATRICES = frozenset({"mixing", "attention", "recurrent-input", "recurrent-hidden"})


def judge(survey: Survey, fitted: Collection[str] = ()) -> tuple[Finding, ...]:
    """Findings on the weights as they are, the worst first; the scale of those ``fitted`` to a batch isn't judged."""
    return by_severity(*_not_finite(survey.weights), *_symmetric(survey), *_scale(survey, fitted))


def by_severity(*found: Finding) -> tuple[Finding, ...]:
    """The worst first."""
    return tuple(sorted(found, key=lambda finding: -finding.severity))


def judge_rate(rate: float, depth: int) -> tuple[Finding, ...]:
    """A remark where the learning rate that most people try first is known to be too large for this network."""
    if rate * SENSITIVE["fails"] >= USUAL:
        return ()
    facts: dict[str, Fact] = {"learning_rate": float(f"{rate:.1g}"), "usual": USUAL, "depth": depth}
    return (Finding("W306", SENSITIVE.severity, Site(""), facts),)


def looks_trained(weights: Sequence[Weight], everything: Sequence[Weight] = ()) -> bool:
    """Whether training has left its mark: singular values that no random matrix has, biases of norms that differ.

    Parameters
    ----------
    weights : sequence of Weight
    everything : sequence of Weight
        Among them the biases; by default ``weights``.

    """
    if _norms_have_moved(weights, everything or weights):
        return True
    ratios = [
        weight.summary.edge_ratio
        for weight in weights
        if weight.role in _MATRICES and weight.summary.edge_ratio is not None and not weight.summary.same_units
    ]
    beyond = sum(ratio > VARIANCE_OFF["edge"] for ratio in ratios)
    return bool(ratios) and beyond >= VARIANCE_OFF["trained"] * len(ratios)


def _norms_have_moved(weights: Sequence[Weight], everything: Sequence[Weight]) -> bool:
    """A normalisation's biases all start alike, at 0 nearly always; one step of training takes them apart."""
    spread = {weight.path: weight.summary.std for weight in everything if weight.role == "bias"}
    moved = [
        any(spread.get(bias, 0.0) > 0 for bias in weight.biases)
        and weight.summary.std < VARIANCE_OFF["scattered"] * weight.summary.rms
        for weight in weights
        if weight.role == "norm" and weight.biases and weight.summary.count > 1
    ]
    return bool(moved) and sum(moved) >= VARIANCE_OFF["trained"] * len(moved)


def trained_note(survey: Survey) -> tuple[Finding, ...]:
    """The remark that weights look trained, for who is about to overwrite them."""
    return tuple(finding for finding in _variance_off(survey) if finding.severity == Severity.INFO)


def _not_finite(weights: Sequence[Weight]) -> Iterator[Finding]:
    for weight in weights:
        if weight.summary.nonfinite:
            facts: dict[str, Fact] = {"count": weight.summary.nonfinite, "total": weight.summary.count}
            yield Finding("W304", NOT_FINITE.severity, Site(weight.path), facts)


def _symmetric(survey: Survey) -> Iterator[Finding]:
    """One finding for all layers with units alike; an error where the layers behind can't tell them apart either."""
    by_path = {weight.path: weight for weight in survey.weights}
    added = _added_to_something(survey.calls)
    alike = [
        weight
        for weight in survey.weights
        if weight.role in _MATRICES and weight.summary.same_units and not _starts_at_zero(weight, survey, added)
    ]
    if not alike:
        return
    locked = [weight for weight in alike if _is_locked(weight, survey, by_path)]
    worst = max(locked or alike, key=lambda weight: weight.summary.same_units / weight.summary.units)
    facts: dict[str, Fact] = {
        "same": worst.summary.same_units,
        "units": worst.summary.units,
        "paths": tuple(weight.path for weight in alike),
    }
    if len(alike) > 1:
        facts |= {"likely": "several", "affected": len(alike)}
    yield Finding("W302", Severity.ERROR if locked else SYMMETRIC.severity, Site(worst.path), facts)


def _is_locked(weight: Weight, survey: Survey, by_path: Mapping[str, Weight]) -> bool:
    """Units alike in what comes in and in what goes out get the same gradient for ever."""
    near = survey.around.get(weight.path)
    behind = [by_path[path].summary for path in (near.followers if near else ()) if by_path[path].role in _MATRICES]
    biases = [by_path[path].summary for path in weight.biases]
    return (
        weight.summary.same_units == weight.summary.units
        and bool(behind)
        and all(summary.same_inputs == summary.inputs for summary in behind)
        and all(summary.std == 0 for summary in biases)
    )


def _starts_at_zero(weight: Weight, survey: Survey, added: frozenset[str]) -> bool:
    """A head, or the end of a residual branch, that starts at zero on purpose: its units part at the first step."""
    near = survey.around.get(weight.path)
    return weight.summary.rms == 0 and (weight.path in added or near is None or near.is_last)


def _added_to_something(calls: Sequence[Call]) -> frozenset[str]:
    """Weights of calls whose output only reaches calls that have another source as well."""
    users = consumers(calls)
    return frozenset(
        path
        for index, call in enumerate(calls)
        if call.has_weights and users[index] and all(len(calls[user].sources) > 1 for user in users[index])
        for path in call.parameters
    )


def _scale(survey: Survey, fitted: Collection[str]) -> Iterator[Finding]:
    """What is wrong with the variance: the scheme by its name where it has one, else by how much it is off."""
    off = tuple(_variance_off(survey, fitted))
    mismatched = () if looks_trained(survey.weights) else tuple(scheme_mismatched(survey, fitted))
    yield from mismatched
    explained = {path for finding in mismatched for path in _paths(finding)}
    yield from (finding for finding in off if not explained.issuperset(_paths(finding)))


def _variance_off(survey: Survey, fitted: Collection[str] = ()) -> Iterator[Finding]:
    """One finding for the path through the network on which the factors multiply to the most."""
    factors = departures(survey, fitted)
    total, path = worst_path(survey.calls, factors)
    is_off = not VARIANCE_OFF["least"] <= total <= VARIANCE_OFF["most"]
    trained = looks_trained(survey.weights)
    if not factors or not (is_off or trained):
        return
    listed = [factors[name] for name in path if _is_named(factors[name].off, total)] if is_off else []
    listed = listed or [max(factors.values(), key=lambda factor: abs(math.log(factor.ratio)))]
    worst = max(listed, key=lambda factor: abs(math.log(factor.ratio)))
    recipe, std = worst.recipe, worst.recipe.std or math.nan
    facts: dict[str, Fact] = {
        "paths": tuple(factor.recipe.weight.path for factor in listed),
        "ratio": math.exp(sum(math.log(factor.ratio) for factor in listed) / len(listed)),
        "scheme": scheme_name(recipe),
        "activation": recipe.activation or "identity",
        "weight_rms": recipe.weight.summary.rms,
        "expected_rms": std,
        "layers": len(listed),
        "total": total,
    }
    if trained:
        facts["likely"] = "trained"
    severity = Severity.INFO if trained else VARIANCE_OFF.severity
    yield Finding("W301", severity, Site(recipe.weight.path), facts)


def _paths(finding: Finding) -> tuple[str, ...]:
    listed = finding.evidence["paths"]
    return tuple(str(path) for path in listed) if isinstance(listed, (tuple, list)) else ()


def _is_named(off: float, total: float) -> bool:
    return off > _NAMED if total > 1 else off < 1 / _NAMED
