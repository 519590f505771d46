"""``voxelsam predict``."""

from typing import Annotated

import typer

from voxelsam.cli import options, screen


def predict(
    model: options.Model,
    source: options.Scans,
    output: options.Masks,
    weights: options.Weights = None,
    device: options.Device = "auto",
    precision: options.Precision = "fp32",
    stride: options.Stride = None,
    largest: Annotated[
        bool, typer.Option("--largest", help="Keep only the largest connected part of each structure.")
    ] = False,
    smallest: Annotated[float, typer.Option(help="Drop connected parts of fewer cubic millimetres.")] = 0.0,
    ending: options.Ending = None,
    series: options.Series = None,
    frame: options.Frame = None,
    film: options.Film = False,
    preview: options.Preview = False,
    probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Write a map from 0 to 1 for each structure.")
    ] = False,
    accept: options.Accept = None,
    go_on: options.GoOn = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Segment volumes; a mask has exactly the shape and affine of its volume. No labels are needed."""
    from voxelsam import bundle, record
    from voxelsam.infer import cases, cohort
    from voxelsam.infer.clean import Clean
    from voxelsam.infer.predictor import Predictor

    trained = bundle.load(model)
    clean = Clean(largest, smallest)
    settings = {"stride": stride, "precision": precision, **vars(clean), "series": series, "frame": frame}
    with record.recording("predict", settings | {"device": device}, accept or ()) as run:
        channels, dotted = len(trained.description.channels), screen.dotted(ending)
        todo = cases.tasks(source, output, channels, ending=dotted, series=series, frame=frame, film=film)
        run.made_by = {"bundle": trained.description.weights_sha256, **settings, "accepted": sorted(accept or ())}
        run.facts["bundle"] = trained.identity()
        cohort.check_stride(stride, trained.description.stack.depth)
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
