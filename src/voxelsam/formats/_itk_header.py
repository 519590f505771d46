"""What the headers of NRRD and MetaImage have in common: axes, a place in space, and where the voxels are.

Both count in patient space as ITK does, LPS unless an NRRD names another one; here it becomes RAS.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from voxelsam import checks
from voxelsam.errors import FormatError, GeometryError
from voxelsam.formats._values import PLAUSIBLE_MM, SHEAR, sheared
from voxelsam.space.grid import Grid
from voxelsam.types import Affine

HEADER_LIMIT = 1 << 20
"""Bytes of text that a header may have."""

MOST_VOXELS = 1 << 40
"""More numbers than this are a broken header."""

LPS = (-1.0, -1.0, 1.0)
"""Factors that turn LPS into RAS, and back."""

Packing = Literal["raw", "gzip", "bzip2", "zlib", "text"]
Rows = Float64[np.ndarray, "axes world"]


@dataclass(frozen=True)
class Storage:
    """Where the voxels are."""

    path: Path
    offset: int
    """Bytes before the data, packed or not."""
    packing: Packing
    lines: int = 0
    """Lines to skip after the offset."""
    skip: int = 0
    """Unpacked bytes to skip; -1: the voxels are what the data ends with."""


@dataclass(frozen=True, eq=False)
class ItkHeader:
    """The header of one file."""

    family: Literal["nrrd", "meta"]
    fields: Mapping[str, str]
    """Text of each field."""
    sizes: tuple[int, ...]
    """Numbers along every axis, the fastest one first."""
    dtype: np.dtype[np.generic]
    """Type of one number, with the byte order of the file."""
    space: tuple[int, ...]
    """Axes that run through space, two or three."""
    colours: int | None
    """Axis of red, green and blue."""
    affine: Affine
    """Voxel index to RAS mm."""
    storage: Storage
    remarks: tuple[tuple[str, str], ...] = ()
    """Code and text of what is odd about the geometry."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Key/value pairs, which mean something to one program only."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j, k; a flat image has one slice."""
        i, j, *k = (self.sizes[axis] for axis in self.space)
        return i, j, (k or [1])[0]

    @property
    def frames(self) -> int:
        """Numbers that each voxel has, colours counting as one."""
        other = set(range(len(self.sizes))) - {*self.space, self.colours}
        return int(np.prod([self.sizes[axis] for axis in other], dtype=np.int64))

    def grid(self, path: Path) -> Grid:
        """The lattice.

        Raises:
            GeometryError: GEO-05, the axes span no space.
        """
        try:
            return Grid(self.shape, self.affine)
        except GeometryError as error:
            raise GeometryError(f"{path}: {error}", code="GEO-05") from None


def broken(path: Path, what: str) -> FormatError:
    """The error for a header that makes no sense."""
    return FormatError(f"{path}: the header cannot be used ({what}); export the file again", code="SET-03")


def integers(path: Path, name: str, text: str, count: int | None = None) -> tuple[int, ...]:
    """Whole numbers of a header field, positive ones for sizes.

    Raises:
        FormatError: SET-03, it holds something else, or another count.
    """
    try:
        numbers = tuple(int(word) for word in text.split())
    except ValueError:
        raise broken(path, f"{name} should be whole numbers, but is {text[:60]!r}") from None
    if not numbers or count not in (None, len(numbers)):
        raise broken(path, f"{name} should have {count or 'some'} numbers, but is {text[:60]!r}")
    return numbers


def floats(path: Path, name: str, text: str, count: int | None = None) -> Float64[np.ndarray, " n"]:
    """Numbers of a header field.

    Raises:
        FormatError: SET-03, it holds something else, or another count.
    """
    try:
        numbers = np.array([float(word) for word in text.split()], np.float64)
    except ValueError:
        raise broken(path, f"{name} should be numbers, but is {text[:60]!r}") from None
    if count not in (None, len(numbers)):
        raise broken(path, f"{name} should have {count} numbers, but is {text[:60]!r}")
    return numbers


def check_sizes(path: Path, sizes: Sequence[int]) -> tuple[int, ...]:
    """Sizes that an image can have.

    Raises:
        FormatError: SET-03, one is not positive, or their product is absurd.
    """
    if min(sizes) < 1 or math.prod(sizes) > MOST_VOXELS:
        raise broken(path, f"{len(sizes)} axes of {' × '.join(map(str, sizes))[:200]} numbers are no image")
    return tuple(sizes)


def partner(path: Path, name: str) -> Path:
    """The file beside a header that holds its voxels.

    Raises:
        FormatError: SET-03, the header names several files, one outside its folder, or one that is not there.
    """
    if name.upper() == "LIST" or name.upper().startswith("LIST ") or "%" in name:
        raise FormatError(f"{path}: voxels in several files ({name}) are not read; join them", code="SET-03")
    try:
        file = (path.parent / name).resolve()
        inside = file.is_relative_to(path.parent.resolve())
        there = inside and file.is_file()
    except (OSError, ValueError):
        raise broken(path, f"{name[:60]!r} is no file name") from None
    if not inside:
        raise FormatError(
            f"{path}: the voxels should be beside the header, but it names {name}; move them there, and correct the "
            "name",
            code="SET-03",
        )
    if not there:
        raise FormatError(
            f"{path}: {path.stat().st_size} bytes, a header whose voxels are in a file of their own, but there is no "
            f"{name} beside it",
            code="SET-03",
        )
    return path.parent / name


def affine_of(
    path: Path, rows: Rows, origin: Float64[np.ndarray, " world"], signs: tuple[float, float, float]
) -> Affine:
    """The affine of two or three axes.

    Args:
        path: The file, for messages.
        rows: Step of each axis in the space of the file, which has two or three directions.
        origin: Place of the first voxel there.
        signs: Turn that space into RAS.

    Raises:
        GeometryError: GEO-05, the steps span no space.
    """
    affine: Affine = np.eye(4)
    affine[: rows.shape[1], : len(rows)] = rows.T
    affine[: len(origin), 3] = origin
    affine[:3] *= np.array(signs)[:, None]
    affine[:3] += 0.0
    if len(rows) == 2:
        with np.errstate(all="ignore"):
            normal = np.cross(affine[:3, 0], affine[:3, 1])
            affine[:3, 2] = normal / np.linalg.norm(normal)
    if not np.isfinite(affine).all():
        raise GeometryError(f"{path}: the header gives no usable place:\n{affine}", code="GEO-05")
    return affine


def warn_about(path: Path, header: ItkHeader, grid: Grid) -> None:
    """Says what is odd about the geometry: GEO-03 shear, GEO-05 nothing said, GEO-08 sizes."""
    for code, text in header.remarks:
        checks.notice(code, f"{path}: {text}", stacklevel=5)
    if grid.shear > SHEAR:
        checks.notice("GEO-03", f"{path}: {sheared(grid)}", stacklevel=5)
    if min(grid.spacing) < PLAUSIBLE_MM[0] or max(grid.spacing) > PLAUSIBLE_MM[1]:
        sizes = " × ".join(f"{size:.4g}" for size in grid.spacing)
        checks.notice("GEO-08", f"{path}: a voxel spacing of {sizes} mm is unusual; check the unit", stacklevel=5)
