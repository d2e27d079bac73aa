"""The layer whose backward pass is wrong is told from those that only inherit it."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.oracles.planted import MISTAKES, NETWORKS, Planted, located, loss, planted, truth
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradvitals as gv
from gradvitals.frameworks import Case
from gradvitals.gradients.measure_layers import LayersMeasured, layers_at_fault
from gradvitals.vocabulary.words import LANGUAGES, describe

DTYPES = [torch.float64, torch.float32]


def at_fault(case, twin, **settings):
    return [fault.path for fault in located(case, twin, **settings).faults]


def sound_and_not(build, x, of=lambda y: (y - 0.3).square().mean(), dtype=torch.float64):
    """Cases of ``build(bad)`` with a fault and of its sound twin."""
    torch.manual_seed(0)
    model, twin = (build(bad) for bad in (True, False))
    twin.load_state_dict(model.state_dict())
    return tuple(Case(network.to(dtype), (x.to(dtype),), loss=of) for network in (model, twin))


def wide(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# ---- one fault in many kinds of network ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_one_faulty_layer_is_named_in_every_kind_of_network(name, dtype):
    _, _, places, path = NETWORKS[name]
    place = places // 2
    found = located(*planted(name, {place: "formula"}, dtype=dtype))
    assert [fault.path for fault in found.faults] == [path(place)]
    assert found.faults[0].functions == ("Wrong",)
    assert {row.status for row in found.rows if row.path == path(place)} <= {"wrong", "not-examined"}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_kind_of_mistake_is_found(mistake):
    assert at_fault(*planted("mlp", {2: mistake})) == ["5"]


def test_what_comes_before_inherits_and_what_comes_behind_is_not_looked_at():
    case, twin = planted("transformer", {1: "factor"})
    found = located(case, twin)
    statuses = {row.path: row.status for row in found.rows}
    assert {statuses[path] for path in ("embedding", "blocks.0")} == {"right"}
    assert {statuses[path] for path in ("blocks.1", "blocks.1.attention")} == {"inherits"}
    assert "blocks.2" not in statuses
    assert "blocks.1.mlp" not in statuses
    tensors, measured = truth(case, twin, 1e-4)
    wrong = {t.path for t, outcome in zip(tensors, measured.outcomes, strict=True) if outcome.status == "wrong"}
    assert set(found.faults[0].explains) == wrong


@pytest.mark.parametrize("name", ["mlp", "residual", "transformer"])
def test_several_faults_are_all_found(name):
    path = NETWORKS[name][3]
    assert at_fault(*planted(name, {0: "formula", 2: "factor"})) == [path(0), path(2)]


def test_a_layer_that_is_called_many_times_is_named_once():
    found = located(*planted("recurrent", {0: "sign"}))
    assert [fault.path for fault in found.faults] == ["cell.act"]
    calls = [row.call for row in found.rows if row.path == "cell.act"]
    assert calls == [0, 1, 2, 3]


# ---- whose fault it is --------------------------------------------------------------------------------------------


class Between(nn.Module):
    """Something goes wrong in a module's own code, between two parts that are right."""

    def __init__(self, *, bad, how):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.how = how if bad else "sound"

    def forward(self, x):
        h = self.first(x)
        if self.how == "function":
            h = Planted("sign")(h)
        elif self.how == "detach":
            h = torch.tanh(h).detach()
        elif self.how == "hook" and h.requires_grad:
            h = torch.tanh(h)
            h.register_hook(lambda g: 2 * g)
        else:
            h = torch.tanh(h)
        return x + self.second(h)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])
@pytest.mark.parametrize("how", ["function", "detach", "hook"])
def test_code_between_right_parts_is_the_fault_of_the_module_that_holds_it(how, dtype):
    def build(bad):
        return nn.Sequential(nn.Linear(4, 4), Between(bad=bad, how=how), nn.Linear(4, 2))

    assert at_fault(*sound_and_not(build, wide(3, 4), dtype=dtype)) == ["1"]


class Wide(nn.Module):
    """x @ weight.T whose gradient of the weight is wrong by a factor."""

    def __init__(self, *, bad):
        super().__init__()
        self.weight, self.bad = nn.Parameter(torch.randn(4, 4)), bad

    def forward(self, x):
        weight = self.weight
        if self.bad:
            weight = 1.5 * weight - 0.5 * weight.detach()
        return x @ weight.T


def test_a_fault_in_a_modules_own_code_beside_that_of_a_part_is_found_as_well():
    class Both(nn.Module):
        def __init__(self, bad):
            super().__init__()
            self.part, self.own = Wide(bad=bad), Planted("formula" if bad else None)

        def forward(self, x):
            return self.part(torch.sin(x)) + (Planted("factor")(x) if self.part.bad else torch.tanh(x))

    def build(bad):
        return nn.Sequential(nn.Linear(4, 4), Both(bad), nn.Linear(4, 2))

    assert at_fault(*sound_and_not(build, wide(3, 4))) == ["1", "1.part"]


class Cuts(nn.Module):
    """Gives on two things, the second one cut off."""

    def __init__(self, *, bad):
        super().__init__()
        self.linear, self.bad = nn.Linear(4, 4), bad

    def forward(self, x):
        h = torch.tanh(self.linear(x))
        return {"plain": h, "square": (h.detach() if self.bad else h) ** 2}


def test_a_part_that_gives_on_a_detached_output_is_at_fault_not_what_uses_it():
    class Uses(nn.Module):
        def __init__(self, bad):
            super().__init__()
            self.part, self.head = Cuts(bad=bad), nn.Linear(4, 4)

        def forward(self, x):
            given = self.part(x)
            return self.head(given["plain"]) + given["square"]

    def build(bad):
        return nn.Sequential(nn.Linear(4, 4), Uses(bad))

    assert at_fault(*sound_and_not(build, wide(3, 4))) == ["1.part"]


def test_backward_hooks_are_part_of_their_module():
    def build(bad):
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 2))
        if bad:
            model[2].register_full_backward_hook(lambda module, into, out: tuple(2 * g for g in into))
        return model

    assert at_fault(*sound_and_not(build, wide(3, 4))) == ["2"]


def test_checkpointed_layers_are_looked_into():
    class Checkpointed(nn.Module):
        def __init__(self, bad):
            super().__init__()
            parts = [nn.Sequential(nn.Linear(4, 4), Planted("factor" if bad and at == 1 else None)) for at in range(3)]
            self.parts = nn.ModuleList(parts)

        def forward(self, x):
            for part in self.parts:
                x = checkpoint(part, x, use_reentrant=False)
            return x

    assert at_fault(*sound_and_not(Checkpointed, wide(3, 4))) == ["parts.1.1"]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile's own
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_layers_are_looked_into():
    def build(bad):
        part = nn.Sequential(nn.Linear(4, 4), Planted("factor" if bad else None))
        return nn.Sequential(nn.Linear(4, 4), torch.compile(part, backend="eager"), nn.Linear(4, 2))

    assert at_fault(*sound_and_not(build, wide(3, 4))) == ["1._orig_mod.1"]


class OneNumber(torch.autograd.Function):
    """Right where every entry of the incoming gradient is stored, wrong where one number stands for all."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, dout):
        return (3 if 0 in dout.stride() else 2) * dout


def test_a_mistake_that_only_the_gradient_makes_that_came_back_is_seen():
    class Doubles(nn.Module):
        def __init__(self, bad):
            super().__init__()
            self.bad = bad

        def forward(self, x):
            return OneNumber.apply(x) if self.bad else 2 * x

    def build(bad):
        return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Doubles(bad))

    assert at_fault(*sound_and_not(build, wide(3, 4), of=torch.sum)) == ["2"]


def test_the_loss_is_at_fault_where_no_layer_is():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double()
    case, twin = (
        Case(model, (wide(3, 4),), loss=lambda y, act=act: act(y).square().sum())
        for act in (Planted("formula"), Planted())
    )
    assert at_fault(case, twin) == ["loss"]


def test_modules_that_a_plain_function_calls_are_told_apart():
    torch.manual_seed(0)
    first, act, second = nn.Linear(4, 4).double(), nn.Sequential(nn.Linear(4, 4), Planted("sign")).double(), nn.Tanh()

    def step(x):
        return second(act(first(x))).square().mean()

    report = gv.check(step, wide(3, 4))
    assert [(finding.code, finding.site.path) for finding in report.findings] == [("G101", "act.1")]


# ---- what the report says -----------------------------------------------------------------------------------------


def test_the_report_names_the_layer_and_lists_the_inheritors():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), Planted("sign"), nn.Linear(4, 2)).double()
    report = gv.check(model, wide(3, 3), loss=loss)
    (finding,) = report.findings
    assert (finding.code, finding.site.path) == ("G101", "1")
    assert finding.evidence["likely"] == "sign"
    assert finding.evidence["at_fault"] == ("1",)
    assert finding.evidence["own"] == ("1(x)",)
    assert finding.evidence["inherited"] == ("0.weight", "0.bias", "input")
    assert finding.evidence["functions"] == ("Wrong",)
    examined = {row["path"]: row["status"] for row in report.table("modules").records()}
    assert examined == {"0": "right", "1": "wrong", "2": "right"}
    for lang in LANGUAGES:
        said = describe(finding, lang)
        assert "{" not in said.text + said.remedy
        assert "–" not in said.text


def test_a_wrong_gradient_that_nothing_inherits_keeps_its_entry_and_names_its_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), Wide(bad=True), nn.Tanh()).double()
    (finding,) = gv.check(model, wide(3, 4), loss=loss).findings
    assert finding.site.path == "1.weight"
    assert finding.site.index is not None
    assert finding.evidence["at_fault"] == ("1",)
    assert "inherited" not in finding.evidence


def test_a_cut_path_is_a_missing_gradient_of_the_module_that_cuts_it():
    torch.manual_seed(0)

    class Cut(nn.Module):
        def forward(self, x):
            return torch.tanh(x).detach()

    model = nn.Sequential(nn.Linear(3, 3), Cut(), nn.Linear(3, 2)).double()
    (finding,) = gv.check(model, wide(3, 3), loss=loss).findings
    assert (finding.code, finding.site.path, finding.evidence["likely"]) == ("G102", "1", "detached")
    assert finding.evidence["inherited"] == ("0.weight", "0.bias", "input")


def test_one_mistake_in_many_layers_of_a_kind_is_one_finding():
    case, _ = planted("mlp", {1: "factor", 2: "factor"})
    (finding,) = gv.check(case).findings
    assert finding.evidence["at_fault"] == ("3", "5")


def test_a_sound_model_is_not_run_once_more(monkeypatch):
    def never(*_args, **_kwargs):
        raise AssertionError

    monkeypatch.setattr("gradvitals.gradients.measure_layers.layer_calls", never)
    report = gv.check(nn.Sequential(nn.Linear(3, 3), nn.Tanh()).double(), wide(2, 3), loss=loss)
    assert report.ok
    assert "modules" not in [table.name for table in report.tables]


def test_a_model_that_does_not_run_again_is_said_so():
    case, twin = planted("mlp", {1: "sign"})
    tensors, measured = truth(case, twin, 1e-4)
    broken = Case(lambda x: 1 / 0, case.args)
    found = layers_at_fault(broken, None, tensors, measured, sensitivity=1e-4, seed=0)
    assert [(row.status, row.reason) for row in found.rows] == [("not-examined", "raises")]


def test_a_spent_budget_leaves_layers_unexamined():
    case, twin = planted("mlp", {1: "sign"})
    tensors, measured = truth(case, twin, 1e-4)
    found = layers_at_fault(case, None, tensors, measured, sensitivity=1e-4, seed=0, budget=10)
    assert found.evaluations == 0
    assert {row.reason for row in found.rows} == {"budget-spent"}


# ---- calibration --------------------------------------------------------------------------------------------------

KINDS = ["sign", "factor", "formula", "zero"]
COMBINATIONS = [(name, place, seed) for name in NETWORKS for place in range(NETWORKS[name][2]) for seed in range(5)]


def blamed_and_due(name, place, seed, dtype):
    case, twin = planted(name, {place: KINDS[seed % 4]}, seed=seed, dtype=dtype)
    return at_fault(case, twin, seed=seed), [NETWORKS[name][3](place)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_over_networks_places_and_seeds_only_the_faulty_layer_is_blamed(name, dtype):
    """70 combinations in each precision."""
    assert len(COMBINATIONS) >= 50
    found = [(it, *blamed_and_due(*it, dtype)) for it in COMBINATIONS if it[0] == name]
    assert [item for item in found if item[1] != item[2]] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_healthy_inheritors_are_right_by_themselves(name):
    """Every layer but the planted one, alone: none is called wrong, whatever comes back to it."""
    for place, seed in itertools.product(range(NETWORKS[name][2]), range(3)):
        case, twin = planted(name, {place: "formula"}, seed=seed)
        found: LayersMeasured = located(case, twin, seed=seed)
        innocent = [row for row in found.rows if row.path != NETWORKS[name][3](place)]
        assert {row.status for row in innocent} <= {"right", "inherits"}, innocent
