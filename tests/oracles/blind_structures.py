"""Healthy networks for the fourth list: public architectures from their configurations, and structures written by hand.

Each is a factory ``() -> (model, inputs, loss)``, written down before any rule had looked at it, and none of them is
in another list. The public ones are small and drawn as their library draws them; nothing is downloaded.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from oracles.further_structures import labelled, smooth_images
from oracles.verdicts import BATCH, CLASSES

VOCABULARY = 200
LOG_TEN = math.log(10)
BLOCKS = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
HALVES = {
    **{f"{half}_{part}": size for half in ("encoder", "decoder") for part, size in (("layers", 3), ("ffn_dim", 128))},
    **{f"{half}_attention_heads": 4 for half in ("encoder", "decoder")},
}


# ---- public architectures ----


def public(name, config, **sizes):
    """A model of transformers, drawn from its configuration."""
    import transformers

    transformers.logging.set_verbosity_error()
    return getattr(transformers, name)(getattr(transformers, f"{config}Config")(**sizes))


def words(batch=8, length=16):
    return torch.randint(5, VOCABULARY, (batch, length))


def by_logits(model, *inputs, classes=CLASSES):
    """Cross entropy of the logits with random classes, one for each sample of the first input."""
    target = torch.randint(0, classes, (len(inputs[0]),))
    return model, inputs, lambda y: F.cross_entropy(y.logits, target)


def next_word(model, *inputs):
    """Cross entropy of the logits with the words of the last input, each from those before it."""
    ids = inputs[-1]
    return model, inputs, lambda y: F.cross_entropy(y.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def xlnet():
    sizes = {"d_model": 64, "n_layer": 4, "n_head": 4, "d_inner": 128}
    return by_logits(
        public("XLNetForSequenceClassification", "XLNet", vocab_size=VOCABULARY, num_labels=CLASSES, **sizes), words()
    )


def funnel():
    sizes = {"block_sizes": [2, 2, 2], "d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 128}
    return by_logits(
        public("FunnelForSequenceClassification", "Funnel", vocab_size=VOCABULARY, num_labels=CLASSES, **sizes), words()
    )


def fourier_mixing():
    """FNet, whose mixing is a Fourier transform, with some words hidden behind one that is to be filled in."""
    sizes = {name: size for name, size in BLOCKS.items() if name != "num_attention_heads"}
    model, ids = public("FNetForMaskedLM", "FNet", vocab_size=VOCABULARY, **sizes), words()
    hidden = torch.rand(ids.shape) < 0.2
    return model, (ids.masked_fill(hidden, 4),), lambda y: F.cross_entropy(y.logits[hidden], ids[hidden])


def pegasus():
    model = public("PegasusForConditionalGeneration", "Pegasus", vocab_size=VOCABULARY, d_model=64, **HALVES)
    ids = words()
    return next_word(model, ids, torch.ones_like(ids), words(length=10))


def speech_to_text():
    model = public(
        "Speech2TextForConditionalGeneration",
        "Speech2Text",
        **{"vocab_size": VOCABULARY, "d_model": 64, "input_feat_per_channel": 16, "conv_channels": 64, **HALVES},
    )
    features = torch.randn(8, 40, 16)
    return next_word(model, features, torch.ones(8, 40, dtype=torch.long), words(length=10))


def hubert(depth=3):
    sizes = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "classifier_proj_size": 32}
    convolutions = {
        "conv_dim": (32,) * depth,
        "conv_kernel": (10,) + (3,) * (depth - 1),
        "conv_stride": (5,) + (2,) * (depth - 1),
    }
    quiet = {"apply_spec_augment": False, "layerdrop": 0.0}
    model = public(
        "HubertForSequenceClassification", "Hubert", num_labels=CLASSES, **BLOCKS, **sizes, **convolutions, **quiet
    )
    return by_logits(model, torch.randn(8, 1600))


def pool_former():
    sizes = {"hidden_sizes": [16, 32, 48, 64], "depths": [2, 2, 2, 2]}
    return by_logits(
        public("PoolFormerForImageClassification", "PoolFormer", num_labels=CLASSES, **sizes), smooth_images(size=64)
    )


def levit():
    sizes = {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [2, 2, 2]}
    return by_logits(
        public("LevitForImageClassification", "Levit", num_labels=CLASSES, **sizes), smooth_images(size=64)
    )


def segformer():
    model = public(
        "SegformerForSemanticSegmentation",
        "Segformer",
        depths=[1, 1, 2, 1],
        hidden_sizes=[16, 32, 48, 64],
        num_attention_heads=[1, 2, 3, 4],
        sr_ratios=[4, 2, 2, 1],
        decoder_hidden_size=32,
        num_labels=5,
    )
    x = smooth_images(size=64)[:8]
    target = (4.99 * F.avg_pool2d(x.mean(1), 4)).long()
    return model, (x,), lambda y: F.cross_entropy(y.logits, target)


def siglip(log_scale=LOG_TEN):
    """Texts and images matched by sigmoids, with the logarithm of the scale and the bias that the paper starts from."""
    text = {**BLOCKS, "vocab_size": VOCABULARY, "max_position_embeddings": 16, "projection_size": 64}
    vision = {**BLOCKS, "image_size": 32, "patch_size": 8}
    model = public("SiglipModel", "Siglip", text_config=text, vision_config=vision)
    with torch.no_grad():
        model.logit_scale.fill_(log_scale)
        model.logit_bias.fill_(-10.0)
    signs = 2 * torch.eye(8) - 1
    inputs = (words(), smooth_images(size=32)[:8])
    return model, inputs, lambda y: -F.logsigmoid(signs * y.logits_per_text).sum(1).mean()


def granite():
    """With multipliers of embeddings, branches, scores and logits."""
    multipliers = {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 1 / 16}
    model = public(
        "GraniteForCausalLM",
        "Granite",
        **{**BLOCKS, "vocab_size": VOCABULARY, "num_key_value_heads": 2, "logits_scaling": 8.0},
        **multipliers,
    )
    return next_word(model, words())


def timesformer():
    """Attention over time, then over space."""
    sizes = {"image_size": 32, "patch_size": 8, "num_frames": 4, "num_labels": CLASSES}
    model = public("TimesformerForVideoClassification", "Timesformer", **BLOCKS, **sizes)
    frames = smooth_images(channels=12, size=32)[:8].unflatten(1, (4, 3))
    return by_logits(model, frames)


# ---- written by hand ----


class Spectral(nn.Module):
    """A Fourier neural operator's layer: complex weights on the lowest frequencies (Li et al., 2021)."""

    def __init__(self, width, modes):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width, width, modes, dtype=torch.cfloat) / width**2)
        self.modes = modes

    def forward(self, x):
        spectrum = torch.fft.rfft(x)
        kept = torch.einsum("bik,iok->bok", spectrum[..., : self.modes], self.weight)
        return torch.fft.irfft(F.pad(kept, (0, spectrum.shape[-1] - self.modes)), n=x.shape[-1])


class FourierOperator(nn.Module):
    def __init__(self, width=32, depth=4, modes=8, *, pointwise=True):
        super().__init__()
        self.lift = nn.Conv1d(2, width, 1)
        self.layers = nn.ModuleList(Spectral(width, modes) for _ in range(depth))
        self.pointwise = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(depth)) if pointwise else None
        self.project = nn.Sequential(nn.Conv1d(width, 64, 1), nn.GELU(), nn.Conv1d(64, 1, 1))

    def forward(self, x):
        x = self.lift(x)
        for at, layer in enumerate(self.layers):
            x = F.gelu(layer(x) if self.pointwise is None else layer(x) + self.pointwise[at](x))
        return self.project(x)


def antiderivative(model):
    """A smooth function and the places it is given at, to its integral."""
    f = F.interpolate(torch.randn(16, 1, 8), size=64, mode="linear")
    target = f.cumsum(-1) / 8
    return model, (torch.cat([f, torch.linspace(0, 1, 64).expand_as(f)], 1),), lambda y: F.mse_loss(y, target)


class StateSpace(nn.Module):
    """A diagonal state space as one long convolution (Gu et al., 2022), a gate behind it, a skip around it."""

    def __init__(self, width, states=8, *, decay=0.5):
        super().__init__()
        self.log_step = nn.Parameter(torch.empty(width).uniform_(math.log(1e-3), math.log(1e-1)))
        self.log_decay = nn.Parameter(torch.full((width, states), math.log(abs(decay))))
        self.frequency = nn.Parameter(math.pi * torch.arange(states).float().repeat(width, 1))
        self.out = nn.Parameter(torch.randn(width, states, 2) / math.sqrt(2))
        self.through, self.norm = nn.Parameter(torch.randn(width)), nn.LayerNorm(width)
        self.mix, self.sign = nn.Linear(width, 2 * width), math.copysign(1, decay)

    def kernel(self, length):
        pole = torch.complex(-self.sign * self.log_decay.exp(), self.frequency)
        step = pole * self.log_step.exp()[:, None]
        weights = torch.view_as_complex(self.out) * (step.exp() - 1) / pole
        return 2 * torch.einsum("cs,csl->cl", weights, torch.exp(step[..., None] * torch.arange(length))).real

    def forward(self, x):
        length = x.shape[1]
        given = self.norm(x).transpose(1, 2)
        spectrum = torch.fft.rfft(given, n=2 * length) * torch.fft.rfft(self.kernel(length), n=2 * length)
        y = torch.fft.irfft(spectrum, n=2 * length)[..., :length] + given * self.through[:, None]
        return x + F.glu(self.mix(F.gelu(y.transpose(1, 2))), -1)


class StateSpaces(nn.Module):
    def __init__(self, width=32, depth=4, **options):
        super().__init__()
        self.first, self.head = nn.Linear(1, width), nn.Linear(width, CLASSES)
        self.layers = nn.Sequential(*(StateSpace(width, **options) for _ in range(depth)))

    def forward(self, x):
        return self.head(self.layers(self.first(x)).mean(1))


def state_spaces(**options):
    return labelled(StateSpaces(**options), torch.randn(BATCH, 48, 1).cumsum(1) / 4)


class Categories(nn.Module):
    """A variational autoencoder of categories: noise of Gumbel, a softmax at a temperature (Jang et al., 2017)."""

    def __init__(self, temperature=1.0, variables=10, categories=8):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, variables * categories))
        self.decoder = nn.Sequential(nn.Linear(variables * categories, 96), nn.ReLU(), nn.Linear(96, 64))
        self.temperature, self.shape = temperature, (variables, categories)

    def forward(self, x):
        logits = self.encoder(x).unflatten(1, self.shape)
        noise = -torch.log(-torch.log(torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)))
        drawn = ((logits + noise) / self.temperature).softmax(-1)
        return self.decoder(drawn.flatten(1)), logits.log_softmax(-1)


def categories(temperature=1.0):
    x = (torch.rand(BATCH, 64) < 0.3).float()

    def evidence(y):
        divergence = (y[1].exp() * (y[1] + math.log(8))).sum((1, 2)).mean()
        return F.binary_cross_entropy_with_logits(y[0], x, reduction="none").sum(1).mean() + divergence

    return Categories(temperature), (x,), evidence


class Equivariant(nn.Module):
    """A layer over atoms that moves them along their differences (Satorras et al., 2021)."""

    def __init__(self, width):
        super().__init__()
        self.message = nn.Sequential(nn.Linear(2 * width + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.move = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        nn.init.xavier_uniform_(self.move[2].weight, 1e-3)
        nn.init.zeros_(self.move[2].bias)

    def forward(self, h, x):
        atoms = h.shape[1]
        difference = x[:, :, None] - x[:, None]
        square = difference.square().sum(-1, keepdim=True)
        one, two = h[:, :, None].expand(-1, -1, atoms, -1), h[:, None].expand(-1, atoms, -1, -1)
        messages = self.message(torch.cat([one, two, square], -1)) * (1 - torch.eye(atoms))[..., None]
        x = x + (difference * self.move(messages)).sum(2) / (atoms - 1)
        return h + self.update(torch.cat([h, messages.mean(2)], -1)), x


class Molecules(nn.Module):
    def __init__(self, width=32, depth=4):
        super().__init__()
        self.embed, self.head = nn.Linear(5, width), nn.Linear(width, 1)
        self.layers = nn.ModuleList(Equivariant(width) for _ in range(depth))

    def forward(self, kinds, x):
        h = self.embed(kinds)
        for layer in self.layers:
            h, x = layer(h, x)
        return self.head(h).mean(1)[:, 0], x


def molecules():
    kinds, x = F.one_hot(torch.randint(0, 5, (16, 10)), 5).float(), torch.randn(16, 10, 3)
    energy, moved = torch.randn(16), x + 0.3 * torch.randn_like(x)
    return Molecules(), (kinds, x), lambda y: F.mse_loss(y[0], energy) + F.mse_loss(y[1], moved)


class Slots(nn.Module):
    """Slots that compete for what they look at, three rounds of one cell (Locatello et al., 2020)."""

    def __init__(self, width=32, count=4, inputs=16, rounds=3, *, noise=True):
        super().__init__()
        self.first, self.norm, self.slot_norm = nn.Linear(inputs, width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.cell, self.decode = nn.GRUCell(width, width), nn.Linear(width, inputs)
        self.feed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, width))
        self.slots = nn.Parameter(torch.randn(1, width).repeat(1 if noise else count, 1))
        self.deviation = nn.Parameter(torch.ones(width)) if noise else None
        self.count, self.rounds = count, rounds

    def forward(self, x):
        given = self.norm(self.first(x))
        k, v = self.k(given) / math.sqrt(given.shape[-1]), self.v(given)
        slots = self.slots.expand(len(x), self.count, -1)
        if self.deviation is not None:
            slots = slots + self.deviation * torch.randn_like(slots)
        for _ in range(self.rounds):
            shares = (k @ self.q(self.slot_norm(slots)).transpose(1, 2)).softmax(-1) + 1e-8
            read = (shares / shares.sum(1, keepdim=True)).transpose(1, 2) @ v
            slots = self.cell(read.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            slots = slots + self.feed(slots)
        return shares @ self.decode(slots)


def slots(**options):
    """Points about four centres, another four for each sample."""
    centres = 2 * torch.randn(16, 4, 16)
    x = centres.repeat(1, 5, 1) + 0.2 * torch.randn(16, 20, 16)
    return Slots(**options), (x,), lambda y: F.mse_loss(y, x)


class Transcriber(nn.Module):
    """Strided convolutions over a spectrogram, recurrent layers in both directions, labels without their places."""

    def __init__(self, width=32, labels=12):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(16, width, 5, 2, 2), nn.BatchNorm1d(width), nn.ReLU())
        self.read = nn.GRU(width, width, 2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * width, labels)

    def forward(self, x):
        return self.head(self.read(self.stem(x).transpose(1, 2))[0]).log_softmax(-1)


def transcriber():
    target, long = torch.randint(1, 12, (16, 6)), torch.full((16,), 24)
    lengths = torch.randint(3, 7, (16,))
    return (
        Transcriber(),
        (torch.randn(16, 16, 48),),
        lambda y: F.ctc_loss(y.transpose(0, 1), target, long, lengths),
    )


class Heat(nn.Module):
    """A physics-informed network: its own derivatives are part of what it gives (Raissi et al., 2019)."""

    def __init__(self, width=48, depth=4):
        super().__init__()
        widths = (2, *(width,) * depth)
        layers = [nn.Linear(widths[at], widths[at + 1]) for at in range(depth)]
        self.net = nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())), nn.Linear(width, 1))
        for layer in layers:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, places, start):
        places = places.detach().requires_grad_()
        u = self.net(places)
        (first,) = torch.autograd.grad(u.sum(), places, create_graph=True)
        (second,) = torch.autograd.grad(first[:, 0].sum(), places, create_graph=True)
        return first[:, 1] - 0.1 * second[:, 0], self.net(start)[:, 0]


def heat():
    places, start = torch.rand(64, 2) * 2 - 1, torch.rand(32, 2) * 2 - 1
    start[:, 1] = -1
    target = torch.sin(math.pi * start[:, 0])
    return Heat(), (places, start), lambda y: y[0].square().mean() + F.mse_loss(y[1], target)


class LargestFew(nn.Module):
    """A dictionary of which each sample uses the eight codes that fit best: nearly all of them are zero."""

    def __init__(self, inputs=64, codes=256, kept=8):
        super().__init__()
        self.bias, self.encoder = nn.Parameter(torch.zeros(inputs)), nn.Linear(inputs, codes)
        self.decoder, self.kept = nn.Linear(codes, inputs, bias=False), kept
        with torch.no_grad():
            self.decoder.weight.copy_(F.normalize(torch.randn(inputs, codes), dim=0))
            self.encoder.weight.copy_(self.decoder.weight.T)
            self.encoder.bias.zero_()

    def forward(self, x):
        found = self.encoder(x - self.bias)
        values, places = found.topk(self.kept)
        return self.decoder(torch.zeros_like(found).scatter(-1, places, F.relu(values))) + self.bias


def largest_few():
    causes = torch.randn(96, 64) / 8
    x = (torch.rand(256, 96) < 0.06).float() * torch.rand(256, 96) @ causes * 8 + 0.1
    return LargestFew(), (x,), lambda y: F.mse_loss(y, x)


class Signs(nn.Module):
    """The sign, with the gradient passed where the input is within one (Hubara et al., 2016)."""

    def forward(self, x):
        x = F.hardtanh(x)
        return x + (torch.where(x < 0, -1.0, 1.0) - x).detach()


class Binary(nn.Linear):
    """Weights of which only the sign is used, times their mean size."""

    def forward(self, x):
        signs = torch.sign(self.weight) * self.weight.abs().mean(1, keepdim=True)
        return F.linear(x, self.weight + (signs - self.weight).detach())


def binary(depth=3):
    layers = [nn.Linear(64, 96), nn.BatchNorm1d(96), Signs()]
    for _ in range(depth):
        layers += [Binary(96, 96, bias=False), nn.BatchNorm1d(96), Signs()]
    return nn.Sequential(*layers, nn.Linear(96, CLASSES))


class Forecast(nn.Module):
    """N-BEATS: what a block explains is taken away, what it foresees is added up (Oreshkin et al., 2020)."""

    def __init__(self, past=30, future=10, width=48, blocks=6, basis=8):
        super().__init__()
        self.bodies = nn.ModuleList(
            nn.Sequential(nn.Linear(past, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()) for _ in range(blocks)
        )
        self.back, self.ahead = (
            nn.ModuleList(
                nn.Sequential(nn.Linear(width, basis, bias=False), nn.Linear(basis, size)) for _ in range(blocks)
            )
            for size in (past, future)
        )

    def forward(self, x):
        foreseen = 0
        for body, back, ahead in zip(self.bodies, self.back, self.ahead, strict=True):
            h = body(x)
            x, foreseen = x - back(h), foreseen + ahead(h)
        return foreseen


def forecast():
    time, phase, speed = torch.arange(40), 6.3 * torch.rand(BATCH, 1), 0.1 + 0.4 * torch.rand(BATCH, 1)
    series = torch.sin(speed * time + phase) + 0.02 * time + 0.1 * torch.randn(BATCH, 40)
    return Forecast(), (series[:, :30],), lambda y: F.mse_loss(y, series[:, 30:])


HEALTHY_BLIND = {
    "XLNet": xlnet,
    "Funnel transformer": funnel,
    "FNet": fourier_mixing,
    "Pegasus": pegasus,
    "Speech2Text": speech_to_text,
    "HuBERT": hubert,
    "PoolFormer": pool_former,
    "LeViT": levit,
    "SegFormer": segformer,
    "SigLIP": siglip,
    "Granite": granite,
    "TimeSformer": timesformer,
    "Fourier neural operator": lambda: antiderivative(FourierOperator()),
    "diagonal state spaces": state_spaces,
    "categories by Gumbel noise": categories,
    "equivariant net over atoms": molecules,
    "slots that compete": slots,
    "transcriber with CTC": transcriber,
    "heat equation, derivatives inside": heat,
    "dictionary of the largest few": largest_few,
    "binary weights and activations": lambda: labelled(binary(), torch.randn(BATCH, 64)),
    "N-BEATS": forecast,
}
