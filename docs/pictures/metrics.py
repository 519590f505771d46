"""Makes metrics.png: what each metric looks at, on drawn shapes, with the values that voxelsam computes for them.

Run it from the repository's root: ``python docs/pictures/metrics.py``. It needs no data.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

from voxelsam.evaluate import surface
from voxelsam.evaluate.lesions import detect
from voxelsam.evaluate.metrics import count

PREDICTION, REFERENCE, GOOD, BAD = "#e0662f", "#2f6fb7", "#16a07a", "#c2304f"
SIZE = 40
STEP = (1.0, 1.0)


def disc(x: float, y: float, radius: float) -> np.ndarray:
    """A filled circle."""
    across, down = np.indices((SIZE, SIZE))
    return (across - x) ** 2 + (down - y) ** 2 <= radius**2


REFERENCE_MASK = disc(17, 20, 10)
GUESS = disc(20, 20, 10) | disc(34, 8, 1.5)


def show(panel: Any, title: str, *layers: tuple[np.ndarray, str, float]) -> None:
    """Masks as coloured layers."""
    for mask, colour, alpha in layers:
        drawn = np.ma.masked_where(~mask, mask)
        panel.imshow(drawn.T, cmap=ListedColormap([colour]), alpha=alpha, interpolation="nearest")
    panel.set_title(title, fontsize=9, loc="left")
    panel.set(xlim=(-0.5, SIZE - 0.5), ylim=(SIZE - 0.5, -0.5), xticks=[], yticks=[])


def border(mask: np.ndarray) -> np.ndarray:
    """The mask's border as a mask."""
    drawn = np.zeros_like(mask)
    inner = np.pad(mask, 1)
    inside = inner[2:, 1:-1] & inner[:-2, 1:-1] & inner[1:-1, 2:] & inner[1:-1, :-2]
    drawn[mask & ~inside] = True
    return drawn


def overlap(panel: Any) -> None:
    """Dice, IoU and volume error."""
    counts = count(GUESS, REFERENCE_MASK)
    both = GUESS & REFERENCE_MASK
    title = (
        f"Dice {counts.dice('nan'):.2f}, IoU {counts.iou('nan'):.2f}, "
        f"volume error {100 * (counts.predicted / counts.present - 1):+.0f} %\ngreen TP, orange FP, blue FN"
    )
    show(panel, title, (both, GOOD, 0.8), (GUESS & ~both, PREDICTION, 0.8), (REFERENCE_MASK & ~both, REFERENCE, 0.8))


def distance(panel: Any) -> None:
    """The border voxels, and the largest distance."""
    first, second = border(GUESS), border(REFERENCE_MASK)
    show(panel, "", (second, REFERENCE, 0.9), (first, PREDICTION, 0.6))
    places, targets = np.argwhere(first), np.argwhere(second)
    table = np.linalg.norm(places[:, None] - targets[None], axis=2)
    far = int(table.min(axis=1).argmax())
    (x0, y0), (x1, y1) = places[far], targets[table[far].argmin()]
    panel.annotate("", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "->", "color": BAD, "lw": 2})
    found = surface.distances(GUESS, REFERENCE_MASK, STEP)
    panel.set_title(
        f"borders of reference (blue) and prediction\nHD {found.hd:.1f} (arrow), ASSD {found.assd:.1f}",
        fontsize=9,
        loc="left",
    )


def percentiles(panel: Any) -> None:
    """All distances, sorted by direction, and both kinds of HD95."""
    truth = disc(20, 20, 13)
    guess = truth.copy()
    guess[34:37, 3:5] = True
    found = surface.distances(guess, truth, STEP)
    bins = np.linspace(0, found.hd + 1, 30)
    panel.hist([found.forward, found.backward], bins=bins, color=[PREDICTION, REFERENCE], stacked=True, log=True)
    panel.axvline(found.hd95, color=BAD, lw=2)
    panel.axvline(found.hd95_pooled, color="black", lw=2, ls="--")
    panel.set_title(
        f"a perfect mask with a small false part: number of distances\nHD95 {found.hd95:.1f} (red), "
        f"HD95 pooled {found.hd95_pooled:.1f} (dashed), HD {found.hd:.1f}",
        fontsize=9,
        loc="left",
    )
    panel.set_xlabel("distance of a border pixel to the other border", fontsize=8)
    panel.tick_params(labelsize=7)


def tolerance(panel: Any) -> None:
    """The surface within the tolerance, and beyond it."""
    limit = 2.0
    first, second = border(GUESS), border(REFERENCE_MASK)
    layers = []
    for own, other in ((first, second), (second, first)):
        targets = np.argwhere(other)
        apart = np.full(own.shape, np.inf)
        for place in np.argwhere(own):
            apart[tuple(place)] = np.linalg.norm(targets - place, axis=1).min()
        layers += [(own & (apart <= limit), GOOD, 0.9), (own & (apart > limit), BAD, 0.9)]
    share = surface.nsd(GUESS, REFERENCE_MASK, STEP, limit)
    show(panel, f"NSD at {limit:g} px: {share:.2f}\nborder within (green) and beyond the tolerance (red)", *layers)


def faces(panel: Any) -> None:
    """A structure that the end of the scan cuts off."""
    mask = disc(20, 36, 12)
    closed, inside = border(mask), border(np.pad(mask, ((0, 0), (0, 1)), mode="edge"))[:, :-1]
    show(
        panel,
        "cut off by the scan's end\nborder if open (green), and more of it if closed (red)",
        (mask, "#bbbbbb", 0.5),
    )
    show(panel, panel.get_title(loc="left"), (closed, BAD, 0.9), (inside, GOOD, 1.0))
    panel.axhline(SIZE - 0.5, color="black", lw=3)


def lesions(panel: Any) -> None:
    """Lesions found and missed."""
    truth = disc(8, 10, 4) | disc(28, 10, 5) | disc(10, 30, 3) | disc(24, 30, 2)
    guess = disc(11, 12, 4) | disc(28, 9, 4) | disc(33, 31, 3)
    found = detect(guess, truth, 1.0)
    show(panel, "", (truth, REFERENCE, 0.7), (guess, PREDICTION, 0.6))
    panel.set_title(
        f"lesions (blue), found {found.found} of {found.reference}; parts (orange), right {found.right} of "
        f"{found.prediction}\nsensitivity {found.sensitivity:.2f}, precision {found.precision:.2f}, F1 {found.f1:.2f}",
        fontsize=9,
        loc="left",
    )


def main() -> None:
    """Draws all panels."""
    figure, panels = plt.subplots(2, 3, figsize=(12.5, 8.4), layout="constrained")
    for panel, draw in zip(panels.flat, (overlap, distance, percentiles, tolerance, faces, lesions), strict=True):
        draw(panel)
    figure.savefig(Path(__file__).with_name("metrics.png"), dpi=80)


if __name__ == "__main__":
    main()
