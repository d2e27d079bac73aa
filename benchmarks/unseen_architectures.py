"""Architectures that the rules of ``predict`` weren't written for: at small sizes, at their own start, nothing trained.

Each is a function that returns the model and its positional inputs, in training mode as a new model is.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

TEXT = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 200}
PLAIN = {**TEXT, "intermediate_size": 128}
IMAGES = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}


def made(family, config=None, /, *, model=None, **sizes):
    import transformers

    transformers.logging.set_verbosity_error()
    return getattr(transformers, model or f"{family}Model")(getattr(transformers, f"{config or family}Config")(**sizes))


def ids(batch=4, length=16):
    return torch.randint(5, 200, (batch, length))


def text(family, config=None, /, **sizes):
    return lambda: (made(family, config, **sizes), (ids(),))


def images(family, config=None, /, *, size=32, batch=4, **sizes):
    return lambda: (made(family, config, **sizes), (torch.randn(batch, 3, size, size),))


def convolved(inputs, outputs, size=3, **options):
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, padding=size // 2, **options), nn.ReLU())


class UNet(nn.Module):
    """Down twice, up twice, each time beside what was there before (Ronneberger et al., 2015)."""

    def __init__(self, width=16):
        super().__init__()
        self.one, self.two = convolved(3, width), convolved(width, 2 * width)
        self.middle = convolved(2 * width, 4 * width)
        self.up_two = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.join_two = convolved(4 * width, 2 * width)
        self.up_one = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join_one = convolved(2 * width, width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        one = self.one(x)
        two = self.two(functional.max_pool2d(one, 2))
        middle = self.middle(functional.max_pool2d(two, 2))
        two = self.join_two(torch.cat([self.up_two(middle), two], 1))
        return self.head(self.join_one(torch.cat([self.up_one(two), one], 1)))


class Variational(nn.Module):
    """A variational autoencoder with its sampling (Kingma and Welling, 2014)."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(256, 128), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(128, 32), nn.Linear(128, 32)
        self.decode = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 256), nn.Sigmoid())

    def forward(self, x):
        y = self.encode(x)
        mean, log_variance = self.mean(y), self.log_variance(y)
        return self.decode(mean + torch.exp(log_variance / 2) * torch.randn_like(mean)), mean, log_variance


class MixerBlock(nn.Module):
    def __init__(self, tokens, width):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.over_tokens = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.over_width = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        x = x + self.over_tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.over_width(self.norms[1](x))


class Mixer(nn.Module):
    """MLP-Mixer (Tolstikhin et al., 2021)."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 64, 8, 8)
        self.blocks = nn.Sequential(*(MixerBlock(16, 64) for _ in range(4)), nn.LayerNorm(64))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.blocks(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


class DenseLayer(nn.Module):
    def __init__(self, inputs, growth):
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x):
        return torch.cat([x, self.body(x)], 1)


def densenet():
    """DenseNet-BC (Huang et al., 2017), two blocks of four."""
    width, growth = 24, 12
    layers = [nn.Conv2d(3, width, 3, padding=1, bias=False)]
    for block in range(2):
        for _ in range(4):
            layers.append(DenseLayer(width, growth))
            width += growth
        if block == 0:
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    return nn.Sequential(*layers), (torch.randn(8, 3, 16, 16),)


def critic():
    """A WGAN critic: strided convolutions, layer norms in place of batch norms (Gulrajani et al., 2017)."""
    layers, width, side = [nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.2)], 32, 16
    while side > 4:
        side //= 2
        layers += [nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LayerNorm([2 * width, side, side]), nn.LeakyReLU(0.2)]
        width *= 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * side * side, 1)), (torch.randn(8, 3, 32, 32),)


class Classifier(nn.Module):
    """Embeddings, an LSTM, a head on its last step."""

    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(200, 64), nn.LSTM(64, 64, batch_first=True)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        return self.head(self.lstm(self.embed(x))[0][:, -1])


class Translator(nn.Module):
    """A GRU reads, another writes."""

    def __init__(self):
        super().__init__()
        self.source, self.target = nn.Embedding(200, 64), nn.Embedding(200, 64)
        self.encoder, self.decoder = nn.GRU(64, 64, batch_first=True), nn.GRU(64, 64, batch_first=True)
        self.head = nn.Linear(64, 200)

    def forward(self, source, target):
        _, state = self.encoder(self.source(source))
        return self.head(self.decoder(self.target(target), state)[0])


class GraphConvolution(nn.Module):
    """Three layers of A x W with a normalised adjacency matrix (Kipf and Welling, 2017)."""

    def __init__(self, nodes=24):
        super().__init__()
        links = (torch.rand(nodes, nodes, generator=torch.Generator().manual_seed(0)) < 0.2).float()
        links = ((links + links.T + torch.eye(nodes)) > 0).float()
        degree = links.sum(1).rsqrt()
        self.register_buffer("adjacency", degree[:, None] * links * degree[None])
        self.layers = nn.ModuleList([nn.Linear(32, 64), nn.Linear(64, 64), nn.Linear(64, 7)])

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.relu(self.adjacency @ layer(x))
        return self.adjacency @ self.layers[-1](x)


class DeepSets(nn.Module):
    """A sum over a set between two networks (Zaheer et al., 2017)."""

    def __init__(self):
        super().__init__()
        self.each = nn.Sequential(nn.Linear(16, 128), nn.ELU(), nn.Linear(128, 128), nn.ELU())
        self.all = nn.Sequential(nn.Linear(128, 128), nn.ELU(), nn.Linear(128, 1))

    def forward(self, x):
        return self.all(self.each(x).sum(1))


class Squeezed(nn.Module):
    """A residual net with squeeze and excitation and group norm."""

    def __init__(self, width=32):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(3))
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.squeeze = nn.ModuleList(nn.Linear(width, width // 4) for _ in range(3))
        self.excite = nn.ModuleList(nn.Linear(width // 4, width) for _ in range(3))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.stem(x)
        for norm, convolution, squeeze, excite in zip(
            self.norms, self.convolutions, self.squeeze, self.excite, strict=True
        ):
            y = convolution(functional.silu(norm(x)))
            gate = torch.sigmoid(excite(functional.silu(squeeze(y.mean((2, 3))))))
            x = x + y * gate[:, :, None, None]
        return self.head(x.mean((2, 3)))


class Nerf(nn.Module):
    """Coordinates as sines of many frequencies, an MLP that sees them again half way (Mildenhall et al., 2020)."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(39, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(167, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        self.density, self.colour = nn.Linear(128, 1), nn.Linear(128, 3)

    def forward(self, x):
        angles = torch.cat([x * 2**k for k in range(6)], -1)
        seen = torch.cat([x, angles.sin(), angles.cos()], -1)
        y = self.second(torch.cat([self.first(seen), seen], -1))
        return functional.softplus(self.density(y)), torch.sigmoid(self.colour(y))


class CausalConvolutions(nn.Module):
    """Dilated causal convolutions with gates and skips (van den Oord et al., 2016)."""

    def __init__(self, width=32):
        super().__init__()
        self.embed = nn.Conv1d(1, width, 1)
        self.filters = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=2**k) for k in range(4))
        self.mixers = nn.ModuleList(nn.Conv1d(width, 2 * width, 1) for _ in range(4))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, 16, 1))

    def forward(self, x):
        x, out = self.embed(x), 0
        for at, (filters, mixer) in enumerate(zip(self.filters, self.mixers, strict=True)):
            signal, gate = filters(functional.pad(x, (2**at, 0))).chunk(2, 1)
            more, skip = mixer(torch.tanh(signal) * torch.sigmoid(gate)).chunk(2, 1)
            x, out = x + more, out + skip
        return self.head(out)


SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
SPEECH = {
    "conv_dim": (32, 32),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 8),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_feat_extract_layers": 2,
}
WHISPER = {
    "d_model": 64,
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "num_mel_bins": 20,
    "max_source_positions": 16,
}


def whisper():
    import transformers
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return WhisperEncoder(transformers.WhisperConfig(**WHISPER)), (torch.randn(4, 20, 32),)


UNSEEN = {
    "RoBERTa": text("Roberta", **PLAIN),
    "ALBERT": text("Albert", **PLAIN, embedding_size=32),
    "DistilBERT": text("DistilBert", dim=64, n_layers=4, n_heads=4, hidden_dim=128, vocab_size=200),
    "ELECTRA": text("Electra", **PLAIN, embedding_size=32),
    "OPT": text("OPT", **TEXT, ffn_dim=128, word_embed_proj_dim=64),
    "GPT-NeoX": text("GPTNeoX", **PLAIN),
    "GPT-J": text("GPTJ", n_embd=64, n_layer=4, n_head=4, vocab_size=200, rotary_dim=8),
    "Falcon": text("Falcon", **TEXT),
    "BLOOM": text("Bloom", hidden_size=64, n_layer=4, n_head=4, vocab_size=200),
    "Phi": text("Phi", **PLAIN),
    "Gemma 2": text("Gemma2", **PLAIN, num_key_value_heads=2, head_dim=16),
    "Qwen2": text("Qwen2", **PLAIN, num_key_value_heads=2),
    "Mistral": text("Mistral", **PLAIN, num_key_value_heads=2),
    "RWKV": text("Rwkv", hidden_size=64, num_hidden_layers=4, vocab_size=200, attention_hidden_size=64),
    "Mamba 2": text(
        "Mamba2",
        hidden_size=64,
        num_hidden_layers=2,
        vocab_size=200,
        state_size=8,
        num_heads=8,
        head_dim=16,
        n_groups=1,
        chunk_size=8,
    ),
    "DeiT": images("DeiT", **IMAGES),
    "Swin": images("Swin", **SWIN),
    "ConvNeXt": images(
        "ConvNext", hidden_sizes=[16, 32, 64], depths=[2, 2, 2], num_stages=3, image_size=32, patch_size=2
    ),
    "MobileNetV2": images("MobileNetV2", size=64, depth_multiplier=0.5, image_size=64),
    "EfficientNet": images(
        "EfficientNet", size=64, width_coefficient=0.5, depth_coefficient=0.5, image_size=64, hidden_dim=640
    ),
    "CLIP vision": images("CLIPVision", **IMAGES),
    "Whisper (encoder)": whisper,
    "Wav2Vec2": lambda: (made("Wav2Vec2", **PLAIN, **SPEECH, mask_time_prob=0.0), (torch.randn(4, 400),)),
    "U-Net": lambda: (UNet(), (torch.randn(8, 3, 16, 16),)),
    "VAE": lambda: (Variational(), (torch.rand(64, 256),)),
    "MLP-Mixer": lambda: (Mixer(), (torch.randn(8, 3, 32, 32),)),
    "DenseNet": densenet,
    "WGAN critic": critic,
    "LSTM classifier": lambda: (Classifier(), (ids(),)),
    "GRU, sequence to sequence": lambda: (Translator(), (ids(), ids())),
    "graph convolution": lambda: (GraphConvolution(), (torch.randn(24, 32),)),
    "DeepSets": lambda: (DeepSets(), (torch.randn(16, 12, 16),)),
    "squeeze and excitation": lambda: (Squeezed(), (torch.randn(8, 3, 16, 16),)),
    "NeRF": lambda: (Nerf(), (torch.rand(128, 3) * 2 - 1,)),
    "WaveNet": lambda: (CausalConvolutions(), (torch.randn(8, 1, 64),)),
}
