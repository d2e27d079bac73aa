"""How well ``predict`` says what ``probe`` measures: over models of many kinds, forwards and backwards.

Every model is built anew with several seeds, predicted (on tensors without values) and measured. A layer's error is
that of the geometric mean over seeds; where the standard error of that mean exceeds 1 %, the layer is judged by the
band only: the share of single networks inside two stated standard deviations. One result file per model under build/;
what is there already isn't measured again.

python benchmarks/signals_prediction.py [MODEL …]
python benchmarks/signals_prediction.py --unseen [MODEL …]   # architectures that the rules weren't written for
python benchmarks/signals_prediction.py --further [MODEL …]  # and a second list of those, made later
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models are built from their configuration; nothing is downloaded

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from further_public import FURTHER
from torch import nn
from unseen_architectures import UNSEEN

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.capture import capture
from gradvitals.frameworks.torch.prediction.predict import predict

RESULTS = Path(__file__).resolve().parents[1] / "build" / "signals_prediction"
SEEDS = 8
#: Layers whose geometric mean is known worse than this are judged by the band only.
KNOWN = 0.01


def hugging_face(family, config, **sizes):
    import transformers

    transformers.logging.set_verbosity_error()
    return getattr(transformers, f"{family}Model")(getattr(transformers, f"{config}Config")(**sizes))


def tokens(vocabulary=200, batch=4, length=16):
    return torch.randint(0, vocabulary, (batch, length))


def bert():
    sizes = {"vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    return hugging_face("Bert", "Bert", intermediate_size=128, **sizes), (tokens(),)


def gpt2():
    sizes = {"vocab_size": 200, "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 32}
    return hugging_face("GPT2", "GPT2", bos_token_id=0, eos_token_id=0, **sizes), (tokens(),)


def llama():
    sizes = {"vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    return hugging_face("Llama", "Llama", num_key_value_heads=2, intermediate_size=128, **sizes), (tokens(),)


def vit():
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    return hugging_face("ViT", "ViT", image_size=32, patch_size=8, **sizes), (torch.randn(4, 3, 32, 32),)


def resnet():
    sizes = {"embedding_size": 32, "hidden_sizes": [64, 128], "depths": [2, 2], "layer_type": "bottleneck"}
    return hugging_face("ResNet", "ResNet", **sizes), (torch.randn(8, 3, 32, 32),)


def t5():
    sizes = {"vocab_size": 200, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 4, "num_heads": 4}
    return hugging_face("T5Encoder", "T5", **sizes), (tokens(),)


def mamba():
    sizes = {"vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 3, "state_size": 8}
    return hugging_face("Mamba", "Mamba", **sizes), (tokens(),)


def encoder(*, pre):
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=pre)
    return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), (torch.randn(4, 16, 64),)


class Block(nn.Module):
    """A basic block of ResNet-20."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        y += self.shortcut(x)
        return self.relu(y)


def resnet20():
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    width = 16
    for outputs in (16, 32, 64):
        for at in range(3):
            layers.append(Block(width, outputs, 2 if at == 0 and outputs > 16 else 1))
            width = outputs
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model, (torch.randn(16, 3, 32, 32),)


def cnn30():
    layers, channels = [], 3
    for _ in range(30):
        layer = nn.Conv2d(channels, 32, 3, padding=1)
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
        channels = 32
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    return model, (torch.randn(8, 3, 8, 8),)


def mlp50(activation, gain):
    layers = []
    for _ in range(50):
        layer = nn.Linear(256, 256)
        nn.init.normal_(layer.weight, std=gain / 16)
        nn.init.zeros_(layer.bias)
        layers += [layer, activation()]
    return nn.Sequential(*layers, nn.Linear(256, 10)), (torch.randn(64, 256),)


MODELS = {
    "BERT": bert,
    "GPT-2": gpt2,
    "Llama": llama,
    "ViT": vit,
    "ResNet (bottleneck)": resnet,
    "T5 (encoder)": t5,
    "Mamba": mamba,
    "TransformerEncoder, post-norm": lambda: encoder(pre=False),
    "TransformerEncoder, pre-norm": lambda: encoder(pre=True),
    "ResNet-20, batch norm": resnet20,
    "CNN-30, ReLU": cnn30,
    "MLP-50, tanh": lambda: mlp50(nn.Tanh, 1.3),
    "MLP-50, ReLU": lambda: mlp50(nn.ReLU, 2**0.5),
    "MLP-50, GELU": lambda: mlp50(nn.GELU, 1.53),
    "MLP-50, SiLU": lambda: mlp50(nn.SiLU, 1.68),
    "MLP-50, sigmoid": lambda: mlp50(nn.Sigmoid, 1.85),
}
PLAIN = ("CNN-30", "MLP-50")


def measured(name, seeds=SEEDS):
    """Every layer's logarithms of measured over predicted RMS, and the stated standard deviations."""
    layers, info = {}, {}
    predicting = measuring = 0.0
    for seed in range(seeds):
        torch.manual_seed(seed)
        model, inputs = {**MODELS, **UNSEEN, **FURTHER}[name]()
        case = Case(model, inputs)
        started = time.perf_counter()
        said = predict(case, seed=seed)
        predicting += time.perf_counter() - started
        started = time.perf_counter()
        seen = capture(case, seed=seed)
        measuring += time.perf_counter() - started
        info = {
            "tensors": said.tensors,
            "unmodelled": [operation.name for operation in said.unmodelled],
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }
        ours = {(call.path, call.call): call for call in said.calls}
        for call in seen.calls:
            if call.forward is not None and call.forward.nonfinite:  # a mask of −∞ has no mean square
                continue
            mine = ours.get((call.path, call.call))
            row = layers.setdefault(f"{call.path}#{call.call}", {"kind": call.kind, "forward": [], "backward": []})
            sides = (
                ("forward", mine and mine.forward, call.forward),
                ("backward", mine and mine.gradient, call.gradient),
            )
            for side, ours_, theirs in sides:
                if theirs is not None and theirs.rms > 0:
                    known = ours_ is not None and ours_.rms > 0
                    row[side].append([math.log(theirs.rms / ours_.rms), ours_.error] if known else None)
    return {"model": name, "layers": layers, "predict_s": predicting / seeds, "probe_s": measuring / seeds, **info}


def errors(result, side, *, known):
    """By layer: the error of the geometric mean; ``known`` leaves out layers whose mean is too uncertain."""
    found = []
    for row in result["layers"].values():
        values = row[side]
        if not values:
            continue
        if any(value is None for value in values):
            found.append(math.inf)
            continue
        logs = [value[0] for value in values]
        uncertainty = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else 0.0
        if uncertainty <= KNOWN or not known:
            found.append(abs(math.expm1(statistics.fmean(logs))))
    return found


def band(result, side):
    """The share of layers of single networks within two stated standard deviations."""
    inside = [
        abs(value[0]) <= 2 * value[1] + 1e-3
        for row in result["layers"].values()
        for value in row[side]
        if value is not None
    ]
    return 100 * sum(inside) / len(inside) if inside else math.nan


def percentile(values, share):
    return 100 * sorted(values)[min(int(share * len(values)), len(values) - 1)] if values else math.nan


def line(name, forward, backward, forward_band, backward_band, *rest):
    numbers = [percentile(values, share) for values in (forward, backward) for share in (0.5, 0.9)]
    rest = " | ".join(rest)
    return f"| {name} | {' | '.join(f'{n:.1f}' for n in numbers)} | {forward_band:.0f} | {backward_band:.0f} | {rest} |"


def table(results, asked):
    print(
        "| model | forward median (%) | p90 | backward median (%) | p90 | in 2σ forward (%) | backward "
        "| tensors | not modelled | predict (s) | probe (s) |"
    )
    print("|---" * 11 + "|")
    everything = {"forward": [], "backward": []}
    for result in results:
        sides = {side: errors(result, side, known=True) for side in everything}
        for side, values in sides.items():
            everything[side] += values
        bands = [band(result, side) for side in everything]
        times = [f"{result[which]:.1f}" for which in ("predict_s", "probe_s")]
        missing = ", ".join(result["unmodelled"]) or "–"
        print(line(result["model"], sides["forward"], sides["backward"], *bands, result["tensors"], missing, *times))
    goal = "", "", "goal: 2, 10, 5, 20", ""
    print(line("**all layers**", everything["forward"], everything["backward"], math.nan, math.nan, *goal))
    plain = [r for r in results if r["model"].startswith(PLAIN)]
    if plain:
        shares = [statistics.fmean(band(r, side) for r in plain) for side in everything]
        print(f"\nPlain nets, layers of a single net inside 2σ (goal: 90 %): {shares[0]:.0f} %, {shares[1]:.0f} %")
    without = sum(r["tensors"] != "real" for r in results)
    print(f"Traced: {len(results)} of {asked}; without values: {without}.")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*")
    parser.add_argument("--unseen", action="store_true")
    parser.add_argument("--further", action="store_true")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    RESULTS.mkdir(parents=True, exist_ok=True)
    names = given.models or list(FURTHER if given.further else UNSEEN if given.unseen else MODELS)
    results = []
    for name in names:
        file = RESULTS / f"{name.replace(' ', '-').replace(',', '').lower()}.json"
        if not file.exists():
            try:
                found = measured(name, given.seeds)
            except Exception as error:  # noqa: BLE001 - a model that can't be followed is a result as well
                print(f"{name}: {type(error).__name__}: {error}")
                continue
            file.write_text(json.dumps(found), encoding="utf-8")
        results.append(json.loads(file.read_text(encoding="utf-8")))
    table(results, len(names))


if __name__ == "__main__":
    main()
