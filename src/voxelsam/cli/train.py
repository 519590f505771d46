"""``voxelsam train``."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxelsam.cli import options, screen

if TYPE_CHECKING:
    from voxelsam.record import Run
    from voxelsam.validation import Validation


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
    fold: Annotated[
        str | None, typer.Option("-f", "--fold", help="Which fold to validate on, from 0; all: one training for each.")
    ] = None,
    validate: Annotated[
        bool, typer.Option(help="Segment and score the validation cases at the end (OUTPUT/validation).")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all, try two steps, estimate time and memory; write nothing.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Train an adaptation on a data set; leaves a bundle in OUTPUT/best."""
    from voxelsam import config
    from voxelsam.errors import ConfigError
    from voxelsam.train import distributed

    if go_on and (recipe or accept):
        raise ConfigError("a run that goes on keeps its own recipe: leave out --config and --accept")
    given = config.override(config.read(recipe) if recipe else {}, settings or [])
    if accept:
        given = config.merge(given, {"data": {"accept": accept}})
    root = data or (given.get("data") or {}).get("root")
    if not root and not go_on:
        raise ConfigError("which data set? give its folder, or data.root in the recipe")
    if fold is not None and fold != "all":
        given = config.override(given, [f"data.fold={fold}"])
    if fold == "all" or (go_on and fold is None and (output / "fold_0").is_dir()):
        _all_folds(root, output, given, go_on=go_on, validate=validate, dry_run=dry_run, as_json=as_json)
        return
    one_run(root, output, given, go_on=go_on, dry_run=dry_run, as_json=as_json)
    found = _validated(output, as_json) if validate and not dry_run else None
    if as_json and not dry_run and distributed.leads():
        screen.emit(_ended(output, found))


def _all_folds(
    root: str | None,
    output: Path,
    given: dict[str, Any],
    *,
    go_on: bool,
    validate: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    from voxelsam import crossval, validation
    from voxelsam.train import distributed

    folds = crossval.folds(root or "", output, given, resume=go_on)
    if not go_on and not dry_run and distributed.leads():
        crossval.keep(folds)
    parts = []
    for number, fold in enumerate(folds):
        if not as_json:
            screen.out.print(f"[bold]fold {number} of {len(folds)}[/]")
        one_run(fold.root, fold.folder, dict(fold.settings), go_on=fold.resumes, dry_run=dry_run, as_json=as_json)
        if dry_run:
            return
        if validate and (found := _validated(fold.folder, as_json)) is not None:
            parts.append(found)
    if not distributed.leads():
        return
    pooled = validation.pool(parts, output / validation.FOLDER) if parts else None
    if as_json:
        screen.emit({"folds": [_ended(fold.folder, None) for fold in folds]} | _scores(pooled))
    elif pooled is not None:
        screen.out.print(f"[bold]all {len(folds)} folds together[/]")
        screen.scores(pooled.report, as_json=False)
        screen.out.print(f"report: {pooled.folder / validation.PAGE}")


def _validated(folder: Path, as_json: bool) -> "Validation | None":
    """Masks and scores of the validation cases of a run."""
    from voxelsam import validation
    from voxelsam.train import distributed

    if not distributed.leads():
        return None
    with screen.bars() as bar:
        found = validation.validate(folder, told=bar)
    if found is not None and not as_json:
        screen.scores(found.report, as_json=False)
        screen.out.print(f"report: {found.folder / validation.PAGE}")
    return found


def _ended(folder: Path, found: "Validation | None") -> dict[str, Any]:
    from voxelsam.train import run
    from voxelsam.train.history import read as read_history

    return {"best": folder / "best", "metrics": read_history(folder / run.METRICS)[-1]} | _scores(found)


def _scores(found: "Validation | None") -> dict[str, Any]:
    from voxelsam.evaluate.scores import nulled

    return {} if found is None else {"validation": nulled(found.report.to_json()["mean"])}


def one_run(
    root: str | None, output: Path, given: dict[str, Any], *, go_on: bool, dry_run: bool, as_json: bool
) -> None:
    """One training, in as many processes as its recipe asks for."""
    from voxelsam.train import distributed, job

    count = job.processes(output, given, resume=go_on)
    try:
        if count == 1 or dry_run:
            _alone(root, output, given, go_on=go_on, dry_run=dry_run, as_json=as_json)
        else:
            distributed.launch(count, _one_of_several, root, output, given, go_on, as_json)
    except KeyboardInterrupt:
        screen.complain(f"stopped; to go on: voxelsam train -o {output} --continue")
        raise typer.Exit(130) from None


def _one_of_several(root: str | None, output: Path, given: dict[str, Any], go_on: bool, as_json: bool) -> None:
    """The work of a process that was started for the run."""
    warnings.showwarning = screen.warn
    _alone(root, output, given, go_on=go_on, dry_run=False, as_json=as_json)


def _alone(root: str | None, output: Path, given: dict[str, Any], *, go_on: bool, dry_run: bool, as_json: bool) -> None:
    from voxelsam import record
    from voxelsam.errors import ConfigError
    from voxelsam.train import distributed

    if dry_run and distributed.started_together():
        raise ConfigError("--dry-run tries the run in one process: call it without torchrun")
    with distributed.group() as group, record.recording("train") as noted:
        if not group.first:
            screen.be_silent()
        _run(noted, root, output, given, go_on=go_on, dry_run=dry_run, as_json=as_json)


def _run(
    noted: "Run", root: str | None, output: Path, given: dict[str, Any], *, go_on: bool, dry_run: bool, as_json: bool
) -> None:
    from voxelsam import config
    from voxelsam.train import distributed, job, run, trial

    with screen.bars() as bar:
        ready = job.go_on(output, given) if go_on else job.start(root or "", output, given, bar("reading cases"))
    if not as_json:
        screen.job(ready)
    if dry_run:
        tried = trial.rehearse(ready)
        if as_json:
            facts = {"recipe": config.plain(ready.recipe), "weights": ready.report.to_json()}
            screen.emit(facts | {"trial": tried.to_json()})
        else:
            screen.trial(tried)
        return
    with screen.bars() as bar:
        run.prepare(ready, bar("preparing cases"))
        run.note(ready, noted, bar("hashing cases"))
    told = None if as_json else screen.epoch
    try:
        with screen.training(ready.labels.names, quiet=as_json) as live:
            best = run.fit(ready, told=told, live=live, noted=noted)
    except KeyboardInterrupt:
        noted.save("interrupted")
        raise
    noted.save("done")
    if distributed.current().first and not as_json:
        screen.ended(run.ending(ready))
        screen.out.print(f"best bundle: {best}")
