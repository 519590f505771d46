"""``voxelsam prompt``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from voxelsam.cli import screen


def prompt(
    model: Annotated[Path, typer.Option("-m", "--model", help="Bundle folder, e.g. run/best.")],
    source: Annotated[
        Path, typer.Option("-i", "--input", help="Image file, DICOM series (folder or zip), or folder of them.")
    ],
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
    ending: Annotated[
        str | None,
        typer.Option("--format", help="Ending of the masks: nii.gz, nrrd, seg.nrrd, dcm …; default: the image's."),
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="Which DICOM series of a folder that holds several; without it they are listed.")
    ] = None,
    film: Annotated[
        bool, typer.Option("--film", help="Folders of numbered pictures are films; else each picture is a case.")
    ] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Write a picture of each case with its mask.")] = False,
    accept: Annotated[
        list[str] | None, typer.Option(help="Go on where this check stops (its code, such as DCM-01). Repeatable.")
    ] = None,
    go_on: Annotated[bool, typer.Option("--continue", help="Keep masks that are there already.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every scan and its prompts; write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Segment what points, boxes, scribbles and masks show; for one scan or a cohort."""
    from voxelsam import bundle, record
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
    settings = {"base": base, "outside": outside, "overlap": overlap, "stride": stride, "precision": precision}
    with record.recording("prompt", settings | {"device": device, "series": series}, accept or ()) as run:
        todo = cohort.tasks(source, output, len(known.channels), ending=screen.dotted(ending), series=series, film=film)
        request.check(todo, labels)
        run.made_by = {"bundle": known.weights_sha256, **settings, "accepted": sorted(accept or ())}
        run.made_by = {**run.made_by, "prompts": request.digest}
        run.facts["bundle"] = trained.identity()
        cohort.check_output(todo, output, run.made_by, go_on)
        if dry_run:
            screen.finish(list(prompt_cohort.planned(todo, request, len(known.channels), labels)), as_json)
            return
        predictor = Predictor(trained, weights=weights, device=device, precision=precision, stride=stride)
        session = predictor.open(base=base, outside=outside, overlap=overlap, folder=cache)
        run.path = cohort.place(todo, output)
        extras = cohort.Extras(preview)
        segment = prompt_cohort.segmenting(session, request)
        with screen.bars() as bar:
            found = cohort.run(
                predictor, todo, progress=lambda task: bar(task.id), segment=segment, extras=extras, noted=run
            )
            outcomes = list(found)
    screen.finish(outcomes, as_json)
