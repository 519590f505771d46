"""A voxel lattice in patient space.

Index (0, 0, 0) is the centre of the first voxel. World coordinates are millimetres in RAS+; along a time axis the
length of the third column of the affine counts seconds. DICOM's and ITK's LPS is turned into RAS in ``formats`` only.
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from jaxtyping import Float64, Real
from nibabel.orientations import aff2axcodes

from voxelsam.errors import GeometryError
from voxelsam.types import Affine

Points3 = Real[np.ndarray, "n 3"]
"""Points as fractional voxel indices (i, j, k) or as millimetres."""

FLAT = 1e-6
"""Volume of the parallelepiped of the unit axes below which three axes count as lying in one plane."""


FARTHEST = 1e9
"""Numbers of an affine beyond this (1000 km) are no place; sums of their squares would overflow."""


@dataclass(frozen=True)
class VoxelBox:
    """A box of whole voxels, ``start`` included, ``stop`` excluded."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    def __post_init__(self) -> None:
        if any(low < 0 or high <= low for low, high in zip(self.start, self.stop, strict=True)):
            raise GeometryError(f"a voxel box needs 0 <= start < stop on each axis, not {self.start} to {self.stop}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        (a, b, c), (d, e, f) = self.start, self.stop
        return d - a, e - b, f - c

    def slices(self) -> tuple[slice, slice, slice]:
        """What to index the last three axes of an array with."""
        (a, b, c), (d, e, f) = self.start, self.stop
        return slice(a, d), slice(b, e), slice(c, f)


@dataclass(frozen=True, eq=False)
class Grid:
    """How many voxels there are and where each one lies.

    Raises:
        GeometryError: the shape is not three positive counts, or the affine is not a finite, invertible 4 × 4 matrix
            with last row 0 0 0 1 and numbers of at most 1e9.
    """

    shape: tuple[int, int, int]
    """Voxels along i, j, k."""
    affine: Affine
    """Index of a voxel centre to millimetres, RAS+; kept as a read-only float64 copy."""
    along_k: Literal["space", "time", "single"] = "space"
    """What the third axis counts: slices in mm, frames in s, or nothing because there is one image only."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _checked_shape(self.shape))
        object.__setattr__(self, "affine", _checked_affine(self.affine))
        if self.along_k == "single" and self.shape[2] != 1:
            raise GeometryError(f"a single image has one slice, but the shape is {self.shape}")

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxel centres along i, j, k, in mm (in s along a time axis)."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm³; also right for sheared grids."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def axes(self) -> str:
        """The patient direction that i, j and k run towards, each the closest one, e.g. ``RAS``."""
        return "".join(aff2axcodes(self.affine))  # type: ignore[no-untyped-call]

    @property
    def shear(self) -> float:
        """Largest absolute cosine of the angle between two axes: 0 for right angles, towards 1 for a flat grid."""
        units = self.affine[:3, :3] / np.asarray(self.spacing)
        cosines = np.abs(units.T @ units)
        return float(max(cosines[0, 1], cosines[0, 2], cosines[1, 2]))

    def to_world(self, index: Points3) -> Float64[np.ndarray, "n 3"]:
        """Fractional voxel indices to millimetres."""
        world: Float64[np.ndarray, "n 3"] = np.asarray(index, np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]
        return world

    def to_index(self, world: Points3) -> Float64[np.ndarray, "n 3"]:
        """Millimetres to fractional voxel indices."""
        offsets = np.asarray(world, np.float64) - self.affine[:3, 3]
        index: Float64[np.ndarray, "n 3"] = np.linalg.solve(self.affine[:3, :3], offsets.T).T
        return index

    def corners(self) -> Float64[np.ndarray, "8 3"]:
        """Millimetres of the centres of the eight outermost voxels, k varying fastest."""
        return self.to_world(np.array(list(product(*((0, count - 1) for count in self.shape)))))

    def crop(self, box: VoxelBox) -> "Grid":
        """The grid of the voxels inside a box.

        Raises:
            GeometryError: the box reaches outside the grid.
        """
        if any(stop > count for stop, count in zip(box.stop, self.shape, strict=True)):
            raise GeometryError(f"a box up to {box.stop} does not fit into a grid of {self.shape} voxels")
        affine = self.affine.copy()
        affine[:3, 3] = self.to_world(np.array([box.start]))[0]
        return Grid(box.shape, affine, self.along_k)

    def displacement(self, other: "Grid") -> float:
        """Largest distance in mm between corresponding corners; infinite when the shapes differ."""
        if self.shape != other.shape:
            return float("inf")
        return float(np.linalg.norm(self.corners() - other.corners(), axis=1).max())

    def same_place(self, other: "Grid", tolerance_mm: float = 0.5) -> bool:
        """Whether equal indices mean the same place, up to a distance in mm."""
        return self.displacement(other) <= tolerance_mm


def _checked_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    counts = tuple(int(count) for count in shape)
    if len(counts) != 3 or counts != tuple(shape) or min(counts) < 1:
        raise GeometryError(f"a grid has three whole voxel counts of at least 1, not {tuple(shape)}")
    return counts


def _checked_affine(affine: Affine) -> Affine:
    matrix = np.array(affine, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise GeometryError(f"an affine is a finite 4 × 4 matrix, but this came:\n{matrix}")
    if np.abs(matrix).max() > FARTHEST:
        raise GeometryError(f"an affine counts in mm, but its numbers reach {np.abs(matrix).max():.3g}:\n{matrix}")
    if not np.allclose(matrix[3], (0, 0, 0, 1), rtol=0, atol=1e-9):
        raise GeometryError(f"the last row of an affine is 0 0 0 1, but {matrix[3]} came")
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if not spacing.all() or abs(np.linalg.det(matrix[:3, :3] / spacing)) < FLAT:
        raise GeometryError(
            f"the three axes of the affine span no volume (voxel spacing {tuple(spacing.tolist())} mm), so positions "
            f"in the patient cannot be computed; correct the orientation in the file:\n{matrix}"
        )
    matrix[3] = (0, 0, 0, 1)
    matrix.setflags(write=False)
    return matrix
