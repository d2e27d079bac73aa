"""Findings in plain words."""

from __future__ import annotations

import math

import pytest

from gradvitals.vocabulary import NAMES, Estimate, Finding, Severity, Site, UsageError
from gradvitals.vocabulary.words import LANGUAGES, describe, explain, fill, locale, say, word


def finding(code: str, **evidence: object) -> Finding:
    return Finding(code, Severity.ERROR, Site("W1", (2, 3)), evidence)  # type: ignore[arg-type]


def test_a_missing_factor_is_told_with_its_numbers_and_place() -> None:
    said = describe(
        finding(
            "G101",
            tensors=("W1", "b1"),
            numeric=Estimate(0.8, 1e-9),
            analytic=0.4,
            likely="factor-missing",
            factor=2.0,
            name="2",
            shared="dZ1",
        )
    )
    assert "W1, b1" in said.text
    assert "numeric is 2.000 × analytic: a factor 2 is missing." in said.text
    assert "At W1[2, 3] the measured slope is 0.8 ± 1e-09, but the backward pass says 0.4." in said.text
    assert said.remedy.startswith("Multiply by 2")
    assert "look at dZ1 first" in said.remedy


def test_a_sentence_about_a_fact_is_left_out_where_there_is_none() -> None:
    said = describe(finding("G101", tensors=("w",), likely="shape", got="(3,)", expected="(3, 1)", shared=""))
    assert said.text == "The gradient of w is wrong. The gradient has shape (3,) where the tensor has shape (3, 1)."
    assert "same factor" not in said.remedy


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_kind_of_mistake_chooses_sentence_and_remedy(lang: str) -> None:
    said = {kind: describe(finding("G101", likely=kind), lang) for kind in locale(lang)["findings"]["G101"]["text_by"]}
    assert len({words.text for words in said.values()}) == len(said)
    assert said["transposed"].remedy == locale(lang)["findings"]["G101"]["remedy_by"]["transposed"]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_an_unknown_kind_of_mistake_falls_back_to_the_general_sentence(lang: str) -> None:
    said = describe(finding("G101", likely="cosmic-ray"), lang)
    assert said.remedy == locale(lang)["findings"]["G101"]["remedy"]


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("code", NAMES)
def test_every_finding_speaks_even_without_facts(code: str, lang: str) -> None:
    said = describe(finding(code), lang)
    assert said.title
    assert "{" not in f"{said.text}{said.why}{said.remedy}{said.like}"


def test_a_tensor_keeps_its_name_though_the_locale_knows_the_word() -> None:
    for name in ("shape", "sign", "output", "zero"):
        assert f"for {name}." in describe(finding("G102", tensors=(name,))).text


def test_a_word_is_translated_where_the_sentence_asks_for_it() -> None:
    assert fill("{what} {what:word}", {"what": "gradient"}, "zh-Hans") == "gradient 梯度"
    assert fill("{what:word}", {"what": "something else"}) == "something else"


def test_the_step_of_a_site_is_told_in_the_language() -> None:
    at_step = Finding("G103", Severity.ERROR, Site("w", (1,), 120))
    assert "w[1] at step 120" in describe(at_step).text
    assert "w[1]（第 120 步）" in describe(at_step, "zh-Hans").text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"),
        (True, "yes"),
        (0.0, "0"),
        (0.12345, "0.1235"),
        (12345.6, "12346"),
        (123456.0, "1.23e+05"),
        (1e-4, "1e-04"),
        (1.2345e-7, "1.23e-07"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (12345678, "12345678"),
        ("W1", "W1"),
        ((1, 0.5, "a"), "1, 0.5, a"),
        ((), ""),
        (Estimate(2.00004, 0.0012), "2.0000 ± 0.0012"),
        (Estimate(math.nan, 1.0), "nan"),
    ],
)
def test_facts_are_said_as_people_read_them(value: object, said: str) -> None:
    assert say(value) == said  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("share", "said"), [(0.1216, "12 %"), (0.0, "0 %"), (1.0, "100 %"), (1.2e-12, "1.2e-12"), (3.5, "350 %")]
)
def test_a_small_share_is_never_said_to_be_nothing(share: float, said: str) -> None:
    assert fill("{x:%}", {"x": share}) == said
    assert fill("{x:%}", {"x": Estimate(share, 0.1)}) == said


def test_names_are_joined_as_the_language_does() -> None:
    assert fill("{x:list}", {"x": ("a", "b")}) == "a, b"
    assert fill("{x:list}", {"x": ("a", "b")}, "zh-Hant") == "a、b"


def test_no_findings_are_said_as_such() -> None:
    assert fill("{x:findings} {y:findings}", {"x": (), "y": ("a", "b")}) == "no finding a, b"


def test_a_fact_that_is_missing_shows_as_a_dash() -> None:
    assert fill("{x} {y:%} {z:list}", {}) == "– – –"


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("code", NAMES)
def test_code_and_name_explain_the_same(code: str, lang: str) -> None:
    assert explain(code.lower(), lang)[code] == explain(NAMES[code], lang)[code]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean gradient-vanishing"):
        explain("gradient-vanish")
    with pytest.raises(UsageError, match="Known: G101 gradient-wrong"):
        explain("")


def test_a_word_that_is_not_there_is_its_key() -> None:
    assert word("verdict.pass", "zh-Hans") == "通过"
    assert word("verdict.nonsense") == "nonsense"
    assert word("nonsense") == ""
