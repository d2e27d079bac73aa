"""Public architectures as they start: no crash and no false alarm, residual streams and attention seen."""

from __future__ import annotations

import pytest
import torch

from gradvitals.signals import probe
from gradvitals.vocabulary import Severity

pytest.importorskip("transformers")

from oracles.public_architectures import ARCHITECTURES

#: Those that have no attention to be seen.
WITHOUT_ATTENTION = {"Mamba", "ConvNeXt", "ResNet", "RegNet", "MobileNet v2"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_spectrum_of_a_public_architecture_can_be_had_of_every_stage(name):
    torch.manual_seed(0)
    model, kwargs = ARCHITECTURES[name]()
    if name == "T5":  # with labels alone it makes these itself
        kwargs["decoder_input_ids"] = kwargs["input_ids"]
    report = probe(model.eval(), kwargs={**kwargs, "labels": None}, spectrum=True)
    table = report.table("spectrum")
    assert report.settings["jacobian"] == "per-sample"
    assert len(table) >= 6
    assert all(value is not None and value >= 0 for value in table.column("sigma_max"))
    assert all(row["sigma_max_error"] <= 0.5 * row["sigma_max"] for row in table.records())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_public_architecture_gets_no_alarm_and_is_seen_inside(name, training):
    torch.manual_seed(0)
    model, kwargs = ARCHITECTURES[name]()
    report = probe(model.train(training), kwargs=kwargs)
    assert [finding for finding in report.findings if finding.severity >= Severity.WARNING] == []
    entropies = [value for value in report.table("layers").column("attention_entropy") if value is not None]
    assert bool(entropies) is (name not in WITHOUT_ATTENTION)
    assert all(0 <= entropy <= 1 + 1e-6 for entropy in entropies)
    assert len(report.table("streams")) >= 4
    assert {"forward", "backward"} <= set(report.table("gains").column("direction"))
