"""What every wing speaks: findings, reports, rules, words and errors. Standard library only."""

from gradvitals.vocabulary.errors import (
    GradvitalsError,
    InputError,
    LoadError,
    MissingDependencyError,
    ModelError,
    UsageError,
    VerdictError,
)
from gradvitals.vocabulary.finding import Estimate, Fact, Finding, Severity, Site
from gradvitals.vocabulary.report import Report, Table, Verdict
from gradvitals.vocabulary.rule import NAMES, Rule, Threshold

__all__ = [
    "NAMES",
    "Estimate",
    "Fact",
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
    "Threshold",
    "UsageError",
    "Verdict",
    "VerdictError",
]
