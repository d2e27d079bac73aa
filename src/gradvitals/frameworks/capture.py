"""What one forward and backward pass showed, layer by layer: plain data, the same for every framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Moments:
    """Summary of one tensor; everything but the counts is of its finite values, computed in float64.

    Parameters
    ----------
    count : int
        How many values there are.
    nonfinite : int
        How many are NaN or infinite.
    masked : int
        How many of those are −∞, which masks use on purpose.
    mean, std, rms, low, high : float
        Mean, standard deviation (population), root mean square, least and greatest value; NaN where nothing is finite.
    zero_share : float
        Share of values that are exactly zero, between 0 and 1.

    """

    count: int
    nonfinite: int
    masked: int
    mean: float
    std: float
    rms: float
    low: float
    high: float
    zero_share: float


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a layer or of an activation function.

    Parameters
    ----------
    path : str
        The module's qualified name; of a function ``"block.relu()"``, or the weight's name where it multiplies by one.
    call : int
        How many times this path was called before: 0 for the first.
    kind : str
        Class of the module (``"Linear"``) or name of the function (``"relu"``).
    shape : tuple of int
        Of the output (of the first floating-point tensor, where there are several).
    sources : tuple of int
        The recorded calls, by index, whose outputs reach this call's input with no other recorded call in between; so
        "which activation follows this layer" can be read off. Empty where the input comes from the case's inputs.
    parameters : tuple of str
        Its own parameters, each by the first name it has in the model (tied ones have several).
    has_weights : bool
        Whether it mixes its inputs by a weight of two or more dimensions: Linear, convolutions, recurrent layers, …;
        neither embeddings nor normalisation.
    activation : str or None
        Its name as in ``gradvitals.maths.activations`` (or ``"softmax"``, ``"prelu"``, ``"glu"``), if it is one.
    options : mapping of str to float
        That activation's parameters: ``negative_slope``, ``alpha``, …
    inputs_finite : bool
        Whether what went in held no NaN or +∞ (masks add −∞).
    forward : Moments
        Of the output, when the call returned (an in-place activation behind it overwrites it later).
    gradient : Moments or None
        Of the gradient with respect to that output; None where none reached it.
    units : int
        Channels or features of the output.
    dead_share : float or None
        Of a rectifying activation: the share of units that are zero for every sample and position.
    saturated_share : float or None
        Of a bounded activation: the share of values where its slope is below 2.5 % of its largest.
    sample_cosine : float or None
        Mean cosine between the outputs of two samples of the batch; None where there is no batch to be seen.

    """

    path: str
    call: int
    kind: str
    shape: tuple[int, ...]
    sources: tuple[int, ...]
    parameters: tuple[str, ...]
    has_weights: bool
    activation: str | None
    inputs_finite: bool
    forward: Moments
    units: int
    options: Mapping[str, float] = field(default_factory=dict)
    gradient: Moments | None = None
    dead_share: float | None = None
    saturated_share: float | None = None
    sample_cosine: float | None = None


@dataclass(frozen=True, slots=True)
class ParameterRecord:
    """One parameter: its values, and the gradient of the objective with respect to it (None where there is none)."""

    path: str
    shape: tuple[int, ...]
    trainable: bool
    values: Moments
    gradient: Moments | None


@dataclass(frozen=True, slots=True)
class Capture:
    """One forward and backward pass.

    Parameters
    ----------
    calls : tuple of Call
        In execution order.
    parameters : tuple of ParameterRecord
        Each once, in the model's order.
    output : tuple of Moments
        Of the model's floating-point outputs.
    loss : float or None
        The objective's value; None where a random cotangent was sent back.
    objective : str
        ``"loss"``, ``"output-loss"`` or ``"random"``.

    """

    calls: tuple[Call, ...]
    parameters: tuple[ParameterRecord, ...]
    output: tuple[Moments, ...]
    loss: float | None
    objective: str
