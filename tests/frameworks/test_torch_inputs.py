from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gradvitals import Case
from gradvitals.frameworks.torch.inputs import named_inputs, validate
from gradvitals.vocabulary import InputError


def refused(model, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        validate(Case(model, args, kwargs))
    return caught.value


def test_inputs_are_named_as_the_forward_method_names_them():
    class Net(nn.Module):
        def forward(self, image, pair, *rest, mask=None):
            return image

    a = torch.ones(1)
    case = Case(Net(), (a, (a, {"deep": a}), a), {"mask": a, "other": 3})
    assert [name for name, _ in named_inputs(case)] == ["image", "pair[0]", "pair[1].deep", "rest[0]", "mask"]


def test_builtin_functions_without_a_signature_get_numbers():
    assert [name for name, _ in named_inputs(Case(torch.relu, (torch.ones(1),)))] == ["input0"]


def test_empty_batch_is_refused_with_its_name_and_shape():
    error = refused(nn.Linear(4, 2), torch.ones(0, 4))
    assert error.what == "the batch is empty"
    assert "'input' has shape (0, 4)" in error.where


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_with_their_place(value):
    x = torch.ones(2, 4)
    x[1, 2] = value
    assert "the first at (1, 2)" in refused(nn.Linear(4, 2), x).where


def test_additive_attention_masks_may_be_minus_infinity():
    mask = nn.Transformer.generate_square_subsequent_mask(3)
    layer = nn.TransformerEncoderLayer(4, 1, 8, batch_first=True)
    validate(Case(layer, (torch.ones(2, 3, 4),), {"src_mask": mask}))


def test_inference_tensors_are_refused():
    with torch.inference_mode():
        x = torch.ones(1, 4)
        assert refused(nn.Linear(4, 2), torch.ones(1, 4)).what == "inference mode is on"
        model = nn.Linear(4, 2)
    assert "inference-mode tensor" in refused(nn.Linear(4, 2), x).what
    assert "'weight' of the model" in refused(model, torch.ones(1, 4)).where


def test_meta_tensors_are_refused():
    assert "meta" in refused(nn.Linear(4, 2, device="meta"), torch.ones(1, 4)).what
    assert "input 'input'" in refused(nn.Linear(4, 2), torch.ones(1, 4, device="meta")).where


def test_lazy_layers_are_refused_until_they_have_a_shape():
    model = nn.LazyLinear(2)
    assert "lazy" in refused(model, torch.ones(1, 4)).what
    model(torch.ones(1, 4))
    validate(Case(model, (torch.ones(1, 4),)))


def test_token_ids_and_plain_numbers_pass():
    validate(Case(nn.Embedding(3, 2), (torch.tensor([1, 2]),), {"scale": 2.0}))
