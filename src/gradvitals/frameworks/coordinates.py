"""What a few training steps did to the outputs of each layer: plain data, the same for every framework."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Coordinate:
    """One typical size (RMS) at one layer.

    Parameters
    ----------
    path : str
        The layer's, the parameter's, or ``"output"`` of the model's output.
    call : int
        How many times the layer was called before.
    kind : str
        Class or function; ``"parameter"``, ``"output"``.
    quantity : str
        ``"forward_rms"`` of the output, ``"gradient_rms"`` of the gradient with respect to it or to the parameter,
        ``"update_rms"``: how far the output is from that before training, on the same batch.
    step : int
        After how many steps.
    value : float
    weight : tuple of int
        Shape of the layer's or parameter's weight as (outputs, inputs); empty where it has none that mixes.

    """

    path: str
    call: int
    kind: str
    quantity: str
    step: int
    value: float
    weight: tuple[int, ...] = ()
