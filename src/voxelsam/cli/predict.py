"""``voxelsam predict``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from voxelsam.cli import screen


def predict(
    model: Annotated[Path, typer.Option("-m", "--model", help="Bundle folder, e.g. run/best.")],
    source: Annotated[
        Path, typer.Option("-i", "--input", help="Image file, DICOM series (folder or zip), or folder of them.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the masks (for one file also a file name).")
    ],
    weights: Annotated[Path | None, typer.Option(help="The backbone's checkpoint, if it has moved.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    precision: Annotated[Literal["fp32", "bf16", "fp16"], typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    stride: Annotated[int | None, typer.Option(min=1, help="Slices between stacks; default: the model's.")] = None,
    largest: Annotated[
        bool, typer.Option("--largest", help="Keep only the largest connected part of each structure.")
    ] = False,
    smallest: Annotated[float, typer.Option(help="Drop connected parts of fewer cubic millimetres.")] = 0.0,
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
    probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Write a map from 0 to 1 for each structure.")
    ] = False,
    accept: Annotated[
        list[str] | None, typer.Option(help="Go on where this check stops (its code, such as DCM-01). Repeatable.")
    ] = None,
    go_on: Annotated[bool, typer.Option("--continue", help="Keep masks that are there already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Segment volumes; a mask has exactly the shape and affine of its volume. No labels are needed."""
    from voxelsam import bundle, record
    from voxelsam.infer import cohort
    from voxelsam.infer.clean import Clean
    from voxelsam.infer.predictor import Predictor

    trained = bundle.load(model)
    clean = Clean(largest, smallest)
    settings = {"stride": stride, "precision": precision, **vars(clean)}
    with record.recording("predict", settings | {"device": device, "series": series}, accept or ()) as run:
        todo = cohort.tasks(
            source, output, len(trained.description.channels), ending=screen.dotted(ending), series=series, film=film
        )
        run.made_by = {"bundle": trained.description.weights_sha256, **settings, "accepted": sorted(accept or ())}
        run.facts["bundle"] = trained.identity()
        cohort.check_output(todo, output, run.made_by, go_on)
        if dry_run:
            screen.outcomes([{"id": task.id, "output": task.output, "status": "planned"} for task in todo], as_json)
            return
        predictor = Predictor(trained, weights=weights, device=device, precision=precision, stride=stride, clean=clean)
        predictor.check_prompt_free()
        run.path = cohort.place(todo, output)
        extras = cohort.Extras(preview, probabilities)
        with screen.bars() as bar:
            found = cohort.run(predictor, todo, progress=lambda task: bar(task.id), extras=extras, noted=run)
            outcomes = list(found)
    screen.finish(outcomes, as_json)
