"""Do the weights start well?"""

from gradvitals.weights.overwriting import TrainedWeightsWarning
from gradvitals.weights.variance import variance
from gradvitals.weights.verb import init_, plan_init
from gradvitals.weights.verb_build import find_uninitialised
from gradvitals.weights.verb_compare import compare_init

__all__ = ["TrainedWeightsWarning", "compare_init", "find_uninitialised", "init_", "plan_init", "variance"]
