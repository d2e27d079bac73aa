"""The search through many tensors: what shows in company isn't forgotten when it hides from the lines of a few."""

from __future__ import annotations

import numpy as np

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


def test_what_halves_hide_by_chance_is_looked_for_again(monkeypatch):
    asked = []
    ask = Search._ask

    def unlucky(self, group, reach, **options):
        lines, wrong = ask(self, group, reach, **options)
        asked.append(tuple(group))
        hides = wrong and len(group) < 6 and asked.count(tuple(group)) <= 1
        return lines, wrong and not hides

    monkeypatch.setattr(Search, "_ask", unlucky)
    report = check(1 + EXCESS)
    table = report.table("tensors")
    assert report.verdict is Verdict.FAIL
    assert table.column("status")[2] == "wrong"


def test_a_sound_gradient_is_asked_for_in_company_only(monkeypatch):
    asked = []
    ask = Search._ask
    monkeypatch.setattr(
        Search, "_ask", lambda self, group, *a, **k: asked.append(len(group)) or ask(self, group, *a, **k)
    )
    assert check(1.0).verdict is Verdict.PASS
    assert asked == [6]
