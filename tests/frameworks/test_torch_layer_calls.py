"""A module's call is made again as it was: inputs, state, surroundings; and nothing of the watching remains."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from tests.oracles.planted import NETWORKS, Planted, loss, planted
from torch import nn

from gradvitals.frameworks import Case
from gradvitals.frameworks.layer_calls import CannotReplay, layer_calls, replayed_problems
from gradvitals.frameworks.torch.structures import layout_kept, with_tensors
from gradvitals.vocabulary.errors import ModelError


def wide(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def square(output):
    return output.square().mean()


def named(calls):
    return {(call.path, call.call): call for call in calls}


# ---- a call made again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_every_call_gives_again_what_it_gave(name):
    case, _ = planted(name, {})
    with layer_calls(case) as calls:
        assert len(calls) > 4
        for call in calls:
            with call.opened() as problem:  # raises where the values differ
                assert problem.tensors
                assert np.isfinite(problem.value({})).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_gradcheck_agrees_that_every_sound_call_is_right(name):
    case, _ = planted(name, {})
    for module in case.model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()  # gradcheck draws anew each time
    with layer_calls(case) as calls:
        for call in calls:
            with call.opened() as problem:
                function, inputs = problem._case.model, [x.requires_grad_() for x in problem._case.args]
                if inputs and problem.value({}).size < 100:
                    assert torch.autograd.gradcheck(function, inputs, fast_mode=True), call.path


def test_gradcheck_agrees_which_call_is_wrong():
    case, _ = planted("mlp", {1: "formula"})
    verdicts = {}
    with layer_calls(case) as calls:
        for call in calls:
            with call.opened() as problem:
                inputs = [x.requires_grad_() for x in problem._case.args]
                verdicts[call.path] = torch.autograd.gradcheck(problem._case.model, inputs, raise_exception=False)
    assert {path for path, right in verdicts.items() if not right} == {"Sequential", "3"}


def test_the_gradient_that_came_back_is_that_of_retain_grad():
    case, _ = planted("mlp", {})
    seen = {}
    x = case.args[0]
    model = copy.deepcopy(case.model)
    for name, module in model.named_children():

        def keep(_module, _args, output, name=name):
            output.retain_grad()
            seen[name] = output

        module.register_forward_hook(keep)
    loss(model(x)).backward()
    with layer_calls(case) as calls:
        for call in calls:
            if call.path in seen:
                (gradient,) = call.record.gradients.values()
                assert torch.equal(gradient, seen[call.path].grad)
                (scale,) = call.scales(call.record.live)
                assert np.allclose(call.arrived * scale, gradient.flatten().numpy(), rtol=0, atol=0)
                assert 0.5 <= np.sqrt(np.mean(call.arrived**2)) <= 2


def test_what_lies_upstream_is_what_autograd_says():
    case, _ = planted("transformer", {})
    with layer_calls(case) as calls:
        by_name = named(calls)
        found = by_name["blocks.1.mlp", 0].upstream["blocks.1.mlp(input)"]
    assert "blocks.0.attention.qkv.weight" in found
    assert "blocks.1.attention.out.bias" in found
    assert "embedding.weight" in found
    assert not any(path.startswith(("blocks.2", "blocks.1.mlp")) for path in found)


def test_dropout_draws_again_what_it_drew():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 6), nn.Dropout(0.5)).double()
    kept = []
    model[2].register_forward_hook(lambda _module, _args, output: kept.append(output.detach().clone()))
    with layer_calls(Case(model, (wide(4, 6),), loss=square)) as calls:
        first = kept[0]
        with named(calls)["2", 0].opened() as problem:
            again = problem.value({})
    assert np.array_equal(again == 0, first.flatten().numpy() == 0)
    assert 0 < (again == 0).sum() < again.size


class Twice(nn.Module):
    """Calls batch norm twice, and puts a part into evaluation mode between."""

    def __init__(self):
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(4, momentum=0.5), nn.Dropout(0.5)

    def forward(self, x):
        x = self.norm(x) + x
        self.norm.eval()
        x = self.norm(self.dropout(x))
        self.norm.train()
        return x


def test_buffers_and_modes_are_those_of_the_call():
    model, x = Twice().double(), wide(5, 4)
    with layer_calls(Case(model, (x,), loss=square)) as calls:
        first, second = (named(calls)["norm", at] for at in (0, 1))
        assert first.record.buffers == []
        with first.opened():
            assert model.norm.training
        assert not model.norm.running_mean.any()
        with second.opened():
            assert not model.norm.training
            assert torch.allclose(model.norm.running_mean, 0.5 * x.mean(0))
        assert model.norm.training
        assert not model.norm.running_mean.any()


def test_a_module_that_works_in_place_gets_its_input_unspoilt():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).double()
    with layer_calls(Case(model, (wide(3, 4),), loss=square)) as calls:
        relu = named(calls)["1", 0]
        assert (relu.record.given[0].copy < 0).any()
        with relu.opened() as problem:
            assert (problem.point(0) < 0).any()


@dataclasses.dataclass(frozen=True)
class Options:
    scale: torch.Tensor
    power: int


class Memory:
    """An object that a module changes."""

    def __init__(self):
        self.seen = []


class Odd(nn.Module):
    """Takes everything that a module may take."""

    def forward(self, x, nothing, options, *rest, memory, flags=(True, "a")):
        assert nothing is None
        assert flags == (False, "b")
        assert not memory.seen
        memory.seen.append(x)
        return {"out": (x * options.scale) ** options.power + rest[0][0], "count": torch.tensor(3), "none": None}


class Host(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.odd = nn.Linear(3, 3), Odd()

    def forward(self, x):
        h = self.before(x)
        given = Options(h.sum(0), 2)
        return self.odd(h, None, given, [torch.ones(3), "text"], memory=Memory(), flags=(False, "b"))["out"]


def test_arguments_of_every_kind_are_handed_over_again():
    with layer_calls(Case(Host().double(), (wide(2, 3),), loss=square)) as calls:
        odd = named(calls)["odd", 0]
        assert sorted(odd.upstream) == ["odd(options.scale)", "odd(x)"]
        with odd.opened() as problem:
            assert [tensor.path for tensor in problem.tensors] == ["odd(x)", "odd(options.scale)"]
            for _ in range(3):
                problem.gradient(np.ones(problem.value({}).size))


def test_a_tensor_that_is_given_twice_stays_one():
    class Same(nn.Module):
        def forward(self, query, key):
            assert query is key
            return query * key

    class Calls(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.same = nn.Linear(3, 3), Same()

        def forward(self, x):
            h = self.linear(x)
            return self.same(h, h)

    with layer_calls(Case(Calls().double(), (wide(2, 3),), loss=square)) as calls:
        assert list(named(calls)["same", 0].upstream) == ["same(query)"]


def test_infinite_entries_of_an_input_stay_and_are_not_moved():
    class Masks(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.softmax = nn.Linear(4, 4), nn.Softmax(-1)

        def forward(self, x):
            return self.softmax(self.linear(x).masked_fill(torch.eye(4, dtype=torch.bool), -torch.inf))

    with (
        layer_calls(Case(Masks().double(), (wide(4, 4),), loss=square)) as calls,
        named(calls)["softmax", 0].opened() as problem,
    ):
        assert np.isfinite(problem.point(0)).all()
        value = problem.value({}).reshape(4, 4)
        (gradient,) = problem.gradient(np.arange(16.0))
    assert not np.diag(value).any()
    assert not np.diag(gradient.value.reshape(4, 4)).any()


def test_autocast_is_in_force_as_it_was():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                x = self.first(x)
            return self.second(x.float())

    with layer_calls(Case(Mixed(), (torch.randn(3, 4),), loss=square)) as calls:
        for path, dtype in (("first", torch.bfloat16), ("second", torch.float32)):
            call = named(calls)[path, 0]
            assert call.record.outputs["output"].dtype is dtype
            with call.opened() as problem:
                problem.value({})
        assert not torch.is_autocast_enabled("cpu")


def test_own_code_is_the_call_without_its_parts():
    case, _ = planted("transformer", {})
    with layer_calls(case) as calls, named(calls)["blocks.0", 0].opened("own-code") as problem:
        paths = [tensor.path for tensor in problem.tensors]
        parts = ("first_norm", "attention", "second_norm", "mlp")
        assert paths == ["blocks.0(x)", *(f"blocks.0.{part} →" for part in parts)]
        (_, _, attended, _, _) = problem.gradient(np.ones(problem.value({}).size))
    assert attended.value.any()


# ---- what can't be replayed ----------------------------------------------------------------------------------------


def test_a_call_that_gives_something_else_when_it_is_made_again_is_refused():
    calls_made = itertools.count(1)

    class Counts(nn.Module):
        def forward(self, x):
            return x * next(calls_made)

    model = nn.Sequential(nn.Linear(3, 3), Counts()).double()
    with layer_calls(Case(model, (wide(2, 3),), loss=square)) as calls:
        with pytest.raises(CannotReplay, match="replay-differs"), named(calls)["1", 0].opened():
            pass
        with named(calls)["0", 0].opened() as problem:
            assert problem.value({}).size == 6


def test_a_call_under_no_grad_is_refused():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher, self.student = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            with torch.no_grad():
                target = self.teacher(x)
            return self.student(x) - target

    with layer_calls(Case(Frozen().double(), (wide(2, 3),), loss=square)) as calls:
        with pytest.raises(CannotReplay, match="no-grad"), named(calls)["teacher", 0].opened():
            pass
        with named(calls)["student", 0].opened() as problem:
            assert len(problem.tensors) == 3


# ---- no trace ------------------------------------------------------------------------------------------------------


def traces(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        [len(getattr(module, kind)) for module in model.modules() for kind in kinds],
        [sorted(vars(module)) for module in model.modules()],
        [len(parameter._backward_hooks or ()) for parameter in model.parameters()],
        [parameter.grad is None for parameter in model.parameters()],
        {name: tensor.clone().tolist() for name, tensor in model.state_dict().items()},
        [module.training for module in model.modules()],
        torch.get_rng_state().tolist(),
    ]


@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_after_a_failure_nothing_remains(error, at):
    calls_made = itertools.count(1)
    raised = []

    class Fails(nn.Module):
        def forward(self, x):
            if next(calls_made) == at:
                raised.append(at)
                raise error
            return torch.tanh(x)

    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), Fails()).double()
    before = traces(model)

    def look_at_all():
        with layer_calls(Case(model, (wide(5, 4),), loss=square)) as calls:
            for call, view in itertools.product(calls, ("alone", "own-code")):
                with contextlib.suppress(CannotReplay), call.opened(view) as problem:
                    problem.value({})
            raise KeyboardInterrupt

    with pytest.raises((ModelError, KeyboardInterrupt)):
        look_at_all()
    assert raised == [at]
    assert traces(model) == before


def test_the_iterator_of_problems_leaves_no_trace_when_it_is_closed():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), Planted("sign")).double()
    before = traces(model)
    problems = replayed_problems(Case(model, (wide(5, 4),), loss=square))
    call, problem = next(problems)
    assert call.path == "Sequential"
    assert problem.value({}).size == 20
    problems.close()
    assert traces(model) == before


# ---- structures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).T,
        torch.tensor(2.0).expand(3, 4),
        torch.arange(12.0)[1::2],
        torch.arange(3.0)[:, None].expand(3, 2),
        torch.arange(4.0),
    ],
    ids=["transposed", "one number", "strided", "expanded", "plain"],
)
def test_a_copy_keeps_values_and_strides(tensor):
    copied = layout_kept(tensor)
    assert torch.equal(copied, tensor)
    assert copied.stride() == tensor.stride()
    assert copied.data_ptr() != tensor.data_ptr()


def test_tensors_inside_objects_are_replaced_in_a_copy():
    memory = Memory()
    memory.seen = [torch.ones(2, requires_grad=True) * 2]
    changed = with_tensors({"memory": memory}, "", lambda path, tensor: (path, tensor.sum().item()))
    assert changed["memory"].seen == [("", 4.0)]
    assert changed["memory"] is not memory
    assert isinstance(memory.seen[0], torch.Tensor)
