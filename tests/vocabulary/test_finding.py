"""Facts, their places and their errors; rules and errors."""

from __future__ import annotations

import math

import pytest

from gradvitals import vocabulary
from gradvitals.vocabulary import Estimate, Finding, GradvitalsError, InputError, Rule, Severity, Site, Threshold
from gradvitals.vocabulary.errors import unknown_keyword


@pytest.mark.parametrize(
    ("site", "said"),
    [
        (Site("encoder.2.weight"), "encoder.2.weight"),
        (Site("w", (14, 3)), "w[14, 3]"),
        (Site("w", ()), "w[]"),
        (Site("w", None, 0), "w at step 0"),
    ],
)
def test_a_site_names_the_place(site: Site, said: str) -> None:
    assert str(site) == said


@pytest.mark.parametrize(
    ("estimate", "said"),
    [
        (Estimate(2.00004, 0.0012), "2.0000 ± 0.0012"),
        (Estimate(153.2, 12.0), "153 ± 12"),
        (Estimate(0.9, 0.0), "0.9"),
        (Estimate(1.2e-7, 3e-9), "1.2e-07 ± 3e-09"),
        (Estimate(1.0, 1e-12), "1 ± 1e-12"),
        (Estimate(-0.7431234567, 2e-14), "-0.74312346 ± 2e-14"),
        (Estimate(1.2345e7, 1e5), "1.23e+07 ± 1e+05"),
        (Estimate(math.inf, 1.0), "inf"),
        (Estimate(1.0, math.nan), "1"),
        (Estimate(0.5, 0.1, "s"), "0.50 ± 0.10 s"),
    ],
)
def test_an_estimate_shows_as_many_digits_as_its_error_allows(estimate: Estimate, said: str) -> None:
    assert str(estimate) == said


def test_severities_are_ordered_with_cannot_tell_above_a_warning() -> None:
    assert max(Severity.WARNING, Severity.UNRESOLVED) is Severity.UNRESOLVED
    assert max(Severity) is Severity.ERROR
    assert Severity.UNRESOLVED.label == "unresolved"


def test_a_finding_outside_the_catalogue_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown finding code 'X999'"):
        Finding("X999", Severity.INFO, Site("w"))


def test_evidence_cannot_be_changed_afterwards() -> None:
    given = {"count": 1}
    finding = Finding("G103", Severity.ERROR, Site("w"), given)
    given["count"] = 2
    assert finding.evidence["count"] == 1
    with pytest.raises(TypeError):
        finding.evidence["count"] = 3  # type: ignore[index]


def test_a_rule_gives_its_name_and_thresholds() -> None:
    rule = Rule("S206", Severity.WARNING, {"share": Threshold(0.5, "share of values", "Glorot and Bengio (2010)")})
    assert rule.name == "units-saturated"
    assert rule["share"] == 0.5
    with pytest.raises(ValueError, match="unknown rule code"):
        Rule("nope", Severity.WARNING, {})


@pytest.mark.parametrize("name", [name for name in vocabulary.__all__ if name.endswith("Error")])
def test_every_error_has_three_parts_and_one_root(name: str) -> None:
    error = getattr(vocabulary, name)("what", "where", "remedy")
    assert isinstance(error, GradvitalsError)
    assert str(error) == "what\n  where: where\n  do:    remedy"


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(InputError, ValueError)
    assert issubclass(vocabulary.UsageError, TypeError)
    assert issubclass(vocabulary.VerdictError, AssertionError)
    assert issubclass(vocabulary.MissingDependencyError, ImportError)


def test_a_misspelt_keyword_is_answered_with_the_nearest() -> None:
    said = str(unknown_keyword("probe", "sed", ["seed", "loss"]))
    assert "did you mean 'seed'?" in said
    assert "did you mean" not in str(unknown_keyword("probe", "zzz", ["seed", "loss"]))
