"""Pictures of numbers for pages: curves, box plots, paired differences, correlations.

Each is a PNG file on a clear ground in colours that can be read on white and on black.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#16a07a", "#8d62c9", "#c79a1b", "#d0517f", "#5b8f2f", "#3b82c4", "#e0662f", "#4aa3a3")
"""Colours of models and curves, in turn."""

_LOSSES = {"train_loss": ("training", "#3b82c4"), "val_loss": ("validation", "#e0662f")}
_INK = "#7d8590"  # readable on white and on black
_DPI = 130
_POINTS = 400
"""Scores of one box above which its points are not drawn."""

Line = list[tuple[float, float]]


@dataclass(frozen=True)
class Box:
    """The scores of one structure in one series."""

    name: str
    """Of the structure; boxes of the same name stand together."""
    series: str
    """Of the model; empty where there is only one."""
    values: Sequence[float]
    """NaN where not defined."""
    colour: str = ""
    """Hexadecimal; empty: that of the series."""


@dataclass(frozen=True)
class Paired:
    """Differences of one structure between two models."""

    name: str
    differences: Sequence[float]
    """Per case; NaN where not defined."""
    mean: float
    low: float
    """NaN where there is no interval."""
    high: float


def curve(rows: Sequence[Mapping[str, float | None]]) -> bytes | None:
    """Losses and scores over epochs; None if there is nothing to draw.

    Args:
        rows: One per epoch with ``epoch`` and any of ``train_loss``, ``val_loss`` and further ``val_…`` scores from 0
            to 1; what was not measured is missing, None or NaN.
    """
    losses = {key: line for key in _LOSSES if (line := _line(rows, key))}
    names = sorted({key for row in rows for key in row if key.startswith("val_") and key not in _LOSSES})
    scores = {key: line for key in names if (line := _line(rows, key))}
    panels = [part for part in (losses, scores) if part]
    if not panels:
        return None
    figure = _figure(4.6 * len(panels), 3.1)
    for axes, part in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, (key, line) in enumerate(part.items()):
            name, colour = _LOSSES.get(key, (key.removeprefix("val_"), PALETTE[number % len(PALETTE)]))
            marker = "o" if len(line) < 25 else ""
            axes.plot(*zip(*line, strict=True), color=colour, label=name, linewidth=1.8, marker=marker, markersize=3)
        _dress(axes, "loss" if part is losses else "validation score", "epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0, top=1.02 if part is scores else None)
        axes.legend(frameon=False, labelcolor=_INK, fontsize=8)
    return _png(figure)


def boxes(items: Sequence[Box], title: str) -> bytes | None:
    """Box plots, those of one structure side by side: median, quartiles, whiskers at 1.5 times their distance, points.

    Args:
        items: In the order in which they stand.
        title: Metric and unit.

    Returns:
        None if no score is defined.
    """
    drawn = [item for item in items if any(map(math.isfinite, item.values))]
    if not drawn:
        return None
    names = list(dict.fromkeys(item.name for item in items))
    series = list(dict.fromkeys(item.series for item in items))
    width = 0.8 / len(series)
    figure = _figure(min(14.0, max(4.6, 1.2 + 0.3 * len(items) + 0.35 * len(names))), 3.4)
    axes = figure.subplots()
    for item in drawn:
        place = names.index(item.name) + (series.index(item.series) - (len(series) - 1) / 2) * width
        colour = item.colour or PALETTE[series.index(item.series) % len(PALETTE)]
        _box(axes, item, place, width, colour)
    _dress(axes, title)
    _name_places(axes, names)
    if len(series) > 1:
        from matplotlib.patches import Patch

        handles = [Patch(facecolor=PALETTE[n % len(PALETTE)], label=_short(name)) for n, name in enumerate(series)]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(4, len(series)), frameon=False, labelcolor=_INK,
            fontsize=8,
        )  # fmt: skip
    return _png(figure)


def differences(items: Sequence[Paired], title: str) -> bytes | None:
    """Differences of each case as points around 0, their mean with its interval beside them; None if there is none."""
    drawn = [item for item in items if any(map(math.isfinite, item.differences))]
    if not drawn:
        return None
    names = [item.name for item in items]
    figure = _figure(min(14.0, max(4.6, 1.2 + 0.75 * len(items))), 3.2)
    axes = figure.subplots()
    axes.axhline(0, color=_INK, linewidth=1.2)
    for item in drawn:
        place = names.index(item.name)
        values = [value for value in item.differences if math.isfinite(value)]
        axes.scatter(_spread(place - 0.14, 0.24, len(values)), values, s=11, color=PALETTE[5], alpha=0.8, linewidths=0)
        low, high = (value if math.isfinite(value) else item.mean for value in (item.low, item.high))
        axes.plot([place + 0.2, place + 0.2], [low, high], color=PALETTE[6], linewidth=2.4, solid_capstyle="round")
        axes.plot([place + 0.2], [item.mean], marker="o", color=PALETTE[6], markersize=6)
    _dress(axes, title)
    _name_places(axes, names)
    return _png(figure)


def scatter(points: Mapping[str, Line], title: str, across: str, up: str) -> bytes | None:
    """Points of several series, for a correlation; None if no point is defined.

    Args:
        points: By series, (across, up).
        title: Heading.
        across: Name of the axis.
        up: Name of the axis.
    """
    series = {name: [point for point in line if all(map(math.isfinite, point))] for name, line in points.items()}
    if not any(series.values()):
        return None
    figure = _figure(4.6, 3.4)
    axes = figure.subplots()
    for number, (name, line) in enumerate(series.items()):
        if line:
            xs, ys = zip(*line, strict=True)
            colour = PALETTE[number % len(PALETTE)]
            axes.scatter(xs, ys, s=18, color=colour, alpha=0.75, linewidths=0, label=_short(name))
    _dress(axes, title, across, up)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, labelcolor=_INK, fontsize=8)
    return _png(figure)


def _box(axes: "Axes", item: Box, place: float, width: float, colour: str) -> None:
    values = [value for value in item.values if math.isfinite(value)]
    axes.boxplot(
        [values], positions=[place], widths=0.75 * width, showfliers=False, patch_artist=True, manage_ticks=False,
        boxprops={"facecolor": (colour, 0.3), "edgecolor": colour, "linewidth": 1.2},
        medianprops={"color": colour, "linewidth": 2}, whiskerprops={"color": colour}, capprops={"color": colour},
    )  # fmt: skip
    if len(values) <= _POINTS:
        axes.scatter(_spread(place, 0.45 * width, len(values)), values, s=8, color=colour, alpha=0.7, linewidths=0)


def _spread(place: float, width: float, count: int) -> list[float]:
    """Places side by side, the same at every call."""
    return [place + width * ((0.618034 * number) % 1 - 0.5) for number in range(count)]


def _name_places(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)))
    crowded = len(names) > 6 or max(map(len, names)) > 10
    axes.set_xticklabels([_short(name) for name in names])
    if crowded:
        for text in axes.get_xticklabels():
            text.set(rotation=35, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(visible=False, axis="x")


def _dress(axes: "Axes", title: str, across: str = "", up: str = "") -> None:
    """Colours that can be read on any ground."""
    axes.set_facecolor("none")
    axes.set_title(_plain(title), color=_INK, fontsize=10, loc="left")
    axes.set_xlabel(_plain(across), color=_INK, fontsize=9)
    axes.set_ylabel(_plain(up), color=_INK, fontsize=9)
    axes.tick_params(colors=_INK, labelsize=8)
    axes.grid(color=_INK, alpha=0.25, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)


def _figure(width: float, height: float) -> "Figure":
    """Size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="none")


def _png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, transparent=True, metadata={"Software": None})
    return file.getvalue()


def _line(rows: Sequence[Mapping[str, float | None]], key: str) -> Line:
    """Epochs and values where there is one."""
    pairs = [(row.get("epoch"), row.get(key)) for row in rows]
    return [(x, y) for x, y in pairs if x is not None and y is not None and math.isfinite(y)]


def _short(name: str) -> str:
    return _plain(name if len(name) <= 24 else f"{name[:23]}…")


def _plain(text: str) -> str:
    """Text in which a dollar sign starts no formula."""
    return text.replace("$", r"\$")
