"""The page and the notebook's fragment: complete, escaped, accessible, loading nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from tests.render.conftest import demo, layers, strange, treated, vanishing, wrong

from gradvitals.render.html import _style, fragment, html
from gradvitals.vocabulary import Report, Table
from gradvitals.vocabulary.words import LANGUAGES

#: WCAG 2.2, success criterion 1.4.3: the least contrast of text.
CONTRAST = 4.5
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags with their attributes, and whether each is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_page_is_whole_and_names_its_language(report: Report, lang: str) -> None:
    text = html(report, lang=lang)
    assert text.startswith("<!doctype html>\n<html ")
    page = Page(text)
    assert page.all("html") == [{"lang": lang}]
    assert {"charset": "utf-8"} in page.all("meta")
    assert page.all("title")
    text.encode("utf-8")


def test_nothing_is_loaded_from_anywhere(report: Report) -> None:
    page = Page(html(report))
    assert page.all("link") == [{"rel": "icon", "href": "data:,"}]
    assert not {"script", "img", "iframe", "object", "embed", "video", "audio", "base", "form"} & {
        t for t, _ in page.tags
    }
    for tag, attributes in page.tags:
        assert not {"src", "srcset", "action", "poster", "style"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")], tag
    assert "url(" not in _style()
    assert "@import" not in _style()
    assert "http" not in _style()


def test_what_the_user_named_is_text_and_never_markup() -> None:
    page = Page(html(strange()))
    assert "img" not in {tag for tag, _ in page.tags}
    assert any("</script><img src=x onerror=alert(1)>&�[31m" in word for word in page.words)
    assert "two_layer_net <b>" in Page(html(wrong())).words


def test_headings_go_down_one_level_at_a_time(report: Report) -> None:
    levels = [int(tag[1]) for tag, _ in Page(html(report)).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels


def test_every_drawing_has_a_name_a_caption_and_its_table_behind_it() -> None:
    text = html(treated())
    page = Page(text)
    drawings = [a for a in page.all("svg") if a.get("role") == "img"]
    assert len(drawings) == len(page.all("figcaption")) == 4
    assert all(len(a["aria-label"]) > 20 for a in drawings)
    assert all(a.get("aria-hidden") == "true" for a in page.all("svg") if a.get("role") != "img")
    for section in re.findall(r'<section class="gv-table">.*?</section>', text, re.DOTALL):
        if "<figure>" in section:
            assert "<details>" in section
            assert "<table" in section


def test_tables_have_captions_and_scoped_headers(report: Report) -> None:
    page = Page(html(report))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(a.get("scope") in {"col", "row"} for a in page.all("th"))


def test_a_short_table_is_open_and_a_long_one_is_folded() -> None:
    short = html(wrong()).split("Tensor by tensor")[1].split("<table")[0]
    assert "<details>" not in short
    long = html(vanishing()).split("<h2>Parameter by parameter")[1].split("<table")[0]
    assert "<details>" in long


def test_a_very_long_table_is_shortened() -> None:
    rows = tuple((f"w{at}", 1.0, 1.0) for at in range(5000))
    text = html(
        Report("probe", "net", (), (Table("parameters", ("path", "weight_rms", "gradient_rms"), ("",) * 3, rows),))
    )
    assert "… 4400 more rows …" in text
    assert len(text) < 200_000


def test_a_network_of_many_layers_stays_a_small_page() -> None:
    deep = layers("layers", gain=0.99, forward_gain=1.0, depth=1000)
    assert len(html(Report("probe", "deep", (), (deep,)))) < 500_000


def test_a_demo_shows_each_part_with_its_own_verdict() -> None:
    text = html(demo())
    parts = text.split('<section class="gv-part">')[1:]
    assert len(parts) == 4
    for part, verdict in zip(parts, ("fail", "fail", "fail", "pass"), strict=True):
        assert f'class="gv-badge gv-{verdict}"' in part
    assert text.index("The patients") < text.index("The examinations")
    assert 'class="gv-story">A network of 20 sigmoid layers' in parts[0]


def test_statuses_are_marked_for_the_eye_as_well() -> None:
    text = html(wrong())
    assert '<span class="gv-state gv-fail">wrong</span>' in text
    assert '<span class="gv-state gv-inconclusive">unresolved</span>' in text


def test_the_facts_and_references_of_a_finding_are_folded_behind_it() -> None:
    text = html(wrong())
    assert "The facts" in text
    assert "Stanford CS231n" in text


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_fragment_has_no_page_around_it_and_a_style_that_stays_inside(report: Report, lang: str) -> None:
    text = fragment(report, lang=lang)
    page = Page(text)
    assert not {"html", "head", "body", "meta", "main"} & {tag for tag, _ in page.tags}
    assert page.tags[0] == ("div", {"class": "gv gv-fragment", "lang": lang})
    assert not [attributes for _, attributes in page.tags if "id" in attributes]


def test_every_style_rule_is_scoped() -> None:
    bare = re.sub(r"@media[^{]+\{|/\*.*?\*/", "", _style(), flags=re.DOTALL)
    for selectors in re.findall(r"([^{}]+)\{", bare):
        for selector in re.split(r",(?![^(]*\))", selectors):
            assert (
                selector.strip().startswith((".gv ", ".gv:", ".gv-page", ".gv-fragment")) or selector.strip() == ".gv"
            )


def test_a_notebook_shows_the_fragment() -> None:
    assert wrong()._repr_html_() == fragment(wrong())


def _luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_enough_contrast(theme: str) -> None:
    light, dark = re.findall(r"\.gv \{\s*(--paper.*?)\}", _style(), re.DOTALL)
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", light))
    if theme == "dark":
        colours |= dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", dark))

    def contrast(a: str, b: str) -> float:
        low, high = sorted((_luminance(colours[a]), _luminance(colours[b])))
        return (high + 0.05) / (low + 0.05)

    for ground in ("paper", "card"):
        for ink in ("ink", "soft", "link", "pass", "fail", "inconclusive"):
            assert contrast(ink, ground) >= CONTRAST, (ink, ground)
        for line in ("main", "before", "after"):
            assert contrast(line, ground) >= 3, (line, ground)  # WCAG 1.4.11, graphics
    assert contrast("soft", "wash") >= CONTRAST
    for badge in ("pass", "warn", "inconclusive", "fail", "info"):
        assert contrast("on", badge) >= CONTRAST, badge
