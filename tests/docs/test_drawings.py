"""Drawings in the documentation are what their scripts draw."""

from __future__ import annotations

import re
import runpy
import xml.etree.ElementTree as ET
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_sigmoids_drawing_is_up_to_date_and_loads_nothing():
    stored = (DOCS / "sigmoid.svg").read_text(encoding="utf-8")
    drawn = runpy.run_path(str(DOCS / "draw_sigmoid.py"))["draw"]()
    assert drawn == stored
    ET.fromstring(stored)  # noqa: S314 - a file of ours
    assert re.findall(r"(?:href|src)=|url\(", stored) == []
    assert "prefers-color-scheme: dark" in stored
