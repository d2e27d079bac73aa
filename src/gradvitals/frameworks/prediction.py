"""What theory says of one forward and backward pass, layer by layer: plain data, the same for every framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Predicted:
    """The RMS that a tensor should have, over random weights.

    Parameters
    ----------
    rms : float
        The typical value: the geometric mean over draws of the weights.
    error : float
        One standard deviation of one draw, relative.
    mean : float
        Of all entries.
    chance : float or None
        The error without what theory may be off by since weights are copies; None where none are.

    """

    rms: float
    error: float
    mean: float = 0.0
    chance: float | None = None

    @property
    def judged_by(self) -> float:
        """By what a measurement may depart before something isn't as it seems."""
        return self.error if self.chance is None else self.chance


@dataclass(frozen=True, slots=True)
class PredictedCall:
    """One call of a layer or of an activation function.

    Parameters
    ----------
    path, call, kind, shape
        As in :class:`gradvitals.frameworks.capture.Call`.
    has_weights : bool
        Whether it mixes its inputs by a weight.
    activation : str or None
        Its name, if it is an activation.
    depth : int
        Layers with weights on the longest way to it, itself counted.
    forward : Predicted or None
        None behind an operation that isn't modelled.
    gradient : Predicted or None
        None where none reaches it, or where that isn't known.
    sample_cosine : float or None
        Mean cosine between the outputs of two samples.
    sources, parameters, options
        As in :class:`gradvitals.frameworks.capture.Call`.

    """

    path: str
    call: int
    kind: str
    shape: tuple[int, ...]
    has_weights: bool
    activation: str | None
    depth: int
    forward: Predicted | None
    gradient: Predicted | None
    sample_cosine: float | None = None
    sources: tuple[int, ...] = ()
    parameters: tuple[str, ...] = ()
    options: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PredictedParameter:
    """One parameter: the size and spread of its entries, and the size of its gradient where it can be told."""

    path: str
    weight_rms: float
    gradient: Predicted | None
    weight_std: float = 0.0
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class UnmodelledOperation:
    """An operation without a rule: its name, the layers where it was called, how often, and why.

    ``matters`` says whether anything that is reported, or the model's output, depends on what isn't known.
    """

    name: str
    paths: tuple[str, ...]
    count: int
    reason: str
    matters: bool = True


@dataclass(frozen=True, slots=True)
class Prediction:
    """What theory says of a model.

    Parameters
    ----------
    calls : tuple of PredictedCall
        In execution order.
    parameters : tuple of PredictedParameter
    unmodelled : tuple of UnmodelledOperation
    objective : str
        ``"loss"``, ``"output-loss"`` or ``"random"``.
    tensors : str
        What the operations ran on: ``"fake"``, ``"meta"`` or ``"real"``.
    operations : int
        How many there were.
    assumed : tuple of str
        Parameters without values whose size was taken from the module's usual start.
    streams : tuple of tuple of int
        By residual addition, the calls in its branch.

    """

    calls: tuple[PredictedCall, ...]
    parameters: tuple[PredictedParameter, ...]
    unmodelled: tuple[UnmodelledOperation, ...]
    objective: str
    tensors: str
    operations: int
    assumed: tuple[str, ...] = ()
    streams: tuple[tuple[int, ...], ...] = ()
