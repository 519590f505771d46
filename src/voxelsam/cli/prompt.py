"""``voxelsam prompt``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from voxelsam.cli import screen


def prompt(
    model: Annotated[Path, typer.Option("-m", "--model", help="Bundle folder, e.g. run/best.")],
    source: Annotated[Path, typer.Option("-i", "--input", help="Image file, or folder of image files.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the masks (for one file also a file name).")
    ],
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
    overlap: Annotated[
        Literal["score", "order", "last"], typer.Option(help="Which of several objects gets a voxel.")
    ] = "score",
    propagate: Annotated[
        list[str] | None, typer.Option(help="Structure to carry to further slices, both ways. Repeatable.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps image features for the next time.")] = None,
    weights: Annotated[Path | None, typer.Option(help="The backbone's checkpoint, if it has moved.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    precision: Annotated[Literal["fp32", "bf16", "fp16"], typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    stride: Annotated[int | None, typer.Option(min=1, help="Slices between stacks; default: the model's.")] = None,
    go_on: Annotated[bool, typer.Option("--continue", help="Keep masks that are there already.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every scan and its prompts; write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Segment what points, boxes, scribbles and masks show; for one scan or a cohort."""
    from voxelsam import bundle
    from voxelsam.infer import cohort, prompt_cohort
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
    todo = cohort.tasks(source, output, len(known.channels))
    request.check(todo, labels)
    rules = {"base": base, "outside": outside, "overlap": overlap}
    record = {"model": known.weights_sha256, "stride": str(stride), "precision": precision, **rules}
    record["prompts"] = request.digest
    cohort.check_output(todo, output, record, go_on)
    if dry_run:
        outcomes = list(prompt_cohort.planned(todo, request, len(known.channels), labels))
    else:
        predictor = Predictor(trained, weights=weights, device=device, precision=precision, stride=stride)
        session = predictor.open(base=base, outside=outside, overlap=overlap, folder=cache)
        in_folder = todo[0].output != output
        segment = prompt_cohort.segmenting(
            session, request, lambda: cohort.write_record(output, record) if in_folder else None
        )
        with screen.bars() as bar:
            run = cohort.run(predictor, todo, progress=lambda task: bar(task.id), segment=segment)
            outcomes = list(run)
    screen.outcomes([vars(outcome) for outcome in outcomes], as_json)
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if failed:
        raise typer.Exit(2 if failed == len(outcomes) else 1)
