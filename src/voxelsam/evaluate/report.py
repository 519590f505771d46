"""One HTML page about a training or an evaluation.

The page is a single file that shows the same without a network: styles and pictures are inside it, and there are no
scripts. It follows the reader's light or dark setting and fits a telephone.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from voxelsam.evaluate.scores import DEFINITIONS, RULES, Report
from voxelsam.files import write_text
from voxelsam.overlay import Overlay

_LOSSES = {"train_loss": ("training", "#3b82c4"), "val_loss": ("validation", "#e0662f")}
_SCORES = ("#16a07a", "#8d62c9", "#c79a1b", "#d0517f", "#5b8f2f", "#3b82c4")
_INK = "#7d8590"  # readable on white and on black


def write_html(
    path: Path,
    *,
    title: str,
    report: Report | None = None,
    curve: Sequence[Mapping[str, float | None]] = (),
    overlays: Sequence[Overlay] = (),
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Writes the page; parts that are not given are left out.

    Args:
        path: the HTML file; replaced if it is there.
        title: heading.
        report: scores by class and case.
        curve: one row per epoch with ``epoch`` and any of ``train_loss``, ``val_loss`` and further ``val_…`` scores
            from 0 to 1; what was not measured is missing, None or NaN.
        overlays: pictures.
        facts: names and values, such as the data set and the number of trained parameters.
        notes: sentences that the reader should know, such as warnings.

    Raises:
        OutputError: the file cannot be written.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"score": _score, "inline": _inline}
    template = environment.from_string(files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8"))
    drawn = draw_curve(curve)
    page = template.render(
        title=title,
        report=report,
        worst_first=_case_rows(report) if report else [],
        curve=drawn,
        overlays=overlays,
        facts=facts or {},
        notes=notes,
        definitions=DEFINITIONS,
        rules=RULES,
        version=version("voxelsam"),
    )
    write_text(path, page)


def draw_curve(curve: Sequence[Mapping[str, float | None]]) -> bytes | None:
    """Losses and scores over epochs as a PNG file on a clear ground; None if there is nothing to draw."""
    losses = {key: line for key in _LOSSES if (line := _line(curve, key))}
    names = sorted({key for row in curve for key in row if key.startswith("val_") and key not in _LOSSES})
    scores = {key: line for key in names if (line := _line(curve, key))}
    panels = [part for part in (losses, scores) if part]
    if not panels:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(panels), 3.1), layout="constrained", facecolor="none")
    for axes, part in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, (key, line) in enumerate(part.items()):
            name, colour = _LOSSES.get(key, (key.removeprefix("val_"), _SCORES[number % len(_SCORES)]))
            marker = "o" if len(line) < 25 else ""
            axes.plot(*zip(*line, strict=True), color=colour, label=name, linewidth=1.8, marker=marker, markersize=3)
        _dress(axes, "loss" if part is losses else "validation score", unit=part is scores)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, transparent=True, metadata={"Software": None})
    return file.getvalue()


def _dress(axes: Any, name: str, *, unit: bool) -> None:
    """Colours that can be read on any ground."""
    axes.set_facecolor("none")
    axes.set_title(name, color=_INK, fontsize=10, loc="left")
    axes.set_xlabel("epoch", color=_INK, fontsize=9)
    axes.tick_params(colors=_INK, labelsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color=_INK, alpha=0.25, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)
    axes.set_ylim(bottom=0, top=1.02 if unit else None)
    axes.legend(frameon=False, labelcolor=_INK, fontsize=8)


def _line(curve: Sequence[Mapping[str, float | None]], key: str) -> list[tuple[float, float]]:
    """Epochs and values where there is one."""
    rows = [(row.get("epoch"), row.get(key)) for row in curve]
    return [(x, y) for x, y in rows if x is not None and y is not None and math.isfinite(y)]


def _case_rows(report: Report) -> list[dict[str, Any]]:
    """Cases from the worst to the best: id, mean, and Dice of every class."""
    return [
        {
            "case": case.case,
            "mean": report.case_dice(case),
            "scores": [
                case.counts[row.value].dice(report.empty) if row.value in case.counts else math.nan
                for row in report.classes
            ],
        }
        for case in report.worst_first()
    ]


def _score(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
