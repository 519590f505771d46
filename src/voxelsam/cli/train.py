"""``voxelsam train``."""

from pathlib import Path
from typing import Annotated

import typer

from voxelsam.cli import options, screen


def train(
    data: Annotated[
        str | None, typer.Argument(help="Data set folder (nnU-Net, Decathlon, image/mask pairs, CSV).")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Run folder; must be new or empty.")] = Path("run"),
    recipe: Annotated[Path | None, typer.Option("--config", help="Recipe (YAML); the rest is filled in.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, train.epochs=50; repeatable.")
    ] = None,
    go_on: Annotated[
        bool, typer.Option("--continue", help="Go on with the interrupted run in the run folder.")
    ] = False,
    accept: options.Accept = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check data, recipe and weights; train nothing.")] = False,
    as_json: options.Json = False,
) -> None:
    """Train an adaptation on a data set; leaves a bundle in OUTPUT/best."""
    from voxelsam import config, record
    from voxelsam.errors import ConfigError
    from voxelsam.train import job, run
    from voxelsam.train.history import read as read_history

    with record.recording("train") as noted:
        with screen.bars() as bar:
            if go_on:
                if recipe or settings or accept:
                    raise ConfigError("a run that goes on keeps its own recipe: leave out --config, --set and --accept")
                ready = job.go_on(output)
            else:
                given = config.override(config.read(recipe) if recipe else {}, settings or [])
                if accept:
                    given = config.merge(given, {"data": {"accept": accept}})
                root = data or (given.get("data") or {}).get("root")
                if not root:
                    raise ConfigError("which data set? give its folder, or data.root in the recipe")
                ready = job.start(root, output, given, bar("reading cases"))
        if not as_json:
            screen.job(ready)
        if dry_run:
            if as_json:
                screen.emit({"recipe": config.plain(ready.recipe), "weights": ready.report.to_json()})
            return
        with screen.bars() as bar:
            run.prepare(ready, bar("preparing cases"))
            run.note(ready, noted, bar("hashing cases"))
        try:
            best = run.fit(ready, bar=not as_json and screen.err.is_terminal, told=None if as_json else screen.epoch)
        except KeyboardInterrupt:
            noted.save("interrupted")
            screen.complain(f"stopped; to go on: voxelsam train -o {output} --continue")
            raise typer.Exit(130) from None
        noted.save("done")
    if as_json:
        screen.emit({"best": best, "metrics": read_history(output / run.METRICS)[-1]})
    else:
        screen.out.print(f"best bundle: {best}")
