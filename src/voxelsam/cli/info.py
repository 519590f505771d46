"""``voxelsam info``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from voxelsam.cli import screen


def info(
    path: Annotated[
        Path, typer.Argument(help="A checkpoint, a bundle, a run, results, a data set, an image, a film or a mask.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say what a file or folder is, and what is in it."""
    from voxelsam.inspect import inspect

    facts = inspect(path)
    if as_json:
        screen.emit(facts)
        return
    tables = {key: value for key, value in facts.items() if _is_table(value)}
    screen.facts({key: value for key, value in facts.items() if key not in tables})
    for key, rows in tables.items():
        screen.facts({key: ""})
        for line in _aligned(rows):
            screen.out.print(f"  {line}", markup=False)


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _aligned(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Rows under their heads, in columns as wide as they need, because identifiers must not be cut."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *([str(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
