"""A finding in plain words, in English, Simplified and Traditional Chinese.

Facts come from the finding, sentences from ``locale/*.toml``: so the languages can't drift from the facts.
A placeholder may ask for a form: ``{x}`` four digits, ``{x:exact}`` eight, ``{x:%}`` a percentage, ``{x:list}`` names
joined by commas, ``{x:few}`` the first of them, ``{x:findings}`` the same of findings, of which there may be none,
``{x:word}`` a known value's own word. Only where a sentence asks for it is a text translated: a layer that is called
"output" keeps its name.
"""

from __future__ import annotations

import functools
import math
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradvitals.vocabulary.errors import UsageError
from gradvitals.vocabulary.finding import Estimate, Fact, Site
from gradvitals.vocabulary.rule import NAMES

if TYPE_CHECKING:
    from gradvitals.vocabulary.finding import Finding

#: The languages of the locale, by their BCP 47 tags.
LANGUAGES = ("en", "zh-Hans", "zh-Hant")

#: Names that are said where the others are only counted: as many as fit a line.
_FEW = 5

#: Sentences that depend on one fact: the evidence key that chooses among ``text_by`` and ``remedy_by``.
_CHOOSER = "likely"


@dataclass(frozen=True, slots=True)
class Words:
    """What a reader is told of one finding.

    ``title`` names the problem, ``text`` is what was seen, ``why`` it matters, ``remedy`` what to do, ``like`` an
    everyday comparison, and ``references`` where to read on.
    """

    title: str
    text: str
    why: str
    remedy: str
    like: str
    references: tuple[str, ...]


def describe(finding: Finding, lang: str = "en") -> Words:
    """Put a finding into words: its facts in the sentences of its code."""
    entry = locale(lang)["findings"][finding.code]
    # Of a layer at fault, a number belongs to a place in what the layer itself was given.
    place = finding.evidence.get("place", _site(finding.site, lang))
    facts = {**finding.evidence, "path": finding.site.path, "site": place}
    choice = str(finding.evidence.get(_CHOOSER, ""))
    text = [entry["text"], entry.get("text_by", {}).get(choice, ""), *_where_given(entry, "text_with", facts)]
    remedy = [entry.get("remedy_by", {}).get(choice, entry["remedy"]), *_where_given(entry, "remedy_with", facts)]
    joint = "" if lang.startswith("zh") else " "
    return Words(
        title=entry["title"],
        text=fill(joint.join(filter(None, text)), facts, lang),
        why=fill(entry["why"], facts, lang),
        remedy=fill(joint.join(remedy), facts, lang),
        like=entry["like"],
        references=tuple(entry["references"]),
    )


def _where_given(entry: Mapping[str, Any], kind: str, facts: Mapping[str, Fact]) -> list[str]:
    """Sentences that are said only where the fact that they are named after is there."""
    return [
        sentence for fact, sentence in entry.get(kind, {}).items() if facts.get(fact) not in (None, "", (), 0, False)
    ]


def _site(site: Site, lang: str) -> str:
    if site.step is None:
        return str(site)
    return fill(locale(lang)["ui"]["at_step"], {"place": str(Site(site.path, site.index)), "step": site.step}, lang)


def explain(code_or_name: str, lang: str = "en") -> dict[str, Words]:
    """What a code or name of the catalogue means, by code. Raises UsageError naming the nearest on an unknown one."""
    wanted = code_or_name.strip()
    codes = [code for code, name in NAMES.items() if wanted.upper() == code or wanted.lower() == name]
    if not codes:
        import difflib

        known = {name.lower(): name for name in (*NAMES, *NAMES.values())}
        near = [known[key] for key in difflib.get_close_matches(wanted.lower(), known, n=3, cutoff=0.4)]
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise UsageError(
            f"no finding is called {wanted!r}",
            f"explain {wanted}",
            f"{hint}Known: {', '.join(f'{code} {name}' for code, name in NAMES.items())}",
        )
    entries = locale(lang)["findings"]
    return {
        code: Words(
            title=entries[code]["title"],
            text=entries[code]["what"],
            why=entries[code]["why"],
            remedy=entries[code]["general_remedy"],
            like=entries[code]["like"],
            references=tuple(entries[code]["references"]),
        )
        for code in codes
    }


def word(key: str, lang: str = "en", **facts: Fact) -> str:
    """One word or sentence of the locale by its dotted key, such as ``"verdict.pass"``; an unknown one is its own key.

    >>> word("verdict.pass"), word("verdict.pass", "zh-Hans")
    ('pass', '通过')
    """
    section, _, name = key.partition(".")
    found = locale(lang).get(section, {}).get(name)
    return name if found is None else fill(found, facts, lang)


@functools.cache
def locale(lang: str) -> Mapping[str, Any]:
    """All words of a language. Raises UsageError on a language that there isn't."""
    if lang not in LANGUAGES:
        raise UsageError("no such language", f"lang={lang!r}", f"use one of {', '.join(LANGUAGES)}")
    import importlib.resources  # these two are as slow to import as the rest of the vocabulary together
    import tomllib

    file = importlib.resources.files("gradvitals.vocabulary") / "locale" / f"{lang.replace('-', '_')}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def fill(template: str, facts: Mapping[str, Fact], lang: str = "en") -> str:
    """Put facts into a sentence's placeholders; a fact that is missing shows as a dash.

    >>> fill("{left:%} is left after {layers} layers", {"left": 0.1216, "layers": 20})
    '12 % is left after 20 layers'
    """
    return _Formatter(facts, lang).vformat(template, (), {})


def say(value: Fact, lang: str = "en") -> str:
    """A fact as people read it: numbers with four significant digits, texts as they are."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return word(f"value.{'yes' if value else 'no'}", lang)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, tuple):
        return ", ".join(say(item, lang) for item in value)
    if isinstance(value, Estimate) and value.unit:
        return f"{Estimate(value.value, value.error)} {word(f'unit.{value.unit}', lang)}"
    return str(value)


def exact(value: float) -> str:
    """A number with the eight digits by which two that nearly agree can be told apart.

    >>> exact(0.37156), exact(1 / 3)
    ('0.37156', '0.33333333')
    """
    return f"{value:.8g}"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{exponent}"
    return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _percent(value: float) -> str:
    """A share for reading; tiny ones as a power of ten, for "0 %" would be untrue."""
    if not math.isfinite(value):
        return str(value)
    if value != 0 and abs(value) < 1e-4:
        return f"{value:.1e}"
    return f"{100 * value:.2g} %" if abs(value) < 1 else f"{100 * value:.0f} %"


class _Formatter(string.Formatter):
    """``str.format`` over facts, with the forms of this module."""

    def __init__(self, facts: Mapping[str, Fact], lang: str) -> None:
        self._facts = facts
        self._lang = lang

    def get_field(self, field_name: str, _args: object, _kwargs: object) -> tuple[Fact, str]:
        return self._facts.get(field_name), field_name

    def format_field(self, value: Fact, format_spec: str) -> str:
        if isinstance(value, Estimate) and format_spec in {"%", "value"}:
            value = value.value
        if format_spec == "%" and isinstance(value, (int, float)):
            return _percent(value)
        if format_spec == "value" and isinstance(value, float):
            return f"{value:#.4g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.2e}"
        if format_spec == "exact" and isinstance(value, float):
            return exact(value)
        if format_spec == "word" and isinstance(value, str):
            return word(f"value.{value}", self._lang)
        if format_spec == "findings" and value == ():
            return word("value.none", self._lang)
        if format_spec in {"list", "findings", "few"} and isinstance(value, tuple):
            shown = value[:_FEW] if format_spec == "few" and len(value) > _FEW + 1 else value
            said = ("、" if self._lang.startswith("zh") else ", ").join(say(item, self._lang) for item in shown)
            left = len(value) - len(shown)
            return word("ui.and_more", self._lang, shown=said, count=left) if left else said
        return say(value, self._lang)
