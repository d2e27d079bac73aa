"""Do the weights start well?"""

from gradvitals.weights.variance import variance
from gradvitals.weights.verb import init_, plan_init

__all__ = ["init_", "plan_init", "variance"]
