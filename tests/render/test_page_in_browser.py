"""The saved page in a real browser: no request leaves it, nothing is complained about, everything has a name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.render.conftest import demo, strange

from gradvitals.vocabulary import Report

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="chromium isn't installed"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


def visit(browser: Browser, report: Report, folder: Path, lang: str, **options: Any) -> dict[str, Any]:
    """Open the saved page, unfold everything, and tell what happened and what is there."""
    address = report.save(folder / "report.html", lang=lang).as_uri()
    requests: list[str] = []
    complaints: list[str] = []
    context = browser.new_context(**options)
    page = context.new_page()
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    page.wait_for_load_state("networkidle")
    seen = {
        "requests": [url for url in requests if url not in {address, "data:,"}],
        "complaints": complaints,
        "drawings": page.get_by_role("img").evaluate_all("all => all.map(one => one.getAttribute('aria-label'))"),
        "regions": page.get_by_role("region").evaluate_all("all => all.map(one => one.getAttribute('aria-label'))"),
        "sideways": page.evaluate("document.documentElement.scrollWidth - window.innerWidth"),
        "background": page.evaluate("getComputedStyle(document.body).backgroundColor"),
        "images": page.evaluate("document.images.length"),
        "mode": page.evaluate("document.compatMode"),
    }
    context.close()
    return seen


@pytest.mark.parametrize("lang", ["en", "zh-Hans"])
def test_no_request_leaves_the_page_and_nothing_is_complained_about(
    browser: Browser, tmp_path: Path, lang: str
) -> None:
    seen = visit(browser, demo(), tmp_path, lang)
    assert seen["requests"] == []
    assert seen["complaints"] == []
    assert seen["mode"] == "CSS1Compat"
    assert len(seen["drawings"]) == 6
    assert all(seen["drawings"])
    assert all(seen["regions"])


def test_a_phone_in_the_dark_can_read_it(browser: Browser, tmp_path: Path) -> None:
    options = {"viewport": {"width": 360, "height": 700}, "color_scheme": "dark"}
    seen = visit(browser, demo(), tmp_path, "zh-Hant", **options)
    assert seen["sideways"] <= 0
    assert seen["background"] == "rgb(19, 21, 25)"


def test_names_that_look_like_markup_do_nothing(browser: Browser, tmp_path: Path) -> None:
    seen = visit(browser, strange(), tmp_path, "en")
    assert (seen["requests"], seen["complaints"], seen["images"]) == ([], [], 0)
