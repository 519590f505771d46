"""``voxelsam predict``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from voxelsam.cli import screen


def predict(
    model: Annotated[Path, typer.Option("-m", "--model", help="Bundle folder, e.g. run/best.")],
    source: Annotated[Path, typer.Option("-i", "--input", help="Image file, or folder of image files.")],
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
    go_on: Annotated[bool, typer.Option("--continue", help="Keep masks that are there already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Segment volumes; a mask has exactly the shape and affine of its volume. No labels are needed."""
    from voxelsam import bundle
    from voxelsam.infer import cohort
    from voxelsam.infer.clean import Clean
    from voxelsam.infer.predictor import Predictor

    trained = bundle.load(model)
    todo = cohort.tasks(source, output, len(trained.description.channels))
    clean = Clean(largest, smallest)
    record = {"model": trained.description.weights_sha256, "stride": str(stride), "precision": precision}
    if clean != Clean():
        record |= {"largest": str(largest), "smallest": str(smallest)}
    cohort.check_output(todo, output, record, go_on)
    if dry_run:
        screen.outcomes([{"id": task.id, "output": task.output, "status": "planned"} for task in todo], as_json)
        return
    predictor = Predictor(trained, weights=weights, device=device, precision=precision, stride=stride, clean=clean)
    predictor.check_prompt_free()
    if todo[0].output != output:
        cohort.write_record(output, record)
    with screen.bars() as bar:
        outcomes = list(cohort.run(predictor, todo, progress=lambda task: bar(task.id)))
    screen.outcomes([vars(outcome) for outcome in outcomes], as_json)
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if failed:
        raise typer.Exit(2 if failed == len(outcomes) else 1)
