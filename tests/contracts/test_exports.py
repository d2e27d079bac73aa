"""What the package promises to those who import it, and the rules of the house that a machine can check."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT

import gradvitals
from gradvitals.vocabulary import NAMES, Rule
from gradvitals.vocabulary.words import LANGUAGES, locale

SOURCE = ROOT / "src" / "gradvitals"
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
STARTERS = "faces/starters/"
VERBS = ("check", "checkup", "compare_init", "init_", "plan_init", "predict", "probe", "scaling")
VOCABULARY = (
    "Case", "Estimate", "Finding", "GradvitalsError", "InputError", "LoadError", "MissingDependencyError",
    "ModelError", "Report", "Rule", "Severity", "Site", "Table", "UnresolvedGradientWarning", "UsageError",
    "Verdict", "VerdictError",
)  # fmt: skip
#: What stands beside the verbs: the check as an assertion, and a mark for functions.
BESIDE = ("assert_gradients", "surrogate")
#: A module of functions.
MODULES = ("theory",)


def nodes(kind: type[ast.AST]) -> Iterator[tuple[str, Any]]:
    """All nodes of a kind in the package, with the file and line where they stand."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, kind):
                yield f"{name}:{getattr(node, 'lineno', 0)}", node


def test_the_exports_are_exactly_these() -> None:
    assert sorted(gradvitals.__all__) == sorted((*VERBS, *BESIDE, *MODULES, *VOCABULARY, "__version__"))
    assert dir(gradvitals) == sorted(gradvitals.__all__)
    for name in gradvitals.__all__:
        assert getattr(gradvitals, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'chek'"):
        gradvitals.chek  # noqa: B018


def test_importing_everything_by_star_works() -> None:
    names: dict[str, Any] = {}
    exec("from gradvitals import *", names)  # noqa: S102
    assert set(gradvitals.__all__) <= set(names)


def test_no_package_has_the_name_of_a_verb() -> None:
    packages = {module.name for module in pkgutil.iter_modules([str(SOURCE)])}
    assert packages & set(gradvitals.__all__) == set()


@pytest.mark.parametrize("name", [*VERBS, *BESIDE])
def test_every_verb_says_what_it_takes_gives_and_raises(name: str) -> None:
    said = inspect.getdoc(getattr(gradvitals, name)) or ""
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"{section}\n{'-' * len(section)}" in said, section
    for parameter in inspect.signature(getattr(gradvitals, name)).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD:
            assert parameter.name in said, parameter.name


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_takes_a_model_and_inputs_by_position_and_the_rest_by_name(name: str) -> None:
    model, inputs, *others = inspect.signature(getattr(gradvitals, name)).parameters.values()
    assert model.kind is model.POSITIONAL_OR_KEYWORD
    assert inputs.kind is inputs.VAR_POSITIONAL
    assert all(other.kind in (other.KEYWORD_ONLY, other.VAR_KEYWORD) for other in others)
    assert {"loss", "kwargs", "seed", "name", "progress"} <= {other.name for other in others}


@pytest.mark.parametrize("name", [name for name in VOCABULARY if name != "Case"])
def test_the_exported_words_are_described(name: str) -> None:
    assert inspect.getdoc(getattr(gradvitals, name))


def test_the_package_says_that_it_is_typed() -> None:
    assert (SOURCE / "py.typed").exists()


# ---- the rules of the house ----


def test_nothing_is_validated_by_an_assertion() -> None:
    assert [where for where, _ in nodes(ast.Assert)] == []


def test_nothing_is_printed_but_by_the_starters() -> None:
    printed = [where for where, call in nodes(ast.Call) if getattr(call.func, "id", "") == "print"]
    assert [where for where in printed if not where.startswith(STARTERS)] == []


def test_no_file_holds_two_ideas() -> None:
    long = {path.relative_to(SOURCE).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_no_module_has_a_name_without_meaning() -> None:
    meaningless = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    assert [name for name in TREES if meaningless & set(Path(name).with_suffix("").parts)] == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [name for name, tree in TREES.items() if not ast.get_docstring(tree) and tree.body]
    assert silent == []


def test_exceptions_raised_on_purpose_are_ours_or_a_programmers() -> None:
    """Of the built-in exceptions only those that tell a programmer of a wrong call inside the house are raised."""
    allowed = {"ValueError", "TypeError", "KeyError", "AttributeError", "NotImplementedError", "KeyboardInterrupt"}
    raised = {
        (where, name)
        for where, node in nodes(ast.Raise)
        if isinstance(node.exc, ast.Call) and (name := getattr(node.exc.func, "id", "")).endswith("Error")
        if name not in allowed and not hasattr(gradvitals, name)
    }
    assert raised == set()


# ---- the rules of the wings ----


def rules() -> dict[str, Rule]:
    """Every Rule that a wing holds, wherever in its modules it stands."""
    found: dict[str, Rule] = {}
    for wing in ("gradients", "signals", "weights"):
        package = importlib.import_module(f"gradvitals.{wing}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for name, value in vars(importlib.import_module(module.name)).items():
                values = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
                found |= {f"{module.name}.{name}": rule for rule in values if isinstance(rule, Rule)}
    return found


def test_every_wing_has_rules() -> None:
    codes = {rule.code[0] for rule in rules().values()}
    assert codes == {"G", "S", "W"}


def test_every_rule_has_words_and_sourced_thresholds() -> None:
    for where, rule in rules().items():
        assert rule.code in NAMES, where
        for lang in LANGUAGES:
            assert rule.code in locale(lang)["findings"], where
        for name, threshold in rule.thresholds.items():
            assert threshold.source.strip(), f"{where}: {name}"
            assert threshold.unit.strip(), f"{where}: {name}"


def test_every_code_of_the_catalogue_belongs_to_a_rule_or_is_raised_by_its_wing() -> None:
    """A code that nothing can find would be a promise that isn't kept."""
    sources = "".join(path.read_text(encoding="utf-8") for path in FILES if "vocabulary" not in path.parts)
    assert {code for code in NAMES if f'"{code}"' not in sources} == set()


def test_this_test_looks_at_the_package_that_is_tested() -> None:
    assert Path(inspect.getfile(sys.modules["gradvitals"])).parent == SOURCE
