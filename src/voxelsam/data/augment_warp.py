"""Where the pixels of a stack go: warps, quarter turns and flips, the same for every slice and for the mask.

Positions on a slice are (row, column) in pixels from the middle of the slice; a warp is a 3×3 matrix that takes a pixel
of the result to the place in the original that it shows. What comes from outside the original is 0. Resampling, turns
and flips are MONAI's.
"""

from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Float64, Int, Shaped
from torch import Tensor

Pictures = Float[Tensor, "depth channels height width"]
"""0..1; one channel where all three of the model are the same."""
Target = Int[Tensor, "planes height width"]
"""The mask of every slice; further planes of integers may follow them and are changed along."""
Matrix = Float64[np.ndarray, "3 3"]
Bend = Float[Tensor, "2 height width"]
"""For each pixel of the result: how many pixels further down and right the place lies that it shows."""
Size = tuple[int, int]
"""Height and width of a slice, pixels."""


def through(transform: Any, data: Tensor) -> Tensor:
    """What a MONAI transform makes of a tensor, as a plain tensor without MONAI's notes on it.

    Args:
        transform: not random, or seeded.
        data: channels first, as MONAI wants it.
    """
    from monai.utils.type_conversion import convert_to_tensor

    changed: Tensor = convert_to_tensor(transform(data), track_meta=False)
    return changed


class Warp:
    """Resampling of a stack and its mask through one matrix."""

    def __call__(
        self, pictures: Pictures, target: Target, matrix: Matrix, mode: str = "bilinear", bend: Bend | None = None
    ) -> tuple[Pictures, Target]:
        """Both through one matrix; the mask always by the nearest pixel, 0 outside.

        Args:
            pictures: any values.
            target: any integers; they stay exactly what they are.
            matrix: result to original, (row, column) pixels from the middle.
            mode: ``bilinear`` or ``nearest``, for the pictures.
            bend: added to the places, or None.
        """
        grid = self._grid((target.shape[1], target.shape[2]), matrix, bend)
        index, inside = self._nearest(grid)
        mask = picked(target, index, inside)
        if mode == "nearest":
            return picked(pictures, index, inside), mask
        flat = self._resample(rearrange(pictures, "d c h w -> (d c) h w"), grid, mode)
        return rearrange(flat, "(d c) h w -> d c h w", d=pictures.shape[0]), mask

    def _grid(self, size: Size, matrix: Matrix, bend: Bend | None) -> Float[Tensor, "3 height width"]:
        """Places in the original, homogeneous."""
        from monai.transforms.spatial.array import AffineGrid

        grid = torch.as_tensor(AffineGrid(affine=matrix)(size)[0])
        if bend is not None:
            grid[:2] += bend
        return grid

    def _nearest(
        self, grid: Float[Tensor, "3 height width"]
    ) -> tuple[Int[Tensor, "height width"], Bool[Tensor, "height width"]]:
        """For every pixel the number of the nearest pixel of the original, counted row by row; and whether it has one.

        Row and column are resampled, not the labels: so any label survives, however large, and all planes move alike.
        """
        height, width = grid.shape[1:]
        rows = torch.arange(1, height + 1, dtype=torch.float32)[:, None].expand(height, width)
        columns = torch.arange(1, width + 1, dtype=torch.float32).expand(height, width)
        row, column = self._resample(torch.stack([rows, columns]), grid, "nearest").round().long()
        return (row - 1) * width + column - 1, row > 0

    def _resample(
        self, data: Float[Tensor, "channels h w"], grid: Float[Tensor, "3 h w"], mode: str
    ) -> Float[Tensor, "channels h w"]:
        from monai.transforms.spatial.array import Resample

        resample = Resample(mode=mode, padding_mode="zeros", align_corners=False, dtype=np.float32)
        return through(lambda channels: resample(channels, grid), data)


def picked(
    data: Shaped[Tensor, "*lead height width"], index: Int[Tensor, "height width"], inside: Bool[Tensor, "height width"]
) -> Shaped[Tensor, "*lead height width"]:
    """The pixels of those numbers, 0 where there is none.

    Args:
        data: any planes.
        index: pixel numbers, row by row.
        inside: where there is one.
    """
    found = data.flatten(-2).index_select(-1, index.clamp(min=0).flatten())
    shown: Tensor = found.reshape(*data.shape[:-2], *index.shape) * inside
    return shown


def rotation(degrees: float) -> Matrix:
    """About the middle."""
    angle = np.deg2rad(degrees)
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def scaling(factor: float) -> Matrix:
    """About the middle; a factor above 1 makes things larger."""
    return np.diag([1 / factor, 1 / factor, 1])


def shear(down: float, right: float) -> Matrix:
    """About the middle: rows move by ``right`` of their distance to it, columns by ``down`` of theirs."""
    return np.array([[1, down, 0], [right, 1, 0], [0, 0, 1.0]])


def translation(down: float, right: float) -> Matrix:
    """Moves what is seen by that many pixels."""
    return np.array([[1, 0, -down], [0, 1, -right], [0, 0, 1.0]])


def about_corner(matrix: Matrix, size: Size) -> Matrix:
    """The same warp with the top-left corner of the slice held in place instead of its middle."""
    to_corner = np.array([[1, 0, size[0] / 2], [0, 1, size[1] / 2], [0, 0, 1.0]])
    moved: Matrix = np.linalg.inv(to_corner) @ matrix @ to_corner
    return moved


def waves(size: Size, random: np.random.Generator, reach: float, points: int = 8) -> Bend:
    """A smooth random bend: normal steps at a few points, cubic between them.

    Args:
        size: of the slice.
        random: draws the steps.
        reach: their standard deviation, share of the longer side.
        points: along each side.
    """
    from monai.transforms.spatial.array import Resize

    steps = torch.from_numpy(random.standard_normal((2, points, points), dtype=np.float32)) * (reach * max(size))
    return through(Resize(size, mode="bicubic"), steps)


def quarter_turns(pictures: Pictures, target: Target, turns: int) -> tuple[Pictures, Target]:
    """Turned by so many times 90 degrees, exactly.

    Args:
        pictures: the stack.
        target: its mask.
        turns: 0..3; odd ones become the half turn below them where slices are not square: a batch has one size.
    """
    from monai.transforms.spatial.array import Rotate90

    if pictures.shape[2] != pictures.shape[3]:
        turns -= turns % 2
    turn = Rotate90(turns, spatial_axes=(0, 1))
    return _each(turn, pictures), through(turn, target)


def mirrored(pictures: Pictures, target: Target, axis: int) -> tuple[Pictures, Target]:
    """Flipped along one axis, exactly.

    Args:
        pictures: the stack.
        target: its mask.
        axis: 0 flips rows, 1 flips columns.
    """
    from monai.transforms.spatial.array import Flip

    flip = Flip(spatial_axis=axis)
    return _each(flip, pictures), through(flip, target)


def _each(transform: Any, pictures: Pictures) -> Pictures:
    changed = through(transform, rearrange(pictures, "d c h w -> (d c) h w"))
    return rearrange(changed, "(d c) h w -> d c h w", d=pictures.shape[0])
