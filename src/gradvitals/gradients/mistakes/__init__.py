"""What kind of mistake explains a wrong gradient: candidates are tried against everything that was measured of the
tensor.

A candidate is a gradient that would be right if the mistake were the only one, or a term that is missing; it explains
the tensor when it leaves nothing missing along any line. Most cost no evaluation. Where it takes more, the backward
pass is asked again (with another cotangent, elsewhere), or a few lines more are measured.
"""

from gradvitals.gradients.mistakes.causes import same_cause
from gradvitals.gradients.mistakes.history import remembered
from gradvitals.gradients.mistakes.mistake import Mistake
from gradvitals.gradients.mistakes.recognise import recognise
from gradvitals.gradients.mistakes.region import Region, locate

__all__ = ["Mistake", "Region", "locate", "recognise", "remembered", "same_cause"]
