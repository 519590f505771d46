"""From the grid of a file to the canonical grid that slices are cut from, and back.

A plan without a target spacing only permutes and flips axes: ``restore`` then undoes ``bring`` exactly, whatever the
grid (oblique, left-handed). Sheared grids, such as tilted CT, are resampled onto right angles; a target spacing also
resamples. The way back is then by the nearest voxel, and its result has the source's shape and place as ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from jaxtyping import Float64, Integer, Shaped

from voxelsam.errors import GeometryError
from voxelsam.space.grid import Grid, Points3
from voxelsam.space.orientation import PLANES, Plane, Reordering, to_axes
from voxelsam.space.resample import resample, resample_labels
from voxelsam.space.straighten import straightened
from voxelsam.types import Affine, LabelArray, Pixels

Spacing = Sequence[float | None]
"""Millimetres along canonical i, j, k; None keeps what the source has."""

TargetLabels = Integer[np.ndarray, "target_i target_j target_k"]
"""Label values on the canonical grid."""

_SAME_LATTICE = 1e-3
"""Largest offset, in voxels, of two lattices that count as one."""
_SAME_SPACING = 1e-3
"""Relative difference of two spacings that count as one."""


@dataclass(frozen=True, eq=False)
class Placement:
    """A way from one grid onto another, and back."""

    source: Grid
    target: Grid

    @cached_property
    def reordering(self) -> Reordering | None:
        """The permutation and flips from source to target; None when voxels do not coincide and are resampled."""
        matrix = np.linalg.solve(self.source.affine, self.target.affine)
        turn = np.rint(matrix[:3, :3])
        if not np.array_equal(np.abs(turn).sum(axis=0), (1, 1, 1)) or not turn.any(axis=1).all():
            return None
        a, b, c = (int(row) for row in np.abs(turn).argmax(axis=0))
        candidate = Reordering((a, b, c), (bool(turn[a, 0] < 0), bool(turn[b, 1] < 0), bool(turn[c, 2] < 0)))
        if tuple(self.source.shape[axis] for axis in candidate.order) != self.target.shape:
            return None
        expected = Grid(self.target.shape, self.source.affine @ candidate.matrix(self.source.shape))
        offsets = self.source.to_index(expected.corners()) - self.source.to_index(self.target.corners())
        return candidate if np.abs(offsets).max() < _SAME_LATTICE else None

    def bring(self, data: Pixels) -> Shaped[np.ndarray, "channels target_i target_j target_k"]:
        """Intensities onto the target grid: a view when only axes move, else linearly resampled float32.

        Raises:
            GeometryError: the data do not have the source's shape.
        """
        _check_shape(data.shape[-3:], self.source)
        if self.reordering is None:
            return resample(data, self.source, self.target)
        return self.reordering.apply(data)

    def bring_labels(self, labels: LabelArray) -> TargetLabels:
        """Labels onto the target grid: a view when only axes move, else the nearest voxel's value.

        Raises:
            GeometryError: the labels do not have the source's shape.
        """
        _check_shape(labels.shape, self.source)
        if self.reordering is None:
            return resample_labels(labels, self.source, self.target)
        return self.reordering.apply(labels)

    def restore(self, labels: TargetLabels) -> LabelArray:
        """Labels on the target grid back onto the source grid; the exact inverse when only axes move.

        Raises:
            GeometryError: the labels do not have the target's shape.
        """
        _check_shape(labels.shape, self.target)
        if self.reordering is None:
            return resample_labels(labels, self.target, self.source)
        return self.reordering.inverse().apply(labels)

    def to_target(self, index: Points3) -> Float64[np.ndarray, "n 3"]:
        """Fractional voxel indices of the source to those of the target."""
        return self.target.to_index(self.source.to_world(index))

    def to_source(self, index: Points3) -> Float64[np.ndarray, "n 3"]:
        """Fractional voxel indices of the target to those of the source."""
        return self.source.to_index(self.target.to_world(index))


def canonical(source: Grid, plane: Plane, spacing: Spacing | None = None) -> Placement:
    """The way to the grid whose axes are ``PLANES[plane]`` as nearly as the source's voxel rows allow.

    An oblique source stays oblique: no voxel is turned. A source whose axes are not at right angles is straightened
    (see ``space.straighten``), films and single images excepted. The target covers all of the source.

    Args:
        source: grid of the file.
        plane: what a slice shows.
        spacing: millimetres along canonical i, j, k, None to keep; nothing is resampled when it is what the
            source has (a sheared one after straightening).

    Raises:
        GeometryError: a spacing is not positive; a film or single image is asked for across another plane or at
            another distance of frames.
    """
    right = straightened(source) if source.along_k == "space" else source
    reordering = to_axes(right.axes, PLANES[plane])
    turned = Grid(_permuted(right.shape, reordering), right.affine @ reordering.matrix(right.shape), "space")
    _check_frames(source, reordering, plane, spacing)
    target = turned if spacing is None else _respaced(turned, spacing)
    return Placement(source, Grid(target.shape, target.affine, source.along_k))


def _permuted(shape: tuple[int, int, int], reordering: Reordering) -> tuple[int, int, int]:
    a, b, c = reordering.order
    return shape[a], shape[b], shape[c]


def _respaced(grid: Grid, spacing: Spacing) -> Grid:
    """A grid of the same directions and that spacing over everything that a grid covers."""
    if len(spacing) != 3 or any(step is not None and not 0 < step < float("inf") for step in spacing):
        raise GeometryError(f"a spacing is three positive distances in mm (or none to keep), not {tuple(spacing)}")
    kept = np.asarray(grid.spacing)
    steps = np.array([own if step is None else step for own, step in zip(kept, spacing, strict=True)])
    if np.allclose(steps, kept, rtol=_SAME_SPACING, atol=0):
        return grid
    return _covering(grid, grid.affine[:3, :3] / kept, steps)


def _covering(grid: Grid, directions: Float64[np.ndarray, "3 3"], steps: Float64[np.ndarray, " 3"]) -> Grid:
    """The smallest grid with those axes (columns) and steps that holds all voxels, whole, around the same middle."""
    edges = np.array(list(product(*((-0.5, count - 0.5) for count in grid.shape))))
    along = np.linalg.solve(directions, grid.to_world(edges).T)
    low, high = along.min(axis=1), along.max(axis=1)
    counts = np.maximum(np.ceil((high - low) / steps - _SAME_LATTICE), 1)
    affine: Affine = np.eye(4)
    affine[:3, :3] = directions * steps
    affine[:3, 3] = directions @ ((low + high) / 2 - steps * (counts - 1) / 2)
    i, j, k = (int(count) for count in counts)
    return Grid((i, j, k), affine)


def _check_frames(source: Grid, reordering: Reordering, plane: Plane, spacing: Spacing | None) -> None:
    if source.along_k == "space":
        return
    thing = "film" if source.along_k == "time" else "single image"
    if reordering.order[2] != 2:
        raise GeometryError(f"a {thing} has one plane, across its third axis; it cannot be cut into {plane} slices")
    if spacing is not None and len(spacing) == 3 and spacing[2] is not None:
        raise GeometryError(f"the frames of a {thing} cannot be resampled; leave the third spacing {spacing[2]} out")


def _check_shape(shape: tuple[int, ...], grid: Grid) -> None:
    if tuple(shape) != grid.shape:
        raise GeometryError(f"the array has {tuple(shape)} voxels along i, j, k, but its grid has {grid.shape}")
