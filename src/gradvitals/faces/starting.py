"""What ``gradvitals init`` does with a factory: plan, save the started weights, or compare starts."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradvitals._version import __version__
from gradvitals.faces.output import require_place
from gradvitals.frameworks.case import Case, load_case
from gradvitals.vocabulary.errors import InputError, MissingDependencyError
from gradvitals.vocabulary.report import Report

_Progress = Callable[[int, int], None] | None


def planned(target: str, progress: _Progress, *, seed: int, **asked: Any) -> Report:
    """Plan the weights, and say what building the model leaves unset."""
    from gradvitals.weights.verb import plan_init

    case, built = _built(target, seed)
    return _with_unset(plan_init(case, seed=seed, progress=progress, **asked), built)


def saved(target: str, file: Path, progress: _Progress, *, seed: int, **asked: Any) -> Report:
    """Start the weights and write them to a file."""
    from gradvitals.weights.measure import module_of
    from gradvitals.weights.verb import init_

    case, built = _built(target, seed)
    unset = built.table("unset").column("path") if built and built.tables else ()
    state = {path: value.clone() for path, value in module_of(case).state_dict().items() if path in unset}
    report = init_(case, seed=seed, progress=progress, **asked)
    if any(value.equal(module_of(case).state_dict()[path]) for path, value in state.items()):
        report = _with_unset(report, built)  # it isn't a weight that init_ knows
    note = {"gradvitals": __version__, "seed": str(seed), **{key: str(value) for key, value in asked.items()}}
    write_weights(module_of(case), file, note)
    return report


def compared(
    target: str, progress: _Progress, *, starts: Sequence[str], rates: Sequence[float], **asked: Any
) -> Report:
    """Train copies of the model from several starts."""
    from gradvitals.weights.verb_compare import RATES, STARTS, compare_init

    return compare_init(load_case(target), methods=starts or STARTS, rates=rates or RATES, progress=progress, **asked)


def line_to_paste(
    *, method: str, seed: int, distribution: str = "normal", only: Sequence[str] = (), skip: Sequence[str] = ()
) -> str:
    """The call that does what was planned.

    >>> line_to_paste(method="auto", seed=0, skip=["encoder.*"])
    "gradvitals.init_(model, *inputs, method='auto', skip=['encoder.*'], seed=0)"
    """
    more = "" if distribution == "normal" else f", {distribution=}"
    more += "".join(f", {key}={list(patterns)}" for key, patterns in (("only", only), ("skip", skip)) if patterns)
    return f"gradvitals.init_(model, *inputs, {method=}{more}, {seed=})"


def line_to_load(file: str) -> str:
    """The call that loads the weights again, tied ones too."""
    return f"safetensors.torch.load_model(model, {file!r})"


def require_weights_file(file: str, *, overwrite: bool) -> Path:
    """The place for the weights.

    Raises
    ------
    InputError
        On another ending, a folder that can't be written to, or a file that is there already.
    MissingDependencyError
        Without safetensors.

    """
    path, where = Path(file), f"--save {file}"
    try:
        import safetensors  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "safetensors isn't installed", where, "pip install 'gradvitals[safetensors]'"
        ) from error
    if path.suffix != ".safetensors":
        raise InputError("weights are written as safetensors", where, "end the name in .safetensors")
    require_place(path, "--save")
    if path.exists() and not overwrite:
        raise InputError("the file is there already", where, "choose another name, or add --overwrite")
    return path


def write_weights(module: Any, file: Path, note: dict[str, str]) -> None:
    """Write a module's parameters and buffers, tied ones once; the file appears whole or not at all.

    Raises
    ------
    InputError
        When safetensors can't hold a tensor, or the file can't be written.

    """
    from safetensors.torch import save_model

    name = ""
    try:
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        os.close(handle)
        save_model(module, name, metadata=note)
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)  # a temporary file is its owner's alone
        Path(name).replace(file)
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(
            "the weights can't be written", f"--save {file}: {error}", "save model.state_dict() by torch.save"
        ) from error
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


def _built(target: str, seed: int) -> tuple[Case, Report | None]:
    """The case, and what its factory leaves unset; None for what is no module."""
    from gradvitals.weights.verb_build import find_uninitialised

    cases = [load_case(target)]
    torch: Any = sys.modules.get("torch")
    if torch is None or not isinstance(cases[0].model, torch.nn.Module):
        return cases[0], None

    def build() -> Any:
        cases.append(load_case(target))
        return cases[-1].model

    report = find_uninitialised(build, seed=seed)
    return cases[1], report  # built with this seed


def _with_unset(report: Report, built: Report | None) -> Report:
    if built is None or not built.findings:
        return report
    findings = sorted((*built.findings, *report.findings), key=lambda finding: -finding.severity)
    return replace(report, findings=tuple(findings), tables=(*report.tables, *built.tables))
