"""Do the weights start well?"""

from gradvitals.weights.verb import init_, plan_init
from gradvitals.weights.verb_build import find_uninitialised

__all__ = ["find_uninitialised", "init_", "plan_init"]
