"""Pixels with their place in space, and where they came from.

Images always have a channel axis (``channels i j k``), label maps never (``i j k``). CT is in Hounsfield units, MR in
arbitrary ones, pictures and video run from 0 to 255.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from voxelsam.errors import GeometryError, LabelError
from voxelsam.space.grid import Grid
from voxelsam.types import LabelArray, Pixels
from voxelsam.volumes.labels import Labels

Kind = Literal["CT", "MR", "US", "PICTURE", "VIDEO", "UNKNOWN"]
"""What made the picture; decides which intensities are sensible."""


@dataclass(frozen=True, eq=False)
class Source:
    """The files that something was read from."""

    paths: tuple[Path, ...]
    format: str
    """Name of the format plug-in."""
    header: Any = None
    """What the format needs to write a twin: a file with the same geometry fields."""

    def __str__(self) -> str:
        return ", ".join(str(path) for path in self.paths)


@dataclass(frozen=True, eq=False)
class Volume:
    """An image in space.

    Raises:
        GeometryError: GEO-01, the array does not have four axes or does not fit the grid.
    """

    data: Pixels
    grid: Grid
    kind: Kind = "UNKNOWN"
    source: Source | None = None

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or self.data.shape[1:] != self.grid.shape or self.data.shape[0] < 1:
            raise GeometryError(
                f"{self.source or 'the image'}: expected channels × {_times(self.grid.shape)} voxels, "
                f"but the array is {_times(self.data.shape)}",
                code="GEO-01",
            )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.data.shape[0])


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Label values in space, with the table that names them.

    Raises:
        GeometryError: GEO-01, the array does not have three axes or does not fit the grid.
        LabelError: LAB-01, the array does not hold integers.
    """

    data: LabelArray
    grid: Grid
    labels: Labels
    source: Source | None = None
    author: str = ""
    """What made it, name and version (``voxelsam 0.1.0``); empty where nobody said so."""

    def __post_init__(self) -> None:
        if self.data.shape != self.grid.shape:
            raise GeometryError(
                f"{self.source or 'the label map'}: expected {_times(self.grid.shape)} voxels, "
                f"but the array is {_times(self.data.shape)}",
                code="GEO-01",
            )
        if not np.issubdtype(self.data.dtype, np.integer):
            raise LabelError(
                f"{self.source or 'the label map'}: labels must be integers, but the array is {self.data.dtype}; "
                "convert it on purpose",
                code="LAB-01",
            )


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(str(size) for size in shape) or "a single number"
