"""``voxelsam predict``."""

from typing import Annotated, Any

import typer

from voxelsam.cli import options, screen


def predict(
    model: options.Models,
    source: options.Scans,
    output: options.Masks,
    weights: options.Weights = None,
    device: options.Device = "auto",
    precision: options.Precision = "fp32",
    compiled: options.Compile = False,
    overlap: options.Overlap = None,
    single_pass: Annotated[
        bool, typer.Option("--single-pass", help="Take a volume as one stack of all its slices, each encoded once.")
    ] = False,
    tta: Annotated[
        bool, typer.Option("--tta/--no-tta", help="Average over views that are safe for the model: three times slower.")
    ] = False,
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
    from voxelsam import record
    from voxelsam.infer import cases, cohort, ensemble, forecast
    from voxelsam.infer.clean import Clean
    from voxelsam.infer.views import views

    trained = ensemble.read(model)
    clean = Clean(largest, smallest)
    shown = [[view.name for view in views(one.description.training_augment)] for one in trained] if tta else []
    cut: dict[str, Any] = {"overlap": overlap, "single_pass": single_pass}
    settings = {**cut, "precision": precision, **vars(clean), "series": series, "frame": frame}
    settings |= ({"tta": shown} if tta else {}) | ({"compile": True} if compiled else {})
    with record.recording("predict", settings | {"device": device}, accept or ()) as run:
        channels, dotted = len(trained[0].description.channels), screen.dotted(ending)
        todo = cases.tasks(source, output, channels, ending=dotted, series=series, frame=frame, film=film)
        run.made_by = {"bundle": ensemble.made_by(trained), **settings, "accepted": sorted(accept or ())}
        run.facts["bundle"] = ensemble.identity(trained)
        depth = min(one.description.stack.depth for one in trained)
        cohort.check_overlap(overlap, depth, single_pass=single_pass)
        cohort.check_output(todo, output, run.made_by, go_on)
        if dry_run:
            told = forecast.of(trained, device=device, precision=precision, tta=tta, cases=len(todo), **cut)
            screen.foretold(list(forecast.planned(todo, channels, told)), as_json)
            return
        how: dict[str, Any] = {"device": device, "precision": precision, "compiled": compiled}
        ready = ensemble.build(trained, weights=weights, clean=clean, tta=tta, **how, **cut)
        run.facts["arithmetic"] = ready.arithmetic
        ready.check_prompt_free()
        run.path = cohort.place(todo, output)
        extras = cohort.Extras(preview, probabilities)
        with screen.bars() as bar:
            found = cohort.run(ready, todo, progress=lambda task: bar(task.id), extras=extras, noted=run)
            outcomes = [screen.flagged(outcome) for outcome in found]
    screen.finish(outcomes, as_json)
