"""``voxelsam split``."""

from pathlib import Path
from typing import Annotated

import typer

from voxelsam.cli import screen


def split(
    data: Annotated[Path, typer.Argument(help="Data set folder, CSV, or YAML of several data sets.")],
    folds: Annotated[int, typer.Option("--folds", help="How many.")] = 5,
    output: Annotated[Path, typer.Option("-o", "--output", help="New JSON file, in the form of nnU-Net.")] = Path(
        "splits_final.json"
    ),
    seed: Annotated[int, typer.Option(help="Another seed gives other folds; that of a recipe is train.seed.")] = 1234,
    layout: Annotated[str | None, typer.Option(help="Layout, where several are possible.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the folds as JSON.")] = False,
) -> None:
    """Share out the labelled cases of a data set for cross-validation; a patient's cases stay together."""
    import json

    from voxelsam import record
    from voxelsam.errors import OutputError
    from voxelsam.files import write_text
    from voxelsam.layouts import kfold, open_dataset

    if output.exists():
        raise OutputError(f"{output} exists already; delete it or give another name")
    with record.recording("split", {"folds": folds, "seed": seed}) as run:
        dataset = open_dataset(data, layout)
        shared = kfold(dataset.train, folds, seed)
        run.facts |= {"layout": dataset.layout, "patients": len({case.group for case in dataset.train})}
        for number, fold in enumerate(shared):
            for name in fold.val:
                run.case(name, "done", fold=number)
        run.path = record.path_for(output, folder=False)
        run.save()
        listed = [{"train": list(fold.train), "val": list(fold.val)} for fold in shared]
        write_text(output, json.dumps(listed, indent=1) + "\n")
        run.facts["sha256"] = record.digest([output])
        run.save("done")
    if as_json:
        screen.emit(listed)
        return
    for number, fold in enumerate(shared):
        screen.out.print(f"fold {number}: {len(fold.train)} cases to train on, {len(fold.val)} to validate on")
    screen.out.print(f"written to {output}")
