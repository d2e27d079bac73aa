"""Mean-field theory for designers, as ``gradvitals.theory``: what an activation does with depth.

Every function takes an activation by name (``"gelu"``; see :data:`gradvitals.maths.activations.NAMES`), a NumPy or
torch callable, or a torch module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradvitals.frameworks.elementwise import as_activation
from gradvitals.maths import gaussian, meanfield
from gradvitals.maths.meanfield import FixedPoint
from gradvitals.vocabulary.errors import UsageError

__all__ = [
    "FixedPoint",
    "PhaseDiagram",
    "chi",
    "depth_scale",
    "fixed_point",
    "gain",
    "phase_diagram",
    "register_operation",
    "variance_slope",
]


def gain(activation: Any, q: float = 1.0) -> float:
    """The factor on weights of standard deviation 1/√fan_in that keeps the signal's variance q through an activation.

    Parameters
    ----------
    activation : str or callable
    q : float
        Variance of the pre-activations, positive.

    Returns
    -------
    float

    Raises
    ------
    UsageError
        On an unknown name, or something that is no elementwise function.

    References
    ----------
    He et al. (2015), eq. 10; Poole et al. (2016), eq. 3.

    Examples
    --------
    >>> import numpy as np
    >>> round(gain("relu"), 4), round(gain(np.tanh), 4)
    (1.4142, 1.5925)

    """
    return gaussian.gain(as_activation(activation), _positive(q, "q"))


def chi(activation: Any, q: float = 1.0, *, weight_gain: float | None = None) -> float:
    """The factor χ on the gradient's *variance* per layer; its square root is the factor on the RMS.

    Parameters
    ----------
    activation : str or callable
    q : float
        Variance of the pre-activations.
    weight_gain : float, optional
        Weights have the standard deviation weight_gain/√fan_in; by default the gain that keeps q.

    Returns
    -------
    float

    Raises
    ------
    UsageError
        On an unknown name, or something that is no elementwise function.

    References
    ----------
    Schoenholz et al. (2017), eq. 9.

    Examples
    --------
    >>> round(chi("relu"), 6), round(chi("sigmoid"), 3)
    (1.0, 0.153)

    """
    return gaussian.chi(as_activation(activation), _positive(q, "q"), weight_gain=weight_gain)


def variance_slope(activation: Any, q: float = 1.0, *, weight_gain: float | None = None) -> float:
    """How strongly the next layer's variance answers to this one's: above 1 a deviation grows with depth.

    Parameters
    ----------
    activation : str or callable
    q : float
    weight_gain : float, optional
        By default the gain that keeps q.

    Returns
    -------
    float

    Raises
    ------
    UsageError
        On an unknown name, or something that is no elementwise function.

    References
    ----------
    Poole et al. (2016), section 3.

    Examples
    --------
    >>> round(variance_slope("tanh"), 2)
    0.46

    """
    return gaussian.variance_slope(as_activation(activation), _positive(q, "q"), weight_gain=weight_gain)


def fixed_point(activation: Any, *, weight_gain: float | None = None, bias_std: float = 0.0) -> FixedPoint:
    """Where a deep stack of one and the same layer ends: its variance, the correlation of two inputs, χ.

    Parameters
    ----------
    activation : str or callable
    weight_gain : float, optional
        Weights have the standard deviation weight_gain/√fan_in; by default the gain that keeps variance 1.
    bias_std : float

    Returns
    -------
    FixedPoint
        ``variance``, ``correlation``, ``chi``, ``chi_correlation``, ``chi_variance``, ``phase``.

    Raises
    ------
    UsageError
        On an unknown name, or something that is no elementwise function.

    References
    ----------
    Poole et al. (2016), section 3; Schoenholz et al. (2017), section 3.

    Examples
    --------
    >>> fixed_point("tanh", weight_gain=0.9).phase, fixed_point("tanh", weight_gain=1.5).phase
    ('ordered', 'chaotic')

    """
    phi = as_activation(activation)
    size = gaussian.gain(phi) if weight_gain is None else weight_gain
    return meanfield.fixed_point(phi, weight_variance=size**2, bias_variance=bias_std**2)


def depth_scale(activation: Any, *, weight_gain: float | None = None, bias_std: float = 0.0) -> float:
    """Layers over which what two inputs have in common (or not) changes by a factor e: how deep a signal reaches.

    Parameters
    ----------
    activation : str or callable
    weight_gain : float, optional
        By default the gain that keeps variance 1.
    bias_std : float

    Returns
    -------
    float
        ξ_c = 1/|ln χ_c|, infinite at criticality.

    Raises
    ------
    UsageError
        On an unknown name, or something that is no elementwise function.

    References
    ----------
    Schoenholz et al. (2017), eq. 11.

    Examples
    --------
    >>> round(depth_scale("tanh", weight_gain=0.9), 2)
    4.75

    """
    point = fixed_point(activation, weight_gain=weight_gain, bias_std=bias_std)
    return meanfield.depth_scale(point.chi_correlation)


@dataclass(frozen=True, slots=True)
class PhaseDiagram:
    """Fixed points over a grid of weight gains and bias spreads.

    Parameters
    ----------
    activation : str
    weight_gains : tuple of float
        Of length W.
    bias_stds : tuple of float
        Of length B.
    points : tuple of tuple of FixedPoint
        B rows of W points.

    """

    activation: str
    weight_gains: tuple[float, ...]
    bias_stds: tuple[float, ...]
    points: tuple[tuple[FixedPoint, ...], ...]

    def critical(self) -> tuple[tuple[float, float], ...]:
        """By bias spread the weight gain at which χ passes 1, where the grid holds it: the critical line."""
        line: list[tuple[float, float]] = []
        for bias, row in zip(self.bias_stds, self.points, strict=True):
            for at in range(len(row) - 1):
                low, high = row[at].chi, row[at + 1].chi
                if math.isfinite(low) and math.isfinite(high) and (low - 1) * (high - 1) <= 0 and low != high:
                    share = (1 - low) / (high - low)
                    step = self.weight_gains[at + 1] - self.weight_gains[at]
                    line.append((bias, self.weight_gains[at] + share * step))
                    break
        return tuple(line)

    def save(self, file: str | Path) -> Path:
        """Write the diagram as an SVG: ordered and chaotic phase, and the critical line between them.

        Parameters
        ----------
        file : str or Path
            With the ending ``.svg``.

        """
        path = Path(file)
        if path.suffix != ".svg":
            raise UsageError("the phase diagram is an SVG", f"save({str(file)!r})", "name a file that ends in .svg")
        path.write_text(self._repr_svg_(), encoding="utf-8")
        return path

    def _repr_svg_(self) -> str:
        """Show itself in a notebook."""
        width, height, margin = 420, 320, 48
        columns, rows = len(self.weight_gains), len(self.bias_stds)
        w, h = (width - 2 * margin) / columns, (height - 2 * margin) / rows
        parts = [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
                f'font-size="12" role="img" aria-label="Phase diagram of {self.activation}">'
            )
        ]
        for r, row in enumerate(self.points):
            for c, point in enumerate(row):
                x, y = margin + c * w, height - margin - (r + 1) * h
                parts.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{w + 0.5:.1f}" height="{h + 0.5:.1f}" '
                    f'fill="{_colour(point.chi)}"/>'
                )
        axis = height - margin
        parts += [
            f'<text x="{width / 2}" y="{height - 12}" text-anchor="middle">σw</text>',
            f'<text x="14" y="{height / 2}" text-anchor="middle">σb</text>',
            f'<text x="{width / 2}" y="24" text-anchor="middle">{self.activation}: χ &lt; 1 blue, χ &gt; 1 red</text>',
        ]
        for c in (0, columns - 1):
            x = margin + (c + 0.5) * w
            parts.append(f'<text x="{x:.0f}" y="{axis + 16}" text-anchor="middle">{self.weight_gains[c]:.3g}</text>')
        for r in (0, rows - 1):
            y = axis - (r + 0.5) * h + 4
            parts.append(f'<text x="{margin - 6}" y="{y:.0f}" text-anchor="end">{self.bias_stds[r]:.3g}</text>')
        return "\n".join([*parts, "</svg>"])


def _colour(chi_: float) -> str:
    """Blue below 1, red above, pale near it."""
    if not math.isfinite(chi_) or chi_ <= 0:
        return "#dddddd"
    strength = min(abs(math.log(chi_)) / math.log(4), 1.0)
    pale = round(245 - 150 * strength)
    return f"rgb({pale},{pale},245)" if chi_ < 1 else f"rgb(245,{pale},{pale})"


def phase_diagram(activation: Any, weight_gains: Sequence[float], bias_stds: Sequence[float]) -> PhaseDiagram:
    """The phases of deep networks over the spread of their weights and biases, as data and as a drawing.

    Parameters
    ----------
    activation : str or callable
    weight_gains, bias_stds : sequence of float
        The grid.

    Returns
    -------
    PhaseDiagram
        ``.points`` holds the data, ``.critical()`` the line between the phases, ``.save("x.svg")`` draws it.

    Raises
    ------
    UsageError
        On an unknown name, or something that is no elementwise function.

    References
    ----------
    Poole et al. (2016), figure 1; Schoenholz et al. (2017), figure 1.

    Examples
    --------
    >>> diagram = phase_diagram("tanh", (0.8, 0.9, 1.1, 1.2), (0.0,))
    >>> [point.phase for point in diagram.points[0]]
    ['ordered', 'ordered', 'chaotic', 'chaotic']

    """
    phi = as_activation(activation)
    points = tuple(
        tuple(meanfield.fixed_point(phi, weight_variance=w * w, bias_variance=b * b) for w in weight_gains)
        for b in bias_stds
    )
    return PhaseDiagram(phi.name, tuple(weight_gains), tuple(bias_stds), points)


def register_operation(name: str, *, elementwise: Any = None, forward: Any = None, backward: Any = None) -> None:
    """Teach ``predict`` an operation that it has no rule for.

    Parameters
    ----------
    name : str
        As the finding S209 names it: ``"mylib::myop"``, without the overload.
    elementwise : callable, optional
        The operation as an elementwise torch function of its first argument (the others are handed on).
    forward : float or callable, optional
        For an operation that keeps the shape: the factor on the mean square of its first argument; a callable gets the
        other arguments.
    backward : float or callable, optional
        The factor on the mean square of the gradient; by default that of ``forward``.

    Raises
    ------
    UsageError
        When neither or both of ``elementwise`` and ``forward`` are given, or the name has no namespace.

    Examples
    --------
    >>> import torch
    >>> register_operation("mylib::double", forward=4.0)
    >>> register_operation("mylib::swish", elementwise=torch.nn.functional.silu)

    """
    if (elementwise is None) == (forward is None) or "::" not in name:
        raise UsageError(
            "a rule is either elementwise or a factor, for an operation with its namespace",
            f"register_operation({name!r}, elementwise={elementwise!r}, forward={forward!r})",
            'write register_operation("mylib::myop", elementwise=function) or (..., forward=factor)',
        )
    from gradvitals.frameworks.torch.prediction.registration import register

    register(name, elementwise, forward, backward)


def _positive(value: float, name: str) -> float:
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{name} is a variance", f"{name}={value!r}", "give a positive finite number")
    return float(value)
