"""``voxelsam evaluate``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from voxelsam.cli import screen


def evaluate(
    predictions: Annotated[Path, typer.Option("-i", "--input", help="Folder of predicted masks, or one mask.")],
    references: Annotated[Path, typer.Option("-r", "--reference", help="Folder of masks, data set, or one mask.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="summary.json; a CSV goes beside it.")] = None,
    fold: Annotated[int | None, typer.Option(help="Only the validation cases of this fold of the data set.")] = None,
    empty: Annotated[
        Literal["nan", "one", "zero"],
        typer.Option(help="Score of a structure that neither mask has; nan leaves it out."),
    ] = "nan",
    allow_missing: Annotated[bool, typer.Option(help="List missing predictions as failures, do not stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Compare masks with references: geometry first, then Dice and IoU per case and structure."""
    from voxelsam.evaluate import run
    from voxelsam.layouts import open_dataset

    against: Path | dict[str, Path] = references
    labels = None
    if fold is not None:
        dataset = open_dataset(references)
        labels = dataset.labels
        against = {case.id: case.label for case in dataset.split(fold)[1] if case.label}
    with screen.bars() as bar:
        advance = bar("comparing")
        report = run.evaluate(
            predictions,
            against,
            labels=labels,
            empty=empty,
            out=output,
            allow_missing=allow_missing,
            progress=lambda done, total, case: advance(done, total),
        )
    screen.scores(report, as_json)
    if report.failures:
        raise typer.Exit(1)
