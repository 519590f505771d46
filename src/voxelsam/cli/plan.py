"""``voxelsam plan``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from voxelsam.cli import options, screen

if TYPE_CHECKING:
    from voxelsam.record import Run
    from voxelsam.train.job import Resolved
    from voxelsam.train.plan import Plan


def plan(
    data: Annotated[Path, typer.Argument(help="Data set folder, CSV, or YAML of several data sets.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="New recipe (YAML) for voxelsam train --config.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Backbone by name (sam-vit-b …); its checkpoint need not be there yet.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Checkpoint of the backbone.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="What will train.")] = "auto",
    memory: Annotated[
        str | None, typer.Option(help="Memory of the device that will train, such as 8GB; default: this machine's.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Time for training; epochs and stacks are made to fit.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, train.epochs=50; repeatable.")
    ] = None,
    accept: options.Accept = None,
    as_json: options.Json = False,
) -> None:
    """Choose a recipe for a data set and say why; estimate memory, disk and time."""
    from voxelsam import config, record
    from voxelsam.errors import OutputError
    from voxelsam.train import job
    from voxelsam.train.plan import Limits, bytes_of, elsewhere, estimated

    if output is not None and output.exists():
        raise OutputError(f"{output} exists already; delete it or give another name")
    limits = Limits(None if memory is None else bytes_of(memory), minutes)
    limits = elsewhere(limits, device)
    asked: dict[str, dict[str, object]] = {
        "backbone": {"name": backbone, "weights": weights and str(weights.absolute())},
        "train": {"device": None if device == "auto" else device},
        "data": {"accept": accept},
    }
    options_given = {
        name: said for name, part in asked.items() if (said := {key: value for key, value in part.items() if value})
    }
    given = config.merge(config.override({}, settings or []), options_given)
    with record.recording("plan", {"memory": memory, "minutes": minutes, "device": device}) as noted:
        with screen.bars() as bar:
            found = job.resolve(data, given, bar("reading cases"), limits=limits)
        made = estimated(found.plan, found.facts, limits)
        if output is not None:
            _write(output, found, made, data, noted)
    if as_json:
        screen.emit(made.to_json())
        return
    _show(found, made)
    if output is None:
        screen.out.print("to keep it: -o plan.yaml")
    else:
        screen.out.print(f"written; edit it, then: voxelsam train {data} --config {output} -o run", markup=False)


def _write(output: Path, found: "Resolved", made: "Plan", data: Path, noted: "Run") -> None:
    from voxelsam import record
    from voxelsam.files import write_text

    noted.path = record.path_for(output, folder=False)
    noted.facts |= {"data_set": {"name": found.dataset.name, "layout": found.dataset.layout}}
    for side, cases in (("train", found.training), ("val", found.validation)):
        for case in cases:
            noted.case(case.id, side, [one for one in noted.watch.findings if one.where == case.id])
    noted.save()
    write_text(output, made.to_yaml(_heading(found, data, output, made)))
    noted.facts["sha256"] = record.digest([output])
    noted.save("done")


def _show(found: "Resolved", made: "Plan") -> None:
    from voxelsam.train.plan import gigabytes

    sides = f"{len(found.training)} training and {len(found.validation)} validation cases"
    screen.out.print(f"[bold]{found.dataset.name}[/]: {sides} of {found.facts.patients} patients")
    screen.out.print(f"structures: {', '.join(found.labels.names)}", markup=False)
    for reason in made.open_reasons():
        screen.out.print(f"  {reason}", markup=False)
    if made.rungs:
        screen.out.print("[bold]to fit into the memory[/]")
        for rung in made.rungs:
            screen.out.print(f"  {rung.change}: {gigabytes(rung.need)}", markup=False)
    for line in (*_numbers(made), *made.notes):
        screen.out.print(line, markup=False)
    if not found.validation:
        screen.warn("nothing is validated: nobody will know how good this model is", UserWarning, "", 0)


def _heading(found: "Resolved", data: Path, output: Path, made: "Plan") -> list[str]:
    sides = f"{len(found.training)} training and {len(found.validation)} validation cases"
    first = f"Plan for {found.dataset.name} ({sides}): voxelsam train {data} --config {output}"
    return [first, *_numbers(made)]


def _numbers(made: "Plan") -> list[str]:
    """The estimates, one line each."""
    from voxelsam.train.plan import duration, gigabytes

    need = made.estimate
    if need is None:
        return []
    parts = f"weights {gigabytes(need.weights)}, optimiser {gigabytes(need.optimiser)}"
    parts += f", activations {gigabytes(need.activations)}"
    lines = [
        f"estimates (not measured; docs/how-to/plan.md says how far off they are): {need.parameters / 1e6:.3g} million "
        f"numbers, of which {need.trained / 1e6:.3g} million are trained",
        f"memory in training: about {gigabytes(need.memory)} ({parts})"
        + (f", and {gigabytes(need.ram)} of RAM" if made.device != "cpu" else ""),
        f"memory in prediction: about {gigabytes(need.prediction)}",
        f"disk: prepared cases {gigabytes(need.cache)}, run folder {gigabytes(need.run)}",
    ]
    if need.seconds is not None and need.seconds_per_step is not None and need.seconds_per_case is not None:
        lines.append(
            f"time: about {duration(need.seconds)} ({need.steps} steps of {duration(need.seconds_per_step)}, and "
            f"validation), {duration(need.seconds_per_case)} to predict a case"
        )
    return lines
