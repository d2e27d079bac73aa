"""Is the backward pass right?"""

from gradvitals.gradients.verb import check

__all__ = ["check"]
