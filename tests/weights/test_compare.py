"""compare_init trains copies from several starts, and leaves the model alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.trials import Trainee
from gradvitals.vocabulary import InputError, ModelError, Report, UsageError
from gradvitals.weights import compare_init, init_, plan_init
from gradvitals.weights.trials import Trial, outcomes

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(64, 16, generator=GENERATOR), torch.randint(0, 3, (64,), generator=GENERATOR)
QUICK = {"steps": 4, "seeds": 2, "rates": [1e-2]}


def deep(activation, depth=8):
    torch.manual_seed(0)
    layers = [layer for _ in range(depth - 1) for layer in (nn.Linear(16, 16), activation())]
    return nn.Sequential(*layers, nn.Linear(16, 3))


def loss(output, target=Y):
    return F.cross_entropy(output, target)


def starts(report):
    return {row["method"]: row for row in report.table("starts").records()}


def by_hand(model, rate, steps, batches=None):
    """The training spelled out."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    losses = []
    for step in range(steps):
        x, y = (X, Y) if batches is None else batches[step % len(batches)]
        value = loss(model(x), y)
        losses.append(value.item())
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return losses


def test_the_curve_is_that_of_the_training_spelled_out():
    model = deep(nn.Tanh)
    report = compare_init(model, X, loss=loss, methods=["built", "he"], steps=6, seeds=1, rates=[1e-2])
    started = copy.deepcopy(model)
    init_(started, X, method="he", seed=0)
    for method, net in (("built", model), ("he", started)):
        curve = [row["loss"] for row in report.table("curves").records() if row["method"] == method]
        assert curve == pytest.approx(by_hand(net, 1e-2, 6), rel=1e-5)


def test_batches_are_gone_through_again_and_again():
    batches = [(X[:32], Y[:32]), (X[32:], Y[32:])]
    model = deep(nn.Tanh)
    asked = {"methods": ["built"], "steps": 5, "seeds": 1, "rates": [1e-2]}
    for report in (
        compare_init(model, X, loss=loss, batches=batches, **asked),
        compare_init(Case(model, (X,), loss=loss, batches=batches), **asked),
    ):
        assert report.table("curves").column("loss") == pytest.approx(by_hand(model, 1e-2, 5, batches), rel=1e-5)
        assert report.settings["batches"] == "given"


def test_methods_of_init_start_a_model_whose_loss_wants_a_batchs_last_item():
    batches = [(X[:32], Y[:32]), (X[32:], Y[32:])]

    def of_both(output, target):
        return F.cross_entropy(output, target)

    case = Case(deep(nn.Tanh), (X,), loss=of_both, batches=batches)
    started = copy.deepcopy(case.model)
    init_(started, X, method="auto", seed=0)
    report = compare_init(case, methods=["auto"], steps=4, seeds=1, rates=[1e-2])
    assert report.table("curves").column("loss") == pytest.approx(by_hand(started, 1e-2, 4, batches), rel=1e-5)


def test_a_model_on_meta_is_compared_in_memory_and_stays_on_meta():
    with torch.device("meta"):
        model = deep(nn.Tanh)
    report = compare_init(model, X, loss=loss, methods=["built", "default", "he"], **QUICK)
    assert set(starts(report)) == {"default", "he"}
    assert all(math.isfinite(row["loss_last"]) for row in starts(report).values())
    assert all(parameter.is_meta for parameter in model.parameters())
    with pytest.raises(UsageError, match="nothing to train"):
        compare_init(model, X, loss=loss, methods=["built"], **QUICK)


def test_a_parameter_on_meta_that_nothing_sets_is_named():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.scale = nn.Linear(16, 3), nn.Parameter(torch.empty(3))

        def forward(self, x):
            return self.layer(x) * self.scale

    with torch.device("meta"):
        model = Scaled()
    with pytest.raises(InputError, match="'scale' of Scaled: none of its modules sets it"):
        compare_init(model, X, loss=loss, methods=["default"], **QUICK)


def test_batches_of_keywords_train_a_model_that_knows_its_loss():
    class Knowing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, x, y):
            output = self.layer(x)
            return {"logits": output, "loss": loss(output, y)}

    report = compare_init(
        Knowing(), kwargs={"x": X, "y": Y}, batches=[{"x": X[:8], "y": Y[:8]}], methods=["built"], **QUICK
    )
    row = starts(report)["built"]
    assert row["loss_last"] < row["loss_first"]


def test_a_start_that_trains_comes_before_one_that_does_not():
    report = compare_init(
        deep(nn.Sigmoid, 12), X, loss=loss, methods=["default", "auto"], steps=80, seeds=2, rates=[3e-3]
    )
    assert report.table("starts").column("method") == ("auto", "default")
    found = starts(report)
    assert found["auto"]["loss_last"] < found["default"]["loss_last"] - 0.2


def test_the_default_start_is_drawn_by_the_modules_themselves_and_differs_from_seed_to_seed():
    model = deep(nn.Tanh)
    first = {
        seed: compare_init(model, X, loss=loss, methods=["built", "default"], steps=1, seeds=1, seed=seed, rates=[1e-2])
        for seed in (0, 1)
    }
    drawn = [starts(report)["default"]["loss_first"] for report in first.values()]
    assert drawn[0] != drawn[1]
    assert starts(first[0])["built"]["loss_first"] == pytest.approx(loss(model(X)).item())


def test_the_best_rate_stands_for_a_start_and_runs_that_break_off_are_counted():
    report = compare_init(deep(nn.ReLU), X, loss=loss, methods=["he"], steps=12, seeds=2, rates=[1e30, 1e-2, 1e-9])
    row = starts(report)["he"]
    assert row["rate"] == 1e-2
    assert row["broken"] == 2


def test_patience_ends_a_run_that_stands_still():
    calls = []

    def counted(output):
        calls.append(1)
        return loss(output)

    asked = {"methods": ["built"], "steps": 50, "seeds": 1, "rates": [1e-12]}
    report = compare_init(deep(nn.Tanh), X, loss=counted, patience=3, **asked)
    assert len(calls) == 4
    assert len(report.table("curves")) == 40  # the curve goes on as it ended


def test_nothing_of_the_model_or_its_surroundings_changes():
    model = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 3)).eval()
    model[0].weight.grad = torch.ones(16, 16)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    compare_init(model, X, loss=loss, **QUICK)
    assert all(torch.equal(value, before[path]) for path, value in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones(16, 16))
    assert model[3].weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training


def test_an_interrupt_keeps_what_was_finished():
    model = deep(nn.Tanh)
    state = torch.get_rng_state()

    def stop(done, _total):
        if done == 3:
            raise KeyboardInterrupt

    report = compare_init(model, X, loss=loss, methods=["built", "he"], progress=stop, **QUICK)
    assert report.settings["interrupted"] is True
    assert report.cost["runs"] == 3
    assert set(starts(report)) == {"built", "he"}
    assert {row["trials"] for row in starts(report).values()} == {1}  # compared over the seed that both have
    assert torch.equal(torch.get_rng_state(), state)


def test_an_interrupt_before_the_first_run_is_passed_on():
    def interrupted(_output):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_init(deep(nn.Tanh), X, loss=interrupted, **QUICK)


def test_a_start_that_always_breaks_off_comes_last():
    trials = [Trial("bad", 0, 0.1, (1.0, math.inf), 9), Trial("good", 0, 0.1, (1.0,) * 9, 9)]
    assert [outcome.method for outcome in outcomes(trials)] == ["good", "bad"]


def test_bad_input_is_refused():
    model = deep(nn.Tanh)
    with pytest.raises(UsageError, match="not a list of starts"):
        compare_init(model, X, loss=loss, methods=["hee"])
    with pytest.raises(UsageError, match="not a list of starts"):
        compare_init(model, X, loss=loss, methods="he")
    with pytest.raises(UsageError, match="nothing to train"):
        compare_init(model, X, loss=loss, steps=0)
    with pytest.raises(UsageError, match="no keyword 'step'"):
        compare_init(model, X, loss=loss, step=3)
    with pytest.raises(InputError, match="needs a loss"):
        compare_init(model, X, **QUICK)
    with pytest.raises(InputError, match="no batches"):
        compare_init(model, X, loss=loss, batches=iter(()), **QUICK)
    with pytest.raises(UsageError, match="not a list of learning rates"):
        compare_init(model, X, loss=loss, rates=[1e-3, 0])
    with pytest.raises(InputError, match="passes no gradient back"):
        compare_init(model, X, loss=lambda output: (output.argmax(-1) != Y).float().mean(), **QUICK)
    with pytest.raises(ModelError, match="the loss raised"):
        compare_init(model, X, loss=lambda output: loss(output, Y[:3]), **QUICK)


def test_the_report_travels_and_is_drawn():
    report = compare_init(deep(nn.Tanh), X, loss=loss, **QUICK)
    assert Report.from_json(report.to_json()).table("starts") == report.table("starts")
    page = report.render("html")
    assert page.count("<polyline") == 6
    assert "gv-line-6" in page
    said = report.render("text", lang="zh-Hant")
    assert "學習率" in said
    assert "▁" in said


def strict_loss(output, target):
    return F.cross_entropy(output, target)


def test_a_loss_that_needs_the_batchs_target_does_not_hinder_any_start():
    asked = {"loss": strict_loss, "batches": [(X, Y)], "methods": ["built", "default", "auto", "he"], **QUICK}
    assert set(starts(compare_init(deep(nn.Tanh), X, **asked))) == {"built", "default", "auto", "he"}
    case = Case(deep(nn.Tanh), (X,), loss=strict_loss, batches=[(X, Y)])
    assert init_(case).settings["objective"] == "loss"
    asked_for = []
    init_(case, loss=lambda output: asked_for.append(output) or output.sum())
    assert asked_for
    assert plan_init(case).settings["method"] == "tailored"


def test_frozen_parameters_stay_in_every_start():
    model = deep(nn.Tanh)
    model[0].requires_grad_(requires_grad=False)
    trainee = Trainee(Case(model, (X,), loss=loss))
    for how in ("built", "default", init_):
        assert torch.equal(trainee.start(how, seed=0)["0.weight"], model[0].weight)


@pytest.mark.parametrize(
    "asked",
    [{"steps": 2.5}, {"seeds": "a"}, {"rates": 1e-3}, {"rates": [-1e-3]}, {"rates": ["a"]}, {"rates": [math.nan]}],
)
def test_numbers_that_make_no_sense_are_refused(asked):
    with pytest.raises(UsageError, match=f"compare_init.*{next(iter(asked))}="):
        compare_init(deep(nn.Tanh), X, loss=loss, **{**QUICK, **asked})


def test_a_frozen_model_is_refused():
    with pytest.raises(InputError, match="no parameter that can be trained"):
        compare_init(deep(nn.Tanh).requires_grad_(requires_grad=False), X, loss=loss, **QUICK)


def test_starts_that_fill_nothing_are_told():
    model = deep(nn.Tanh)
    for module in model.modules():
        module._is_hf_initialized = True
    findings = compare_init(model, X, loss=loss, methods=["built", "he"], **QUICK).findings
    assert "W310" in {finding.code for finding in findings}
