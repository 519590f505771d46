"""The table of a benchmark: rows, goals, what was recorded, and the page of the documentation."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

TOLERANCE = 0.15
"""Part of a recorded ratio that a ratio may lose."""

BEGIN, END = "<!-- begin: python benchmarks/bench.py --docs -->", "<!-- end -->"


@dataclass(frozen=True)
class Goal:
    """What a way of doing the work should reach.

    ``speed`` or ``memory`` times, ``difference`` or ``equal`` labels, or a ``size`` in MB.
    """

    way: str
    of: str
    bar: float
    to: str = ""
    """The way that it is compared with; empty for the first."""
    alike: float | None = None
    """The bar on machines where no library multiplies matrices clearly faster than PyTorch's own; None for the same."""


@dataclass
class Row:
    """One line of the table."""

    work: str
    way: str
    seconds: float | None = None
    memory: float | None = None
    speed: float | None = None
    less: float | None = None
    difference: float | None = None
    goals: list[str] = field(default_factory=list)
    note: str = ""
    ratios: dict[str, float] = field(default_factory=dict)
    """What a later run is compared with; greater is better."""
    date: str = ""
    """When it was recorded."""


def judged(goal: Goal, reached: float | None) -> str:
    """A goal, what was reached, and whether that is enough."""
    beside = f" than {goal.to}" if goal.to else ""
    words = {
        "speed": f"≥ {goal.bar:g} × faster{beside}",
        "memory": f"≥ {goal.bar:g} × less memory{beside}",
        "difference": f"difference ≤ {goal.bar:.1e}",
        "equal": f"equal labels ≥ {goal.bar:.2%}",
        "size": f"≤ {goal.bar:g} MB",
    }[goal.of]
    if reached is None:
        return f"{words}: not measured"
    met = reached <= goal.bar if goal.of in ("difference", "size") else reached >= goal.bar
    told = {"difference": f"{reached:.1e}", "equal": f"{reached:.4%}", "size": f"{reached:.2f} MB"}
    shown = told.get(goal.of, f"{reached:.2f} ×")
    return f"{words}: {verdict(met, shown)}"


def verdict(met: bool, shown: str = "") -> str:
    """Whether a goal is met, and what was reached."""
    return f"{'met' if met else 'NOT MET'}{f' ({shown})' if shown else ''}"


HEAD = ("work", "way", "CPU s", "× faster", "peak MB", "× less", "difference", "goals", "note")


def cells(row: Row) -> list[str]:
    """The row as text."""
    shown = [row.work, row.way]
    shown.append("" if row.seconds is None else f"{row.seconds:.3g}")
    shown.append("" if row.speed is None else f"{row.speed:.2f}")
    shown.append("" if row.memory is None else f"{row.memory / 1e6:.{0 if row.memory >= 10e6 else 2}f}")
    shown.append("" if row.less is None else f"{row.less:.1f}")
    shown.append("" if row.difference is None else f"{row.difference:.1e}")
    return [*shown, "; ".join(row.goals), row.note]


def line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def ratios(rows: Iterable[Row]) -> dict[str, float]:
    """All ratios by the name under which they are compared."""
    return {f"{row.work} | {row.way} | {of}": value for row in rows for of, value in row.ratios.items()}


def worse(now: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
    """A line for every ratio that lost more than ``TOLERANCE`` of what was recorded."""
    return [
        f"WORSE: {name}: {value:.2f}, which was {before[name]:.2f} ({value / before[name] - 1:+.0%})"
        for name, value in now.items()
        if name in before and value < before[name] * (1 - TOLERANCE)
    ]


def record(path: Path, rows: Sequence[Row], facts: Mapping[str, object]) -> None:
    """Writes the rows in the place of those of the same work; other pieces of work stay as they were."""
    by_work: dict[str, list[Row]] = {}
    for row in recorded(path) if path.is_file() else []:
        by_work.setdefault(row.work, []).append(row)
    for work in dict.fromkeys(row.work for row in rows):
        by_work[work] = [replace(row, date=str(facts["date"])) for row in rows if row.work == work]
    both = [row for some in by_work.values() for row in some]
    told = {"measured": dict(facts), "rows": [rounded(asdict(row)) for row in both]}
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", "utf-8")


def recorded(path: Path) -> list[Row]:
    """The rows of an earlier run."""
    return [Row(**row) for row in json.loads(path.read_text("utf-8"))["rows"]]


def rounded(value: Any) -> Any:
    """Four digits are enough for what was measured."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def write_page(page: Path, path: Path) -> None:
    """Puts the recorded rows into the documentation, between its two marks."""
    known = json.loads(path.read_text("utf-8"))
    text = page.read_text("utf-8")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    page.write_text(f"{before}{BEGIN}\n\n{tables(recorded(path), known['measured'])}\n\n{END}{after}", "utf-8")


def tables(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """One table per piece of work, and its goals."""
    rates = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in facts["rates"].items())
    parts = [f"{facts['machine']}; torch {facts['torch']}; 1 thread; a matrix product reaches {rates} GFLOP/s."]
    for work in dict.fromkeys(row.work for row in rows):
        own = [row for row in rows if row.work == work]
        shown = [[*cells(row)[1:7], row.note] for row in own]
        used = [column for column in range(7) if any(row[column] for row in shown)]
        heads = [*HEAD[1:7], "note"]
        lines = [line([heads[column] for column in used]), line(["---"] * len(used))]
        lines += [line([row[column] for column in used]) for row in shown]
        goals = [f"- {row.way}: {goal}" for row in own for goal in row.goals]
        parts.append("\n".join((f"**{work}** ({own[0].date})", "", *lines, *(["", *goals] if goals else []))))
    return "\n\n".join(parts)
