"""``voxelsam reproduce``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxelsam.cli import options, screen
from voxelsam.cli.train import one_run

if TYPE_CHECKING:
    from voxelsam.evaluate.studies import Study
    from voxelsam.reproduce import Reproduction


def reproduce(
    name: Annotated[str | None, typer.Argument(help="A study, such as ma-sam/btcv; --list shows them.")] = None,
    data: Annotated[Path | None, typer.Option("-d", "--data", help="Your copy of the study's data set.")] = None,
    weights: options.Weights = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Run folder; must be new or empty.")] = Path(
        "reproduction"
    ),
    arm: Annotated[str, typer.Option(help="Which row of the table; default: the paper's own method.")] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting that differs from the paper's; said in the result.")
    ] = None,
    go_on: Annotated[
        bool, typer.Option("--continue", help="Go on with the interrupted run in the run folder.")
    ] = False,
    dry_run: options.DryRun = False,
    listed: Annotated[bool, typer.Option("--list", help="Show all studies, the papers' figures and ours.")] = False,
    results: Annotated[
        list[Path] | None, typer.Option("--result", help="With --list: folder of a reproduction; repeatable.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Run a paper's protocol on your copy of its data, and print the paper's row beside yours."""
    from voxelsam import config
    from voxelsam import reproduce as work
    from voxelsam.errors import ConfigError
    from voxelsam.evaluate.studies import studies, study_of
    from voxelsam.train import distributed

    if listed:
        _list(work.ledger(studies(), results or ()), as_json)
        return
    if name is None:
        raise ConfigError(f"which study? there are {', '.join(studies())}; --list shows what is known of each")
    study = study_of(name)
    row = arm or study.main
    own = config.override({}, settings or [])
    given, changed = work.settings_of(study, row, weights, own)
    if dry_run:
        _planned(study, row, given, changed, as_json)
        return
    if data is None:
        raise ConfigError(f"{study.name} needs its data set: --data FOLDER ({study.data.obtain})")
    if not go_on:
        work.check_weights(study, given)
    one_run(str(data), output, {} if go_on else given, go_on=go_on, dry_run=False, as_json=as_json)
    if not distributed.leads():
        return
    with screen.bars() as bar:
        found = work.score(study, row, output, changed, told=bar)
    _show(study, found, as_json)


def _list(entries: Any, as_json: bool) -> None:
    if as_json:
        screen.emit([vars(entry) for entry in entries])
        return
    rows = [(entry.study, entry.arm, entry.paper or "–", entry.ours or "–", entry.status) for entry in entries]
    screen.table(("study", "row", "paper", "ours", "status"), rows)
    for name, why in {entry.study: entry.why for entry in entries if entry.why}.items():
        screen.out.print(f"{name}: {why}", markup=False)
    screen.out.print("Figures under 'paper' are the authors'; under 'ours' stands only what was run with this program.")


def _planned(study: "Study", arm: str, given: dict[str, Any], changed: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        screen.emit({"study": study.name, "arm": arm, "recipe": given, "changed": list(changed)})
        return
    screen.facts(
        {
            "study": f"{study.name}: {study.title}",
            "paper": study.paper,
            "row": arm,
            "data": f"{study.data.obtain}; {study.split}",
            "recipe": given,
            "changed": list(changed) or "nothing",
            "scores": study.preset,
            "not certain": list(study.unsure),
        }
    )


def _show(study: "Study", found: "Reproduction", as_json: bool) -> None:
    from voxelsam.evaluate.scores import nulled

    if as_json:
        screen.emit(nulled(found.to_json()))
        return
    rows = [
        (
            row.measure,
            row.column,
            "–" if row.paper is None else f"{row.paper:g}",
            f"{row.ours.value:.1f}",
            f"{row.ours.low:.1f} to {row.ours.high:.1f}",
        )
        for row in found.rows
    ]
    screen.table(("measure", "column", "paper", "ours", "interval"), rows, title=f"{study.name}, {found.arm}")
    screen.out.print(f"verdict: {found.verdict}", markup=False)
    for line in (*found.changed, *study.unsure):
        screen.out.print(f"  {line}", markup=False)
