"""The three languages say the same things: the same keys, the same placeholders, and nothing left in English."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from gradvitals.vocabulary import NAMES
from gradvitals.vocabulary.words import LANGUAGES, locale

CHINESE = ("zh-Hans", "zh-Hant")
FIELDS = {"title", "what", "text", "why", "remedy", "general_remedy", "like", "references"}
CHOICES = {"text_by", "text_with", "remedy_by", "remedy_with"}
FORMS = {"", "%", "list", "few", "word", "value", "exact", "findings"}
#: Simplified or mainland words that a Taiwanese reader stumbles over, and the other way round.
FOREIGN_WORDS = {
    "zh-Hant": [
        "方差",
        "信號",
        "默認",
        "數據",
        "網絡",
        "歸一化",
        "代碼",
        "程序",
        "內存",
        "缺省",
        "調用",
        "溢出",
        "數組",
        "緩存",
    ],
    "zh-Hans": ["變異數", "訊號", "預設", "資料", "網路", "正規化", "程式", "呼叫", "溢位", "快取"],
}
#: Which characters each script can write; the legacy codecs know exactly the one or the other.
CODECS = {"zh-Hans": "gb2312", "zh-Hant": "big5"}


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All sentences with their dotted key; references are citations and stay in their language."""
    if isinstance(node, Mapping):
        for name, child in node.items():
            if name != "references":
                yield from leaves(child, f"{key}.{name}" if key else name)
    else:
        yield key, node


def placeholders(sentence: str) -> set[tuple[str, str]]:
    return {(name, form or "") for _, name, form, _ in string.Formatter().parse(sentence) if name is not None}


def placeholders_removed(sentence: str) -> str:
    return "".join(literal for literal, *_ in string.Formatter().parse(sentence))


def chinese(text: str) -> list[str]:
    return [c for c in text if "CJK UNIFIED IDEOGRAPH" in unicodedata.name(c, "")]


@pytest.mark.parametrize("lang", CHINESE)
def test_every_key_exists_in_every_language(lang: str) -> None:
    assert [key for key, _ in leaves(locale(lang))] == [key for key, _ in leaves(locale("en"))]


@pytest.mark.parametrize("lang", CHINESE)
def test_sentences_take_the_same_facts_in_every_language(lang: str) -> None:
    english = dict(leaves(locale("en")))
    differing = {key for key, said in leaves(locale(lang)) if placeholders(said) != placeholders(english[key])}
    assert differing == set()


@pytest.mark.parametrize("lang", CHINESE)
def test_citations_are_the_same_in_every_language(lang: str) -> None:
    english = locale("en")["findings"]
    assert {code: entry["references"] for code, entry in locale(lang)["findings"].items()} == {
        code: entry["references"] for code, entry in english.items()
    }


@pytest.mark.parametrize("lang", CHINESE)
def test_nothing_is_left_in_english(lang: str) -> None:
    left = [
        (key, said)
        for key, said in leaves(locale(lang))
        if re.search(r"[a-z]{2}", placeholders_removed(said)) and not chinese(said)
    ]
    assert left == []


@pytest.mark.parametrize("lang", CHINESE)
def test_each_script_uses_its_own_characters(lang: str) -> None:
    foreign = {c for _, said in leaves(locale(lang)) for c in chinese(said) if not c.encode(CODECS[lang], "ignore")}
    assert foreign == set()


@pytest.mark.parametrize("lang", CHINESE)
def test_each_region_uses_its_own_words(lang: str) -> None:
    found = [(key, w) for key, said in leaves(locale(lang)) for w in FOREIGN_WORDS[lang] if w in said]
    assert found == []


@pytest.mark.parametrize("lang", CHINESE)
def test_chinese_sentences_end_in_chinese_marks(lang: str) -> None:
    wrong = [(key, said) for key, said in leaves(locale(lang)) if re.search(r"[一-鿿][,;!?]|[一-鿿]\.(\s|$)", said)]
    assert wrong == []


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_finding_of_the_catalogue_has_all_its_words(lang: str) -> None:
    entries = locale(lang)["findings"]
    assert set(entries) == set(NAMES)
    for code, entry in entries.items():
        assert set(entry) >= FIELDS, code
        assert set(entry) <= FIELDS | CHOICES, code
        assert all(entry[field] for field in FIELDS), code


@pytest.mark.parametrize("lang", LANGUAGES)
def test_placeholders_ask_for_known_forms_only(lang: str) -> None:
    unknown = [(key, p) for key, said in leaves(locale(lang)) for p in placeholders(said) if p[1] not in FORMS]
    assert unknown == []


@pytest.mark.parametrize("lang", LANGUAGES)
def test_explanations_need_no_facts(lang: str) -> None:
    """``explain`` has no finding at hand: what it prints must not show a dash in place of a fact."""
    for code, entry in locale(lang)["findings"].items():
        for field in ("title", "what", "why", "general_remedy", "like"):
            assert placeholders(entry[field]) == set(), f"{code}.{field}"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_kind_of_mistake_has_a_word(lang: str) -> None:
    words = locale(lang)
    kinds = {kind for entry in words["findings"].values() for kind in entry.get("text_by", {})}
    assert kinds <= set(words["value"])


#: Tables and columns as the design promises them.
TABLES = {
    "tensors": "path role shape dtype status relative_error resolution entry_resolution grade likely",
    "entries": "path index numeric error analytic",
    "modules": "path call kind status resolution reason",
    "layers": "path call kind shape forward_mean forward_std forward_rms zero_share dead_share saturated_share "
    "sample_cosine gradient_rms nonfinite",
    "parameters": "path weight_rms gradient_rms",
    "gains": "direction gain low high layers left first last",
    "agreement": "path call kind forward_predicted forward_measured forward_ratio forward_deviations "
    "gradient_predicted gradient_measured gradient_ratio gradient_deviations",
    "spectrum": "first path inputs outputs sigma_max sigma_max_error mean_square mean_square_error square_variance "
    "square_variance_error condition products",
    "scaling": "path role quantity axis step exponent exponent_error smallest largest kind",
    "points": "path quantity axis step size value",
    "plan": "path kind shape fan_in fan_out activation scheme std_before std_after bias reason",
    "before": "path forward_rms gradient_rms",
    "after": "path forward_rms gradient_rms",
    "unset": "path kind shape unset_count derived_count first_unset",
    "starts": "method rate loss_first loss_last loss_spread trials broken curve",
    "curves": "method step loss",
    "training": "step loss_before loss_after accuracy_before accuracy_after",
    "patients": "patient expected found accuracy_before accuracy_after",
}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_promised_table_and_column_has_a_heading(lang: str) -> None:
    words = locale(lang)
    assert set(TABLES) <= set(words["table"])
    assert {f"{name}-about" for name in TABLES} <= set(words["table"])
    assert {column for columns in TABLES.values() for column in columns.split()} <= set(words["column"])


@pytest.mark.parametrize("lang", LANGUAGES)
def test_settings_and_cost_have_labels(lang: str) -> None:
    expected = {"seed", "sensitivity", "objective", "method", "budget", "wrt", "seconds", "evaluations"}
    assert expected | {"forwards", "backwards"} <= set(locale(lang)["setting"])
    assert {f"objective_{kind}" for kind in ("loss", "output-loss", "random")} <= set(locale(lang)["ui"])
