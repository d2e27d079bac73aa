"""What one forward and backward pass showed, layer by layer: plain data, the same for every framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Adam's ε, which its step adds to the gradient's size: Kingma and Ba (2015), algorithm 1.
ADAM_EPSILON = 1e-8


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
    underflow_fp16, underflow_bf16 : float
        Of a gradient: share of values that are not zero but become zero in that format; 0 where nobody asked.

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
    underflow_fp16: float = 0.0
    underflow_bf16: float = 0.0


@dataclass(frozen=True, slots=True)
class Attention:
    """What a softmax over keys makes of its scores, over rows (queries) that may look at two keys or more.

    Parameters
    ----------
    entropy : float
        Mean entropy of the rows as a share of the largest possible, log(keys that aren't masked): 1 looks everywhere
        alike, 0 at one key alone.
    lowest_entropy : float
        That mean of the head that has least.
    largest_score : float
        Largest magnitude of a score (before the softmax, scaled) that isn't masked.
    sharp_share : float
        Share of the rows whose largest weight is so near 1 that the softmax is flat there: p(1 − p) below 2.5 % of its
        largest.

    """

    entropy: float
    lowest_entropy: float
    largest_score: float
    sharp_share: float


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
        Of a bounded activation, or the gates of a recurrent layer: the share of values where the slope is below 2.5 %
        of its largest.
    sample_cosine : float or None
        Mean cosine between the outputs of two samples of the batch; None where there is no batch to be seen.
    sample_spread : float or None
        How far the samples' directions lie apart: √(1 − cosine), computed without cancellation; of single numbers
        the standard deviation over the root mean square.
    position_spread : float or None
        The same between the positions of a sample, of a layer with weights that gives (samples, positions, features).
    parents : tuple of int
        The nearest nodes behind its inputs: recorded calls by index, additions on a residual stream k as ``-1 - k``.
    attention : Attention or None
        Of a softmax over keys, or a call that holds one.
    precision : float
        Distance from 1 to the next number in the output's dtype.
    held_back : float or None
        Of a sigmoid, tanh or softmax that is flat at most of its values: the share of values (of rows) that are flat,
        that the gradient would move, and that it can't.

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
    sample_spread: float | None = None
    position_spread: float | None = None
    parents: tuple[int, ...] = ()
    attention: Attention | None = None
    precision: float = 2.0**-23
    held_back: float | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """An addition that joins a branch with the stream that it was computed from.

    Parameters
    ----------
    path : str
        ``"block.+"``: the module in whose code it stands.
    call : int
        How many times this path was seen before.
    after : int
        How many calls were recorded before it.
    main, branch : tuple of int
        The nodes behind either operand, as in ``Call.parents``.
    has_shortcut : bool
        Whether the stream itself passes through layers of its own (a projection), so that both sides are branches.
    forward : Moments
        Of the sum.
    branch_rms : float
        RMS of what the branch adds; 0 of one that starts at zero.
    gradient : Moments or None
        Of the gradient with respect to the sum.
    sample_spread, position_spread : float or None
        As in ``Call``.

    """

    path: str
    call: int
    after: int
    main: tuple[int, ...]
    branch: tuple[int, ...]
    has_shortcut: bool
    forward: Moments
    branch_rms: float
    gradient: Moments | None = None
    sample_spread: float | None = None
    position_spread: float | None = None

    @property
    def parents(self) -> tuple[int, ...]:
        """The nodes behind both operands."""
        return tuple(sorted({*self.main, *self.branch}))


@dataclass(frozen=True, slots=True)
class Steps:
    """A recurrent layer over time: what its last output still knows of each step.

    Parameters
    ----------
    path : str
    kind : str
    forward_rms : tuple of float
        RMS of the output at each step, of shape (T,).
    echo_rms : tuple of float
        RMS of the gradient of a random projection of the last step's output with respect to each step's input, of
        shape (T,); of a bidirectional layer its forward direction.

    """

    path: str
    kind: str
    forward_rms: tuple[float, ...]
    echo_rms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ParameterRecord:
    """One parameter: its values, and the gradient of the objective with respect to it (None where there is none).

    ``adam_step`` is the RMS of Adam's first step in units of the learning rate, |g|/(|g| + ε): 1 is a full step.
    ``same_as`` names an earlier parameter that holds the same values in other memory, ``same_gradient`` says whether
    the two have the same gradient as well, ``copied_by`` is the class of torch's that made them so, if it did.
    ``alike_rows`` says that all rows hold the same values, not zero; ``copied_rows`` counts those that hold the values
    of an earlier row, not zero, and get the same gradient, not zero either.
    """

    path: str
    shape: tuple[int, ...]
    trainable: bool
    values: Moments
    gradient: Moments | None
    adam_step: float | None = None
    same_as: str | None = None
    same_gradient: bool = False
    copied_by: str | None = None
    alike_rows: bool = False
    copied_rows: int = 0


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
    streams : tuple of Stream
        Residual additions in execution order.
    steps : tuple of Steps
        Recurrent layers over time.
    unseen : tuple of str
        Modules that can't be looked into (scripted ones), by path.
    compiled : bool
        Whether something in it is compiled, which this pass ran eagerly.
    untracked : int
        How many normalisation layers work with running statistics that no batch has ever set.
    input_rms : float or None
        Of the first floating-point input; None where there is none (token ids).
    input_spread : float or None
        How far the samples of the inputs lie apart, as ``Call.sample_spread``; of several inputs the widest. Of token
        ids 1 or 0: whether any two samples differ. None without a batch.

    """

    calls: tuple[Call, ...]
    parameters: tuple[ParameterRecord, ...]
    output: tuple[Moments, ...]
    loss: float | None
    objective: str
    streams: tuple[Stream, ...] = ()
    steps: tuple[Steps, ...] = ()
    unseen: tuple[str, ...] = ()
    compiled: bool = False
    untracked: int = 0
    input_rms: float | None = None
    input_spread: float | None = None


@dataclass(frozen=True, slots=True)
class Producer:
    """The operation that made NaN or infinity of what was finite.

    Parameters
    ----------
    operation : str
        ``"div"``, ``"softmax"``, …; backwards the operation whose slope it is.
    path : str
        The module in whose code it stands; ``"loss"`` in the loss.
    call : str
        The operation as the path of a function's call: ``"block.sqrt()"``.
    backward : bool
        Whether it happened on the way back.
    cause : str
        ``"zero-over-zero"``, ``"division-by-zero"``, ``"log-of-zero"``, ``"log-of-negative"``, ``"root-of-negative"``,
        ``"outside-domain"``, ``"masked-row"``, ``"overflow"``, ``"infinity-minus-infinity"``,
        ``"zero-times-infinity"``, ``"infinite-slope"``, ``"too-few-values"``, ``"bad-weights"``, ``"unexplained"``.
    dtype : str
        Of its result.
    largest : float or None
        Of an overflow: the largest magnitude that went in.

    """

    operation: str
    path: str
    call: str
    backward: bool
    cause: str
    dtype: str
    largest: float | None = None


@dataclass(frozen=True, slots=True)
class Apart:
    """How far two runs lie apart at one call, or at one parameter.

    Parameters
    ----------
    path : str
    call : int
    kind : str
        Class or function; ``"parameter"`` of a parameter, ``"output"`` of an output of the model.
    forward, gradient : float or None
        Distance ‖a − b‖/max(‖a‖, ‖b‖) of the values and of their gradients; infinite where shapes or non-finite places
        differ, None where one side shows none.
    forward_noise, gradient_noise : float
        The same between two runs of the first model, the second with inputs and weights moved by one rounding of the
        coarser precision: what rounding makes there.
    weights_differ, modes_differ : bool
        Whether the two have other weights there, by more than that rounding; whether one trains.

    """

    path: str
    call: int
    kind: str
    forward: float | None
    gradient: float | None
    forward_noise: float
    gradient_noise: float
    weights_differ: bool = False
    modes_differ: bool = False
