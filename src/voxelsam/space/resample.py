"""Arrays from one grid onto another, through patient space.

Both grids may be oblique, sheared or left-handed: every target voxel looks up its own millimetre position in the
source. A place counts as inside the source up to half a voxel beyond the outermost voxel centres. Slices of the target
are made a few at a time, so that as a rule no array of that size is held beside source and result.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Integer, Real
from scipy import ndimage

from voxelsam.space.grid import Grid
from voxelsam.space.straighten import right_angled
from voxelsam.types import Affine, LabelArray, Pixels

Order = Literal[0, 1, 2, 3, 4, 5]
"""Degree of an interpolating spline: 0 takes the nearest voxel, 1 is linear, 3 cubic."""

_COARSER = 1.01
"""Images are smoothed beforehand along axes that get coarser by more than this factor."""

_SLICES = 16
"""Slices of the target that are made at a time."""


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
    widths = _smoothing(source, target)
    reaches_out = _reaches_out(source, target)
    result = np.empty((len(data), *target.shape), np.float32)
    for channel, out in zip(data, result, strict=True):
        outside = channel.min() if fill is None else fill
        image = _smoothed(channel, widths)
        for first in range(0, target.shape[2], _SLICES):
            offset = matrix[:3, 3] + matrix[:3, 2] * first
            some = out[:, :, first : first + _SLICES]
            ndimage.affine_transform(image, matrix[:3, :3], offset, output=some, order=order, mode="nearest")
            if reaches_out:
                some[_outside(matrix[:3, :3], offset, some.shape, source)] = outside
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


def _smoothed(channel: Real[np.ndarray, "i j k"], widths: Float64[np.ndarray, " 3"]) -> Real[np.ndarray, "i j k"]:
    """The channel as it is, if it can be interpolated and needs no smoothing: a whole CT in float32 is large."""
    if not widths.any() and channel.dtype in (np.uint8, np.int16, np.uint16, np.float32):
        return channel
    image: Float32[np.ndarray, "i j k"] = channel.astype(np.float32, copy=False)
    if not widths.any():
        return image
    smooth: Float32[np.ndarray, "i j k"] = ndimage.gaussian_filter(image, widths, mode="nearest")
    return smooth


def _smoothing(source: Grid, target: Grid) -> Float64[np.ndarray, " 3"]:
    """Standard deviation of the Gaussian along each source axis, in source voxels.

    A voxel of n source voxels has the resolution of a Gaussian whose full width at half maximum is n; variances
    add, and one of them (1) is in the data already. Slices of a tilted source are not thicker for being shifted, so
    steps are measured along its straightened axes.
    """
    steps = np.linalg.norm(np.linalg.solve(right_angled(source), target.affine[:3, :3]), axis=1)
    variance = (steps**2 - 1) / (8 * np.log(2))
    return np.sqrt(np.where(steps > _COARSER, variance, 0))


def _reaches_out(source: Grid, target: Grid) -> bool:
    """Whether voxels of the target lie beyond the source."""
    corners = source.to_index(target.corners())
    return bool((corners < -0.5).any() or (corners > np.asarray(source.shape) - 0.5).any())


def _outside(
    turn: Float64[np.ndarray, "3 3"], offset: Float64[np.ndarray, " 3"], shape: tuple[int, ...], source: Grid
) -> Bool[np.ndarray, "i j k"]:
    """Which voxels of an array of that shape, each at index ``turn @ (i, j, k) + offset``, lie beyond the source."""
    outside = np.zeros(shape, bool)
    i, j, k = np.ogrid[tuple(slice(count) for count in shape)]
    for (along_i, along_j, along_k), start, count in zip(turn, offset, source.shape, strict=True):
        index = along_i * i + along_j * j + (along_k * k + start)
        outside |= (index < -0.5) | (index > count - 0.5)
    return outside
