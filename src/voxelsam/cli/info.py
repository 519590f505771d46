"""``voxelsam info``."""

from pathlib import Path
from typing import Annotated

import typer

from voxelsam.cli import screen


def info(
    path: Annotated[Path, typer.Argument(help="A checkpoint, a bundle, a volume or a data set.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say what a file or folder is, and what is in it."""
    from voxelsam.inspect import inspect

    facts = inspect(path)
    if as_json:
        screen.emit(facts)
    else:
        screen.facts(facts)
