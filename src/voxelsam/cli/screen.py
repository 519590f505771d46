"""What verbs share of the terminal: messages, progress, tables, JSON."""

import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import typer
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from voxelsam.evaluate.scores import Report
    from voxelsam.infer.cohort import Outcome
    from voxelsam.infer.forecast import Need
    from voxelsam.study import Study
    from voxelsam.train.job import Job
    from voxelsam.train.live import Moment
    from voxelsam.train.trial import Trial

err = Console(stderr=True, soft_wrap=True, highlight=False)
out = Console(soft_wrap=True, highlight=False)


def be_silent() -> None:
    """Prints nothing more but errors and what breaks: for one of several processes that do the same."""
    out.quiet = True
    warnings.simplefilter("ignore")


def complain(message: str, code: str = "") -> None:
    """An error, on standard error."""
    err.print(f"[bold red]error{f' {code}' if code else ''}:[/] ", end="")
    err.print(message, markup=False)


def warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning, on standard error; takes the place of ``warnings.showwarning``."""
    err.print("[bold yellow]warning:[/] ", end="")
    err.print(str(message), markup=False)


def emit(value: Any) -> None:
    """A result as JSON, on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """A table, on standard output; every column but the first is right-aligned."""
    view = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        view.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in rows:
        view.add_row(*row)
    out.print(view)


@contextmanager
def bars() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Gives a maker of progress bars on standard error; each bar is a callback of (done, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as view:

        def bar(name: str) -> Callable[[int, int], None]:
            task = view.add_task(name, total=None)

            def advance(done: int, total: int) -> None:
                view.update(task, completed=done, total=total, visible=done < total)

            return advance

        yield bar


def outcomes(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """What became of each case."""
    if as_json:
        emit(list(rows))
        return
    for row in rows:
        mark = {"failed": "[red]failed[/]", "kept": "[yellow]kept[/]"}.get(row["status"], row["status"])
        out.print(f"{mark}  {row['id']}  {row.get('code', '')} ", end="")
        out.print(row.get("reason") or str(row["output"]), markup=False)


def flagged(case: "Outcome") -> "Outcome":
    """Warns of what says that the masks of a case may be bad, unless its code is accepted; gives the case back."""
    from voxelsam.checks import accepted

    told: dict[str, list[str]] = {}
    for flag in case.flags:
        told.setdefault(flag.code, []).extend([] if accepted(flag.code) else [flag.message])
    for code, messages in told.items():
        if messages:
            err.print("[bold yellow]warning:[/] ", end="")
            err.print(f"{code}: {case.id}: {'; '.join(messages)}", markup=False)
    return case


def finish(cases: "Sequence[Outcome]", as_json: bool) -> None:
    """What became of each case, and the exit code: 0, 1 where some failed, 2 where all did."""
    outcomes([case.to_json() for case in cases], as_json)
    failed = sum(case.status == "failed" for case in cases)
    if failed:
        raise typer.Exit(2 if failed == len(cases) else 1)


def foretold(cases: "Sequence[tuple[Outcome, Need | None]]", as_json: bool) -> None:
    """What would become of each case and what it would need; the exit code is that of ``finish``."""
    if as_json:
        emit([case.to_json() | {"estimate": need and vars(need)} for case, need in cases])
    else:
        outcomes([case.to_json() for case, _ in cases], as_json)
        known = [(case.id, need) for case, need in cases if need is not None]
        for name, need in known:
            text = f"{need.slices} slices, about {_duration(need.seconds)}, {_memory(need.memory / 1e6)} of memory"
            out.print(f"  {name}: {text}", markup=False)
        if known:
            seconds, most = sum(need.seconds for _, need in known), max(need.memory for _, need in known)
            text = (
                f"in all about {_duration(seconds)}, and at most {_memory(most / 1e6)}; estimates, nothing was written"
            )
            out.print(text, markup=False)
    failed = sum(case.status == "failed" for case, _ in cases)
    if failed:
        raise typer.Exit(2 if failed == len(cases) else 1)


def dotted(ending: str | None) -> str | None:
    """A file's ending with its dot, whether the user wrote it or not."""
    return ending and f".{ending.removeprefix('.')}"


def job(ready: "Job") -> None:
    """What a training run is about to do, and why."""
    report = ready.report
    out.print(
        f"[bold]{ready.dataset.name}[/]: {len(ready.train)} training and {len(ready.validation)} validation cases"
    )
    out.print(f"structures: {', '.join(ready.labels.names)}")
    for reason in ready.reasons:
        out.print(f"  {reason}", markup=False)
    for line in report.lines():
        out.print(line, markup=False)
    if report.initialised:
        out.print("[bold yellow]The backbone is random, not pretrained[/]: good for trying out, not for results.")


def scores(report: "Report", as_json: bool) -> None:
    """What an evaluation found."""
    from voxelsam.evaluate.scores import RULES, nulled

    if as_json:
        emit(nulled(report.to_json()))
        return
    columns = ("structure", "Dice", "± SD", "lowest", "IoU", "cases", "absent in both")
    keys = ("dice", "dice_deviation", "dice_lowest", "iou")
    rows = [
        (str(row["name"]), *(_score(float(row[key])) for key in keys), str(row["cases"]), str(row["both_empty"]))
        for row in report.rows()
    ]
    table(columns, rows)
    out.print(f"{RULES[report.empty]}.".capitalize())
    _measures(report)
    for failure in report.failures:
        complain(f"{failure.case} was not scored: {failure.reason}", failure.code)


_ABREAST = 5
"""Columns of measures that fit side by side."""


def _measures(report: "Report") -> None:
    """What was measured beside overlap, and which cases stand in no mean of it."""
    found = report.rows()
    lesions = [name for name in report.measured if name.startswith("lesion_")]
    others = [name for name in report.measured if name not in lesions]
    for names in (*(others[start : start + _ABREAST] for start in range(0, len(others), _ABREAST)), lesions):
        if names:
            rows = [
                (row["name"], *(_measure(row["measures"][name]["mean"]) for name in names), str(row["one_empty"]))
                for row in found
            ]
            table(("structure", *map(report.heading, names), "in one only"), rows)
    for row in (*report.classes, *report.regions):
        lacking = {name: item for name, item in row.measures.items() if item.undefined}
        for count in sorted({item.undefined for item in lacking.values()}):
            which = ", ".join(name for name, item in lacking.items() if item.undefined == count)
            most = count + max(item.cases for item in lacking.values() if item.undefined == count)
            err.print("[bold yellow]note:[/] ", end="")
            err.print(
                f"{row.name}: {which} of {count} of {most} cases is undefined and in no mean: the failures are left "
                "out. With --penalty diagonal distances count them.",
                markup=False,
            )


def _measure(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def study(result: "Study") -> None:
    """What simulated prompts gained."""
    names = result.structures()
    rows = [
        (
            row["step"],
            *(_score(row[key]) for key in ("dice", *(f"dice/{name}" for name in names))),
            f"{row['prompts']:.1f}",
            f"{row['seconds']:.2f}",
        )
        for row in result.rows()
    ]
    table(("way", "mean Dice", *names, "prompts per object", "seconds per case"), rows)
    for case, reason in result.failures.items():
        complain(f"{case} was not used: {reason}")


def _score(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def facts(values: Mapping[str, Any], indent: str = "") -> None:
    """Nested facts, one per line."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            out.print(f"{indent}[bold]{key}[/]")
            facts(value, indent + "  ")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            out.print(f"{indent}[bold]{key}[/]: ", end="")
            out.print(shown if len(shown) < 300 else f"{shown[:300]}…", markup=False)


def epoch(row: Mapping[str, float], epochs: int) -> None:
    """A finished epoch, on one line."""
    dice = [f"{key.removeprefix('dice/')} {_score(value)}" for key, value in row.items() if key.startswith("dice/")]
    asked = [
        f"{key.removeprefix('prompted/')} {_score(value)}" for key, value in row.items() if key.startswith("prompted/")
    ]
    parts = [f"epoch {row['epoch'] + 1:.0f}/{epochs}", f"loss {row['loss']:.3f}"]
    parts += [f"validation Dice: {'  '.join(dice)}"] if dice else []
    parts += [f"prompted: {'  '.join(asked)}"] if asked else []
    parts += [f"best {row['best']:.3f} (epoch {row['best_epoch'] + 1:.0f})"] if "best" in row else []
    parts += [f"{row['speed']:.3g} stacks/s"] if "speed" in row else []
    parts += [f"{_memory(row['memory'])}"] if "memory" in row else []
    parts += [f"{_duration(row['left'])} left"] if row.get("left") else []
    out.print("  ".join(parts), markup=False)


def ended(facts: Mapping[str, float | bool]) -> None:
    """How a training run ended: that it stopped early, and which epoch was the best."""
    if facts["stopped_early"]:
        out.print(f"stopped early after {facts['epochs']} epochs: validation did not get better for train.patience")
    if "best_epoch" in facts:
        out.print(f"best validation Dice: {facts['best_val_dice']:.3f} (epoch {facts['best_epoch']})")


@contextmanager
def training(structures: Sequence[str], *, quiet: bool = False) -> "Iterator[Callable[[Moment], None] | None]":
    """A table that shows a training run as it goes, on standard error; None where that is no terminal, or quiet.

    Args:
        structures: names of the structures, for the Dice of each.
        quiet: show nothing.
    """
    if quiet or not err.is_terminal:
        yield None
        return
    now: list[Moment] = []

    def view() -> Table | str:
        return moment(now[-1], structures) if now else ""

    with Live(get_renderable=view, console=err, transient=True, refresh_per_second=4):
        yield lambda one: now.__setitem__(slice(None), [one])


def moment(one: "Moment", structures: Sequence[str]) -> Table:
    """A run in the middle of an epoch, as a table of two columns.

    Args:
        one: the numbers.
        structures: names of the structures, for the Dice of each.
    """
    scores = {name: one.validated.get(f"dice/{name}", math.nan) for name in structures}
    asked = {key: value for key, value in one.validated.items() if key.startswith("prompted/")}
    rows = {
        "epoch": f"{one.epoch + 1} of {one.epochs}, batch {one.batch} of {one.batches}",
        "loss": "  ".join(f"{name} {value:.4f}" for name, value in one.losses.items()),
        "validation Dice": "  ".join(f"{name} {_score(value)}" for name, value in (scores | asked).items()),
        "best so far": f"{one.best['val_dice']:.3f} (epoch {one.best['epoch'] + 1:.0f})" if one.best else "–",
        "speed": f"{one.speed:.3g} stacks/s",
        "peak memory": "–" if one.memory is None else _memory(one.memory),
        "time left": "–" if one.left is None else _duration(one.left),
    }
    view = Table(show_header=False, box=None)
    for name, value in rows.items():
        view.add_row(Text(name, style="bold"), Text(value))
    return view


def trial(found: "Trial") -> None:
    """What a dry run measured."""
    rows = {
        "one step": f"{found.seconds_per_step:.3g} s ({found.batch} stacks)",
        "one epoch": f"{_duration(found.seconds_per_epoch)} ({found.steps_per_epoch} batches, then validation)",
        "whole run": f"{_duration(found.seconds)} ({found.epochs} epochs)",
        "peak memory": "–" if found.memory_mb is None else f"{_memory(found.memory_mb)} on {found.device}",
        "disk": f"{_memory(found.disk_mb)} in the run folder",
    }
    out.print("[bold]two steps and a validation step were tried[/]; estimates, nothing was written:")
    for name, value in rows.items():
        out.print(f"  {name}: {value}", markup=False)


def _memory(megabytes: float) -> str:
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{seconds:.2g} s"
