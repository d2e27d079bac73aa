"""Loading FILE.py:FACTORY: what works as a script works here, and whatever is wrong is said with file and line."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gradvitals.frameworks.case import Case, load_case
from gradvitals.vocabulary import LoadError

Write = Callable[..., Path]

SQUARE = """
import numpy as np
import gradvitals as gv

def make():
    return gv.Case(lambda x: (x**2).sum(), (np.ones(3),), grad=lambda x: 2 * x, name="square")
"""


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Loading leaves the file's folder importable, as for a script: the next test must not see it."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith(("torch", "numpy", "gradvitals")):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(source: str | bytes, name: str = "model_file.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source if isinstance(source, bytes) else textwrap.dedent(source).encode())
        return path

    return write


def refusal(target: str) -> LoadError:
    with pytest.raises(LoadError) as caught:
        load_case(target)
    return caught.value


def test_a_case_comes_back_as_it_was_made(write: Write) -> None:
    case = load_case(f"{write(SQUARE)}:make")
    assert (case.subject, case.model(*case.args)) == ("square", 3.0)


def test_a_case_without_a_name_has_its_factorys(write: Write) -> None:
    source = "import gradvitals as gv\ndef make(): return gv.Case(abs, (1.0,))\n"
    assert load_case(f"{write(source)}:make").subject == "make"


@pytest.mark.parametrize(
    ("returned", "args", "has_loss"),
    [
        ("abs, 1.0", (1.0,), False),
        ("abs, (1.0,)", (1.0,), False),
        ("abs, [1.0, 2.0]", (1.0, 2.0), False),
        ("max, (1.0, 2.0), float", (1.0, 2.0), True),
        ("abs, 1.0, None", (1.0,), False),
        ("abs, ()", (), False),
    ],
)
def test_tuples_are_cases(write: Write, returned: str, args: tuple[float, ...], has_loss: bool) -> None:
    case = load_case(f"{write(f'def make():{chr(10)}    return {returned}')}:make")
    assert (case.subject, case.args, case.loss is not None) == ("make", args, has_loss)


@pytest.mark.parametrize("returned", ["3", "None", "(3, 4)", "(abs,)", "(abs, 1.0, None, 5)", "[abs, 1.0]", "abs"])
def test_a_factory_that_returns_something_else_is_refused(write: Write, returned: str) -> None:
    error = refusal(f"{write(f'make = lambda: {returned}')}:make")
    assert error.what == "make() returned something else than a case"
    assert "return (model, inputs, loss)" in error.remedy


@pytest.mark.parametrize("target", ["model.py", "model.py:", ":make", "model:make", "model.txt:make", ""])
def test_a_target_that_is_not_a_file_and_a_factory_is_explained(target: str) -> None:
    error = refusal(target)
    assert error.what == "a case is named FILE.py:FACTORY"
    assert repr(target) in error.where


def test_a_file_that_is_not_there_names_the_folder_that_was_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = refusal("nowhere.py:make")
    assert error.what == "the file isn't there"
    assert str(tmp_path) in error.where


def test_a_folder_called_like_a_file_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    assert refusal(f"{tmp_path}/folder.py:make").what == "the file isn't there"


def test_a_missing_factory_names_the_ones_there_are(write: Write) -> None:
    error = refusal(f"{write('import math' + chr(10) + 'def build(): ...' + chr(10) + 'class Net: ...')}:make")
    assert error.what == "model_file.py has no function 'make'"
    assert error.remedy == "its functions and classes are: build, Net"


def test_a_factory_that_raises_names_its_line(write: Write) -> None:
    path = write("def make():\n    x = 1\n    return {}['key']\n")
    error = refusal(f"{path}:make")
    assert error.what == "the factory make() raised"
    assert error.where == f"{path}:3: KeyError: 'key'"
    assert isinstance(error.__cause__, KeyError)


def test_the_line_is_that_of_the_file_not_of_a_library_below(write: Write) -> None:
    path = write("import numpy as np\ndef make():\n    return np.ones(3) @ np.ones(4)\n")
    assert f"{path}:3: ValueError" in refusal(f"{path}:make").where


def test_a_factory_with_arguments_is_told_that_it_takes_none(write: Write) -> None:
    error = refusal(f"{write('def make(width): ...')}:make")
    assert "missing 1 required positional argument: 'width'" in error.where
    assert "takes no arguments" in error.remedy


def test_misuse_of_a_case_in_the_factory_keeps_its_own_remedy(write: Write) -> None:
    path = write("import gradvitals as gv\ndef make():\n    return gv.Case(3, (1.0,))\n")
    error = refusal(f"{path}:make")
    assert error.where == f"{path}:3: UsageError: the model can't be called, Case(model=int)"
    assert "pass a module or a function" in error.remedy


def test_a_syntax_error_names_its_line(write: Write) -> None:
    path = write("x = 1\ndef make(:\n")
    error = refusal(f"{path}:make")
    assert error.what == "the file is not valid Python"
    assert error.where.startswith(f"{path}:2: ")


@pytest.mark.parametrize("source", [b"x = '\xe9'\n", b"x = 1\0\n", b"# coding: nonsense\n"])
def test_bytes_that_are_not_python_are_refused(write: Write, source: bytes) -> None:
    path = write(source)
    assert str(path) in refusal(f"{path}:make").where


@pytest.mark.parametrize(
    "source", [b"\xef\xbb\xbf" + SQUARE.encode(), b"# coding: latin-1\n# \xe9\n" + SQUARE.encode()]
)
def test_a_byte_order_mark_and_a_coding_line_are_honoured(write: Write, source: bytes) -> None:
    assert load_case(f"{write(source)}:make").subject == "square"


def test_a_file_that_raises_at_import_names_its_line_and_is_forgotten(write: Write) -> None:
    path = write("x = 1\n\nraise RuntimeError('two\\nlines')\n")
    error = refusal(f"{path}:make")
    assert error.where == f"{path}:3: RuntimeError: two lines"
    assert "model_file" not in sys.modules


@pytest.mark.parametrize("source", ["import sys\nsys.exit(0)\ndef make(): ...", "def make():\n    raise SystemExit"])
def test_a_file_that_ends_the_program_is_no_pass(write: Write, source: str) -> None:
    assert "SystemExit" in refusal(f"{write(source)}:make").where


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("for step in range(9):\n    loss.backward()\n", 2),
        ("optimizer.step()\n", 1),
        ("model.fit(x, y)\n", 1),
        ("with profile():\n    while True:\n        scaler.step(optimizer)\n", 3),
        ("def train():\n    loss.backward()\ntrain()\n", 3),
        ("def train():\n    loss.backward()\ndef main():\n    train()\n\nmain()\n", 6),
    ],
)
def test_a_script_that_would_train_at_import_is_refused_before_it_runs(write: Write, source: str, line: int) -> None:
    path = write(f"{source}def make(): ...\n")
    error = refusal(f"{path}:make")
    assert error.what == "this script would train while it is imported: it has no main guard"
    assert error.where.startswith(f"{path}:{line}: ")
    assert "if __name__ == '__main__':" in error.remedy


@pytest.mark.parametrize(
    "before",
    [
        "def train():\n    loss.backward()\n",
        "class Trainer:\n    def go(self):\n        self.optimizer.step()\n",
        "if __name__ == '__main__':\n    optimizer.step()\n",
        "advance = lambda optimizer: optimizer.step()\n",
        "def run():\n    loss.backward()\nimport types\ntypes.SimpleNamespace(run=print).run()\n",
    ],
)
def test_what_only_defines_training_is_loaded(write: Write, before: str) -> None:
    assert load_case(f"{write(before + SQUARE)}:make").subject == "square"


def test_a_neighbour_can_be_imported_at_the_top_and_in_the_factory(write: Write) -> None:
    write("POWER = 2", "neighbour_at_top.py")
    write("POWER = 3", "neighbour_in_factory.py")
    source = """
        from neighbour_at_top import POWER

        def make():
            import neighbour_in_factory
            return (lambda x: x ** (POWER + neighbour_in_factory.POWER)), 2.0
    """
    case = load_case(f"{write(source)}:make")
    assert case.model(*case.args) == 32.0


def test_relative_imports_work_inside_a_package(write: Write) -> None:
    for name in ("my_package/__init__.py", "my_package/models/__init__.py"):
        write("", name)
    write("POWER = 2", "my_package/settings.py")
    write("BASE = 3.0", "my_package/models/base.py")
    path = write(
        "from ..settings import POWER\nfrom .base import BASE\ndef make(): return (lambda x: x**POWER), BASE\n",
        "my_package/models/net.py",
    )
    case = load_case(f"{path}:make")
    assert case.model(*case.args) == 9.0


def test_a_relative_import_without_a_package_says_what_to_do(write: Write) -> None:
    write("POWER = 2", "neighbour.py")
    path = write("from .neighbour import POWER\n")
    error = refusal(f"{path}:make")
    assert f"{path}:1" in error.where
    assert "leave out the dot" in error.remedy


def test_a_package_that_is_not_installed_is_named(write: Write) -> None:
    error = refusal(f"{write('import a_package_that_nobody_has')}:make")
    assert error.remedy == "install the package that holds a_package_that_nobody_has, or correct the import"


def test_a_file_called_like_a_known_module_hides_nothing(write: Write) -> None:
    import random

    assert load_case(f"{write(SQUARE, 'random.py')}:make").subject == "square"
    assert sys.modules["random"] is random


def test_dataclasses_in_the_file_find_their_module(write: Write) -> None:
    source = """
        from __future__ import annotations
        from dataclasses import dataclass

        @dataclass(slots=True)
        class Settings:
            power: int = 2

        def make():
            return (lambda x: x ** Settings().power), 3.0
    """
    case = load_case(f"{write(source)}:make")
    assert case.model(*case.args) == 9.0


def test_a_case_needs_something_callable_and_a_tuple() -> None:
    with pytest.raises(TypeError, match="the model can't be called"):
        Case(3)
    with pytest.raises(TypeError, match="a comma makes the tuple"):
        Case(np.sin, np.ones(3))
