"""What verbs share of the terminal: messages, progress, tables, JSON."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from voxelsam.evaluate.scores import Report
    from voxelsam.infer.cohort import Outcome
    from voxelsam.study import Study
    from voxelsam.train.job import Job

err = Console(stderr=True, soft_wrap=True, highlight=False)
out = Console(soft_wrap=True, highlight=False)


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
        view.add_column(column, justify="left" if number == 0 else "right")
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


def finish(cases: "Sequence[Outcome]", as_json: bool) -> None:
    """What became of each case, and the exit code: 0, 1 where some failed, 2 where all did."""
    outcomes([case.to_json() for case in cases], as_json)
    failed = sum(case.status == "failed" for case in cases)
    if failed:
        raise typer.Exit(2 if failed == len(cases) else 1)


def dotted(ending: str | None) -> str | None:
    """A file's ending with its dot, whether the user wrote it or not."""
    return ending and f".{ending.removeprefix('.')}"


def job(ready: "Job") -> None:
    """What a training run is about to do, and why."""
    recipe, report = ready.recipe, ready.report
    out.print(
        f"[bold]{ready.dataset.name}[/]: {len(ready.train)} training and {len(ready.validation)} validation cases"
    )
    out.print(f"structures: {', '.join(ready.labels.names)}")
    for reason in ready.reasons:
        out.print(f"  {reason}", markup=False)
    for line in report.lines():
        out.print(line, markup=False)
    if recipe.backbone.weights is None:
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
    for failure in report.failures:
        complain(f"{failure.case} was not scored: {failure.reason}", failure.code)


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
    """A finished epoch."""
    dice = [f"{key.removeprefix('dice/')} {value:.3f}" for key, value in row.items() if key.startswith("dice/")]
    asked = [
        f"{key.removeprefix('prompted/')} {value:.3f}" for key, value in row.items() if key.startswith("prompted/")
    ]
    parts = [f"epoch {row['epoch'] + 1:.0f}/{epochs}", f"loss {row['loss']:.3f}"]
    parts += [f"validation Dice: {'  '.join(dice)}"] if dice else []
    parts += [f"prompted: {'  '.join(asked)}"] if asked else []
    out.print("  ".join(parts), markup=False)
