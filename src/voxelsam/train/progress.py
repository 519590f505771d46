"""``progress.png``: losses, validation Dice, learning rate and seconds of every epoch so far."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voxelsam.train.history import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (11.0, 7.0)
"""Inches (width, height)."""


class Picture:
    """The file, drawn anew after every epoch; what goes wrong is said once and never stops a run.

    Args:
        path: of the PNG.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._works = True

    def draw(self, history: Sequence[Row], timing: Sequence[Row]) -> None:
        """Writes the file beside its place first, then renames it.

        Args:
            history: rows of ``metrics.csv``.
            timing: rows of ``timing.csv``.
        """
        if not self._works:
            return
        beside = self.path.with_name(f".{self.path.name}")
        try:
            _draw(history, timing, beside)
            beside.replace(self.path)
        except Exception as error:  # a picture is never worth a run
            self._works = False
            reason = str(error) or type(error).__name__
            warnings.warn(
                f"{self.path.name} cannot be drawn ({reason}); training goes on", RuntimeWarning, stacklevel=2
            )
            beside.unlink(missing_ok=True)


def _draw(history: Sequence[Row], timing: Sequence[Row], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    losses, dice, rate, seconds = figure.subplots(2, 2).flat
    _lines(losses, history, {"loss": "loss", "ce": "cross-entropy", "dice_loss": "Dice loss"}, "training loss")
    scores = dict.fromkeys(key for row in history for key in row if key.startswith(("dice/", "prompted/")))
    named = {key: key.removeprefix("dice/") for key in scores} | {"val_dice": "val_dice (chooses the best)"}
    _lines(dice, history, named, "validation Dice")
    dice.set_ylim(0, 1)
    _lines(rate, history, {"lr": "learning rate"}, "learning rate")
    _lines(seconds, timing, {"seconds": "seconds"}, "seconds per epoch")
    seconds.set_ylim(bottom=0)
    figure.savefig(path, format="png", dpi=100)


def _lines(axes: "Axes", rows: Sequence[Row], columns: dict[str, str], title: str) -> None:
    """One line per column that any row has; epochs are counted from 1."""
    from matplotlib.ticker import MaxNLocator

    for key, name in columns.items():
        points = [(row["epoch"] + 1, row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else None)
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if 1 < len(axes.lines) <= 16:
        axes.legend(fontsize="small")
