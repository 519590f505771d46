"""Pictures of segmentations: slices with the prediction filled in and the reference drawn as a line.

Slices are shown the radiological way (the patient's right on the left of an axial picture) with letters at the rims
that say so, and with the true proportions of the voxels.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int64, Integer, Shaped

from voxelsam.errors import InputError
from voxelsam.space.grid import Grid
from voxelsam.space.orientation import PLANES, Plane, opposite, plane_of
from voxelsam.space.placement import canonical
from voxelsam.types import LabelArray
from voxelsam.volumes.labels import Labels, count_values
from voxelsam.volumes.pair import check_pair
from voxelsam.volumes.volume import LabelMap, Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOFT_TISSUE = (-160.0, 240.0)
"""Window in HU in which CT is shown."""

_BACK = "#101317"
_TEXT = "#dfe4ea"
_PANEL = 3.1  # inches

Slice = Integer[np.ndarray, "height width"]
Colour = tuple[float, float, float]
"""Red, green, blue, each 0..1."""


@dataclass(frozen=True)
class Overlay:
    """A picture for a report."""

    title: str
    png: bytes
    note: str = ""


def overlay(
    volume: Volume,
    reference: LabelMap | None,
    prediction: LabelMap | None,
    *,
    plane: Plane | None = None,
    slices: int = 3,
    window: tuple[float, float] | None = None,
) -> bytes:
    """A row of slices as a PNG file.

    The slices are chosen to show every class where it is largest. If only one of the two label maps is given, it is
    the filled one.

    Args:
        volume: the image; of several channels, the first is shown, unless they are a colour picture.
        reference: drawn as lines.
        prediction: filled.
        plane: of the slices; by default the one the image was taken in.
        slices: how many, at most.
        window: values shown as black and white; by default soft tissue for CT, else the 1st and 99th percentile.

    Raises:
        GeometryError: a label map does not lie on the image's voxels.
        InputError: fewer than one slice is asked for.
    """
    if slices < 1:
        raise InputError(f"an overlay shows 1 slice or more, but {slices} were asked for")
    for given in (reference, prediction):
        if given is not None:
            check_pair(volume, given)
    plane = plane or plane_of(volume.grid)
    placement = canonical(volume.grid, plane)
    image = placement.bring(volume.data)
    truth = None if reference is None else placement.bring_labels(reference.data)
    guess = None if prediction is None else placement.bring_labels(prediction.data)
    table = next((given.labels for given in (prediction, reference) if given is not None), Labels({"background": 0}))
    chosen = choose_slices([item for item in (truth, guess) if item is not None], image.shape[3], slices)
    shown = _grey_or_colour(image, chosen, volume, window)
    return _draw(shown, truth, guess, chosen, table, placement.target, plane if _has_sides(volume) else None)


def choose_slices(maps: Sequence[LabelArray], slices: int, wanted: int) -> list[int]:
    """Slices that together show every class as large as possible, in their order.

    Args:
        maps: label values; all of them count.
        slices: how many there are.
        wanted: how many to choose; fewer come back if there are fewer.
    """
    areas = _areas(maps, slices)
    if not areas.any():
        return sorted({int(k) for k in np.linspace(0, slices - 1, wanted + 2).round()[1:-1]})
    shares = areas / areas.max(axis=1, keepdims=True)
    seen, chosen = np.zeros(len(shares)), list[int]()
    for _ in range(min(wanted, slices)):
        gain = np.maximum(shares - seen[:, None], 0).sum(axis=0) + 1e-3 * shares.sum(axis=0)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        seen = np.maximum(seen, shares[:, chosen[-1]])
    return sorted(k for k in chosen if areas[:, k].any())


def _areas(maps: Sequence[LabelArray], slices: int) -> Int64[np.ndarray, "classes k"]:
    """Voxels of each foreground value on each slice."""
    areas: dict[int, Int64[np.ndarray, " k"]] = {}
    for item in maps:
        for k in range(slices):
            for value, count in count_values(item[:, :, k]).items():
                areas.setdefault(value, np.zeros(slices, np.int64))[k] += count
    areas.pop(0, None)
    return np.stack([areas[value] for value in sorted(areas)]) if areas else np.zeros((1, slices), np.int64)


def _grey_or_colour(
    data: Shaped[np.ndarray, "channels i j k"],
    chosen: Sequence[int],
    volume: Volume,
    window: tuple[float, float] | None,
) -> Float[np.ndarray, "i j chosen rgb"]:
    """Values 0..1 of some slices, with three or one colours last."""
    if volume.kind in ("PICTURE", "VIDEO") and volume.channels == 3:
        return np.moveaxis(data[..., chosen].astype(np.float32), 0, -1).clip(0, 255) / 255
    first = data[0]
    if window is None:
        window = SOFT_TISSUE if volume.kind == "CT" else tuple(np.percentile(first.astype(np.float32), (1, 99)))
    low, high = window
    shown = first[..., chosen].astype(np.float32)
    grey: Float[np.ndarray, "i j chosen rgb"] = ((shown - low) / max(high - low, 1e-6)).clip(0, 1)[..., None]
    return grey


def _has_sides(volume: Volume) -> bool:
    """Pictures and video show no patient directions."""
    return volume.kind not in ("PICTURE", "VIDEO")


def _draw(
    image: Float[np.ndarray, "i j chosen rgb"],
    reference: LabelArray | None,
    prediction: LabelArray | None,
    chosen: list[int],
    table: Labels,
    grid: Grid,
    plane: Plane | None,
) -> bytes:
    from matplotlib.figure import Figure

    aspect = grid.spacing[1] / grid.spacing[0]
    both = reference is not None and prediction is not None
    filled = prediction if prediction is not None else reference
    shown = {value for item in (reference, prediction) if item is not None for value in _foreground(item[:, :, chosen])}
    legend_rows = -(-(len(shown) + 2 * both) // (2 * len(chosen)))
    height = _PANEL * min(max(image.shape[1] * aspect / image.shape[0], 0.4), 2.0)
    size = (_PANEL * len(chosen), height + 0.45 + 0.2 * legend_rows)
    figure = Figure(figsize=size, facecolor=_BACK, layout="constrained")
    panels = figure.subplots(1, len(chosen), squeeze=False)[0]
    for place, (panel, k) in enumerate(zip(panels, chosen, strict=True)):
        panel.imshow(image[:, :, place].swapaxes(0, 1).squeeze(), cmap="gray", vmin=0, vmax=1, aspect=aspect)
        if filled is not None:
            _fill(panel, filled[:, :, k].T, table, aspect)
        if both and reference is not None:
            for value in _foreground(reference[:, :, k]):
                _outline(panel, reference[:, :, k].T, value, (1, 1, 1), 1.4)
        _label_panel(panel, grid, k, plane)
    _legend(figure, table, shown, columns=2 * len(chosen), lines=both)
    return _png(figure)


def _fill(panel: "Axes", labels: Slice, table: Labels, aspect: float) -> None:
    """Translucent colours with a firm edge; nothing over the background."""
    paint = np.zeros((*labels.shape, 4))
    for value in _foreground(labels):
        paint[labels == value] = (*_colour(table, value), 0.5)
    panel.imshow(paint, aspect=aspect, interpolation="nearest")
    for value in _foreground(labels):
        _outline(panel, labels, value, _colour(table, value), 1.0)


def _foreground(labels: Integer[np.ndarray, "*axes"]) -> list[int]:
    return [int(value) for value in np.unique(labels) if value != 0]


def _colour(table: Labels, value: int) -> Colour:
    red, green, blue = table.colour(value)
    return red / 255, green / 255, blue / 255


def _outline(panel: "Axes", labels: Slice, value: int, colour: Colour, width: float) -> None:
    """A line around one class, also along the rim of the slice."""
    mask = np.pad((labels == value).astype(float), 1)
    down, right = (np.arange(-1, size + 1) for size in labels.shape)
    panel.contour(right, down, mask, levels=[0.5], colors=[colour], linewidths=width)


def _label_panel(panel: "Axes", grid: Grid, k: int, plane: Plane | None) -> None:
    """Directions at the rims, and where the slice lies."""
    from matplotlib.patheffects import withStroke

    panel.set_axis_off()
    panel.set_xlim(-0.5, grid.shape[0] - 0.5)
    panel.set_ylim(grid.shape[1] - 0.5, -0.5)
    count = f"{k + 1} of {grid.shape[2]}"
    if plane is None:
        panel.set_title(f"frame {count}" if grid.shape[2] > 1 else "", color=_TEXT, fontsize=9)
        return
    axes = PLANES[plane]
    rims = {axes[0]: (0.98, 0.5), opposite(axes)[0]: (0.02, 0.5), axes[1]: (0.5, 0.03), opposite(axes)[1]: (0.5, 0.97)}
    for letter, (x, y) in rims.items():
        text = panel.text(x, y, letter, color="#ffd84d", fontsize=10, weight="bold", transform=panel.transAxes)
        text.set(ha="center", va="center", path_effects=[withStroke(linewidth=2, foreground=_BACK)])
    panel.set_title(f"{plane} slice {count}, {_position(grid, k, plane)}", color=_TEXT, fontsize=9)


def _position(grid: Grid, k: int, plane: Plane) -> str:
    """Where the middle of a slice lies across the plane, as viewers show it: S 12 mm."""
    middle = np.array([[(grid.shape[0] - 1) / 2, (grid.shape[1] - 1) / 2, k]])
    letters, place = {"axial": ("SI", 2), "coronal": ("AP", 1), "sagittal": ("RL", 0)}[plane]
    distance = float(grid.to_world(middle)[0, place])
    return f"{letters[0] if distance >= 0 else letters[1]} {abs(distance):.0f} mm"


def _legend(figure: "Figure", table: Labels, shown: set[int], *, columns: int, lines: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Patch | Line2D] = [
        Patch(facecolor=_colour(table, value), label=name) for name, value in table.values.items() if value in shown
    ]
    if lines:
        handles += [
            Patch(facecolor="#8a9099", label="filled: prediction"),
            Line2D([], [], color="white", linewidth=1.3, label="line: reference"),
        ]
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(handles), columns), fontsize=8,
            labelcolor=_TEXT, frameon=False, handlelength=1.2, columnspacing=1.4,
        )  # fmt: skip


def _png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()
