"""Residual streams, attention, recurrent steps and parameters: what a capture shows beyond its calls."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tests.oracles.verdicts import BasicBlock, Language, Residual, branch
from torch import nn

from gradvitals import Case
from gradvitals.frameworks.torch.attention import of_dot_products, of_scores
from gradvitals.frameworks.torch.capture import capture
from gradvitals.frameworks.torch.moments import moments, position_spread, sample_spread
from gradvitals.signals.trunk import trunk


def seen(model, *inputs, loss=None):
    return capture(Case(model, inputs, loss=loss))


# --- residual streams ------------------------------------------------------------------------------------------------


def test_an_addition_is_a_residual_one_where_one_side_was_computed_from_the_other():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), Residual(branch()), Residual(branch()), nn.Linear(64, 3))
    x = torch.randn(5, 64)
    got = seen(model, x, loss=lambda y: y.square().mean())
    assert [stream.path for stream in got.streams] == ["1.+", "2.+"]
    h = model[0](x)
    added = model[1].branch(h)
    first = h + added
    second = first + model[2].branch(first)
    value = model[3](second).square().mean()
    gradients = torch.autograd.grad(value, [first, second])
    for stream, output, gradient in zip(got.streams, (first, second), gradients, strict=True):
        assert stream.forward.rms == pytest.approx(output.square().mean().sqrt().item(), rel=1e-5)
        assert stream.gradient.rms == pytest.approx(gradient.square().mean().sqrt().item(), rel=1e-5)
        assert not stream.has_shortcut
    assert got.streams[0].branch_rms == pytest.approx(added.square().mean().sqrt().item(), rel=1e-5)
    paths = [call.path for call in got.calls]
    assert [paths[at] for at in got.streams[0].main] == ["0"]
    assert [paths[at] for at in got.streams[0].branch] == ["1.branch.2"]
    assert got.streams[1].main == (-1,)


@pytest.mark.parametrize("write", ["x = x + f", "x += f", "f + x", "torch.add", "x.add_"])
def test_every_way_to_write_an_addition_is_seen(write):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            x = self.stem(x)
            f = self.inner(x.clone())  # else what is kept for the way back is overwritten
            if write == "x = x + f":
                x = x + f
            elif write == "x += f":
                x += f
            elif write == "f + x":
                x = f + x
            elif write == "torch.add":
                x = torch.add(x, f)
            else:
                x.add_(f)
            return self.head(x)

    (stream,) = seen(Net(), torch.randn(3, 4)).streams
    assert (stream.main, stream.branch) == ((0,), (1,))
    assert stream.gradient is not None


def test_sums_of_layers_side_by_side_and_of_embeddings_are_no_streams():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.c(torch.relu(self.a(x) + self.b(x)))

    assert seen(Wide(), torch.randn(3, 4)).streams == ()
    assert all(
        ".branch" not in stream.path for stream in seen(Language(depth=1), torch.randint(0, 50, (3, 12))).streams
    )


def test_a_projected_shortcut_is_told_from_a_plain_one():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), BasicBlock(8, 8), BasicBlock(8, 16, 2), nn.Flatten(), nn.Linear(400, 2))
    streams = seen(model, torch.randn(2, 3, 12, 12)).streams
    assert [stream.has_shortcut for stream in streams] == [False, True]


def test_the_main_path_leaves_branches_out_and_keeps_a_skip_around_everything():
    def labels(got):
        nodes = [at for level in trunk(got).levels for at in level]
        return [got.calls[at].path if at >= 0 else got.streams[-1 - at].path for at in nodes]

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), *(Residual(branch()) for _ in range(3)), nn.Linear(64, 3))
    assert labels(seen(model, torch.randn(5, 64))) == ["0", "1.+", "2.+", "3.+"]
    inner = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(8, 8), nn.ReLU())))
    assert labels(seen(nn.Sequential(Residual(inner), nn.Linear(8, 2)), torch.randn(5, 8)))[:3] == [
        *("0.branch.0", "0.branch.2", "0.branch.4"),
    ]


# --- attention -------------------------------------------------------------------------------------------------------


def obvious(scores):
    """Entropy over log(keys), head by head and row by row."""
    shares, largest = [], 0.0
    for head in scores.unbind(1):
        rows = []
        for row in head.reshape(-1, head.shape[-1]):
            allowed = row[torch.isfinite(row)]
            largest = max(largest, allowed.abs().max().item())
            if len(allowed) > 1:
                p = allowed.softmax(0)
                rows.append(-(p * p.log()).sum().item() / math.log(len(allowed)))
        shares.append(sum(rows) / len(rows))
    return sum(shares) / len(shares), min(shares), largest


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_entropy_and_largest_score_are_those_of_row_by_row_arithmetic(causal, scale):
    torch.manual_seed(0)
    q, k = (scale * torch.randn(2, 3, 7, 5) for _ in range(2))
    scores = q @ k.transpose(-1, -2) / math.sqrt(5)
    if causal:
        scores = scores.masked_fill(torch.ones(7, 7, dtype=torch.bool).triu(1), -math.inf)
    entropy, lowest, largest = obvious(scores)
    for got in (of_scores(scores), of_dot_products(q, k, is_causal=causal)):
        assert got.entropy == pytest.approx(entropy, rel=1e-4)
        assert got.lowest_entropy == pytest.approx(lowest, rel=1e-4)
        assert got.largest_score == pytest.approx(largest, rel=1e-4)


class Heads(nn.Module):
    """The same attention in three ways."""

    def __init__(self, how):
        super().__init__()
        self.inner, self.how = nn.MultiheadAttention(12, 3, batch_first=True), how

    def forward(self, x):
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        if self.how == "module":
            return self.inner(x, x, x, attn_mask=hidden)[0]
        w, b = self.inner.in_proj_weight, self.inner.in_proj_bias
        q, k, v = (F.linear(x, w, b).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)).unbind(0)
        if self.how == "fused":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return (q @ k.transpose(-1, -2) / 2).masked_fill(hidden, -math.inf).softmax(-1) @ v


@pytest.mark.parametrize("training", [True, False])
def test_modules_fused_functions_and_code_written_by_hand_show_the_same_attention(training):
    torch.manual_seed(0)
    x, models = 3 * torch.randn(2, 6, 12), [Heads(how).train(training) for how in ("module", "fused", "by hand")]
    found = []
    for model in models:
        model.load_state_dict(models[0].state_dict())
        (attention,) = (call.attention for call in seen(model, x).calls if call.attention is not None)
        found.append(attention)
    assert found[1].entropy == pytest.approx(found[0].entropy, rel=1e-4)
    assert found[2].entropy == pytest.approx(found[0].entropy, rel=1e-4)
    assert found[2].largest_score == pytest.approx(found[0].largest_score, rel=1e-4)
    assert 0.2 < found[0].entropy < 1


def test_attention_that_looks_at_one_key_alone_is_sharp():
    scores = 100 * torch.eye(8).expand(2, 1, 8, 8)
    assert of_scores(scores).sharp_share == 1
    assert of_scores(0 * scores).entropy == pytest.approx(1)
    assert of_scores(0 * scores).sharp_share == 0


# --- recurrent layers over time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("batch_first", [True, False])
def test_the_echo_is_the_gradient_of_the_last_output_step_by_step(kind, batch_first):
    torch.manual_seed(0)
    layer = kind(3, 5, batch_first=batch_first)
    x = torch.randn(4, 7, 3) if batch_first else torch.randn(7, 4, 3)
    (steps,) = seen(layer, x).steps
    time = 1 if batch_first else 0
    output = layer(x)[0]
    assert steps.forward_rms == pytest.approx([o.square().mean().sqrt().item() for o in output.unbind(time)], rel=1e-4)
    slow = torch.zeros(7)
    last = lambda x: layer(x)[0].select(time, 6).flatten()  # noqa: E731
    jacobian = torch.autograd.functional.jacobian(last, x).square().sum(0)  # of a random projection: the mean square
    slow = jacobian.movedim(time, 0).flatten(1).mean(1).sqrt()
    ratio = torch.tensor(steps.echo_rms) / slow
    assert ratio.max() / ratio.min() < 3  # one projection scatters around its mean
    assert steps.kind == kind.__name__


def test_steps_of_stacked_bidirectional_layers_are_seen_and_packed_ones_are_not():
    layer = nn.LSTM(3, 5, 2, batch_first=True, bidirectional=True, dropout=0.3)
    assert len(seen(layer, torch.randn(4, 7, 3)).steps[0].echo_rms) == 7

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.GRU(3, 5, batch_first=True)

        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(x, [7, 5, 4], batch_first=True)
            return nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0]

    assert seen(Packed(), torch.randn(3, 7, 3)).steps == ()


# --- parameters ------------------------------------------------------------------------------------------------------


def test_a_step_of_adam_and_what_halves_lose_are_those_of_the_values():
    torch.manual_seed(0)
    model, x = nn.Linear(40, 30), torch.randn(16, 40)
    got = seen(model, x, loss=lambda y: 1e-5 * y.square().mean())
    gradient = torch.autograd.grad(1e-5 * model(x).square().mean(), model.weight)[0].double()
    record = got.parameters[0]
    step = gradient.abs() / (gradient.abs() + 1e-8)
    assert record.adam_step == pytest.approx(step.square().mean().sqrt().item(), rel=1e-3)
    lost = ((gradient.half() == 0) & (gradient != 0)).double().mean().item()
    assert 0 < lost < 1
    assert record.gradient.underflow_fp16 == pytest.approx(lost)
    assert record.gradient.underflow_bf16 == 0


def test_what_underflows_in_both_halves_is_counted():
    x = torch.tensor([1.0, 1e-9, 2.0**-25, 1.1 * 2.0**-25, 0.0, 1e-41])
    got = moments(x, underflow=True)
    assert got.underflow_fp16 == pytest.approx(((x.half() == 0) & (x != 0)).double().mean().item())
    assert got.underflow_bf16 == pytest.approx(((x.bfloat16() == 0) & (x != 0)).double().mean().item())


def test_copies_are_found_and_told_whether_they_learn_alike():
    torch.manual_seed(0)

    class Towers(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.load_state_dict(self.a.state_dict())
            self.c.load_state_dict(self.a.state_dict())

        def forward(self, x):
            return self.a(x) + self.b(x) + self.c(2 * x)

    records = {record.path: record for record in seen(Towers(), torch.randn(5, 4)).parameters}
    assert [records[f"{name}.weight"].same_as for name in "abc"] == [None, "a.weight", "a.weight"]
    assert [records[f"{name}.weight"].same_gradient for name in "abc"] == [False, True, False]


# --- likeness --------------------------------------------------------------------------------------------------------


def test_the_spread_of_samples_is_resolved_where_their_cosine_is_one():
    torch.manual_seed(0)
    common, own = torch.randn(1, 500, dtype=torch.float64), torch.randn(9, 500, dtype=torch.float64)
    for size in (1.0, 1e-3, 1e-6):
        x = common + size * own
        rows = F.normalize(x - 0, dim=1)
        cosine = (rows @ rows.T)[~torch.eye(9, dtype=torch.bool)].mean().item()
        assert sample_spread(x) == pytest.approx(math.sqrt(max(1 - cosine, 0)), rel=1e-2, abs=1e-7)
    assert sample_spread(common.expand(9, 500)) < 1e-7
    assert sample_spread(torch.zeros(3, 4)) is None
    assert position_spread(common.view(1, 5, 100).expand(3, 5, 100)) == pytest.approx(
        sample_spread(common.view(5, 100))
    )


# --- where nobody can look -------------------------------------------------------------------------------------------


def test_scripted_modules_are_named_as_unseen_and_compiled_ones_are_looked_into():
    with pytest.warns(DeprecationWarning, match="script"):
        scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    got = seen(nn.Sequential(nn.Linear(4, 4), scripted, nn.Linear(4, 2)), torch.randn(3, 4))
    assert got.unseen == ("1",)
    compiled = nn.Sequential(torch.compile(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), backend="eager"), nn.Linear(4, 2))
    got = seen(compiled, torch.randn(3, 4))
    assert [call.path for call in got.calls] == ["0.0", "0.1", "1"]
    assert [record.path for record in got.parameters][:1] == ["0.0.weight"]
    assert got.compiled


def test_single_numbers_lie_apart_by_their_deviation():
    x = torch.rand(50, 1) + 1
    expected = float(x.std(correction=0) / x.square().mean().sqrt())
    assert sample_spread(x) == pytest.approx(expected, rel=1e-4)
    assert sample_spread(x * 0 + 3) == 0
