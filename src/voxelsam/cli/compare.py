"""``voxelsam compare``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from voxelsam.cli import options, screen

if TYPE_CHECKING:
    from voxelsam.evaluate.comparison import Comparison

_SHOWN = 30
"""Cases in the terminal; all are in the files."""


def compare(
    models: Annotated[
        list[str],
        typer.Argument(help="Folders of predictions, runs, or summary.json (ours, nnU-Net's); also as NAME=PATH."),
    ],
    reference: Annotated[
        Path | None, typer.Option("-r", "--reference", help="Folder of masks or data set: score predictions anew.")
    ] = None,
    metric: Annotated[str, typer.Option(help="Dice, IoU, NSD, HD95, ASSD, RVE …: a key of summary.json.")] = "Dice",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="New folder for compare.json, compare.csv, compare.html.")
    ] = None,
    common: Annotated[bool, typer.Option("--common", help="Leave out cases that some model lacks.")] = False,
    tie: Annotated[float, typer.Option(help="Largest difference of a case that counts as none.")] = 0.0,
    preset: Annotated[str, typer.Option(help="Definitions of the metrics, with -r; as for evaluate.")] = "default",
    tolerance: Annotated[float | None, typer.Option(help="Of NSD, in mm, with -r; default: the preset's.")] = None,
    empty: Annotated[
        Literal["nan", "one", "zero"] | None,
        typer.Option(help="Score of a structure that neither mask has, with -r; default: the preset's."),
    ] = None,
    accept: options.Accept = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 1234,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare models on the same cases: means with intervals, paired tests, cases won and lost."""
    from voxelsam import record
    from voxelsam.errors import OutputError
    from voxelsam.evaluate.compare import compare as compared
    from voxelsam.evaluate.models import gather
    from voxelsam.evaluate.presets import changed, preset_of
    from voxelsam.evaluate.scores import nulled
    from voxelsam.layouts import open_dataset, recognising

    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output} is not empty: give a new folder for the comparison")
    choices = {"metric": metric, "common": common, "tie": tie, "preset": preset, "tolerance": tolerance}
    choices |= {"empty": empty, "seed": seed}
    with record.recording("compare", choices, accept or ()) as noted:
        with screen.bars() as bar:
            advance = bar("scoring")
            found = gather(
                models,
                reference,
                metric=metric,
                preset=changed(preset_of(preset), tolerance=tolerance),
                empty=empty,
                progress=lambda done, total, case: advance(done, total),
            )
        groups = None
        if reference is not None and recognising(reference):
            dataset = open_dataset(reference)
            groups = {case.id: case.group for case in (*dataset.train, *dataset.test) if case.group != case.id}
        result = compared(found, metric, groups=groups, common=common, tie=tie, seed=seed)
        if output is not None:
            result.write(output)
            for case in result.cases:
                noted.case(case, "compared")
            noted.path = output / record.FILE
            noted.save("done")
    if as_json:
        screen.emit(nulled(result.to_json()))
    else:
        _show(result)


def _show(result: "Comparison") -> None:
    from rich.markup import escape

    from voxelsam.evaluate.render import interval, probability, score

    names = [model.name for model in result.models]
    titles = [escape(name) for name in names]
    means = {(row.model, row.label): row for row in result.means}
    rows = [
        (escape(means[names[0], label].name), *(interval(means[name, label].interval, result.digits) for name in names))
        for label in dict.fromkeys(row.label for row in result.means)
    ]
    screen.table(("structure", *titles), rows, title=f"mean {result.title} [95 % interval]")
    screen.table(
        ("first − second", "structure", "mean difference", "p", "corrected", "effect", "won/tied/lost"),
        [
            (
                escape(f"{row.first} − {row.second}"),
                escape(row.name),
                interval(row.interval, result.digits),
                probability(row.p),
                probability(row.corrected),
                score(row.effect, 2),
                f"{row.cases.wins}/{row.cases.ties}/{row.cases.losses}",
            )
            for row in result.differences
        ],
    )
    for row in result.differences:
        if row.note:
            screen.out.print(f"{row.first} − {row.second}, {row.name}: {row.note}", markup=False)
    cases = list(zip(result.cases, result.case_means().T.tolist(), strict=True))
    screen.table(
        ("case", *titles),
        [(escape(case), *(score(value, result.digits) for value in values)) for case, values in cases[:_SHOWN]],
        title="mean over the classes of a case",
    )
    if len(cases) > _SHOWN:
        screen.out.print(f"and {len(cases) - _SHOWN} more: -o FOLDER writes all")
    screen.out.print(
        "p: Wilcoxon signed-rank, corrected after Holm; effect: rank-biserial correlation, above 0 where the first is "
        "better; a difference of at most "
        f"{result.tie:g} is a tie.",
        markup=False,
    )
    for note in result.notes:
        screen.warn(note, UserWarning, "", 0)
