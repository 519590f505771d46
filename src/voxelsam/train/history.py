"""``metrics.csv``: one row per epoch, rewritten whole after each."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

Row = Mapping[str, float]


def write(rows: Sequence[Row], path: Path) -> None:
    """All rows; the columns are those of any row, in order of appearance, and stay empty where a row has none."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    beside = path.with_name(f".{path.name}")
    with beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({key: f"{value:.7g}" for key, value in row.items()} for row in rows)
    beside.replace(path)


def read(path: Path) -> list[dict[str, float]]:
    """The rows of such a file; empty fields are left out."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
