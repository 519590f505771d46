"""Arrays from one grid onto another, through patient space.

Both grids may be oblique, sheared or left-handed: every target voxel looks up its own millimetre position in the
source. A place counts as inside the source up to half a voxel beyond the outermost voxel centres.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Integer
from scipy import ndimage

from voxelsam.space.grid import Grid
from voxelsam.types import Affine, LabelArray, Pixels

Order = Literal[0, 1, 2, 3, 4, 5]
"""Degree of an interpolating spline: 0 takes the nearest voxel, 1 is linear, 3 cubic."""

_COARSER = 1.01
"""Images are smoothed beforehand along axes that get coarser by more than this factor."""


def resample(
    data: Pixels, source: Grid, target: Grid, order: Order = 1, fill: float | None = None
) -> Float32[np.ndarray, "channels target_i target_j target_k"]:
    """Intensities at the voxels of another grid.

    Where voxels get coarser the image is smoothed first (Gaussian, half-width at half maximum matched to the change
    of resolution), so that no fine structure turns into a false pattern.

    Args:
        data: intensities on the source grid.
        source: grid of the data.
        target: grid of the result.
        order: degree of the interpolating spline.
        fill: value outside the source; the lowest value of each channel when None.
    """
    matrix = _index_map(source, target)
    widths = _smoothing(matrix)
    outside = _outside(matrix, source, target)
    result = np.empty((len(data), *target.shape), np.float32)
    for channel, out in zip(data, result, strict=True):
        image = channel.astype(np.float32, copy=False)
        if widths.any():
            image = ndimage.gaussian_filter(image, widths, mode="nearest")
        ndimage.affine_transform(image, matrix[:3, :3], matrix[:3, 3], output=out, order=order, mode="nearest")
        if outside is not None:
            out[outside] = channel.min() if fill is None else fill
    return result


def resample_labels(
    labels: LabelArray, source: Grid, target: Grid, fill: int = 0
) -> Integer[np.ndarray, "target_i target_j target_k"]:
    """Label values at the voxels of another grid: the nearest voxel's, ``fill`` outside the source."""
    matrix = _index_map(source, target)
    result: Integer[np.ndarray, "target_i target_j target_k"] = ndimage.affine_transform(
        labels, matrix[:3, :3], matrix[:3, 3], target.shape, order=0, mode="grid-constant", cval=fill
    )
    return result


def _index_map(source: Grid, target: Grid) -> Affine:
    matrix: Affine = np.linalg.solve(source.affine, target.affine)
    return matrix


def _smoothing(matrix: Affine) -> Float64[np.ndarray, " 3"]:
    """Standard deviation of the Gaussian along each source axis, in source voxels.

    A voxel of n source voxels has the resolution of a Gaussian whose full width at half maximum is n; variances
    add, and one of them (1) is in the data already.
    """
    steps = np.linalg.norm(matrix[:3, :3], axis=1)
    variance = (steps**2 - 1) / (8 * np.log(2))
    return np.sqrt(np.where(steps > _COARSER, variance, 0))


def _outside(matrix: Affine, source: Grid, target: Grid) -> Bool[np.ndarray, "i j k"] | None:
    """Target voxels that lie beyond the source; None when there are none."""
    corners = source.to_index(target.corners())
    if (corners >= -0.5).all() and (corners <= np.asarray(source.shape) - 0.5).all():
        return None
    inside = ndimage.affine_transform(
        np.ones(source.shape, np.uint8), matrix[:3, :3], matrix[:3, 3], target.shape, order=0, mode="grid-constant"
    )
    outside: Bool[np.ndarray, "i j k"] = inside == 0
    return outside
