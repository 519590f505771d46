"""What every format checks about voxel values: finite images, label values that are whole numbers of a table."""

from pathlib import Path
from typing import Any

import numpy as np

from voxelsam import checks
from voxelsam.errors import InputError, LabelError
from voxelsam.space.grid import Grid
from voxelsam.volumes.labels import Labels, count_values
from voxelsam.volumes.volume import LabelMap, Volume

SHEAR = 5e-4
"""Largest |cosine| between axes that counts as orthogonal; ITK still accepts 1e-4 and refuses 1e-3."""

PLAUSIBLE_MM = (0.05, 20.0)
"""Voxel spacings outside this range are worth a warning."""

NEARLY = 1e-3
"""Label values this close to an integer are rounded."""

Array = np.ndarray[Any, Any]


def check_finite(path: Path, data: Array) -> Array:
    """Refuses values that are no numbers.

    Returns:
        The data itself; where VAL-01 is accepted, a copy whose unusable voxels have the smallest finite value.

    Raises:
        InputError: VAL-01, with their counts.
    """
    if data.dtype.kind != "f":
        return data
    usable = np.isfinite(data)
    if usable.all():
        return data
    lost, infinite = int(np.isnan(data).sum()), int(np.isinf(data).sum())
    what = f"{path}: {lost} voxels are not a number and {infinite} are infinite, of {data.size}"
    if not usable.any() or not checks.accepted("VAL-01"):
        raise InputError(f"{what}; replace them on purpose, in a copy", code="VAL-01")
    least = data[usable].min()
    checks.refuse("VAL-01", f"{what}; they were read as {least:.6g}, the smallest finite value")
    return np.where(usable, data, least)


def chosen(path: Path, count: int, frame: int | None, *, thing: str = "volume", hint: str = "one file each") -> int:
    """Which of several volumes (or pages) of a file to read, from 0.

    Args:
        path: The file, for messages.
        count: How many there are.
        frame: What was asked for.
        thing: What they are called.
        hint: What the file could be split into.

    Raises:
        InputError: VAL-05, there are several and none was chosen, or there is no such one.
    """
    if frame is None and count > 1:
        raise InputError(
            f"{path}: expected one {thing}, but the file holds {count} {thing}s; choose one (frame=0 to "
            f"frame={count - 1}), or split them into {hint}",
            code="VAL-05",
        )
    if frame is not None and not 0 <= frame < count:
        raise InputError(f"{path}: frame {frame} was asked for, but there are {count}, counted from 0", code="VAL-05")
    return frame or 0


def sheared(grid: Grid) -> str:
    """What to say of axes that are not at right angles (GEO-03)."""
    degrees = float(np.degrees(np.arcsin(grid.shear)))
    return f"the axes are not at right angles (off by {degrees:.2g} degrees); the shear is kept"


def warn_if_constant(path: Path, data: Array) -> None:
    """Says that an image shows nothing: VAL-02."""
    if data.min() == data.max():
        checks.notice("VAL-02", f"{path}: every voxel is {data.min()}", stacklevel=4)


def integers(path: Path, data: Array) -> Array:
    """Whole numbers, those of a floating-point array rounded.

    Raises:
        InputError: VAL-01, values that are no numbers.
        LabelError: LAB-01, values that are not within 0.001 of an integer; VAL-04, values beyond 32 bits.
    """
    if data.dtype.kind != "f":
        return data
    data = check_finite(path, data)
    rounded = np.rint(data)
    off = np.abs(data - rounded) > NEARLY
    if off.any():
        raise LabelError(
            f"{path}: labels must be integers, but {int(off.sum())} voxels are not, such as "
            f"{', '.join(f'{value:.4g}' for value in np.unique(data[off])[:5])}; the file was interpolated or scaled: "
            "make it again with nearest-neighbour interpolation and an integer type",
            code="LAB-01",
        )
    if np.abs(rounded).max() > np.iinfo(np.int32).max:
        raise LabelError(
            f"{path}: label values end at 65535, but {np.abs(rounded).max():.4g} came; is this an image?",
            code="VAL-04",
        )
    return np.asarray(rounded, np.int64)


def compact(values: Array) -> Array:
    """Label values, which a table keeps within 0 to 65535, in the smallest type that holds them."""
    return values.astype(np.uint8 if values.max() <= 255 else np.uint16)


def named(path: Path, numbers: Volume, labels: Labels | None) -> LabelMap:
    """Numbers as a label map, by the names of a table.

    Args:
        path: The file, for messages.
        numbers: An image of one channel of whole numbers.
        labels: Table that the values must be in; None makes one from the values found.

    Raises:
        LabelError: LAB-02, values outside the table, or outside 0 to 65535.
    """
    values = numbers.data[0]
    table = labels or _table_of(path, values)
    table.check(values, str(path))
    return LabelMap(compact(values), numbers.grid, table, numbers.source)


def _table_of(path: Path, data: Array) -> Labels:
    values = set(count_values(data))
    if 255 in values and values - {0, 255}:
        checks.notice(
            "LAB-02",
            f"{path}: 255 beside other labels often means 'not labelled' (or is a -1 that lost its sign), but "
            "without a label table it becomes a structure of its own; give a table, with 255 as its ignore value",
            stacklevel=5,
        )
    try:
        return Labels.of_values(values)
    except LabelError as error:
        raise LabelError(f"{path}: {error}", code=error.code) from None
