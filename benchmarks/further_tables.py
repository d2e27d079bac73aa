"""Further architectures in plain PyTorch: of tables, sets, long sequences, recommendations, functions as weights."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional


class DLRM(nn.Module):
    """Embedding bags and dense features, products of each with each (Naumov et al., 2019)."""

    def __init__(self, width=16, tables=6):
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(100, width, mode="sum") for _ in range(tables))
        for bag in self.bags:
            nn.init.uniform_(bag.weight, -0.1, 0.1)
        self.bottom = nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, width), nn.ReLU())
        pairs = (tables + 1) * tables // 2
        self.top = nn.Sequential(nn.Linear(width + pairs, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, dense, sparse):
        x = self.bottom(dense)
        rows = torch.stack([x, *(bag(sparse[:, at]) for at, bag in enumerate(self.bags))], 1)
        products = rows @ rows.transpose(1, 2)
        i, j = torch.tril_indices(rows.shape[1], rows.shape[1], -1)
        return self.top(torch.cat([x, products[:, i, j]], 1))


class Collaborative(nn.Module):
    """Neural collaborative filtering: a product beside an MLP (He et al., 2017)."""

    def __init__(self, width=32):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(100, width) for _ in range(4))
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.01)
        self.mlp = nn.Sequential(nn.Linear(2 * width, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Linear(width + 32, 1)

    def forward(self, user, item):
        a, b, c, d = (table(ids) for table, ids in zip(self.tables, (user, item, user, item), strict=True))
        return self.head(torch.cat([a * b, self.mlp(torch.cat([c, d], -1))], -1))


class DeepFM(nn.Module):
    """A factorisation machine and an MLP on the same embeddings (Guo et al., 2017)."""

    def __init__(self, fields=8, width=16):
        super().__init__()
        self.linear, self.table = nn.Embedding(400, 1), nn.Embedding(400, width)
        nn.init.xavier_uniform_(self.table.weight)
        layers = (nn.Linear(fields * width, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 1))
        self.mlp = nn.Sequential(*layers)

    def forward(self, ids):
        rows = self.table(ids)
        pairs = 0.5 * (rows.sum(1).square() - rows.square().sum(1)).sum(1, keepdim=True)
        return torch.sigmoid(self.linear(ids).sum(1) + pairs + self.mlp(rows.flatten(1)))


class FeatureTransformer(nn.Module):
    """FT-Transformer: numbers and categories as tokens (Gorishniy et al., 2021)."""

    def __init__(self, numbers=8, categories=4, width=64):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(numbers, width).uniform_(-(width**-0.5), width**-0.5))
        self.bias = nn.Parameter(torch.empty(numbers, width).uniform_(-(width**-0.5), width**-0.5))
        self.table, self.cls = nn.Embedding(10 * categories, width), nn.Parameter(torch.randn(1, 1, width) / width**0.5)
        self.register_buffer("offsets", torch.arange(categories) * 10)
        layers = [nn.TransformerEncoderLayer(width, 4, 128, 0.1, batch_first=True, norm_first=True) for _ in range(3)]
        self.layers, self.norm, self.head = nn.ModuleList(layers), nn.LayerNorm(width), nn.Linear(width, 1)

    def forward(self, x, ids):
        tokens = [
            self.cls.expand(len(x), -1, -1),
            x[..., None] * self.weight + self.bias,
            self.table(ids + self.offsets),
        ]
        y = torch.cat(tokens, 1)
        for layer in self.layers:
            y = layer(y)
        return self.head(torch.relu(self.norm(y[:, 0])))


class Attending(nn.Module):
    """A multihead attention block of a set transformer (Lee et al., 2019)."""

    def __init__(self, width):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm1, self.norm2, self.linear = nn.LayerNorm(width), nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x, y):
        h = self.norm1(x + self.attention(x, y, y, need_weights=False)[0])
        return self.norm2(h + torch.relu(self.linear(h)))


class SetTransformer(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.first, self.inducing = nn.Linear(8, width), nn.Parameter(torch.empty(1, 8, width))
        self.seed = nn.Parameter(torch.empty(1, 1, width))
        nn.init.xavier_uniform_(self.inducing)
        nn.init.xavier_uniform_(self.seed)
        self.gather, self.back, self.pool = Attending(width), Attending(width), Attending(width)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = self.first(x)
        x = self.back(x, self.gather(self.inducing.expand(len(x), -1, -1), x))
        return self.head(self.pool(self.seed.expand(len(x), -1, -1), x)[:, 0])


class HyperNetwork(nn.Module):
    """A network writes another's weights for each sample (Ha et al., 2017)."""

    def __init__(self, width=32):
        super().__init__()
        self.width = width
        self.hyper = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, width * width + width))
        self.first, self.head = nn.Linear(8, width), nn.Linear(width, 4)

    def forward(self, x, context):
        written = self.hyper(context)
        weight = written[:, : self.width**2].view(-1, self.width, self.width)
        y = torch.relu(self.first(x))
        y = torch.bmm(weight, y[:, :, None])[:, :, 0] + written[:, self.width**2 :]
        return self.head(torch.relu(y))


class S4D(nn.Module):
    """A diagonal state space as a long convolution by FFT (Gu et al., 2022)."""

    def __init__(self, width, state=16):
        super().__init__()
        self.log_step = nn.Parameter(torch.rand(width) * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
        self.c = nn.Parameter(torch.view_as_real(torch.randn(width, state // 2, dtype=torch.cfloat)))
        self.log_real = nn.Parameter(torch.log(0.5 * torch.ones(width, state // 2)))
        self.imaginary = nn.Parameter(math.pi * torch.arange(state // 2).float().repeat(width, 1))
        self.skip, self.out = nn.Parameter(torch.randn(width)), nn.Conv1d(width, 2 * width, 1)

    def forward(self, u):
        length = u.shape[-1]
        step, a = self.log_step.exp(), -self.log_real.exp() + 1j * self.imaginary
        da = a * step[:, None]
        c = torch.view_as_complex(self.c) * (da.exp() - 1) / a
        powers = (da[..., None] * torch.arange(length, device=u.device)).exp()
        kernel = 2 * torch.einsum("hn,hnl->hl", c, powers).real
        y = torch.fft.irfft(torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(kernel, n=2 * length), n=2 * length)
        y = functional.gelu(y[..., :length] + u * self.skip[:, None])
        return functional.glu(self.out(y), 1)


class S4Net(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.first, self.head = nn.Linear(4, width), nn.Linear(width, 10)
        self.layers = nn.ModuleList(S4D(width) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, x):
        x = self.first(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(x + layer(x.transpose(1, 2)).transpose(1, 2))
        return self.head(x.mean(1))


class Hyena(nn.Module):
    """Gates and long convolutions whose filters a small network writes (Poli et al., 2023)."""

    def __init__(self, width=32, length=32):
        super().__init__()
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.short = nn.Conv1d(3 * width, 3 * width, 3, padding=2, groups=3 * width)
        self.filter = nn.Sequential(nn.Linear(9, 32), nn.SiLU(), nn.Linear(32, width))
        t = torch.linspace(0, 1, length)[:, None]
        bands = 2 * math.pi * torch.arange(1, 5) * t
        self.register_buffer("t", torch.cat([t, bands.sin(), bands.cos()], 1))

    def forward(self, x):
        length = x.shape[1]
        a, b, v = self.short(self.project(x).transpose(1, 2))[..., :length].chunk(3, 1)
        kernel = self.filter(self.t).T * torch.exp(-3 * self.t[:, 0])
        y = torch.fft.irfft(torch.fft.rfft(v * a, n=2 * length) * torch.fft.rfft(kernel, n=2 * length), n=2 * length)
        return self.out((y[..., :length] * b).transpose(1, 2))


class HyenaNet(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.table, self.head = nn.Embedding(200, width), nn.Linear(width, 200)
        self.layers = nn.ModuleList(Hyena(width) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, ids):
        x = self.table(ids)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + layer(norm(x))
        return self.head(x)


class KANLayer(nn.Module):
    """A function of each entry for each unit: radial basis functions beside a SiLU (Liu et al., 2024)."""

    def __init__(self, inputs, outputs, grid=8):
        super().__init__()
        self.register_buffer("centres", torch.linspace(-2, 2, grid))
        self.spline, self.base = nn.Linear(inputs * grid, outputs, bias=False), nn.Linear(inputs, outputs)
        self.norm = nn.LayerNorm(inputs)
        nn.init.trunc_normal_(self.spline.weight, std=0.1)

    def forward(self, x):
        basis = torch.exp(-(((self.norm(x)[..., None] - self.centres) / (4 / 7)) ** 2))
        return self.spline(basis.flatten(-2)) + self.base(functional.silu(x))


class Ordinary(nn.Module):
    """A neural ordinary differential equation by four steps of Runge and Kutta (Chen et al., 2018)."""

    def __init__(self, width=32):
        super().__init__()
        self.first, self.head = nn.Linear(8, width), nn.Linear(width, 4)
        self.field = nn.Sequential(nn.Linear(width + 1, 64), nn.Tanh(), nn.Linear(64, width))

    def slope(self, t, x):
        return self.field(torch.cat([x, torch.full_like(x[:, :1], t)], 1))

    def forward(self, x):
        x, step = self.first(x), 0.25
        for at in range(4):
            t = at * step
            k1 = self.slope(t, x)
            k2 = self.slope(t + step / 2, x + step / 2 * k1)
            k3 = self.slope(t + step / 2, x + step / 2 * k2)
            k4 = self.slope(t + step, x + step * k3)
            x = x + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return self.head(x)


class PointNet(nn.Module):
    """Points one by one, then the largest of each feature (Qi et al., 2017)."""

    def __init__(self):
        super().__init__()
        layers, width = [], 3
        for outputs in (64, 64, 128):
            layers += [nn.Conv1d(width, outputs, 1), nn.BatchNorm1d(outputs), nn.ReLU()]
            width = outputs
        self.each = nn.Sequential(*layers)
        self.all = nn.Sequential(nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x):
        return self.all(self.each(x).max(2)[0])


class Quantised(nn.Module):
    """A VQ-VAE with its straight-through codes (van den Oord et al., 2017)."""

    def __init__(self, width=32, codes=64):
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(3, width, 4, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 4, 2, 1))
        self.codes = nn.Embedding(codes, width)
        nn.init.uniform_(self.codes.weight, -1 / codes, 1 / codes)
        deconvolution = nn.ConvTranspose2d(width, width, 4, 2, 1)
        self.decode = nn.Sequential(deconvolution, nn.ReLU(), nn.ConvTranspose2d(width, 3, 4, 2, 1))

    def forward(self, x):
        z = self.encode(x).permute(0, 2, 3, 1)
        flat = z.reshape(-1, z.shape[-1])
        weight = self.codes.weight
        distance = flat.square().sum(1, keepdim=True) - 2 * flat @ weight.T + weight.square().sum(1)
        nearest = self.codes(distance.argmin(1)).view(z.shape)
        return self.decode((z + (nearest - z).detach()).permute(0, 3, 1, 2))


class DETR(nn.Module):
    """A backbone, a transformer and learned queries (Carion et al., 2020), as its authors' fifty lines."""

    def __init__(self, width=64):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 32, 7, 4, 3), nn.ReLU(), nn.Conv2d(32, width, 3, 2, 1))
        self.transformer = nn.Transformer(width, 4, 2, 2, 128)
        self.classes, self.boxes = nn.Linear(width, 11), nn.Linear(width, 4)
        self.query = nn.Parameter(torch.rand(10, width))
        self.row, self.column = nn.Parameter(torch.rand(8, width // 2)), nn.Parameter(torch.rand(8, width // 2))

    def forward(self, x):
        h = self.backbone(x)
        rows, columns = h.shape[-2:]
        place = [self.column[:columns][None].repeat(rows, 1, 1), self.row[:rows][:, None].repeat(1, columns, 1)]
        place = torch.cat(place, -1).flatten(0, 1)[:, None]
        queries = self.query[:, None].repeat(1, len(x), 1)
        y = self.transformer(place + 0.1 * h.flatten(2).permute(2, 0, 1), queries).transpose(0, 1)
        return self.classes(y), self.boxes(y).sigmoid()


class GatedUnit(nn.Module):
    """A block of gMLP with its spatial gate (Liu et al., 2021)."""

    def __init__(self, width, length):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(2 * width, width)
        self.inner, self.spatial = nn.LayerNorm(2 * width), nn.Conv1d(length, length, 1)
        nn.init.constant_(self.spatial.bias, 1.0)

    def forward(self, x):
        u, v = functional.gelu(self.up(self.norm(x))).chunk(2, -1)
        return x + self.down(u * self.spatial(self.inner(v)))


def gmlp():
    blocks = [GatedUnit(64, 16) for _ in range(4)]
    return nn.Sequential(nn.Embedding(200, 64), *blocks, nn.LayerNorm(64), nn.Linear(64, 200)), (ids(),)


class LinearAttention(nn.Module):
    """Attention by the feature map elu + 1, without a softmax (Katharopoulos et al., 2020)."""

    def __init__(self, width, heads=4):
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        n, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = functional.elu(q) + 1, functional.elu(k) + 1
        state = torch.einsum("nhlk,nhlv->nhkv", k, v)
        norm = torch.einsum("nhlk,nhk->nhl", q, k.sum(2)).reciprocal()
        y = torch.einsum("nhlk,nhkv,nhl->nlhv", q, state, norm).reshape(n, length, width)
        x = x + self.out(y)
        return x + self.mlp(self.norm2(x))


def linear_transformer():
    blocks = [LinearAttention(64) for _ in range(4)]
    return nn.Sequential(nn.Embedding(200, 64), *blocks, nn.LayerNorm(64), nn.Linear(64, 200)), (ids(),)


def ids(batch=4, length=16):
    return torch.randint(0, 200, (batch, length))


def kan():
    return nn.Sequential(KANLayer(16, 64), KANLayer(64, 64), KANLayer(64, 4)), (torch.randn(64, 16),)


TABLES = {
    "DLRM": lambda: (DLRM(), (torch.randn(64, 13), torch.randint(0, 100, (64, 6, 3)))),
    "NCF": lambda: (Collaborative(), (torch.randint(0, 100, (64,)), torch.randint(0, 100, (64,)))),
    "DeepFM": lambda: (DeepFM(), (torch.randint(0, 50, (64, 8)) + 50 * torch.arange(8),)),
    "FT-Transformer": lambda: (FeatureTransformer(), (torch.randn(16, 8), torch.randint(0, 10, (16, 4)))),
    "set transformer": lambda: (SetTransformer(), (torch.randn(8, 16, 8),)),
    "hypernetwork": lambda: (HyperNetwork(), (torch.randn(64, 8), torch.randn(64, 16))),
    "S4D": lambda: (S4Net(), (torch.randn(8, 32, 4),)),
    "Hyena": lambda: (HyenaNet(), (ids(4, 32),)),
    "KAN": kan,
    "neural ODE": lambda: (Ordinary(), (torch.randn(32, 8),)),
    "PointNet": lambda: (PointNet(), (torch.randn(8, 3, 64),)),
    "VQ-VAE": lambda: (Quantised(), (torch.randn(8, 3, 16, 16),)),
    "DETR": lambda: (DETR(), (torch.randn(2, 3, 32, 32),)),
    "gMLP": gmlp,
    "linear attention": linear_transformer,
}
