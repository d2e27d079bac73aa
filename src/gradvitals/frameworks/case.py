"""A case: what is to be examined, and how it is loaded from ``FILE.py:FACTORY``."""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
import tokenize
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gradvitals.vocabulary.errors import GradvitalsError, LoadError, UsageError

#: Calls at the top level of a file by which a script that trains at import is recognised.
_TRAINING_CALLS = frozenset({"backward", "step", "fit", "train_on_batch", "minimize"})


@dataclass(frozen=True)
class Case:
    """A model or callable with the inputs to run it on.

    Parameters
    ----------
    model : torch.nn.Module or callable
        What is examined.
    args : tuple
        Its positional inputs.
    kwargs : mapping, optional
        Its keyword inputs.
    loss : callable, optional
        Maps the model's output to a scalar.
    grad : callable, mapping, tuple or array, optional
        NumPy: the gradient of a scalar function, as a function of the same inputs or as computed values.
    vjp : callable, optional
        NumPy: a layer's hand-written backward pass, ``backward(dout)`` or ``backward(dout, cache)``.
    name : str, optional
        What the report calls it.
    batches : iterable, optional
        What ``compare_init`` trains on in place of the inputs, such as a DataLoader; ``loss`` then takes the output and
        a batch's last item. Verbs that look at one batch take the first.

    Examples
    --------
    >>> import numpy as np
    >>> Case(np.sin, (np.ones(3),), vjp=lambda dout: dout * np.cos(np.ones(3))).subject
    'sin'

    """

    model: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    loss: Callable[[Any], Any] | None = field(default=None, kw_only=True)
    grad: Any = field(default=None, kw_only=True)
    vjp: Callable[..., Any] | None = field(default=None, kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    batches: Iterable[Any] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.model):
            raise UsageError(
                "the model can't be called",
                f"Case(model={type(self.model).__name__})",
                "pass a module or a function, and its inputs behind it",
            )
        if not isinstance(self.args, (tuple, list)):
            raise UsageError(
                "args is not a tuple",
                f"Case(args={type(self.args).__name__})",
                "write Case(model, (x,)): a comma makes the tuple",
            )
        object.__setattr__(self, "args", tuple(self.args))

    @property
    def subject(self) -> str:
        """The name that the report shows."""
        if self.name:
            return self.name
        owner, name = getattr(self.model, "__self__", None), getattr(self.model, "__name__", None)
        if name == "apply" and isinstance(owner, type):  # of an autograd.Function
            return owner.__name__
        return str(name or type(self.model).__name__)

    @property
    def keywords(self) -> dict[str, Any]:
        """The keyword inputs, empty when none were given."""
        return dict(self.kwargs or {})


def as_case(verb: str, model: Any, inputs: tuple[Any, ...], **options: Any) -> Case:
    """Make one Case of what a verb was called with: a model and its inputs, or a Case alone.

    ``options`` are the Case's own fields; with a Case they override its fields where they are not None. Raises
    UsageError when a Case comes with inputs behind it.
    """
    if not isinstance(model, Case):
        return Case(model, inputs, **options)
    if inputs:
        raise UsageError(
            "a Case holds its inputs already",
            f"{verb}(Case(...), and {len(inputs)} more positional input(s))",
            f"call {verb}(case), or {verb}(model, *inputs)",
        )
    given = {key: value for key, value in options.items() if value is not None}
    fields = {key: getattr(model, key) for key in ("kwargs", "loss", "grad", "vjp", "name", "batches")}
    case = Case(model.model, model.args, **{**fields, **given})
    if verb == "compare_init" or "loss" in given:  # the one verb that trains; a loss of its own takes the output alone
        return case
    from gradvitals.frameworks.first_batch import on_first_batch

    return on_first_batch(case)


def load_case(target: str) -> Case:
    """Load ``FILE.py:FACTORY``, call the factory and return its Case.

    The factory takes no arguments and returns a Case, a tuple ``(model, inputs)`` or ``(model, inputs, loss)`` where
    inputs is one input or a tuple of them, or the tuple without a loss.

    Raises
    ------
    LoadError
        When the file isn't there, doesn't import, trains at import, has no such factory, or the factory raises.

    """
    path, made = _load(target)
    if isinstance(made, (Case, tuple)):  # a case that stands in the file
        return _case_from(made, target)
    return _case_from(_call(made, path, target, "it takes no arguments"), target)


def load_sized(target: str) -> Callable[..., Case]:
    """Load ``FILE.py:FACTORY`` where the factory takes a size: ``factory(width)``, ``factory(depth)``, or both by name.

    What is returned has the factory's signature, and gives its Case.

    Raises
    ------
    LoadError
        As :func:`load_case`; what is returned raises it where the factory does.

    """
    path, factory = _load(target)
    if isinstance(factory, (Case, tuple)):
        raise LoadError(
            "a case that stands in the file has one size only",
            f"{target} is a {type(factory).__name__}",
            "write a function of width or depth that returns (model, inputs, loss)",
        )

    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> Case:
        return _case_from(_call(factory, path, target, "it takes a width, a depth or both", *args, **kwargs), target)

    return make


def _load(target: str) -> tuple[Path, Any]:
    """The file, and what it holds under the name."""
    file, separator, name = target.rpartition(":")
    if not separator or not name or not file.endswith(".py"):
        raise LoadError(
            "a case is named FILE.py:FACTORY",
            f"got {target!r}",
            "write for example model.py:make, where make() returns (model, inputs, loss) or a gradvitals.Case",
        )
    path = Path(file)
    if not path.is_file():
        raise LoadError("the file isn't there", f"{path} (in {Path.cwd()})", "check the name and the folder")
    return path, _named(_import(path), path, name)


def _import(path: Path) -> Any:
    """Run the file as a module of its own, or of the package that its folder is, so that its imports work."""
    tree = _parsed(path)
    _refuse_training_at_import(tree, path)
    name, folder = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LoadError("the file can't be imported", str(path), "check that it is a Python file")
    module = importlib.util.module_from_spec(spec)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))  # and it stays, as for a script: the factory may import a neighbour
    try:
        package = name.rpartition(".")[0]
        if package:
            importlib.import_module(package)
        sys.modules[name] = module  # dataclasses and pickling look their module up by name
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        remedy = "make the file importable; what should only run as a script goes under if __name__ == '__main__':"
        if "relative import" in str(error):
            remedy = (
                f"leave out the dot of the import, or make a package of the folder: touch {path.parent}/__init__.py"
            )
        elif isinstance(error, ModuleNotFoundError):
            remedy = f"install the package that holds {error.name}, or correct the import"
        raise LoadError(
            "the file raised while it was imported", f"{_place(error, path)}: {_told(error)}", remedy
        ) from error
    return module


def _parsed(path: Path) -> ast.Module:
    try:
        with tokenize.open(path) as file:  # honours a coding line and a byte order mark, as Python does
            return ast.parse(file.read(), filename=str(path))
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        raise LoadError("the file is not valid Python", f"{path}{line}: {error.msg}", "correct the syntax") from error
    except ValueError as error:  # an undecodable byte, a null byte
        raise LoadError("the file is not readable as Python", f"{path}: {error}", "save it as UTF-8 text") from error
    except OSError as error:
        raise LoadError("the file can't be read", f"{path}: {error.strerror}", "check its permissions") from error


def _module_name(path: Path) -> tuple[str, Path]:
    """The name to import a file under, and the folder that its absolute imports start from."""
    folder = path.resolve().parent
    parts = [path.stem]
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    name = ".".join(parts)
    return (f"{name}_case" if name in sys.modules else name), folder  # a file called random.py hides no other module


def _named(module: Any, path: Path, name: str) -> Any:
    found = getattr(module, name, None)
    if isinstance(found, (Case, tuple)) or callable(found):
        return found
    functions = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    raise LoadError(
        f"{path.name} has no function {name!r}",
        f"{path}:{name}",
        f"its functions and classes are: {', '.join(functions) or 'none'}",
    )


def _call(factory: Any, path: Path, target: str, takes: str, *args: Any, **kwargs: Any) -> Any:
    try:
        return factory(*args, **kwargs)
    except (Exception, SystemExit) as error:
        remedy = f"call it by hand to see it fail; {takes} and returns (model, inputs, loss) or a Case"
        given = ", ".join([*map(str, args), *(f"{key}={value}" for key, value in kwargs.items())])
        raise LoadError(
            f"the factory {target.rpartition(':')[2]}({given}) raised",
            f"{_place(error, path)}: {_told(error)}",
            error.remedy if isinstance(error, GradvitalsError) else remedy,
        ) from error


def _told(error: BaseException) -> str:
    """An exception in one line."""
    said = f"{error.what}, {error.where}" if isinstance(error, GradvitalsError) else " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _case_from(made: Any, target: str) -> Case:
    name = target.rpartition(":")[2]
    if isinstance(made, Case):
        return made if made.name else replace(made, name=name)
    if isinstance(made, tuple) and len(made) in (2, 3) and callable(made[0]):
        model, inputs, *loss = made
        args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
        return Case(model, args, loss=loss[0] if loss else None, name=name)
    raise LoadError(
        f"{name}() returned something else than a case",
        f"{target} returned {type(made).__name__}",
        "return (model, inputs, loss), (model, inputs) or a gradvitals.Case",
    )


def _refuse_training_at_import(tree: ast.Module, path: Path) -> None:
    """What calls backward(), step() or fit() at the top level would train while we import: say so instead."""
    functions = {node.name: list(_calls(node.body)) for node in tree.body if isinstance(node, ast.FunctionDef)}
    training: set[str] = set()  # those of them that train, or call one that does
    while more := {name for name, calls in functions.items() if any(_trains(c, training) for c in calls)} - training:
        training |= more
    # An `if` at the top is a main guard or a version switch: its author chose a condition.
    for call in _calls(statement for statement in tree.body if not isinstance(statement, ast.If)):
        if _trains(call, training):
            raise LoadError(
                "this script would train while it is imported: it has no main guard",
                f"{path}:{call.lineno}: {ast.unparse(call)[:80]}",
                "put what trains under if __name__ == '__main__': and give a factory of (model, inputs, loss)",
            )


def _calls(statements: Iterable[ast.AST]) -> Iterator[ast.Call]:
    """All calls that running the statements makes; what only defines a function makes none."""
    for node in statements:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            if isinstance(node, ast.Call):
                yield node
            yield from _calls(ast.iter_child_nodes(node))


def _trains(call: ast.Call, functions: Container[str]) -> bool:
    return getattr(call.func, "attr", "") in _TRAINING_CALLS or getattr(call.func, "id", "") in functions


def _place(error: BaseException, path: Path) -> str:
    """File and line where the user's code raised."""
    trace, line = error.__traceback__, None
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) in (path, path.resolve()):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{path}:{line}" if line else str(path)
