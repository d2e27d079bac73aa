"""What the parameters of a model are and look like: plain data, the same for every framework."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Obstacles that give way where a user names the weight.
OVERRULED = frozenset({"marked", "starts-at-zero"})


@dataclass(frozen=True, slots=True)
class Layout:
    """How a weight's entries form matrices of (units, inputs).

    Parameters
    ----------
    blocks : int
        Matrices stacked along the first axis: gates, query-key-value, the groups of a convolution.
    transposed : bool
        The first axis runs over the inputs and not over the units.
    overlap : int
        Matrices are larger than what sums into one output by this factor: the strides of a transposed convolution.

    """

    blocks: int = 1
    transposed: bool = False
    overlap: int = 1


@dataclass(frozen=True, slots=True)
class WeightSummary:
    """Numbers of one parameter.

    Parameters
    ----------
    count, nonfinite : int
        Entries, and how many of them are NaN or infinite.
    std, rms : float
        Standard deviation and root mean square of the finite entries; NaN where there are none.
    units : int
        Rows of the matrices.
    same_units : int
        Units whose weights equal those of another unit of their block exactly; pruned ones (zero) don't count.
    same_inputs : int
        Inputs whose weights equal those of another input of their block exactly.
    inputs : int
        Columns of the matrices.
    edge_ratio : float or None
        Largest singular value, once the mean of all entries is taken away, relative to that of a random matrix of the
        same size and variance, (√units + √inputs)·std; None for a matrix too small to tell.
    mirrored : bool
        The second half of its units or inputs is about the negative of the first half.

    """

    count: int
    nonfinite: int
    std: float
    rms: float
    units: int = 0
    inputs: int = 0
    same_units: int = 0
    same_inputs: int = 0
    edge_ratio: float | None = None
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Weight:
    """One parameter (or buffer) with its place in the model.

    Parameters
    ----------
    path : str
        Qualified name; of a tied one the first.
    kind : str
        Class of the module that owns it.
    shape : tuple of int
    role : str
        ``"mixing"``, ``"attention"``, ``"recurrent-input"``, ``"recurrent-hidden"``, ``"embedding"``,
        ``"embedding-tied"``, ``"norm"``, ``"bias"`` (of another weight), or ``"other"``.
    layout : Layout
        How its entries form matrices.
    fan_in, fan_out : int or None
        Weights that sum into one output, and outputs that one input reaches; None where it doesn't mix.
    biases : tuple of str
        Qualified names of the biases that go with it.
    obstacle : str or None
        Why it must stay as it is: ``"frozen"``, ``"parametrised"``, ``"buffer"``, ``"kind-unknown"``,
        ``"memory-shared"`` (with a parameter that is filled), ``"marked"`` (as initialised already, by its module),
        ``"starts-at-zero"`` (beside frozen ones: an adapter); else None.
    summary : WeightSummary

    """

    path: str
    kind: str
    shape: tuple[int, ...]
    role: str
    layout: Layout
    fan_in: int | None
    fan_out: int | None
    biases: tuple[str, ...]
    obstacle: str | None
    summary: WeightSummary


@dataclass(frozen=True, slots=True)
class Mirror:
    """Which sides of a weight's matrices come in two halves of opposite sign.

    Parameters
    ----------
    units : bool
        The second half of the units are the first half's negatives.
    inputs : bool
        The second half of the inputs gets the first half's weights, negated.

    """

    units: bool = False
    inputs: bool = False


UNMIRRORED = Mirror()


@dataclass(frozen=True, slots=True)
class Fill:
    """New values for one parameter and its biases.

    Parameters
    ----------
    weight : Weight
    draw : str
        ``"normal"``, ``"uniform"``, ``"truncated-normal"``, ``"orthogonal"``, ``"delta-orthogonal"``,
        ``"difference-orthogonal"``, ``"ones"``, ``"constant"``.
    std : float
        Standard deviation of the entries; for orthogonal ones their root mean square, for constant ones their value.
    centre : float
        Mean of the inputs that the layer takes away, through its bias or, without one, through its rows.
    shift : float
        Mean that the layer's outputs should have, which its bias gives them.
    mirror : Mirror
    balanced : bool
        Every unit's weights sum to zero, at each position of a kernel: inputs of equal mean cancel, also at borders.
    offsets : tuple of float
        What the biases of each block start at, gate by gate; ``()`` where the blocks are alike.

    """

    weight: Weight
    draw: str
    std: float
    centre: float = 0.0
    shift: float = 0.0
    mirror: Mirror = UNMIRRORED
    balanced: bool = False
    offsets: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Goal:
    """What the outputs of a layer should look like on a batch.

    Parameters
    ----------
    weight : Weight
    std : float
        Root mean square of the outputs, once the mean of the inputs is taken away.
    mean : float
        Mean of the outputs, where the layer has a bias to give them one.
    centred : bool
        Whether the bias takes the mean of the inputs away.

    """

    weight: Weight
    std: float
    mean: float = 0.0
    centred: bool = False


@dataclass(frozen=True, slots=True)
class Fit:
    """What a layer needs to reach its goal.

    Parameters
    ----------
    goal : Goal
    factor : float
        On the weight.
    centre : float
        The measured mean of its inputs that the bias takes away; 0 where it doesn't.
    scale : float
        What the model itself multiplies the weight by before it uses it.

    """

    goal: Goal
    factor: float
    centre: float
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Unset:
    """A parameter or buffer with entries that nothing has set.

    Parameters
    ----------
    path : str
    kind : str
        Class of the module that owns it.
    shape : tuple of int
    entries : int
        How many depend on what memory held.
    derived : int
        How many of them were computed from that, and don't just hold it.
    first : tuple of int
        Index of the first.

    """

    path: str
    kind: str
    shape: tuple[int, ...]
    entries: int
    derived: int
    first: tuple[int, ...]


def fans(shape: Sequence[int], layout: Layout) -> tuple[int, int]:
    """Fan-in and fan-out of a weight.

    Parameters
    ----------
    shape : sequence of int
        Of two or more dimensions; those behind the first two are a kernel's.
    layout : Layout

    Returns
    -------
    fan_in : int
        How many weights sum into one output: exact, also for grouped and (strided) transposed convolutions.
    fan_out : int
        How many outputs one input reaches; strides aren't counted, as in ``torch.nn.init``.

    Examples
    --------
    >>> fans((50, 100), Layout())
    (100, 50)
    >>> fans((16, 4, 3, 3), Layout(blocks=2)), fans((8, 16, 4, 4), Layout(transposed=True, overlap=4))
    ((36, 72), (32, 256))

    """
    kernel = math.prod(shape[2:])
    first = shape[0] // layout.blocks
    if layout.transposed:
        return max(1, first * kernel // layout.overlap), shape[1] * kernel
    return shape[1] * kernel, first * kernel
