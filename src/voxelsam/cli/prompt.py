"""``voxelsam prompt``."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from voxelsam.cli import options, screen


def prompt(
    model: options.Model,
    source: options.Scans,
    output: options.Masks,
    prompts: Annotated[Path | None, typer.Option("-p", "--prompts", help="JSON file of one scan or a cohort.")] = None,
    point: Annotated[list[str] | None, typer.Option(help="A click on an object: x,y,z[,label]. Repeatable.")] = None,
    beside: Annotated[list[str] | None, typer.Option(help="A click beside an object: x,y,z[,label].")] = None,
    box: Annotated[list[str] | None, typer.Option(help="A box: x0,y0,z0,x1,y1,z1[,label]. Repeatable.")] = None,
    space: Annotated[
        Literal["voxel", "ras", "lps"], typer.Option(help="What the numbers of --point, --beside and --box are.")
    ] = "voxel",
    base: Annotated[
        Literal["background", "free"], typer.Option(help="What lies where nothing is prompted.")
    ] = "background",
    outside: Annotated[
        Literal["nothing", "free"], typer.Option(help="What lies of a class beyond the slices of its 3D boxes.")
    ] = "nothing",
    conflict: Annotated[
        Literal["score", "order", "last"], typer.Option(help="Which of several objects gets a voxel.")
    ] = "score",
    propagate: Annotated[
        list[str] | None, typer.Option(help="Structure to carry to further slices, both ways. Repeatable.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps image features for the next time.")] = None,
    half: Annotated[
        bool, typer.Option("--half-features", help="Keep image features in half precision: half the room.")
    ] = False,
    weights: options.Weights = None,
    device: options.Device = "auto",
    precision: options.Precision = "fp32",
    compiled: options.Compile = False,
    overlap: options.Overlap = None,
    ending: options.Ending = None,
    series: options.Series = None,
    frame: options.Frame = None,
    film: options.Film = False,
    preview: options.Preview = False,
    accept: options.Accept = None,
    go_on: options.GoOn = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every scan and its prompts; write nothing.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Segment what points, boxes, scribbles and masks show; for one scan or a cohort."""
    from voxelsam import bundle, record
    from voxelsam.infer import cases, cohort, prompt_cohort
    from voxelsam.infer.predictor import Predictor
    from voxelsam.infer.session import check_learnt
    from voxelsam.prompts.file import load

    trained = bundle.load(model)
    known, labels = trained.description, trained.labels
    check_learnt(known.prompts, base)
    request = prompt_cohort.Request(
        None if prompts is None else load(prompts),
        points=tuple(point or ()),
        beside=tuple(beside or ()),
        boxes=tuple(box or ()),
        space=space,
        propagate=tuple(propagate or ()),
    )
    part = {"series": series, "frame": frame, "overlap": overlap, "precision": precision}
    settings = {"base": base, "outside": outside, "conflict": conflict, **part}
    settings |= {"compile": True} if compiled else {}
    settings |= {"half_features": True} if half else {}
    with record.recording("prompt", settings | {"device": device}, accept or ()) as run:
        channels, dotted = len(known.channels), screen.dotted(ending)
        todo = cases.tasks(source, output, channels, ending=dotted, series=series, frame=frame, film=film)
        request.check(todo, labels)
        run.made_by = {"bundle": known.weights_sha256, **settings, "accepted": sorted(accept or ())}
        run.made_by = {**run.made_by, "prompts": request.digest}
        run.facts["bundle"] = trained.identity()
        cohort.check_overlap(overlap, known.stack.depth)
        cohort.check_output(todo, output, run.made_by, go_on)
        if dry_run:
            screen.finish(list(prompt_cohort.planned(todo, request, channels, labels)), as_json)
            return
        stride = None if overlap is None else known.stack.depth - overlap
        how: dict[str, Any] = {"device": device, "precision": precision, "compiled": compiled}
        predictor = Predictor(trained, weights=weights, stride=stride, **how)
        run.facts["arithmetic"] = predictor.arithmetic
        session = predictor.open(base=base, outside=outside, overlap=conflict, folder=cache, half=half)
        run.path = cohort.place(todo, output)
        extras = cohort.Extras(preview)
        segment = prompt_cohort.segmenting(session, request)
        with screen.bars() as bar:
            found = cohort.run(
                predictor, todo, progress=lambda task: bar(task.id), segment=segment, extras=extras, noted=run
            )
            outcomes = list(found)
    screen.finish(outcomes, as_json)
