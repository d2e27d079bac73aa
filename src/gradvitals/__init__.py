"""The vital signs of gradients: is the backward pass right, does the signal survive the depth, do the weights start well?"""

from gradvitals._version import __version__
from gradvitals.frameworks.case import Case
from gradvitals.gradients.verb import check
from gradvitals.vocabulary import Estimate, Finding, Report, Severity, Site, Table, Verdict

__all__ = ["Case", "Estimate", "Finding", "Report", "Severity", "Site", "Table", "Verdict", "__version__", "check"]
