"""A case: what is to be examined, and how it is loaded from ``FILE.py:FACTORY``."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradvitals.vocabulary.errors import LoadError, UsageError

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
        return str(getattr(self.model, "__name__", None) or type(self.model).__name__)

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
    fields = {key: getattr(model, key) for key in ("kwargs", "loss", "grad", "vjp", "name")}
    return Case(model.model, model.args, **{**fields, **given})


def load_case(target: str) -> Case:
    """Load ``FILE.py:FACTORY``, call the factory and return its Case.

    The factory takes no arguments and returns a Case, a tuple ``(model, inputs)`` or ``(model, inputs, loss)`` where
    inputs is one input or a tuple of them, or the tuple without a loss.

    Raises
    ------
    LoadError
        When the file isn't there, doesn't import, trains at import, has no such factory, or the factory raises.

    """
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
    return _case_from(_call(_import(path), path, name), target)


def _import(path: Path) -> Any:
    """Run the file as a module of its own, with its folder importable as it would be for a script."""
    source = path.read_text(encoding="utf-8")
    try:
        tree = ast.parse(source, filename=str(path))
    except SyntaxError as error:
        raise LoadError(
            "the file is not valid Python", f"{path}:{error.lineno}: {error.msg}", "correct the syntax"
        ) from error
    _refuse_training_at_import(tree, path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise LoadError("the file can't be imported", str(path), "check that it is a Python file")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    known = sys.modules.get(path.stem)
    sys.path.insert(0, folder)
    sys.modules[path.stem] = module  # dataclasses and pickling look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        if known is None:
            sys.modules.pop(path.stem, None)
        else:
            sys.modules[path.stem] = known
        raise LoadError(
            "the file raised while it was imported",
            f"{_place(error, path)}: {type(error).__name__}: {error}",
            "make the file importable; what should only run as a script goes under if __name__ == '__main__':",
        ) from error
    finally:
        sys.path.remove(folder)
    return module


def _call(module: Any, path: Path, name: str) -> Any:
    factory = getattr(module, name, None)
    if not callable(factory):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise LoadError(
            f"{path.name} has no function {name!r}",
            f"{path}:{name}",
            f"its callables are: {', '.join(functions) or 'none'}",
        )
    try:
        return factory()
    except Exception as error:
        raise LoadError(
            f"the factory {name}() raised",
            f"{_place(error, path)}: {type(error).__name__}: {error}",
            "call it by hand to see it fail; it takes no arguments and returns (model, inputs, loss) or a Case",
        ) from error


def _case_from(made: Any, target: str) -> Case:
    name = target.rpartition(":")[2]
    if isinstance(made, Case):
        return made
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
    """A loop at the top level that calls backward(), step() or fit() would train while we import: say so instead."""
    for statement in tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If)):
            continue  # an `if` at the top is a main guard or a version switch; its author chose a condition
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in _TRAINING_CALLS:
                raise LoadError(
                    "this script would train while it is imported: it has no main guard",
                    f"{path}:{node.lineno}: {ast.unparse(node)[:80]}",
                    "put what trains under if __name__ == '__main__': and give a factory of (model, inputs, loss)",
                )


def _place(error: BaseException, path: Path) -> str:
    """File and line where the user's code raised."""
    trace, line = error.__traceback__, None
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) in (path, path.resolve()):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{path}:{line}" if line else str(path)
