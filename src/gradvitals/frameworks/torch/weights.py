"""Find every parameter of a model: what it is for, how its entries form matrices, and its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from gradvitals.frameworks.torch.fill import matrices
from gradvitals.frameworks.torch.layers import PRODUCTS, kind_of
from gradvitals.frameworks.torch.moments import moments
from gradvitals.frameworks.torch.shards import whole
from gradvitals.frameworks.weights import Layout, Weight, WeightSummary, fans

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
#: Roles whose entries form matrices that mix inputs.
_MIXING = frozenset({"mixing", "attention", "recurrent-input", "recurrent-hidden"})
#: Gates stacked along the first axis of a recurrent layer's weights.
_GATES: Mapping[type[nn.Module], int] = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}
#: Below this many units or inputs the largest singular value of a random matrix scatters too much to tell anything.
_SMALLEST_SPECTRUM = 16
#: Cosine below which two halves of a matrix are mirror images: of random ones it is 0 ± 1/√entries.
_AGAINST = -0.7
#: What Hugging Face's transformers sets on modules that it has initialised and on parameters that it has loaded.
_MARK = "_is_hf_initialized"
#: Steps of the power iteration: outliers of trained weights have converged to 1 %, a random matrix to 5 % from below.
_POWER_STEPS = 24


#: Rows are units, columns inputs.
_PLAIN = Layout()


@dataclass(frozen=True, slots=True)
class _Place:
    """What one parameter is to the module that owns it."""

    role: str
    layout: Layout = _PLAIN
    biases: tuple[str, ...] = ()


def weights_of(model: nn.Module, functions: Mapping[str, tuple[str, int]]) -> tuple[Weight, ...]:
    """Describe every parameter of a model once, and every floating-point buffer.

    Parameters
    ----------
    model : torch.nn.Module
    functions : mapping of str to (str, int)
        For parameters that the model multiplies by itself, without a layer: the function, and the units that came out.

    Returns
    -------
    tuple of Weight
        In the model's order, buffers last.

    """
    paths = {id(parameter): path for path, parameter in model.named_parameters()}
    parameters = dict(model.named_parameters())
    kinds, places = _places(model, paths, functions)
    obstacles = {path: _obstacle(path, parameters[path], places.get(path), model) for path in parameters}
    bias_of = {bias: path for path, place in places.items() for bias in place.biases}
    for bias, path in bias_of.items():
        obstacles[bias] = obstacles[bias] or obstacles[path]
    described = [
        _weight(path, values, kinds[path], places.get(path, _Place("bias" if path in bias_of else "other")), obstacles)
        for path, values in parameters.items()
    ]
    buffers = [
        _weight(path, buffer, kind_of(model.get_submodule(path.rpartition(".")[0])), _Place("other"), {path: "buffer"})
        for path, buffer in model.named_buffers()
        if buffer.is_floating_point()
    ]
    return (*described, *buffers)


def _places(
    model: nn.Module, paths: Mapping[int, str], functions: Mapping[str, tuple[str, int]]
) -> tuple[dict[str, str], dict[str, _Place]]:
    """Each parameter's owner class and place; tied parameters are placed by their first owner that tells."""
    kinds: dict[str, str] = {}
    places: dict[str, _Place] = {}
    projections = {id(module.out_proj) for module in model.modules() if isinstance(module, nn.MultiheadAttention)}
    for module in model.modules():
        own = {name: paths[id(p)] for name, p in module.named_parameters(recurse=False) if id(p) in paths}
        for path in own.values():
            kinds.setdefault(path, kind_of(module))
        for name, local in _module_places(module, is_projection=id(module) in projections):
            if name not in own:
                continue
            path = own[name]
            known = places.get(path)
            place = replace(local, biases=tuple(own[bias] for bias in local.biases if bias in own))
            if known is None:
                places[path] = place
            elif {known.role, place.role} == {"embedding", "mixing"}:
                places[path] = _Place("embedding-tied", _PLAIN, known.biases + place.biases)
    for path, (function, units) in functions.items():
        shape = model.get_parameter(path).shape
        layout = _function_layout(function, shape, units)
        if path not in places and layout is not None:
            places[path] = _Place("mixing", layout)
    return kinds, places


def _module_places(module: nn.Module, *, is_projection: bool) -> Iterator[tuple[str, _Place]]:
    """The parameters of one module by their local names; biases too are local names here."""
    if isinstance(module, _ConvTransposeNd):
        layout = Layout(blocks=module.groups, transposed=True, overlap=math.prod(module.stride))
        yield "weight", _Place("mixing", layout, ("bias",))
    elif isinstance(module, _ConvNd):
        yield "weight", _Place("mixing", Layout(blocks=module.groups), ("bias",))
    elif isinstance(module, (nn.Linear, nn.Bilinear)):
        yield "weight", _Place("attention" if is_projection else "mixing", _PLAIN, ("bias",))
    elif type(module).__name__ == "Conv1D" and hasattr(
        module, "nf"
    ):  # Hugging Face's Linear with its weight transposed
        yield "weight", _Place("mixing", Layout(transposed=True), ("bias",))
    elif isinstance(module, _EMBEDDINGS):
        yield "weight", _Place("embedding")
    elif isinstance(module, _NORMS):
        yield "weight", _Place("norm", _PLAIN, ("bias",))
    elif isinstance(module, nn.MultiheadAttention):
        yield "in_proj_weight", _Place("attention", Layout(blocks=3), ("in_proj_bias",))
        for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            yield name, _Place("attention", _PLAIN, ("in_proj_bias",) if name.startswith("q") else ())
    elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        gates = next((gates for cls, gates in _GATES.items() if isinstance(module, cls)), 1)
        for name, _ in module.named_parameters(recurse=False):
            if name.startswith("weight_ih"):
                yield name, _Place("recurrent-input", Layout(gates), (name.replace("weight", "bias"),))
            elif name.startswith("weight_hh"):
                yield name, _Place("recurrent-hidden", Layout(gates), (name.replace("weight", "bias"),))
            elif name.startswith("weight_hr"):
                yield name, _Place("recurrent-input", Layout())


def _function_layout(function: str, shape: torch.Size, units: int) -> Layout | None:
    """Which axis of a weight that a function multiplies by runs over the units; None where that can't be told."""
    if function not in PRODUCTS or len(shape) < 2:
        return None
    if function == "linear" or function in {"conv1d", "conv2d", "conv3d"}:
        return Layout()
    return Layout(transposed=True) if function == "matmul" and len(shape) == 2 and shape[1] == units else None


def _obstacle(path: str, parameter: nn.Parameter, place: _Place | None, model: nn.Module) -> str | None:
    if not parameter.requires_grad:
        return "frozen"
    if ".parametrizations." in f".{path}":
        return "parametrised"
    owner = model.get_submodule(path.rpartition(".")[0])
    if any(getattr(thing, _MARK, False) for thing in (parameter, owner)):
        return "marked"
    if place is None and nn.utils.parametrize.is_parametrized(owner):
        return "parametrised"
    if not parameter.is_floating_point() or parameter.layout != torch.strided:
        return "kind-unknown"
    is_bias = place is None and path.rpartition(".")[2].startswith(("bias", "in_proj_bias"))
    return "kind-unknown" if place is None and not is_bias else None


def _weight(path: str, values: torch.Tensor, kind: str, place: _Place, obstacles: Mapping[str, str | None]) -> Weight:
    mixes = place.role in _MIXING or place.role == "embedding-tied"
    fan_in, fan_out = fans(values.shape, place.layout) if mixes and values.ndim >= 2 else (None, None)
    return Weight(
        path=path,
        kind=kind,
        shape=tuple(values.shape),
        role=place.role,
        layout=place.layout,
        fan_in=fan_in,
        fan_out=fan_out,
        biases=tuple(bias for bias in place.biases if obstacles.get(bias) is None),
        obstacle=obstacles[path],
        summary=_summary(whole(values.detach()), place if mixes else None),
    )


def _summary(values: torch.Tensor, place: _Place | None) -> WeightSummary:
    found = moments(values) if values.is_floating_point() and not values.is_meta else None
    if found is None:
        return WeightSummary(values.numel(), 0, math.nan, math.nan)
    plain = WeightSummary(found.count, found.nonfinite, found.std, found.rms)
    if place is None or values.layout != torch.strided or values.numel() == 0:
        return plain
    with torch.no_grad():
        stacked = matrices(values.float() if values.dtype != torch.float64 else values, place.layout)
        blocks, units, inputs = stacked.shape
        return replace(
            plain,
            units=blocks * units,
            inputs=blocks * inputs,
            same_units=sum(_same_rows(block) for block in stacked),
            same_inputs=sum(_same_rows(block.T) for block in stacked),
            edge_ratio=None if found.nonfinite or not found.rms else _edge_ratio(stacked / found.rms),
            mirrored=_is_mirrored(stacked) or _is_mirrored(stacked.mT),
        )


def _is_mirrored(stacked: torch.Tensor) -> bool:
    """Whether the second half of the rows, of matrices (blocks, rows, columns), points against the first half."""
    rows = stacked.shape[1]
    if rows % 2:
        return False
    first, second = stacked[:, : rows // 2], stacked[:, rows // 2 :]
    return bool((first * second).sum() < _AGAINST * (first * first).sum())


def _same_rows(rows: torch.Tensor) -> int:
    """How many rows equal another one exactly; zero rows (pruned units) only count where all are zero."""
    alive = (rows != 0).any(dim=1)
    if bool(alive.any()):
        rows = rows[alive]
    # rows that differ in their first or last entry needn't be compared
    for column in (0, -1):
        _, place, counts = torch.unique(rows[:, column], return_inverse=True, return_counts=True)
        rows = rows[counts[place] > 1]
    if len(rows) == 0:
        return 0
    _, counts = torch.unique(rows, dim=0, return_counts=True)
    return int(counts[counts > 1].sum())


def _edge_ratio(stacked: torch.Tensor) -> float | None:
    """Largest singular value over the edge of a random spectrum, for matrices (blocks, units, inputs) of RMS 1."""
    _, units, inputs = stacked.shape
    if min(units, inputs) < _SMALLEST_SPECTRUM:
        return None
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn((len(stacked), inputs, 1), generator=generator, device="cpu").to(stacked)
    for _ in range(_POWER_STEPS):
        vector = stacked.mT @ (stacked @ vector)
        vector = vector / torch.linalg.vector_norm(vector, dim=1, keepdim=True).clamp_min(1e-30)
    largest = torch.linalg.vector_norm(stacked @ vector, dim=1).amax()
    return float(largest) / (math.sqrt(units) + math.sqrt(inputs))
