"""Find every parameter of a model: what it is for, how its entries form matrices, and its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from gradvitals.frameworks.torch.fill import matrices
from gradvitals.frameworks.torch.layers import PRODUCTS, kind_of, parameters_by_path, written
from gradvitals.frameworks.torch.moments import moments
from gradvitals.frameworks.torch.shards import whole
from gradvitals.frameworks.torch.storages import memory_mates
from gradvitals.frameworks.weights import OVERRULED, Layout, Weight, WeightSummary, fans

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
#: Roles whose entries form matrices that mix inputs.
_MIXING = frozenset({"mixing", "attention", "recurrent-input", "recurrent-hidden"})
#: Gates stacked along the first axis of a recurrent layer's weights.
_GATES: Mapping[type[nn.Module], int] = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}
#: Below this many units or inputs the largest singular value of a random matrix scatters too much to tell anything.
_SMALLEST_SPECTRUM = 8
#: Cosine below which two halves of a matrix are mirror images: of random ones it is 0 ± 1/√entries.
_AGAINST = -0.7
#: What Hugging Face's transformers sets on modules that it has initialised and on parameters that it has loaded.
_MARK = "_is_hf_initialized"
#: A signal times a matrix; where it came out as wide as the matrix has rows, it was a transposed one.
_MATRIX_PRODUCTS = frozenset({"matmul", "mm", "addmm"})
#: What nothing may be written to, not even through another parameter.
_KEPT = frozenset({"frozen", "parametrised", "marked"})
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


@dataclass(frozen=True, slots=True)
class Product:
    """A function that a model multiplies a parameter by itself with, without a layer.

    Parameters
    ----------
    function : str
        Its name.
    units : int
        How many came out.
    parameters : tuple of str
        Those that it took: the weight, and perhaps a bias.

    """

    function: str
    units: int
    parameters: tuple[str, ...] = ()


def weights_of(model: nn.Module, functions: Mapping[str, Product]) -> tuple[Weight, ...]:
    """Describe every parameter of a model once, and every floating-point buffer.

    Parameters
    ----------
    model : torch.nn.Module
    functions : mapping of str to Product
        By the paths of the parameters.

    Returns
    -------
    tuple of Weight
        In the model's order, buffers last.

    """
    parameters = parameters_by_path(model)
    modules = {written(path): module for path, module in model.named_modules()}
    owners = {path: modules[path.rpartition(".")[0]] for path in parameters}
    kinds, places = _places(model, {id(parameter): path for path, parameter in parameters.items()}, functions)
    bias_of = {bias: path for path, place in places.items() for bias in place.biases}
    places |= {bias: _Place("bias") for bias in bias_of}
    obstacles = {path: _obstacle(path, parameters[path], places.get(path), owners[path]) for path in parameters}
    for path in _written_elsewhere(parameters, obstacles):
        obstacles[path] = obstacles[path] or "memory-shared"
    for bias, path in bias_of.items():
        obstacles[bias] = obstacles[bias] or obstacles[path]
    described = [
        _weight(path, values, kinds[path], places.get(path, _Place("other")), obstacles)
        for path, values in parameters.items()
    ]
    buffers = [
        _weight(written(path), buffer, kind_of(modules[written(path).rpartition(".")[0]]), _Place("other"), {})
        for path, buffer in model.named_buffers()
        if buffer.is_floating_point()
    ]
    return (*_without_adapters(described), *(replace(buffer, obstacle="buffer") for buffer in buffers))


def _written_elsewhere(parameters: Mapping[str, nn.Parameter], obstacles: Mapping[str, str | None]) -> list[str]:
    """Parameters in the memory of an earlier one, of one that has to stay as it is, or twice in their own."""
    order = {path: at for at, path in enumerate(parameters)}
    return [
        path
        for path, mates in memory_mates(parameters).items()
        if any(order[mate] <= order[path] or obstacles[mate] in _KEPT for mate in mates)
    ]


def _without_adapters(weights: Sequence[Weight]) -> list[Weight]:
    """Beside frozen matrices those that are zero were made so: what they add to the model is nothing, at first."""
    if not any(weight.fan_in and weight.obstacle == "frozen" for weight in weights):
        return list(weights)
    zero = {weight.path for weight in weights if weight.fan_in and not weight.obstacle and weight.summary.rms == 0}
    zero |= {bias for weight in weights if weight.path in zero for bias in weight.biases}
    return [replace(weight, obstacle="starts-at-zero") if weight.path in zero else weight for weight in weights]


def _places(
    model: nn.Module, paths: Mapping[int, str], functions: Mapping[str, Product]
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
            else:
                ties = {known.role, place.role} == {"embedding", "mixing"}
                biases = tuple(dict.fromkeys(known.biases + place.biases))
                places[path] = replace(known, role="embedding-tied" if ties else known.role, biases=biases)
    parameters = parameters_by_path(model)
    for path, product in functions.items():
        layout = _function_layout(product.function, parameters[path].shape, product.units)
        if layout is None:
            continue
        if path not in places:
            shapes = {name: parameters[name].shape for name in product.parameters if name not in places}
            biases = tuple(name for name, shape in shapes.items() if shape == (product.units,) and name != path)
            is_channels = product.function.startswith("conv")
            places[path] = _Place("mixing", layout, () if is_channels else biases)
        elif places[path].role == "embedding":
            places[path] = replace(places[path], role="embedding-tied")
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
    if function not in _MATRIX_PRODUCTS or len(shape) != 2:
        return None
    return Layout(transposed=True) if shape[1] == units else Layout() if shape[0] == units else None


def _obstacle(path: str, parameter: nn.Parameter, place: _Place | None, owner: nn.Module) -> str | None:
    if not parameter.requires_grad:
        return "frozen"
    if ".parametrizations." in f".{path}":
        return "parametrised"
    if any(getattr(thing, _MARK, False) for thing in (parameter, owner)):
        return "marked"
    if place is None and nn.utils.parametrize.is_parametrized(owner):
        return "parametrised"
    if not parameter.is_floating_point() or parameter.layout != torch.strided:
        return "kind-unknown"
    if place is not None and place.role in _MIXING and parameter.ndim < 2:
        return "kind-unknown"  # a shard that was flattened
    is_bias = place is None and path.rpartition(".")[2].startswith(("bias", "in_proj_bias"))
    return "kind-unknown" if place is None and not is_bias else None


def _weight(path: str, values: torch.Tensor, kind: str, place: _Place, obstacles: Mapping[str, str | None]) -> Weight:
    own = obstacles.get(path)
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
        biases=tuple(bias for bias in place.biases if obstacles[bias] in {None, *({own} & OVERRULED)}),
        obstacle=own,
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
            edge_ratio=None if found.nonfinite or not found.std else _edge_ratio((stacked - found.mean) / found.std),
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
    """Largest singular value over the edge of a random spectrum, for matrices (blocks, units, inputs).

    Of mean 0 and variance 1: the mean of numbers that are all positive is an outlier too, and was never trained.
    """
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
