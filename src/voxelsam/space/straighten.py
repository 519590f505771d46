"""Right-angled grids in the place of sheared ones.

CT with a tilted gantry has slices whose own axes are at right angles, but each slice is shifted against the one
before. Such a grid keeps its slices: the right-angled grid has the same rows and columns, and its third axis is the
slices' normal, stepping by their true distance. Every slice of the one then lies in a slice of the other, and a voxel
only moves along rows and columns. Grids without any two axes at right angles take the nearest rotation.
"""

from itertools import product

import numpy as np
from jaxtyping import Float64

from voxelsam.space.grid import Grid
from voxelsam.types import Affine

Axes = Float64[np.ndarray, "3 3"]
"""The vectors of one step along i, j, k in mm, as columns."""

RIGHT_ANGLES = 1e-3
"""Largest cosine between two axes that counts as a right angle."""

_WHOLE = 1e-3
"""Part of a voxel that may stick out of a grid."""


def straightened(grid: Grid) -> Grid:
    """The right-angled grid that holds all voxels of a sheared one; the middle voxel stays a voxel.

    A grid that is right-angled already comes back as it is.
    """
    return grid if grid.shear <= RIGHT_ANGLES else straightened_anyway(grid)


def straightened_anyway(grid: Grid) -> Grid:
    """``straightened``, however small the shear."""
    axes = right_angled(grid)
    middle = grid.to_world(np.array([[count // 2 for count in grid.shape]]))[0]
    edges = np.array(list(product(*((-0.5, count - 0.5) for count in grid.shape))))
    along = np.linalg.solve(axes, (grid.to_world(edges) - middle).T)
    first = np.floor(along.min(axis=1) + 0.5 + _WHOLE)
    last = np.ceil(along.max(axis=1) - 0.5 - _WHOLE)
    i, j, k = (int(count) for count in last - first + 1)
    affine: Affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, middle + axes @ first
    return Grid((i, j, k), affine, grid.along_k)


def right_angled(grid: Grid) -> Axes:
    """Axes at right angles in the place of those of a grid: rows, columns and distance of slices where it is tilted.

    Slices are taken along the third axis, if its other two axes are at right angles, else along the second or first.
    """
    axes: Axes = grid.affine[:3, :3].copy()
    for across in (2, 1, 0):
        one, other = (axes[:, axis] / np.linalg.norm(axes[:, axis]) for axis in range(3) if axis != across)
        if abs(one @ other) <= RIGHT_ANGLES:
            return _across_slices(axes, across)
    return nearest_rotation(grid)


def nearest_rotation(grid: Grid) -> Axes:
    """Axes at right angles, of the same lengths, whose directions differ least (in squares) from those of a grid."""
    left, _, right = np.linalg.svd(grid.affine[:3, :3] / grid.spacing)
    axes: Axes = left @ right * np.asarray(grid.spacing)
    return axes


def _across_slices(axes: Axes, across: int) -> Axes:
    """The axes with that one made perpendicular to the other two, and those exactly perpendicular to each other."""
    kept, turned = (axis for axis in range(3) if axis != across)
    normal = np.cross(axes[:, kept], axes[:, turned])
    normal /= np.linalg.norm(normal)
    result = axes.copy()
    result[:, across] = normal * (normal @ axes[:, across])
    sideways = np.cross(normal, axes[:, kept] / np.linalg.norm(axes[:, kept]))
    result[:, turned] = sideways * np.linalg.norm(axes[:, turned])
    return result
