"""Write a runnable starter file: the place for one's own code, with a case around it."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from gradvitals.vocabulary.errors import InputError


def write_starter(path: Path, kind: str) -> None:
    """Copy the starter of a kind (``numpy``, ``module`` or ``function``) to a new file.

    Raises
    ------
    InputError
        When the file is there already, isn't called ``*.py``, or its folder isn't there.

    """
    if path.suffix != ".py":
        raise InputError("a starter is a Python file", f"--write {path}", "end its name in .py")
    if not path.parent.is_dir():
        raise InputError("the folder isn't there", f"--write {path}", f"make the folder {path.parent} first")
    source = importlib.resources.files("gradvitals.faces") / "starters" / f"{kind}_starter.py"
    text = source.read_text(encoding="utf-8").replace("STARTER", path.name)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(
            "the file is there already", f"--write {path}", "choose another name; nothing was overwritten"
        ) from error
