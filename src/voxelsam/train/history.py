"""``metrics.csv``: one row per epoch, rewritten whole after each."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from voxelsam.files import write_text

Row = Mapping[str, float]


def write(rows: Sequence[Row], path: Path) -> None:
    """All rows; the columns are those of any row, in order of appearance, and stay empty where a row has none."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows({key: f"{value:.7g}" for key, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def read(path: Path) -> list[dict[str, float]]:
    """The rows of such a file; empty fields are left out."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def curve(path: Path) -> list[dict[str, float | None]]:
    """The rows of such a file as reports name them: ``epoch``, ``train_loss``, and the Dice ``val_CLASS``."""
    return [
        {"epoch": row["epoch"], "train_loss": row.get("loss")}
        | {f"val_{key.removeprefix('dice/')}": value for key, value in row.items() if key.startswith("dice/")}
        for row in read(path)
    ]
