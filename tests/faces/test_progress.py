"""The progress bar: on a terminal, on standard error, after a second; otherwise nothing at all."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faces.conftest import command, environment

from gradvitals.faces import progress
from gradvitals.faces.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_short_work_draws_no_bar(terminal: Terminal, clock: list[float]) -> None:
    with contextlib.redirect_stderr(terminal), progress_bar("check") as tell:
        assert tell is not None
        for done in range(10):
            clock[0] += 0.09
            tell(done, 10)
    assert terminal.getvalue() == ""


def test_longer_work_draws_a_bar_that_goes_away_at_the_end(terminal: Terminal, clock: list[float]) -> None:
    with contextlib.redirect_stderr(terminal), progress_bar("check") as tell:
        assert tell is not None
        clock[0] += 1.1
        tell(3, 10)
        tell(12, 10)
    drawn = terminal.getvalue()
    assert "check" in drawn
    assert "/10" in drawn
    assert drawn.rstrip().endswith("\x1b[2K")  # the line is erased


def test_the_bar_goes_away_on_an_exception_too(terminal: Terminal, clock: list[float]) -> None:
    draw = contextlib.redirect_stderr(terminal)
    with pytest.raises(KeyboardInterrupt), draw, progress_bar("check") as tell:  # noqa: PT012
        assert tell is not None
        clock[0] += 2
        tell(1, 10)
        raise KeyboardInterrupt
    assert terminal.getvalue().rstrip().endswith("\x1b[2K")


def test_nothing_is_told_when_quiet_or_off_a_terminal(terminal: Terminal) -> None:
    with contextlib.redirect_stderr(terminal), progress_bar("check", quiet=True) as tell:
        assert tell is None
    with contextlib.redirect_stderr(io.StringIO()), progress_bar("check") as tell:
        assert tell is None


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal is Unix's")
@pytest.mark.parametrize("quiet", [False, True])
def test_a_real_terminal_sees_the_bar_on_standard_error_only(folder: Path, quiet: bool) -> None:
    import pty

    (folder / "slow.py").write_text(
        "import time\nimport numpy as np\nimport gradvitals as gv\n"
        "def f(x):\n    time.sleep(0.2)\n    return (x**2).sum()\n"
        "def make(): return gv.Case(f, (np.ones(3),), grad=lambda x: 2 * x)\n",
        encoding="utf-8",
    )
    ours, theirs = pty.openpty()
    arguments = [str(command()), "check", "slow.py:make", "--json", "report.json", *(["-q"] if quiet else [])]
    with subprocess.Popen(
        arguments, env={**environment(), "TERM": "xterm"}, stdout=subprocess.PIPE, stderr=theirs, text=True
    ) as process:
        os.close(theirs)
        drawn = b""
        while chunk := _read(ours):
            drawn += chunk
        out, _ = process.communicate(timeout=30)
    os.close(ours)
    assert process.returncode == 0
    assert (b"check" in drawn and b"%" in drawn) == (not quiet)
    assert ("PASS" in out) == (not quiet)
    assert "%" not in out


def _read(terminal: int) -> bytes:
    """What was written; nothing once the other side has closed, which Linux reports as an error."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""
