"""The search through many tensors: what shows in company isn't forgotten when it hides from the lines of a few."""

from __future__ import annotations

import numpy as np
import pytest

import gradvitals as gv
from gradvitals import Verdict
from gradvitals.gradients.search import Search

#: How much too large one gradient is.
EXCESS = 3e-6


def check(factor):
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=4) for _ in range(6)]

    def gradients(*inputs):
        return [np.cos(x) * (factor if at == 2 else 1.0) for at, x in enumerate(inputs)]

    return gv.check(lambda *inputs: sum(np.sin(x).sum() for x in inputs), *inputs, grad=gradients)


@pytest.fixture
def unlucky(monkeypatch):
    """Random lines through less than all tensors show nothing."""
    ask = Search._ask

    def blind(self, company, **options):
        lines, wrong, bounds = ask(self, company, **options)
        return lines, wrong and len(company.group) == 6, bounds

    monkeypatch.setattr(Search, "_ask", blind)


@pytest.mark.usefixtures("unlucky")
def test_what_showed_in_company_is_followed_through_its_parts():
    report = check(1 + EXCESS)
    assert report.verdict is Verdict.FAIL
    assert report.table("tensors").column("status") == tuple("wrong" if at == 2 else "right" for at in range(6))


@pytest.mark.usefixtures("unlucky")
def test_what_hides_from_all_parts_makes_the_resolution_coarser(monkeypatch):
    monkeypatch.setattr(Search, "_missing_again", lambda *_: [])
    table = check(1 + EXCESS).table("tensors")
    for status, resolution in zip(table.column("status"), table.column("resolution"), strict=True):
        assert status == "unresolved" or resolution > EXCESS


def test_a_sound_gradient_is_asked_for_in_company_only(monkeypatch):
    asked = []
    look = Search._at_a_glance
    monkeypatch.setattr(Search, "_at_a_glance", lambda self, group: asked.append(len(group)) or look(self, group))
    assert check(1.0).verdict is Verdict.PASS
    assert asked == [6]
