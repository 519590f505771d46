"""``voxelsam doctor``."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxelsam.cli import screen

if TYPE_CHECKING:
    from voxelsam.doctor import Diagnosis

WIDE = 160
"""Columns of the table where it goes to a file."""


def doctor(
    paths: Annotated[list[Path], typer.Argument(help="A file, a DICOM series, a folder, or a data set; or several.")],
    label: Annotated[Path | None, typer.Option("-l", "--label", help="Label map of the image that PATH is.")] = None,
    fold: Annotated[int | None, typer.Option(help="Judge only this declared split; by default all.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Headers only: no values, no content.")] = False,
    phi: Annotated[
        bool, typer.Option("--phi", help="Search names and headers for what says who the patient is.")
    ] = False,
    ignore: Annotated[list[str] | None, typer.Option("--ignore", help="Code to leave out; repeatable.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes; 0 is one per CPU.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print every finding as JSON.")] = False,
) -> None:
    """Say what is wrong with the input, and what to do; exit code 0 clean, 1 warnings, 2 errors."""
    from voxelsam.doctor import diagnose

    with screen.bars() as bar:
        diagnosis = diagnose(
            paths,
            label=label,
            ignore=ignore or (),
            fold=fold,
            quick=quick,
            phi=phi,
            jobs=jobs,
            progress=bar("examining"),
        )
    if as_json:
        screen.emit(diagnosis.to_json())
    else:
        _show(diagnosis, paths)
    if diagnosis.verdict:
        raise typer.Exit(diagnosis.verdict)


def _show(diagnosis: "Diagnosis", roots: Sequence[Path]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from voxelsam.checks import CATALOGUE

    view = Table("code", "severity", "where", "cause", "fix")
    for number, column in enumerate(view.columns):
        column.no_wrap, column.overflow = number < 2, "fold"
    for group in diagnosis.rows():
        first, others = group[0], len({finding.where for finding in group}) - 1
        where = f"{_within(first.where, roots)}{f' and {others} more' if others else ''}"
        cause = _within(first.message.splitlines()[0], roots)
        style = "bold red" if first.severity == "error" else "yellow"
        fix = CATALOGUE[first.code].fix if first.code in CATALOGUE else ""
        view.add_row(first.code, Text(first.severity, style), Text(where), Text(cause), Text(fix))
    if diagnosis.findings:
        wide = screen.out.width if screen.out.is_terminal else max(screen.out.width, WIDE)
        Console(width=wide, highlight=False).print(view)
    screen.out.print(diagnosis.summary(), markup=False)


def _within(text: str, roots: Sequence[Path]) -> str:
    """A text with paths as they are seen from where the user looks; a column has no room for long ones."""
    for root in roots:
        text = text.replace(f"{root}{os.sep}", "").replace(str(root), root.name or str(root))
    return text
