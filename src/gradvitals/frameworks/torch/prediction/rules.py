"""All rules: importing this fills the table that the trace looks operations up in."""

from gradvitals.frameworks.torch.prediction import (
    attention,
    choice,
    convolution,
    elementwise,
    embedding,
    indices,
    joins,
    layouts,
    linear,
    losses,
    normalisation,
    pieces,
    pooling,
    reductions,
    resampling,
    scores,
)

__all__ = [
    "attention",
    "choice",
    "convolution",
    "elementwise",
    "embedding",
    "indices",
    "joins",
    "layouts",
    "linear",
    "losses",
    "normalisation",
    "pieces",
    "pooling",
    "reductions",
    "resampling",
    "scores",
]
