"""``voxelsam demo``."""

from pathlib import Path
from typing import Annotated

import typer

from voxelsam.cli import screen


def demo(
    data: Annotated[Path | None, typer.Argument(help="Your data set; without it phantom CT scans are made.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for all of it; must be new or empty.")] = Path(
        "demo"
    ),
    settings: Annotated[list[str] | None, typer.Option("--set", help="One setting of the recipe; repeatable.")] = None,
) -> None:
    """The whole main job on a small data set: train, predict, evaluate, report."""
    from voxelsam import demo as tour
    from voxelsam import record
    from voxelsam.train import run

    with record.recording("demo") as noted:
        with screen.bars() as bar:
            job = tour.prepare(data, output, settings or [], bar)
            run.note(job, noted)
        screen.job(job)
        with screen.training(job.labels.names) as live:
            run.fit(job, told=screen.epoch, live=live, noted=noted)
        with screen.bars() as bar:
            for line in tour.finish(job, output, bar):
                screen.out.print(line, markup=False)
        noted.save("done")
