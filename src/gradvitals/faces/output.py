"""What the command line makes of a report: what is printed, which files are written, and the exit code."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradvitals.vocabulary.errors import InputError
from gradvitals.vocabulary.report import Verdict
from gradvitals.vocabulary.words import LANGUAGES

if TYPE_CHECKING:
    from gradvitals.vocabulary.report import Report

#: Exit codes besides 0, which is pass or warn.
FAILED, MISUSED, INCONCLUSIVE, INTERRUPTED = 1, 2, 3, 130

#: The largest seed that every generator takes: NumPy's legacy one ends here.
_LAST_SEED = 2**32 - 1

_Command = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Output:
    """The options that say where a report goes."""

    json_file: str | None
    html_file: str | None
    form: str
    lang: str
    strict: bool
    quiet: bool

    @property
    def speaks(self) -> bool:
        """Whether anything is printed for people: not with --quiet, nor where JSON has the standard output."""
        return not self.quiet and self.json_file != "-"

    def require_places(self) -> None:
        """Raise InputError where a file can't be written, before the work is done rather than after."""
        for option, name in (("--json", self.json_file), ("--html", self.html_file)):
            if name and name != "-":
                require_place(Path(name), option)

    def standard_output_kept(self) -> contextlib.AbstractContextManager[Any]:
        """While the user's code runs, what it prints goes to standard error if JSON has the standard output."""
        return contextlib.redirect_stdout(sys.stderr) if self.json_file == "-" else contextlib.nullcontext()

    def deliver(self, report: Report, *, opening: str = "", closing: str = "") -> int:
        """Write and print the report; return the exit code of its verdict."""
        if self.json_file and self.json_file != "-":
            report.save(self.json_file, form="json", lang=self.lang)
        if self.html_file:
            report.save(self.html_file, form="html", lang=self.lang)
        if self.json_file == "-":
            click.echo(report.to_json(lang=self.lang))
        if self.speaks:
            self._print(report, opening, closing)
        codes = {
            Verdict.FAIL: FAILED,
            Verdict.INCONCLUSIVE: INCONCLUSIVE,
            Verdict.WARN: FAILED if self.strict else 0,
        }
        return codes.get(report.verdict, 0)

    def _print(self, report: Report, opening: str, closing: str) -> None:
        from gradvitals.render.text import print_report

        if opening:
            click.echo(f"{opening}\n")
        print_report(report, lang=self.lang)
        for file in filter(None, (self.json_file, self.html_file)):
            click.echo(f"-> {file}")
        if closing:
            click.echo(closing)


def require_place(file: Path, option: str) -> None:
    """Raise InputError where a file can't be written."""
    if file.is_dir():
        raise InputError("this is a folder", f"{option} {file}", "name a file in it")
    if not file.parent.is_dir():
        raise InputError("the folder isn't there", f"{option} {file}", f"make the folder {file.parent} first")
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise InputError(
            "nothing can be written to this folder",
            f"{option} {file}: {error.strerror}",
            "choose another place for it",
        ) from error


def language_option(command: _Command) -> _Command:
    """Add --lang."""
    tags = click.Choice(LANGUAGES, case_sensitive=False)
    return click.option("--lang", type=tags, default="en", show_default=True, help="The report's language.")(command)


def output_options(*, html: str | None = None) -> Callable[[_Command], _Command]:
    """Add the options that every examining command has; ``html`` is where the page goes unless said otherwise."""
    options: list[Callable[[_Command], _Command]] = [
        click.option("--json", "json_file", metavar="FILE|-", help="Write the report as JSON; - is standard output."),
        click.option(
            "--html", "html_file", metavar="FILE", default=html, show_default=html is not None,
            help="Write the report as a self-contained HTML page.",
        ),
        click.option(
            "--format", "form", type=click.Choice(["text"]), default="text", show_default=True, help="What is printed."
        ),
        language_option,
        click.option("--strict", is_flag=True, help="Exit with 1 on a warning too."),
        click.option(
            "--seed", type=click.IntRange(0, _LAST_SEED), default=0, show_default=True,
            help="Seed of everything random.",
        ),
        click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors."),
    ]  # fmt: skip

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add
