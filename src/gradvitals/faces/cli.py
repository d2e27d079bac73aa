"""The command line: thin shells around the verbs. Whatever is slow to import is imported by the command that needs
it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradvitals._version import __version__
from gradvitals.faces.output import INTERRUPTED, MISUSED, Output, language_option, output_options
from gradvitals.faces.starter import STARTERS
from gradvitals.vocabulary.errors import GradvitalsError, ModelError, UsageError
from gradvitals.vocabulary.words import word

if TYPE_CHECKING:
    from gradvitals.vocabulary.report import Report

    Progress = Callable[[int, int], None] | None


class _Verbs(click.Group):
    """Commands in the order in which people meet them; our own errors end with exit code 2 and their three parts."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return ["demo", "checkup", "check", "probe", "predict", "scaling", "init", "explain"]

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):  # a terminal that can't show 梯度 gets a question mark, no exception
            with contextlib.suppress(AttributeError):
                stream.reconfigure(errors="replace")  # type: ignore[union-attr]
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


_target = click.argument("target", metavar="FILE.py:FACTORY")
_sensitivity = click.option(
    "--sensitivity",
    type=float,
    help="The relative error that must be resolved. [1e-4 in float64, 1e-3 in float32, 1e-1 in 16-bit formats]",
)


def _examine(verb: str, target: str, output: Output, *, opening: str = "", **settings: Any) -> None:
    """Load the case, call the verb on it, deliver its report, and exit with the code of its verdict."""

    def examined(progress: Progress) -> Report:
        import gradvitals
        from gradvitals.frameworks.case import load_case

        report: Report = getattr(gradvitals, verb)(load_case(target), progress=progress, **settings)
        return report

    _run(verb, target, output, examined, opening=opening)


def _run(
    title: str, target: str, output: Output, work: Callable[[Progress], Report], *, opening: str = "", closing: str = ""
) -> None:
    """Do the work under a progress bar, deliver its report, and exit with the code of its verdict."""
    from gradvitals.faces.progress import progress_bar

    output.require_places()
    try:
        with output.standard_output_kept(), progress_bar(title, quiet=output.quiet) as progress:
            report = work(progress)
    except SystemExit as stop:  # else the program would end with the exit code of the user's choice: a false pass
        raise ModelError(
            "the code of the model ended the program",
            f"{target}: sys.exit({stop.code!r}) was called while the model ran",
            "take the call out of what the model, its loss and its backward pass run",
        ) from stop
    code = output.deliver(report, opening=opening, closing=closing)
    sys.exit(INTERRUPTED if report.settings.get("interrupted") else code)


@main.command()
@_target
@output_options()
@_sensitivity
def checkup(target: str, *, sensitivity: float | None, seed: int, **output: Any) -> None:
    """Ask the three questions at once; change nothing."""
    _examine("checkup", target, Output(**output), sensitivity=sensitivity, seed=seed)


@main.command()
@_target
@output_options()
@_sensitivity
@click.option(
    "--wrt", multiple=True, metavar="PATTERN", help="Check these tensors only, such as 'encoder.*'; may be repeated."
)
@click.option("--outputs", multiple=True, metavar="NAME", help="Differentiate these outputs only; may be repeated.")
@click.option("--order", type=click.Choice(["1", "2"]), default="1", help="2 checks the second derivative.")
@click.option("--exhaustive", is_flag=True, help="Check every entry of every tensor.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "native", "float64"]),
    default="auto",
    show_default=True,
    help="What slopes are measured in: the model's own dtype, float64, or the first and then the second.",
)
@click.option("--budget", type=click.IntRange(min=1), metavar="N", help="The most evaluations of the model.")
@click.option("--burn-in", type=click.IntRange(min=0), default=0, help="Training steps on a copy, before the check.")
@click.option("--expect", type=click.Choice(["surrogate"]), help="The gradient is meant to differ from the slope.")
def check(target: str, *, wrt: tuple[str, ...], outputs: tuple[str, ...], order: str, seed: int, **given: Any) -> None:
    """Is the backward pass right?

    FACTORY() returns a model or a single operation with its inputs, as (operation, inputs).
    """
    asked = {key: given.pop(key) for key in ("sensitivity", "exhaustive", "precision", "budget", "burn_in", "expect")}
    asked |= {"wrt": wrt or None, "outputs": outputs or None, "order": int(order), "seed": seed}
    _examine("check", target, Output(**given), **asked)


@main.command()
@_target
@output_options()
@click.option(
    "--against",
    metavar="FILE.py:FACTORY|DTYPE",
    help="Compare with another model, or with this one under autocast (bfloat16, float16): where do they part first?",
)
@click.option("--spectrum", is_flag=True, help="Look at the singular values of the Jacobian as well.")
def probe(target: str, *, against: str | None, spectrum: bool, seed: int, **output: Any) -> None:
    """Does the signal survive the depth, forwards and backwards?"""
    _examine("probe", target, Output(**output), against=_other(against), spectrum=spectrum, seed=seed)


def _other(against: str | None) -> Any:
    """What to compare with: a dtype by its name, or a case from a file."""
    if against is None:
        return None
    if against in {"bfloat16", "float16"}:
        import torch

        return getattr(torch, against)
    from gradvitals.frameworks.case import load_case

    return load_case(against)


@main.command()
@_target
@output_options()
@click.option("--against", type=click.Choice(["probe"]), help="Measure the same batch as well, and compare.")
def predict(target: str, *, against: str | None, seed: int, **output: Any) -> None:
    """What should become of signal and gradient, by theory? Runs without values."""
    _examine("predict", target, Output(**output), against=against, seed=seed)


def _sizes(_context: click.Context, option: click.Parameter, given: str | None) -> tuple[int, ...]:
    """Sizes with commas between them."""
    try:
        return tuple(int(size) for size in given.split(",")) if given else ()
    except ValueError as error:
        raise click.BadParameter(f"{given!r} isn't made of sizes; write {option.opts[0]} 64,256,1024") from error


@main.command()
@_target
@output_options()
@click.option("--widths", callback=_sizes, metavar="N,N,…", help="Two sizes or more, far apart, such as 64,256,1024.")
@click.option("--depths", callback=_sizes, metavar="N,N,…", help="The same of the depth.")
@click.option("--optimizer", type=click.Choice(["adam", "adamw", "sgd"]), default="adam", show_default=True)
@click.option("--learning-rate", type=float, default=1e-3, show_default=True, help="The same at every size.")
@click.option("--steps", type=click.IntRange(min=0), default=2, show_default=True, help="0 looks at the start only.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Models per size.")
def scaling(target: str, *, seed: int, **given: Any) -> None:
    """How do signal, gradient and updates grow with width and depth? The coordinate check.

    FACTORY(width), FACTORY(depth), or FACTORY(width, depth) returns (model, inputs, loss); the inputs of the smallest
    model serve for all.
    """
    asked = {key: given.pop(key) for key in ("widths", "depths", "optimizer", "learning_rate", "steps", "seeds")}

    def swept(progress: Progress) -> Report:
        from gradvitals.faces.sweeping import swept

        return swept(target, progress, seed=seed, **asked)

    _run("scaling", target, Output(**given), swept)


@main.command()
@_target
@output_options()
@click.option("--method", default="auto", show_default=True, help="auto, lecun, xavier, he, orthogonal, …")
@click.option(
    "--distribution", type=click.Choice(["normal", "uniform", "truncated"]), default="normal", show_default=True
)
@click.option("--only", multiple=True, metavar="PATTERN", help="Fill these layers or parameters only; may be repeated.")
@click.option("--skip", multiple=True, metavar="PATTERN", help="Leave these out (encoder.*); may be repeated.")
@click.option("--save", "file", metavar="FILE.safetensors", help="Start the weights and write them; see --overwrite.")
@click.option("--overwrite", is_flag=True, help="Let --save replace a file that is there.")
@click.option("--compare", is_flag=True, help="Train copies from several starts, and show how their losses fall.")
@click.option("--starts", multiple=True, metavar="NAME", help="With --compare: these starts only; may be repeated.")
@click.option("--steps", type=click.IntRange(min=1), default=200, show_default=True, help="Of each of its runs.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Draws of each start.")
@click.option("--rate", "rates", type=float, multiple=True, help="Learning rate; may be repeated. [1e-3, 3e-4, 1e-4]")
@click.option("--patience", type=click.IntRange(min=1), help="End a run whose loss hasn't fallen for so many steps.")
def init(target: str, *, seed: int, file: str | None, overwrite: bool, compare: bool, **given: Any) -> None:
    """Do the weights start well? Print the plan, and the line to paste.

    Says also which of them were never given a value when the model was built.
    """
    from gradvitals.faces import starting

    comparing = {key: given.pop(key) for key in ("starts", "steps", "seeds", "rates", "patience")}
    asked = {key: given.pop(key) for key in ("method", "distribution", "only", "skip")} | {"seed": seed}
    output = Output(**given)
    if compare and file:
        raise UsageError("a comparison saves nothing", f"--compare --save {file}", "leave one of them out")
    if compare:
        _run("compare_init", target, output, lambda told: starting.compared(target, told, seed=seed, **comparing))
    elif file:
        place = starting.require_weights_file(file, overwrite=overwrite)
        closing = f"{word('ui.saved', output.lang, file=file)}  {starting.line_to_load(file)}"
        _run("init_", target, output, lambda told: starting.saved(target, place, told, **asked), closing=closing)
    else:
        opening = f"{word('ui.paste', output.lang)}  {starting.line_to_paste(**asked)}"
        _run("plan_init", target, output, lambda told: starting.planned(target, told, **asked), opening=opening)


@main.command()
@click.argument("name", metavar="CODE-or-NAME")
@language_option
def explain(name: str, lang: str) -> None:
    """Say what a finding means, why it matters and what to do."""
    from gradvitals.render import layout
    from gradvitals.vocabulary.rule import NAMES
    from gradvitals.vocabulary.words import explain as said

    limit = 98
    for at, (code, words) in enumerate(said(name, lang).items()):
        click.echo(("\n" if at else "") + click.style(f"{code} {NAMES[code]} · {words.title}", bold=True))
        for line in layout.wrap(words.text, limit):
            click.echo(f"  {line}")
        sides = [("why", words.why), ("do", words.remedy), ("like", words.like)]
        told = {word(f"ui.{key}", lang): side for key, side in sides}
        told[word("ui.references", lang)] = "; ".join(words.references)
        column = max(map(layout.width, told))
        for label, side in told.items():
            for row, line in enumerate(layout.wrap(side, limit - column - 2)):
                click.echo(f"  {layout.pad('' if row else label, column)}  {line}")


@main.command()
@click.option(
    "--write",
    nargs=2,
    type=(click.Path(path_type=Path), click.Choice(tuple(STARTERS))),
    metavar=f"FILE {'|'.join(STARTERS)}",
    help="Write a runnable starter with the place for your own code, instead of running the demo.",
)
@output_options(html="gradvitals-demo.html")
def demo(*, write: tuple[Path, str] | None, seed: int, **options: Any) -> None:
    """Examine, treat and examine again some networks with known illnesses, on real data."""
    output = Output(**options)
    if write is not None:
        _write(*write, output)
        return
    from gradvitals.faces.demo import run_demo
    from gradvitals.faces.progress import progress_bar
    from gradvitals.render.phrases import headline

    output.require_places()
    with progress_bar("demo", quiet=output.quiet) as progress:
        report = run_demo(seed=seed, lang=output.lang, progress=progress)
    closing = f"{headline(report, output.lang)}\n{word('ui.next_demo', output.lang)}"  # the beginning has scrolled away
    sys.exit(output.deliver(report, closing=closing))


def _write(file: Path, kind: str, output: Output) -> None:
    from gradvitals.faces.starter import write_starter

    write_starter(file, kind)
    if output.speaks:
        command = f"gradvitals {STARTERS[kind]} {file}:make"
        click.echo(word("ui.wrote", output.lang, file=str(file), command=command))
