"""A look at a result: slices as a PNG file, films as MP4, with the structures in their colours and a legend.

Slices are those of ``overlay``: shown as radiologists see them, chosen to show every structure where it is
largest. In a film every frame is shown, structures translucent with a firm edge, their names below.
"""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from voxelsam.errors import OutputError
from voxelsam.formats._files import fresh_file, store
from voxelsam.formats.video import write_film
from voxelsam.overlay import overlay
from voxelsam.space.orientation import Plane
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.pair import check_pair
from voxelsam.volumes.volume import LabelMap, Volume

_OPAQUE = 0.5
_GROUND, _TEXT = (16, 19, 23), (223, 228, 234)
_ROW, _FONT, _GAP = 22, 13, 8  # pixels

Frame = UInt8[np.ndarray, "height width 3"]
Film = UInt8[np.ndarray, "k height width 3"]


def save_preview(
    path: str | Path,
    volume: Volume,
    label_map: LabelMap,
    *,
    plane: Plane | None = None,
    slices: int = 3,
    window: tuple[float, float] | None = None,
) -> None:
    """Writes a picture of a result, or of a film a film; whole or not at all.

    Args:
        path: Target, ``.png``; of a film also ``.mp4``.
        volume: The image.
        label_map: What was found in it; values of no structure are not shown.
        plane: Of the slices of a picture; by default the one that the image was taken in.
        slices: How many slices a picture has, at most.
        window: Values shown as black and white; by default soft tissue for CT, 0 and 255 for films of 8 bits, else the
            1st and 99th percentile.

    Raises:
        GeometryError: GEO-01 or GEO-02, the label map does not lie on the image's voxels.
        InputError: fewer than one slice is asked for.
        LabelError: LAB-02, values outside the table.
        OutputError: the name ends otherwise, or the file cannot be written.
        MissingExtra: the package that encodes films is not installed.
    """
    target = Path(path)
    ending = target.suffix.lower()
    is_film = volume.grid.along_k == "time"
    if ending not in (".png", ".mp4") or (ending == ".mp4" and not is_film):
        raise OutputError(f"{target}: a preview is a .png file, of a film also an .mp4 file")
    label_map.labels.check(label_map.data, f"the label map for {target}")
    if ending == ".mp4":
        check_pair(volume, label_map)
        write_film(target, _film(volume, label_map, window), volume.grid.spacing[2])
        return
    png = overlay(volume, None, label_map, plane=plane, slices=slices, window=window)

    def write(stream: BinaryIO) -> None:
        stream.write(png)

    with fresh_file(target) as beside:
        store(beside, write)


def tinted(frame: Frame, labels: Integer[np.ndarray, "height width"], table: Labels) -> Frame:
    """A picture with its structures: half their colour inside, all of it along their edge.

    Args:
        frame: Red, green, blue.
        labels: Value of each pixel; where it is 0, the picture stays as it is.
        table: Gives the colours.
    """
    shown = frame.astype(np.float32)
    for value in np.unique(labels):
        if value == 0:
            continue
        mask = labels == value
        colour = np.array(table.colour(int(value)), np.float32)
        shown[mask] = (1 - _OPAQUE) * shown[mask] + _OPAQUE * colour
        shown[mask & ~_inner(mask)] = colour
    result: Frame = np.rint(shown).astype(np.uint8)
    return result


def _inner(mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Pixels whose four neighbours are in the mask, too."""
    wide = np.pad(mask, 1, mode="edge")
    inner: Bool[np.ndarray, "height width"] = wide[2:, 1:-1] & wide[:-2, 1:-1] & wide[1:-1, 2:] & wide[1:-1, :-2]
    return inner


def _film(volume: Volume, label_map: LabelMap, window: tuple[float, float] | None) -> Film:
    width, height, count = volume.grid.shape
    legend = _legend(label_map, width)
    low, high = _window(volume, window)
    film = np.empty((count, height + len(legend), width, 3), np.uint8)
    film[:, height:] = legend
    for k in range(count):
        stored = rearrange(volume.data[..., k], "c i j -> j i c").astype(np.float32)
        grey_or_colour = stored if volume.channels == 3 else np.repeat(stored[..., :1], 3, axis=2)
        shown = ((grey_or_colour - low) / max(high - low, 1e-6)).clip(0, 1) * 255
        film[k, :height] = tinted(np.rint(shown).astype(np.uint8), label_map.data[:, :, k].T, label_map.labels)
    return film


def _window(volume: Volume, window: tuple[float, float] | None) -> tuple[float, float]:
    if window is not None:
        return window
    if volume.data.dtype == np.uint8:
        return 0.0, 255.0
    low, high = np.percentile(volume.data[0], (1, 99))
    return float(low), float(high)


def _legend(label_map: LabelMap, width: int) -> Frame:
    """Names of the structures that are anywhere in a film, as a strip below it."""
    present = [int(value) for value in np.unique(label_map.data) if value]
    names = {value: name for name, value in label_map.labels.values.items()}
    font = ImageFont.load_default(_FONT)
    places = list[tuple[int, int, int]]()
    x, row = _GAP, 0
    for value in present:
        wide = 2 * _GAP + _FONT + int(font.getlength(names.get(value, "ignore")))
        if x > _GAP and x + wide > width:
            x, row = _GAP, row + 1
        places.append((value, x, row))
        x += wide
    strip = Image.new("RGB", (width, _ROW * (row + 1) if places else 0), _GROUND)
    pen = ImageDraw.Draw(strip)
    for value, left, line in places:
        top = line * _ROW + (_ROW - _FONT) // 2
        pen.rectangle((left, top, left + _FONT - 1, top + _FONT - 1), label_map.labels.colour(value))
        pen.text((left + _FONT + _GAP // 2, top - 1), names.get(value, "ignore"), _TEXT, font)
    return np.asarray(strip).reshape(strip.height, width, 3)
