"""Reports of starts: what was chosen, what it changed and who won stand first; layers alike share a row."""

from __future__ import annotations

import pytest
from tests.render.conftest import layers

from gradvitals.render.alike import grouped
from gradvitals.render.gist import gist
from gradvitals.vocabulary import Finding, Report, Severity, Site, Table
from gradvitals.vocabulary.words import LANGUAGES

COLUMNS = ("path", "kind", "shape", "activation", "scheme", "std_before", "std_after", "bias", "reason")


def plan(count=20, reason="mirrored", **odd):
    rows = [
        (
            f"{2 * at}.weight",
            "Linear",
            (64, 64),
            "relu",
            "orthogonal",
            0.07 + at / 1e4,
            0.1768,
            "zero",
            odd.get(str(at), reason),
        )
        for at in range(count)
    ]
    return Table("plan", COLUMNS, ("",) * len(COLUMNS), tuple(rows))


def started(**settings):
    tables = (plan(), layers("before", gain=0.5, forward_gain=1.0), layers("after", gain=1.0, forward_gain=1.0))
    asked = {"method": "tailored", "why": "plain-deep", "learning_rate": 7e-4}
    return Report("init_", "net", tables=tables, settings=asked | settings)


def test_choice_change_and_learning_rate_stand_under_the_verdict():
    told = gist(started(), "en")
    assert told[0].startswith("Method tailored, chosen because this is a deep chain")
    assert (
        told[1] == "Gradient, largest to smallest over 19 layers: 2.62e+05 before, 1 after."
    )  # 0.5 to the power of −18
    assert told[2] == "Signal about its mean, largest to smallest over 19 layers: 1 before, 1 after."
    assert told[3] == "Start Adam at a learning rate of about 7e-04."
    assert told[0] in " ".join(started().render("text").split())
    assert '<ul class="gv-gist"><li>Method tailored' in started().render("html")


def test_a_network_of_branches_has_no_sizes_that_should_be_alike():
    report = started()
    tables = (plan(reason="residual"), *report.tables[1:])
    assert len(gist(Report("init_", "net", tables=tables, settings=report.settings), "en")) == 2


def test_a_gradient_of_zero_is_an_infinite_range():
    dead = layers("before", gain=0.0, forward_gain=1.0)
    report = Report("init_", "net", tables=(plan(), dead, layers("after", gain=1.0, forward_gain=1.0)))
    assert "inf before, 1 after" in gist(report, "en")[0]


def test_what_a_finding_says_of_the_learning_rate_is_not_said_twice():
    finding = Finding("W306", Severity.INFO, Site(""), {"learning_rate": 7e-4, "usual": 1e-3, "depth": 20})
    report = started()
    report = Report("init_", "net", findings=(finding,), tables=report.tables, settings=report.settings)
    assert not any("Adam" in line for line in gist(report, "en"))


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(
    "why", ["plain-deep", "residual-unnormalised", "held-by-normalisation", "shallow", "asked-for"]
)
def test_every_choice_has_its_reason_in_every_language(why, lang):
    told = gist(started(why=why), lang)
    assert "tailored" in told[0]
    assert lang == "en" or why not in started(why=why).render("text", lang=lang)


def test_layers_that_get_the_same_share_a_row():
    short = grouped(plan(20, **{"19": "head"}))
    assert short.columns == (
        "path",
        "layers",
        "scheme",
        "std_before",
        "std_after",
        "activation",
        "reason",
        "bias",
        "kind",
    )
    assert short.rows[0] == (
        "0…36.weight",
        19,
        "orthogonal",
        pytest.approx(0.0709),
        0.1768,
        "relu",
        "mirrored",
        "zero",
        "Linear",
    )
    assert short.rows[1][:2] == ("38.weight", 1)


def test_a_short_plan_and_one_of_different_layers_stay_as_they_are():
    assert grouped(plan(4)) == plan(4)
    different = plan(6, **{str(at): f"reason {at}" for at in range(6)})
    assert grouped(different) == different


def test_the_page_has_both_the_short_plan_and_every_row():
    page = Report("plan_init", "net", tables=(plan(),)).render("html")
    assert "0…38.weight" in page
    assert page.count('<th scope="row"') == 1 + 20


def test_a_balance_is_drawn_with_what_theory_expects():
    columns = (
        "path",
        *(f"{size}_ratio_{side}" for size in ("variance", "gradient") for side in ("before", "after", "expected")),
    )
    rows = tuple((f"{at}", 0.5, 1.0, 1.0, 0.2, 1.0, 1.01) for at in range(6))
    page = Report("init_", "net", tables=(Table("balance", columns, ("",) * 7, rows),)).render("html")
    assert page.count("<figure>") == 2
    assert page.count("<polyline") == 6
    assert "expected" in page


def test_a_winner_is_the_headline_and_a_warning_stands_behind_it():
    ahead = Finding("W307", Severity.INFO, Site(""), {"start": "auto", "rate": 1e-3, "loss_last": 0.1, "seeds": 3})
    stuck = Finding("W308", Severity.WARNING, Site(""), {"starts": ("built",), "loss_last": 2.3, "steps": 20})
    report = Report("compare_init", "net", findings=(ahead, stuck))
    assert "WARNING  auto trains best, by more than seeds differ. A start doesn't train." in report.render("text")
    assert "auto 训练得最好，差距大于种子之间的差别。有的起点训练不动。" in report.render("text", lang="zh-Hans")


def test_a_probe_without_any_gradient_does_not_say_that_it_kept_its_size():
    table = layers("layers", gain=1.0, forward_gain=1.0)
    at = table.columns.index("gradient_rms")
    rows = tuple((*row[:at], None, *row[at + 1 :]) for row in table.rows)
    report = Report("probe", "net", tables=(Table("layers", table.columns, table.units, rows),))
    assert "no gradient came back to any layer" in report.render("text")
    assert "so does the gradient" in Report("probe", "net", tables=(table,)).render("text")
