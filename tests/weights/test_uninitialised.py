"""W305: whatever a build leaves unset is found, to the entry; sound models keep quiet."""

from __future__ import annotations

import os
import random

import pytest
import torch
from torch import nn

from gradvitals.vocabulary import InputError, UsageError, Verdict
from gradvitals.vocabulary.words import LANGUAGES
from gradvitals.weights import find_uninitialised


class Gaps(nn.Module):
    """Tensors that were set in part or not at all, among others that were."""

    def __init__(self):
        super().__init__()
        self.sound = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.empty(3, 4))
        self.legacy = nn.Parameter(torch.Tensor(5))
        partial = torch.empty(2, 3)
        nn.init.ones_(partial[0])
        self.partial = nn.Parameter(partial)
        self.twice = nn.Parameter(torch.empty(4).mul(2))
        self.like = nn.Parameter(torch.empty_like(self.sound.weight))
        self.register_buffer("steps", torch.empty(2, dtype=torch.long))
        self.register_buffer("mask", self.sound.weight.new_empty(7, dtype=torch.bool))
        self.register_buffer("coarse", torch.empty(3, dtype=torch.bfloat16), persistent=False)
        self.skipped = nn.utils.skip_init(nn.Linear, 2, 2)
        self.filled = nn.Parameter(torch.full_like(self.scale, 0.6875))  # what our memory holds, but on purpose
        self.register_buffer("drawn", torch.rand(3))


def unset(factory):
    report = find_uninitialised(factory)
    return {row["path"]: row for row in report.table("unset").records()} if report.tables else {}


def test_every_gap_is_found_and_nothing_else():
    counts = {path: row["unset_count"] for path, row in unset(Gaps).items()}
    expected = {"scale": 12, "legacy": 5, "partial": 3, "twice": 4, "like": 9, "steps": 2, "mask": 7, "coarse": 3}
    assert counts == expected | {"skipped.weight": 4, "skipped.bias": 2}


def test_the_first_gap_is_named_and_what_was_computed_from_one_is_told_apart():
    found = unset(Gaps)
    assert found["partial"]["first_unset"] == (1, 0)
    assert found["twice"]["derived_count"] == 4
    assert sum(row["derived_count"] for row in found.values()) == 4


def test_the_finding_is_an_error_with_all_the_paths():
    report = find_uninitialised(Gaps)
    (finding,) = report.findings
    assert finding.code == "W305"
    assert report.verdict is Verdict.FAIL
    assert finding.evidence["entries"] == 51
    assert finding.site.path == "scale"
    assert set(finding.evidence["paths"]) == set(unset(Gaps))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_it_is_told_in_every_language(lang):
    said = find_uninitialised(lambda: Gaps().skipped).render("text", lang=lang)
    assert "weight" in said
    assert "{" not in said


def on_meta_then_empty():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    return model.to_empty(device="cpu")


def test_what_to_empty_leaves_is_found_and_reset_parameters_mends_it():
    assert len(unset(on_meta_then_empty)) == 7

    def mended():
        model = on_meta_then_empty()
        for module in model:
            module.reset_parameters()
        return model

    assert unset(mended) == {}


def test_a_case_and_a_tuple_are_looked_into():
    assert set(unset(lambda: (Gaps().skipped, torch.ones(1, 2)))) == {"weight", "bias"}


class OfItsOwnNumbers(nn.Module):
    """Random without the global generators: no build is like another, but every entry is set."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(4), "big"))
        self.weight = nn.Parameter(torch.randn(8, generator=generator))
        self.gap = nn.Parameter(torch.empty(2))


def test_numbers_that_are_random_in_their_own_way_are_not_taken_for_gaps():
    assert set(unset(OfItsOwnNumbers)) == {"gap"}


def test_the_random_state_is_as_it_was():
    torch.manual_seed(3)
    random.seed(3)
    expected = torch.get_rng_state(), random.getstate()
    find_uninitialised(lambda: nn.Linear(2, 2))
    assert torch.equal(torch.get_rng_state(), expected[0])
    assert random.getstate() == expected[1]


def test_an_exception_of_the_factory_comes_through_and_memory_is_given_out_as_before():
    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        find_uninitialised(broken)
    assert not bool((torch.empty(1000) == 0.6875).all())


def test_what_is_no_factory_is_refused():
    with pytest.raises(UsageError, match="can't be built again"):
        find_uninitialised(3)
    with pytest.raises(InputError, match=r"not a torch\.nn\.Module"):
        find_uninitialised(lambda: 3)


SOUND = [
    lambda: nn.Linear(3, 3), lambda: nn.Bilinear(2, 3, 4), lambda: nn.Conv1d(2, 4, 3), lambda: nn.Conv2d(2, 4, 3),
    lambda: nn.Conv3d(1, 2, 3), lambda: nn.ConvTranspose2d(2, 4, 3), lambda: nn.Embedding(5, 3, padding_idx=0),
    lambda: nn.EmbeddingBag(5, 3), lambda: nn.BatchNorm2d(3), lambda: nn.LayerNorm(4), lambda: nn.GroupNorm(2, 4),
    lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True), lambda: nn.RMSNorm(4), lambda: nn.PReLU(3),
    lambda: nn.RNN(3, 4, bidirectional=True), lambda: nn.LSTM(3, 4, 2, proj_size=2), lambda: nn.GRUCell(3, 4),
    lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=4, add_bias_kv=True),
    lambda: nn.TransformerEncoderLayer(8, 2, 16), lambda: nn.TransformerDecoderLayer(8, 2, 16),
    lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
    lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)),
    lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)), lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 10, [4]),
    lambda: nn.CrossEntropyLoss(weight=torch.ones(3)), lambda: nn.Linear(3, 3, dtype=torch.float16),
]  # fmt: skip


@pytest.mark.parametrize("factory", SOUND, ids=lambda factory: str(SOUND.index(factory)))
def test_sound_modules_keep_quiet(factory):
    report = find_uninitialised(factory)
    assert report.verdict is Verdict.PASS
    assert report.cost["builds"] == 2


@pytest.mark.parametrize("family", ["BertModel", "GPT2Model", "LlamaForCausalLM", "ViTModel", "T5Model", "MambaModel"])
def test_sound_architectures_keep_quiet(family):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "BertModel": {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        "GPT2Model": {"vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0},
        "LlamaForCausalLM": {
            "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 2, "intermediate_size": 32,
        },
        "ViTModel": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16},
        "T5Model": {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
        "MambaModel": {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4},
    }[family]  # fmt: skip
    kind = getattr(transformers, family)
    assert find_uninitialised(lambda: kind(kind.config_class(**sizes))).findings == ()


def test_what_is_still_on_the_meta_device_has_no_value():
    (finding,) = find_uninitialised(lambda: nn.Linear(3, 2, device="meta")).findings
    assert finding.code == "W305"
    assert finding.evidence["paths"] == ("weight", "bias")


@pytest.mark.parametrize("factory", [nn.Linear(2, 2), nn.Linear, lambda width: nn.Linear(width, 2)])
def test_a_built_model_and_a_factory_with_arguments_are_refused(factory):
    with pytest.raises(UsageError, match="find_uninitialised"):
        find_uninitialised(factory)
