"""The command line: thin shells around the verbs. Whatever is slow to import is imported by the command that needs
it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradvitals._version import __version__
from gradvitals.vocabulary.errors import GradvitalsError
from gradvitals.vocabulary.words import LANGUAGES

if TYPE_CHECKING:
    from gradvitals.vocabulary.report import Report

#: Exit codes: 0 pass or warn, then these.
FAILED, MISUSED, INCONCLUSIVE, INTERRUPTED = 1, 2, 3, 130


class _Verbs(click.Group):
    """Commands in the order in which people meet them; our own errors end with exit code 2 and their three parts."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return ["demo", "checkup", "check", "probe", "init", "explain"]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GradvitalsError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(MISUSED)
        except KeyboardInterrupt:
            click.echo("interrupted; the model and the files are as they were", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gradvitals")
def main() -> None:
    """The vital signs of gradients: is the backward pass right, does the signal survive the depth, do the weights
    start well?

    Cases are named FILE.py:FACTORY, where FACTORY() returns (model, inputs, loss) or a gradvitals.Case.

    Exit codes: 0 pass or warning, 1 fail, 2 misuse, 3 inconclusive.
    """


def _output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every examining command has."""
    options = [
        click.option("--json", "json_file", metavar="FILE|-", help="Write the report as JSON; - is standard output."),
        click.option("--html", "html_file", metavar="FILE", help="Write the report as a self-contained HTML page."),
        click.option(
            "--format", "form", type=click.Choice(["text"]), default="text", show_default=True, help="What is printed."
        ),
        click.option(
            "--lang", type=click.Choice(LANGUAGES), default="en", show_default=True, help="The report's language."
        ),
        click.option("--strict", is_flag=True, help="Exit with 1 on a warning too."),
        click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random."),
        click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _target(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("target", metavar="FILE.py:FACTORY")(command)


def _sensitivity(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "The relative error that must be resolved. [1e-4 in float64, 1e-3 in float32, 1e-1 in 16-bit formats]"
    return click.option("--sensitivity", type=float, help=text)(command)


def _finish(
    report: Report, *, json_file: str | None, html_file: str | None, lang: str, strict: bool, quiet: bool, **_: Any
) -> None:
    """Print and write the report, and exit with the code of its verdict."""
    from gradvitals.vocabulary.report import Verdict

    if json_file == "-":
        click.echo(report.to_json(lang=lang))
    elif json_file:
        _save_json(report, Path(json_file), lang)
    if html_file:
        report.save(html_file, lang=lang)
    if not quiet and json_file != "-":
        from gradvitals.render.text import print_report

        print_report(report, lang=lang)
        for file in (json_file, html_file):
            if file:
                click.echo(f"-> {file}")
    codes = {Verdict.FAIL: FAILED, Verdict.INCONCLUSIVE: INCONCLUSIVE, Verdict.WARN: FAILED if strict else 0}
    sys.exit(codes.get(report.verdict, 0))


def _save_json(report: Report, path: Path, lang: str) -> None:
    """--json says the format, whatever the file's ending."""
    if path.suffix.lower() == ".json":
        report.save(path, lang=lang)
    else:
        path.write_text(report.to_json(lang=lang) + "\n", encoding="utf-8")


@main.command()
@_target
@_output_options
@_sensitivity
def checkup(target: str, *, sensitivity: float | None, seed: int, **output: Any) -> None:
    """Ask the three questions at once; change nothing."""
    from gradvitals import checkup as verb
    from gradvitals.faces.progress import progress_bar
    from gradvitals.frameworks.case import load_case

    case = load_case(target)
    with progress_bar("checkup", quiet=output["quiet"]) as progress:
        report = verb(case, sensitivity=sensitivity, seed=seed, progress=progress)
    _finish(report, **output)


@main.command()
@_target
@_output_options
@_sensitivity
@click.option(
    "--wrt", multiple=True, metavar="PATTERN", help="Check these tensors only, such as 'encoder.*'; may be repeated."
)
def check(target: str, *, sensitivity: float | None, wrt: tuple[str, ...], seed: int, **output: Any) -> None:
    """Is the backward pass right?"""
    from gradvitals import check as verb
    from gradvitals.faces.progress import progress_bar
    from gradvitals.frameworks.case import load_case

    case = load_case(target)
    with progress_bar("check", quiet=output["quiet"]) as progress:
        report = verb(case, sensitivity=sensitivity, wrt=wrt or None, seed=seed, progress=progress)
    _finish(report, **output)


@main.command()
@_target
@_output_options
def probe(target: str, *, seed: int, **output: Any) -> None:
    """Does the signal survive the depth, forwards and backwards?"""
    from gradvitals import probe as verb
    from gradvitals.faces.progress import progress_bar
    from gradvitals.frameworks.case import load_case

    case = load_case(target)
    with progress_bar("probe", quiet=output["quiet"]) as progress:
        report = verb(case, seed=seed, progress=progress)
    _finish(report, **output)


@main.command()
@_target
@_output_options
@click.option("--method", default="auto", show_default=True, help="auto, lecun, xavier, he or orthogonal.")
@click.option("--distribution", type=click.Choice(["normal", "uniform"]), default="normal", show_default=True)
def init(target: str, *, method: str, distribution: str, seed: int, **output: Any) -> None:
    """Do the weights start well? Print the plan, and the line to paste."""
    from gradvitals import plan_init
    from gradvitals.frameworks.case import load_case

    case = load_case(target)
    report = plan_init(case, method=method, distribution=distribution, seed=seed)
    if not output["quiet"] and output["json_file"] != "-":
        more = "" if distribution == "normal" else f", distribution={distribution!r}"
        click.echo(f"The line to paste:  gradvitals.init_(model, *inputs, method={method!r}{more}, seed={seed})\n")
    _finish(report, **output)


@main.command()
@click.argument("name", metavar="CODE-or-NAME")
@click.option("--lang", type=click.Choice(LANGUAGES), default="en", show_default=True)
def explain(name: str, lang: str) -> None:
    """Say what a finding means, why it matters and what to do."""
    from gradvitals.vocabulary.rule import NAMES
    from gradvitals.vocabulary.words import explain as said
    from gradvitals.vocabulary.words import word

    for at, (code, words) in enumerate(said(name, lang).items()):
        if at:
            click.echo()
        click.echo(click.style(f"{code} {NAMES[code]} · {words.title}", bold=True))
        _say("", words.text)
        for key, text in (("why", words.why), ("do", words.remedy), ("like", words.like)):
            _say(f"{word(f'ui.{key}', lang)}: ", text)
        _say(f"{word('ui.references', lang)}: ", "; ".join(words.references))


def _say(label: str, text: str) -> None:
    """One paragraph, wrapped; Chinese needs no spaces to wrap at."""
    click.echo(click.wrap_text(label + text, width=96, initial_indent="  ", subsequent_indent="  "))


_KINDS = ("numpy", "module", "function")


@main.command()
@click.option(
    "--write",
    nargs=2,
    type=(click.Path(path_type=Path), click.Choice(_KINDS)),
    metavar=f"FILE {'|'.join(_KINDS)}",
    help="Write a runnable starter with the place for your own code, instead of running the demo.",
)
@click.option("--html", "html_file", default="gradvitals-demo.html", show_default=True, help="Where the page goes.")
@click.option("--json", "json_file", metavar="FILE|-", help="Write the report as JSON; - is standard output.")
@click.option("--lang", type=click.Choice(LANGUAGES), default="en", show_default=True, help="The report's language.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
def demo(
    *, write: tuple[Path, str] | None, html_file: str, json_file: str | None, lang: str, seed: int, quiet: bool
) -> None:
    """Examine, treat and examine again some networks with known illnesses, on real data."""
    if write is not None:
        from gradvitals.faces.starter import write_starter

        write_starter(*write)
        click.echo(f"wrote {write[0]}; run:  gradvitals check {write[0]}:make")
        return
    from gradvitals.faces.demo import run_demo
    from gradvitals.faces.progress import progress_bar

    with progress_bar("demo", quiet=quiet) as progress:
        report = run_demo(seed=seed, lang=lang, progress=progress)
    _finish(report, json_file=json_file, html_file=html_file, lang=lang, strict=False, quiet=quiet)
