"""The demo: patients with known illnesses are examined, treated, and examined again."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from gradvitals.frameworks.environment import environment
from gradvitals.vocabulary import words
from gradvitals.vocabulary.errors import MissingDependencyError
from gradvitals.vocabulary.finding import Fact, Finding, Severity, Site
from gradvitals.vocabulary.report import Report, Table

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Examination:
    """One patient: the diagnosis that is expected, the examinations before and after treatment, and the training of
    both versions.

    ``key`` names the patient's title and story in the locale's ``[demo]``. ``shown`` is the report that the page
    shows: the first examination, with the tables of the second beside its own.
    """

    key: str
    expected: tuple[str, ...]
    before: Report
    after: Report | None
    shown: Report
    accuracy_before: float | None = None
    accuracy_after: float | None = None

    @property
    def found(self) -> tuple[str, ...]:
        return _diagnosis(self.before)

    @property
    def found_after(self) -> tuple[str, ...]:
        return () if self.after is None else _diagnosis(self.after)

    @property
    def as_expected(self) -> bool:
        """The expected diagnosis and no other where none is expected; and after treatment none is left."""
        return (
            set(self.expected) <= set(self.found) and bool(self.expected) == bool(self.found) and not self.found_after
        )


def run_demo(*, seed: int = 0, lang: str = "en", progress: Progress | None = None) -> Report:
    """Examine every patient.

    Parameters
    ----------
    seed : int
    lang : str
        The language of the patients' names.
    progress : callable, optional
        Called with (steps done, steps in all).

    Returns
    -------
    Report
        A part per patient, and the table ``patients``. Passes when every patient got its expected finding.

    Raises
    ------
    MissingDependencyError
        When torch is installed but scikit-learn, which holds the data, is not.

    """
    started = time.perf_counter()
    patients, skipped = _patients(seed, progress)
    titles = [words.word(f"demo.title-{patient.key}", lang) for patient in patients]
    parts = tuple(
        replace(patient.shown, settings={**patient.shown.settings, "title": title, "story": patient.key})
        for patient, title in zip(patients, titles, strict=True)
    )
    settings: dict[str, Fact] = {"seed": seed}
    if skipped:
        left_out = "; ".join(words.word(f"demo.title-{key}", lang) for key in skipped)  # the titles hold commas
        settings |= {"skipped": left_out, "reason": "no-torch"}
    return Report(
        verb="demo",
        subject="gradvitals",
        findings=tuple(
            _misdiagnosed(patient, title)
            for patient, title in zip(patients, titles, strict=True)
            if not patient.as_expected
        ),
        tables=(_patient_table(patients, titles),),
        settings=settings,
        environment=environment(),
        cost={"seconds": round(time.perf_counter() - started, 2)},
        parts=parts,
    )


def _patients(seed: int, progress: Progress | None) -> tuple[list[Examination], tuple[str, ...]]:
    """All patients that can be examined here, and the keys of those that can't."""
    from gradvitals.faces import numpy_patients

    wrong_layer, sound_layer = numpy_patients.examinations(seed)
    if not _installed("torch"):
        return [wrong_layer, sound_layer], ("vanishing", "exploding", "wrong-function", "sound")
    if not _installed("sklearn"):
        raise MissingDependencyError(
            "the demo's data are not installed",
            "scikit-learn, which holds the handwritten digits, can't be imported",
            'pip install "gradvitals[demo]", or in a clone: pip install ".[demo]"',
        )
    from gradvitals.faces import torch_patients

    vanishing, exploding, wrong_function, sound = torch_patients.examinations(seed, progress)
    return [vanishing, exploding, wrong_layer, wrong_function, sound], ()


def _installed(package: str) -> bool:
    """Whether a package is there; one that is there but broken says so itself."""
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        return False
    return True


def _diagnosis(report: Report) -> tuple[str, ...]:
    """The names of what was found, without remarks."""
    return tuple(dict.fromkeys(f.name for f in report.findings if f.severity > Severity.INFO))


def _misdiagnosed(patient: Examination, title: str) -> Finding:
    facts: dict[str, Fact] = {"expected": patient.expected, "found": patient.found, "found_after": patient.found_after}
    return Finding("D901", Severity.ERROR, Site(title), facts)


def _patient_table(patients: list[Examination], titles: list[str]) -> Table:
    columns = ("patient", "expected", "found", "found_after", "accuracy_before", "accuracy_after")

    def rows() -> Iterator[tuple[Fact, ...]]:
        for patient, title in zip(patients, titles, strict=True):
            after = None if patient.after is None else patient.found_after
            yield (title, patient.expected, patient.found, after, patient.accuracy_before, patient.accuracy_after)

    return Table("patients", columns, ("", "", "", "", "%", "%"), tuple(rows()))
