"""Parameters that are held in more places than one, or share their memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gradvitals.frameworks import Case, opened
from gradvitals.frameworks.torch.swap import Places, written_in_place
from gradvitals.vocabulary.errors import InputError


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class Held(nn.Module):
    """Uses its weight through a list of its own as well."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))
        self.held = [self.weight]

    def forward(self, x):
        return x @ self.weight + x @ self.held[0]


class SharedMemory(nn.Module):
    """Two parameters of one memory, as ``nn.Parameter(other.weight.t())`` makes them: for autograd they are two."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(3, 4, bias=False)
        self.decode = nn.Linear(4, 3, bias=False)
        self.decode.weight = nn.Parameter(self.encode.weight.t())

    def forward(self, x):
        return self.decode(torch.tanh(self.encode(x)))


class Expanded(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1).expand(3))

    def forward(self, x):
        return x * self.scale


def slope_and_claim(problem, shadow=None):
    evaluated = shadow or problem
    rng = np.random.default_rng(0)
    direction = {at: rng.standard_normal(tensor.size) for at, tensor in enumerate(problem.tensors)}
    step = 1e-6 if problem.roundoff < 1e-12 or shadow else 1e-2
    ahead, behind = (
        evaluated.value({at: problem.point(at) + h * u for at, u in direction.items()}) for h in (step, -step)
    )
    cotangent = np.linspace(-1, 1, ahead.size)
    claimed = sum(float(g.value @ direction[at]) for at, g in enumerate(problem.gradient(cotangent)))
    return cotangent @ (ahead - behind) / (2 * step), claimed


@pytest.mark.parametrize("make", [Held, SharedMemory, Expanded])
def test_slopes_fit_the_gradient_however_parameters_are_held(make):
    model = make().double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with opened(Case(model, (torch.randn(5, 3, dtype=torch.float64),))) as problem:
        slope, claimed = slope_and_claim(problem)
    assert slope == pytest.approx(claimed, rel=1e-7)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_weight_that_is_used_from_elsewhere_as_well_has_no_shadow_and_no_tangent():
    with opened(Case(Held(), (torch.randn(5, 3),))) as problem:
        assert problem.shadow() is None
        assert problem.tangent({0: np.ones(9)}) is None
        assert problem.tangent({1: np.ones(15)}) is not None


def test_parameters_that_share_memory_have_a_shadow():
    with opened(Case(SharedMemory(), (torch.randn(5, 3),))) as problem:
        slope, claimed = slope_and_claim(problem, problem.shadow())
    assert slope == pytest.approx(claimed, rel=1e-5)


def test_a_parameter_in_no_module_is_moved_but_has_no_shadow():
    weight = nn.Parameter(torch.randn(3, 2))
    with opened(Case(lambda x: x @ weight, (torch.randn(4, 3),)), wrt={"weight": weight}) as problem:
        slope, claimed = slope_and_claim(problem)
        assert slope == pytest.approx(claimed, rel=1e-4)
        assert problem.shadow() is None
        assert [tensor.path for tensor in problem.tensors] == ["weight"]


def test_places_come_back_when_the_block_raises():
    layer = nn.Linear(2, 2)
    weight = layer.weight
    with pytest.raises(ZeroDivisionError), Places([layer]).swapped({id(weight): torch.zeros(2, 2)}):
        raise ZeroDivisionError(layer.weight is not weight)
    assert layer.weight is weight


def test_what_has_no_place_cannot_be_replaced():
    with pytest.raises(InputError, match="can't be replaced"), Places([]).swapped({3: torch.zeros(1)}):
        pass


def test_neighbours_in_one_memory_may_be_moved_in_place():
    memory = torch.zeros(10)
    parts = [memory[:4], memory[4:7], memory[7:]]  # as cuDNN wants an LSTM's weights
    assert written_in_place(parts) == {id(part) for part in parts}
