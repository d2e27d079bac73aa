"""Two processes that share a model (FSDP2 over gloo) start it as one process does."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.capture import capture
from gradvitals.frameworks.torch.draws import independent
from gradvitals.weights import init_, plan_init
from gradvitals.weights.recipes import METHODS

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")

PROCESSES = 2
#: The methods that look at data; all others give the same bits.
DATA = frozenset({"auto", "calibrated", "tailored"})
X = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def network():
    """Layers of odd sizes, which the processes can't share evenly; one has fewer rows than there are processes."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(5, 3, 3, padding=1), nn.GELU(), nn.Flatten(),
        nn.Linear(48, 9), nn.Sigmoid(), nn.Linear(9, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 1),
    )  # fmt: skip


def shared(model, mesh):
    from torch.distributed.fsdp import fully_shard

    for module in model:
        if next(module.parameters(), None) is not None:
            fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def process(rank, place):
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=PROCESSES)
    try:
        everything(dist.device_mesh.init_device_mesh("cpu", (PROCESSES,)))
    finally:
        dist.destroy_process_group()


def everything(mesh):
    model = shared(network(), mesh)
    for method in METHODS:
        alone = network()
        told, expected = init_(model, X, method=method, seed=2), init_(alone, X, method=method, seed=2)
        equal(model, alone, 1e-5 if method in DATA else 0.0, method)
        schemes, paths = (told.table("plan").column(name) for name in ("scheme", "path"))
        assert (schemes, paths) == tuple(expected.table("plan").column(name) for name in ("scheme", "path"))
        assert told.table("plan").column("kind") == expected.table("plan").column("kind")
    assert len({id(parameter) for parameter in model.parameters()}) == len(list(alone.parameters()))
    seen, one = capture(Case(model, (X,))), capture(Case(alone, (X,)))
    assert [call.parameters for call in seen.calls] == [call.parameters for call in one.calls]
    sizes = [record.gradient.rms for record in one.parameters]
    assert [record.gradient.rms for record in seen.parameters] == pytest.approx(sizes, rel=1e-4)
    stays_as_it_was(model)
    still_trains(model, alone)
    without_memory(mesh)
    with_a_root(mesh)


def equal(model, alone, tolerance, method):
    for (path, ours), theirs in zip(model.named_parameters(), alone.parameters(), strict=True):
        whole = ours.detach().full_tensor()
        same = torch.allclose(whole, theirs, rtol=tolerance, atol=tolerance) if tolerance else whole.equal(theirs)
        assert same, (method, path)


def stays_as_it_was(model):
    """A model that raises with its new weights has its old ones back, on every process."""
    before = [parameter.detach().full_tensor().clone() for parameter in model.parameters()]

    def loss(_output):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        init_(model, X, loss=loss)
    with pytest.raises(KeyboardInterrupt):
        init_(model, progress=lambda done, _total: loss(None) if done == 2 else None)
    assert all(old.equal(new.detach().full_tensor()) for old, new in zip(before, model.parameters(), strict=True))


def still_trains(model, alone):
    for net in (model, alone):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        net(X).square().mean().backward()
        optimizer.step()
    equal(model, alone, 1e-5, "trained")


def without_memory(mesh):
    """Built on meta, then shared, then started: nothing is ever whole but one parameter at a time."""
    with torch.device("meta"):
        model = network()
    model = shared(model, mesh)
    alone = network()
    planned, expected = plan_init(model).table("plan"), plan_init(alone).table("plan")
    assert planned.column("std_after") == expected.column("std_after")
    init_(model, X, method="lecun", seed=4)
    init_(alone, X, method="lecun", seed=4)
    equal(model, alone, 0.0, "from meta")
    still_trains(model, alone)


class Rooted(nn.Module):
    """Parameters that no layer owns, a recurrent layer and a tied head, all sharded with the root."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.over_time = nn.Embedding(13, 9, padding_idx=2), nn.LSTM(9, 9, batch_first=True)
        self.mix, self.block = nn.Parameter(torch.randn(9, 9)), nn.Linear(9, 9)
        self.head = nn.Linear(9, 13, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        hidden, _ = self.over_time(self.embedding(ids))
        return self.head(self.block(torch.relu(hidden @ self.mix)))


def with_a_root(mesh):
    """What the root holds is gathered at its first pass, and has to be shared out again after every one."""
    from torch.distributed.fsdp import fully_shard

    ids = torch.arange(20).reshape(4, 5) % 13
    model, alone = Rooted(), Rooted()
    fully_shard(model.block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in ("calibrated", "tailored", "auto", "analytic", "critical"):
        told, expected = init_(model, ids, method=method), init_(alone, ids, method=method)
        equal(model, alone, 1e-5 if method in DATA else 0.0, method)
        assert told.table("plan").column("reason") == expected.table("plan").column("reason")
    for net in (model, alone):  # two steps: the memory that is gathered into is used again
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(2):
            net(ids).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    equal(model, alone, 1e-5, "trained")


@pytest.mark.slow
@pytest.mark.timeout(600)  # two more processes import torch
def test_a_shared_model_starts_as_one_that_is_not(tmp_path):
    mp.spawn(process, (tmp_path / "rendezvous",), nprocs=PROCESSES)  # what a process raises is raised here


@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_any_part_of_a_parameter_is_drawn_without_the_rest(draw, monkeypatch):
    shape = torch.Size((7, 3, 5))
    for chunk in (2**20, 16):
        monkeypatch.setattr("gradvitals.frameworks.torch.draws._CHUNK", chunk)
        whole = independent(draw, "a", 0, tuple(slice(0, size) for size in shape), shape, torch.float32)
        assert whole.shape == shape
        for part in (
            (slice(2, 6), slice(0, 3), slice(0, 5)),
            (slice(7, 7), slice(0, 3), slice(0, 5)),
            (slice(1, 3),) * 3,
        ):
            assert independent(draw, "a", 0, part, shape, torch.float32).equal(whole[part])


def test_parts_that_lie_elsewhere_are_not_drawn(monkeypatch):
    from gradvitals.frameworks.torch import draws

    monkeypatch.setattr(draws, "_CHUNK", 10)
    drawn = []
    monkeypatch.setattr(draws, "generator_for", lambda name, _seed: drawn.append(name) or torch.Generator())
    independent("normal", "a", 0, (slice(4, 6), slice(0, 10)), torch.Size((100, 10)), torch.float32)
    assert drawn == ["a#4", "a#5"]


def test_chunks_are_independent_and_have_variance_one():
    for draw in ("normal", "uniform"):
        shape = torch.Size((3, 2**20))
        whole = independent(draw, "a", 0, tuple(slice(0, size) for size in shape), shape, torch.float32)
        assert whole.std().item() == pytest.approx(1.0, abs=0.002)
        assert torch.corrcoef(whole).fill_diagonal_(0).abs().max().item() < 0.005
