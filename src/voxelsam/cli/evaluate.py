"""``voxelsam evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from voxelsam.cli import options, screen

if TYPE_CHECKING:
    from voxelsam.evaluate.scores import Report


def evaluate(
    references: Annotated[Path, typer.Option("-r", "--reference", help="Folder of masks, data set, or one mask.")],
    predictions: Annotated[
        Path | None, typer.Option("-i", "--input", help="Folder of predicted masks, or one mask.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="summary.json; a CSV goes beside it.")] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--report", help="HTML page: tables, intervals, box plots; with a data set as reference pictures."
        ),
    ] = None,
    fold: Annotated[
        int | None,
        typer.Option(help="Only the validation cases of this fold; with --interactive 0 where there are folds."),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="Metrics and their definitions: default, or those of published tables: ma_sam, med_sa, nnunet, samed, "
            "left_atrium, chaos."
        ),
    ] = "default",
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="HD, HD95, HD95_pooled, ASSD, ASD, NSD, RVE, RAVD, VD, lesions, multi_threshold; repeatable. Takes "
            "the place of the preset's; Dice and IoU are always there.",
        ),
    ] = None,
    tolerance: Annotated[float | None, typer.Option(help="Of NSD, in mm (pixels, voxels). Default: 2.")] = None,
    units: Annotated[
        Literal["mm", "voxel"] | None, typer.Option(help="What distances count. Default: the preset's, else mm.")
    ] = None,
    empty: Annotated[
        Literal["nan", "one", "zero"] | None,
        typer.Option(help="Score of a structure that neither mask has; nan leaves it out. Default: the preset's."),
    ] = None,
    penalty: Annotated[
        Literal["none", "diagonal"] | None,
        typer.Option(help="Distance of a structure that only one mask has; none leaves it out."),
    ] = None,
    match: Annotated[
        Literal["overlap", "iou"] | None,
        typer.Option("--lesion-match", help="A lesion is found by one common voxel, or by IoU from 0.1, one to one."),
    ] = None,
    smallest: Annotated[
        float | None, typer.Option("--smallest-lesion", help="Parts below this size, in mm³, are no lesions.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that score side by side.")] = 1,
    allow_missing: Annotated[bool, typer.Option(help="List missing predictions as failures, do not stop.")] = False,
    accept: options.Accept = None,
    interactive: Annotated[
        bool,
        typer.Option("--interactive", help="Prompt a model with simulated clicks and boxes; OUTPUT is a new folder."),
    ] = False,
    model: Annotated[Path | None, typer.Option("-m", "--model", help="Bundle; with --interactive.")] = None,
    weights: Annotated[Path | None, typer.Option(help="The backbone's checkpoint, if it has moved.")] = None,
    ways: Annotated[
        list[str] | None,
        typer.Option(
            "--way",
            help="none, click, correct, volume, keys, box, cuboid; repeatable. Default: what it was trained for.",
        ),
    ] = None,
    clicks: Annotated[int, typer.Option(help="Rounds of clicks; with --interactive.")] = 5,
    per: Annotated[Literal["class", "instance"], typer.Option(help="What an object is; with --interactive.")] = "class",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps; with --interactive.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Compare masks with references, geometry first; or, with --interactive, measure what prompts gain."""
    from voxelsam import record
    from voxelsam.errors import ConfigError
    from voxelsam.evaluate import presets, run
    from voxelsam.layouts import open_dataset

    if interactive:
        if model is None or predictions is not None:
            raise ConfigError("--interactive prompts a model (-m BUNDLE) and takes no predictions (-i)")
        if page is not None:
            raise ConfigError("--report goes with predictions (-i), not with --interactive")
        _interactive(model, weights, references, fold, output, ways, clicks, per, device, accept, as_json)
        return
    if predictions is None or model is not None:
        raise ConfigError("which masks? give them with -i; or prompt a model with --interactive -m BUNDLE")
    if page is not None and page.suffix != ".html":
        raise ConfigError(f"--report: the page is a file that ends in .html, but {page} does not")
    against: Path | dict[str, run.Reference] = references
    labels = None
    chosen = presets.changed(
        presets.preset_of(preset),
        metrics=metrics,
        tolerance=tolerance,
        units=units,
        empty=empty,
        penalty=penalty,
        match=match,
        smallest_lesion=smallest,
    )
    choices = {"fold": fold, "allow_missing": allow_missing, "preset": chosen.plain()}
    with record.recording("evaluate", choices, accept or ()) as noted:
        if fold is not None:
            dataset = open_dataset(references)
            labels = dataset.labels
            against = {case.id: case for case in dataset.split(fold)[1] if case.label}
        with screen.bars() as bar:
            advance = bar("comparing")
            report = run.evaluate(
                predictions,
                against,
                labels=labels,
                out=output,
                allow_missing=allow_missing,
                progress=lambda done, total, case: advance(done, total),
                preset=chosen,
                workers=workers,
            )
        if output is not None:
            run.note(report, noted, output)
    if page is not None:
        _write(page, report, predictions, references)
    screen.scores(report, as_json)
    if report.failures:
        raise typer.Exit(1)


def _write(page: Path, report: "Report", predictions: Path, references: Path) -> None:
    """The page; images and patients are known where the reference is a data set."""
    from voxelsam.evaluate import report as pages
    from voxelsam.layouts import open_dataset, recognising

    cases = []
    if predictions.is_dir() and recognising(references):
        dataset = open_dataset(references)
        cases = [*dataset.train, *dataset.test]
    pages.page(
        page,
        report,
        images={case.id: case.images for case in cases},
        title=f"{predictions.absolute().name} against {references.absolute().name}",
        facts={"predictions": str(predictions), "reference": str(references), "metrics": report.preset.name},
        groups={case.id: case.group for case in cases if case.group != case.id},
        references={case.id: case for case in cases},
    )


def _interactive(
    model: Path,
    weights: Path | None,
    references: Path,
    fold: int | None,
    output: Path | None,
    ways: list[str] | None,
    clicks: int,
    per: str,
    device: str,
    accept: list[str] | None,
    as_json: bool,
) -> None:
    from voxelsam import bundle, config, record, study
    from voxelsam.errors import OutputError
    from voxelsam.evaluate.scores import nulled
    from voxelsam.infer.predictor import Predictor
    from voxelsam.layouts import open_dataset

    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output} is not empty: give a new folder for the study")
    trained = bundle.load(model)
    with record.recording("evaluate", {"interactive": True, "fold": fold, "device": device}, accept or ()) as noted:
        dataset = open_dataset(references)
        declared = fold is not None or dataset.splits
        cases = dataset.split(fold or 0)[1] if declared else dataset.train
        predictor = Predictor(trained, weights=weights, device=device)
        wanted = {"ways": ways or list(study.possible(predictor)), "clicks": clicks, "per": per}
        plan = config.parse(study.StudyPlan, wanted, where="the study")
        noted.facts |= {"bundle": trained.identity(), "plan": config.plain(plan)}
        noted.path = None if output is None else output / record.FILE
        with screen.bars() as bar:
            result = study.study(predictor, cases, plan, output, bar("prompting cases"))
        study.note(result, cases, noted)
    if as_json:
        screen.emit(nulled(result.to_json()))
    else:
        screen.study(result)
    if result.failures:
        raise typer.Exit(1)
