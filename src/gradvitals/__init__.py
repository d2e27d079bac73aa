"""The vital signs of gradients.

Is the backward pass right? Does the signal survive the depth? Do the weights start well?

The vocabulary is imported at once; a verb, and NumPy with it, when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gradvitals._version import __version__
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

if TYPE_CHECKING:
    from gradvitals._checkup import checkup
    from gradvitals.frameworks.case import Case
    from gradvitals.frameworks.surrogate import surrogate
    from gradvitals.gradients.assertion import UnresolvedGradientWarning, assert_gradients
    from gradvitals.gradients.verb import check
    from gradvitals.signals import theory
    from gradvitals.signals.verb import probe
    from gradvitals.signals.verb_predict import predict
    from gradvitals.signals.verb_scaling import scaling
    from gradvitals.weights.verb import init_, plan_init
    from gradvitals.weights.verb_compare import compare_init

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
    "UnresolvedGradientWarning",
    "UsageError",
    "Verdict",
    "VerdictError",
    "__version__",
    "assert_gradients",
    "check",
    "checkup",
    "compare_init",
    "init_",
    "plan_init",
    "predict",
    "probe",
    "scaling",
    "surrogate",
    "theory",
]

_HOME = {
    "Case": "gradvitals.frameworks.case",
    "UnresolvedGradientWarning": "gradvitals.gradients.assertion",
    "assert_gradients": "gradvitals.gradients.assertion",
    "check": "gradvitals.gradients.verb",
    "checkup": "gradvitals._checkup",
    "compare_init": "gradvitals.weights.verb_compare",
    "init_": "gradvitals.weights.verb",
    "plan_init": "gradvitals.weights.verb",
    "predict": "gradvitals.signals.verb_predict",
    "probe": "gradvitals.signals.verb",
    "scaling": "gradvitals.signals.verb_scaling",
    "surrogate": "gradvitals.frameworks.surrogate",
    "theory": "gradvitals.signals",
}


def __getattr__(name: str) -> Any:
    if name == "weights":  # a package with a function of its own, gradvitals.weights.variance
        return importlib.import_module("gradvitals.weights")
    if name not in _HOME:
        raise AttributeError(f"module 'gradvitals' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value  # the next access finds it at once
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
