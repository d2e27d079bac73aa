"""Write a runnable starter file: the place for one's own code, with a case around it."""

from __future__ import annotations

from pathlib import Path

from gradvitals.vocabulary.errors import InputError

#: The kinds of starter, and the command that examines each.
STARTERS = {"numpy": "check", "module": "checkup", "function": "check"}

#: What the starters import: a file of that name would be imported in its place.
_IMPORTED = frozenset({"gradvitals", "numpy", "torch"})


def write_starter(path: Path, kind: str) -> None:
    """Copy the starter of a kind (``numpy``, ``module`` or ``function``) to a new file.

    Raises
    ------
    InputError
        When the file is there already, isn't called ``*.py``, hides a package, or can't be written.

    """
    import importlib.resources

    where = f"--write {path}"
    if path.suffix != ".py":
        raise InputError("a starter is a Python file", where, "end its name in .py")
    if path.stem in _IMPORTED:
        raise InputError(
            f"a file of this name hides the package {path.stem}", where, "choose another name, such as mine.py"
        )
    if not path.parent.is_dir():
        raise InputError("the folder isn't there", where, f"make the folder {path.parent} first")
    source = importlib.resources.files("gradvitals.faces") / "starters" / f"{kind}_starter.py"
    text = source.read_text(encoding="utf-8").replace("STARTER", path.name)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError("the file is there already", where, "choose another name; nothing was overwritten") from error
    except OSError as error:
        raise InputError("the file can't be written", f"{where}: {error.strerror}", "choose another place") from error
