"""The command itself: its verbs, and how errors and warnings reach the terminal.

A verb's module parses, calls one library function and prints. The library is imported inside the verbs, so that
``voxelsam --help`` answers at once.
"""

import sys
import warnings

import typer

from voxelsam import __version__
from voxelsam.cli import (
    compare,
    demo,
    doctor,
    evaluate,
    fix,
    info,
    plan,
    predict,
    prompt,
    pull,
    push,
    reproduce,
    split,
    train,
)
from voxelsam.cli.screen import complain, warn
from voxelsam.errors import VoxelSamError

app = typer.Typer(
    name="voxelsam",
    help="Adapts SAM-family foundation models to medical volumes: check, train, predict, prompt, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("doctor")(doctor.doctor)
app.command("fix")(fix.fix)
app.command("split")(split.split)
app.command("plan")(plan.plan)
app.command("train")(train.train)
app.command("predict")(predict.predict)
app.command("prompt")(prompt.prompt)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("reproduce")(reproduce.reproduce)
app.command("pull")(pull.pull)
app.command("push")(push.push)
app.command("info")(info.info)
app.command("demo")(demo.demo)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"voxelsam {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Options of the command itself."""


def main() -> None:
    """Runs the command; every error of ours is one message and exit code 2, never a traceback."""
    warnings.showwarning = warn
    try:
        app()
    except VoxelSamError as error:
        complain(str(error), error.code)
        sys.exit(2)
    except OSError as error:
        complain(f"{error.strerror or error}: {error.filename or 'the file'}")
        sys.exit(2)
