"""The vital signs of gradients.

Is the backward pass right? Does the signal survive the depth? Do the weights start well?
"""

from gradvitals._checkup import checkup
from gradvitals._version import __version__
from gradvitals.frameworks.case import Case
from gradvitals.gradients.verb import check
from gradvitals.signals.verb import probe
from gradvitals.vocabulary import (
    Estimate,
    Finding,
    GradvitalsError,
    InputError,
    LoadError,
    MissingDependencyError,
    ModelError,
    Report,
    Rule,
    Severity,
    Site,
    Table,
    UsageError,
    Verdict,
    VerdictError,
)
from gradvitals.weights.verb import init_, plan_init

__all__ = [
    "Case",
    "Estimate",
    "Finding",
    "GradvitalsError",
    "InputError",
    "LoadError",
    "MissingDependencyError",
    "ModelError",
    "Report",
    "Rule",
    "Severity",
    "Site",
    "Table",
    "UsageError",
    "Verdict",
    "VerdictError",
    "__version__",
    "check",
    "checkup",
    "init_",
    "plan_init",
    "probe",
]
