"""Does the signal survive the depth, forwards and backwards?"""

from gradvitals.signals.verb import probe

__all__ = ["probe"]
