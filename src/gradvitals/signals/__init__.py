"""Does the signal survive the depth, forwards and backwards?"""

from gradvitals.signals import theory
from gradvitals.signals.verb import probe
from gradvitals.signals.verb_predict import predict
from gradvitals.signals.verb_scaling import scaling

__all__ = ["predict", "probe", "scaling", "theory"]
