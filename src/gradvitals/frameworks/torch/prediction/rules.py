"""All rules: importing this fills the table that the trace looks operations up in."""

from gradvitals.frameworks.torch.prediction import (
    attention,
    convolution,
    elementwise,
    embedding,
    indices,
    joins,
    layouts,
    linear,
    normalisation,
    pieces,
    pooling,
    reductions,
)

__all__ = [
    "attention",
    "convolution",
    "elementwise",
    "embedding",
    "indices",
    "joins",
    "layouts",
    "linear",
    "normalisation",
    "pieces",
    "pooling",
    "reductions",
]
