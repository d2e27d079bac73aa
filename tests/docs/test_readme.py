"""What the README shows is there: functions, their settings, files, and the command line."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import gradvitals as gv
from gradvitals.faces.cli import main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def calls():
    """Every call of gradvitals in the README's Python."""
    for code in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("gv."):
                yield node


def test_every_call_in_the_readme_fits_its_function():
    shown = list(calls())
    assert len(shown) >= 15
    for call in shown:
        function = getattr(gv, ast.unparse(call.func).removeprefix("gv."))
        settings = inspect.signature(function).parameters
        if function is gv.assert_gradients:
            settings = {**settings, **inspect.signature(gv.check).parameters}
        named = {keyword.arg for keyword in call.keywords}
        assert named <= set(settings), ast.unparse(call)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    heads = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in titles}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in heads, target
        elif "://" not in target:
            assert ((ROOT / page).parent / target.partition("#")[0]).exists(), target


def test_the_commands_of_the_readme_exist():
    block = re.search(r"## On the command line\n\n```\n(.*?)```", README, flags=re.DOTALL)
    named = set(re.findall(r"\b[a-z]+\b", " ".join(line.partition("FILE")[0] for line in block[1].splitlines())))
    listed = CliRunner().invoke(main, ["--help"]).output
    for command in named & {"demo", "checkup", "check", "probe", "init", "explain"}:
        assert command in listed
    section = README.partition("## On the command line")[2].partition("## Installing")[0]
    for option in re.findall(r"`(--[a-z]+)", section):
        assert option in CliRunner().invoke(main, ["check", "--help"]).output, option
