"""One slice and the picture that the model sees of it: where each pixel goes, and back.

Points are (x, y) in pixels with pixel centres at whole numbers, sizes are (height, width). Linear resizing aligns the
outer *edges* of the two pictures, ``x_model = (x + 0.5) * scale - 0.5 + left``, as SAM does. Cubic resizing is
``scipy.ndimage.zoom``, which MA-SAM's preparation uses; it aligns the *centres* of the corner pixels instead,
``x_model = x * scale + left``. A :class:`FrameMap` knows which of the two it is, so that points, labels and scores
always follow the picture.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64, Integer, Num, Real
from scipy import ndimage
from torch import Tensor

Size = tuple[int, int]
"""Pixels (height, width)."""

Fit = Literal["stretch", "pad"]
"""Fill the model's picture, or keep the aspect ratio and fill up with zeros at the right or at the bottom."""

Interpolation = Literal["linear", "cubic"]

Points2 = Real[np.ndarray, "n 2"]
"""Points (x, y) in pixels."""


@dataclass(frozen=True)
class FrameMap:
    """Slice pixels ⇄ model pixels; the two directions undo each other."""

    source: Size
    """The slice, pixels (height, width)."""
    target: Size
    """The model's picture, pixels (height, width)."""
    scale: tuple[float, float]
    """Model pixels per slice pixel along y, x."""
    pad: tuple[int, int, int, int]
    """Empty model pixels at the left, right, top, bottom."""
    interpolation: Interpolation = "linear"
    """How pictures are resized, which also says what is aligned: edges (linear) or corner pixels (cubic)."""

    @classmethod
    def fit(cls, source: Size, target: Size, mode: Fit = "pad", interpolation: Interpolation = "linear") -> "FrameMap":
        """The map that fits a slice into the model's picture.

        Raises:
            ValueError: a size is not two positive counts.
        """
        if len(source) != 2 or len(target) != 2 or min(*source, *target) < 1:
            raise ValueError(f"sizes are a height and a width of at least 1, not {source} and {target}")
        content = target if mode == "stretch" else _largest_within(source, target)
        pad = (0, target[1] - content[1], 0, target[0] - content[0])
        aligned = (content, source) if interpolation == "linear" else (_steps(content), _steps(source))
        (high, wide), (tall, broad) = aligned
        return cls(source, target, (high / tall, wide / broad), pad, interpolation)

    @property
    def content(self) -> Size:
        """Size of the slice inside the model's picture, (height, width)."""
        left, right, top, bottom = self.pad
        return self.target[0] - top - bottom, self.target[1] - left - right

    @property
    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the model's picture that show the slice."""
        left, right, top, bottom = self.pad
        return slice(top, self.target[0] - bottom), slice(left, self.target[1] - right)

    def to_model(self, points: Points2) -> Float64[np.ndarray, "n 2"]:
        """Points on the slice to points on the model's picture."""
        x_y: Float64[np.ndarray, "n 2"] = np.asarray(points, np.float64) * self.scale[::-1] + self._shift
        return x_y

    def to_slice(self, points: Points2) -> Float64[np.ndarray, "n 2"]:
        """Points on the model's picture to points on the slice."""
        x_y: Float64[np.ndarray, "n 2"] = (np.asarray(points, np.float64) - self._shift) / self.scale[::-1]
        return x_y

    @property
    def _shift(self) -> Float64[np.ndarray, " 2"]:
        """Where the centre of the slice's first pixel goes, (x, y)."""
        corner = np.array([self.pad[0], self.pad[2]], np.float64)
        return corner if self.interpolation == "cubic" else corner + np.asarray(self.scale[::-1]) / 2 - 0.5


def frame_to_model(
    images: Num[Tensor, "frames channels height width"], frame: FrameMap
) -> Num[Tensor, "frames channels model_height model_width"]:
    """Slices as the model's pictures: resized, zeros outside.

    Linear resizing smooths along axes that shrink; it needs floating-point pictures. Cubic resizing runs on the CPU,
    may overshoot the range of the values, and keeps integer types (rounded and clamped).

    Raises:
        ValueError: the pictures do not have the map's source size.
    """
    _check_size("slices", images, frame.source)
    if frame.content == frame.source:
        resized = images
    elif frame.interpolation == "cubic":
        resized = _zoomed(images, frame.content)
    else:
        resized = _linear(images, frame.content)
    return F.pad(resized, frame.pad)


def labels_to_model(
    labels: Integer[Tensor, "frames height width"], frame: FrameMap
) -> Integer[Tensor, "frames model_height model_width"]:
    """Label slices at the model's size: the nearest pixel's value, 0 outside.

    Raises:
        ValueError: the labels do not have the map's source size.
    """
    _check_size("label slices", labels, frame.source)
    rows, columns = (_nearest(frame, axis) for axis in (0, 1))
    picked = labels[:, rows][:, :, columns]
    return F.pad(picked, frame.pad)


def scores_to_slice(
    scores: Float[Tensor, "frames classes model_height model_width"], frame: FrameMap
) -> Float[Tensor, "frames classes height width"]:
    """Scores of the model's pictures on the pixels of the slices, linear; what lies in the padding is left out.

    Raises:
        ValueError: the scores do not have the map's target size.
    """
    _check_size("scores", scores, frame.target)
    rows, columns = frame.inside
    content = scores[..., rows, columns]
    if frame.content == frame.source:
        return content
    if frame.interpolation == "cubic":
        return F.interpolate(content, frame.source, mode="bilinear", align_corners=True)
    return _linear(content, frame.source)


def _largest_within(source: Size, target: Size) -> Size:
    """The largest size of the source's aspect ratio that fits into the target."""
    ratio = min(target[0] / source[0], target[1] / source[1])
    height, width = (min(max(round(pixels * ratio), 1), most) for pixels, most in zip(source, target, strict=True))
    return height, width


def _steps(size: Size) -> Size:
    """Distances between the centres of the corner pixels; 1 where there is one pixel only."""
    return max(size[0] - 1, 1), max(size[1] - 1, 1)


def _linear(images: Float[Tensor, "n c h w"], size: Size) -> Float[Tensor, "n c model_h model_w"]:
    shrinks = size[0] < images.shape[-2] or size[1] < images.shape[-1]
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=shrinks)


def _zoomed(images: Num[Tensor, "n c h w"], size: Size) -> Num[Tensor, "n c model_h model_w"]:
    planes = images.numpy(force=True)
    factors = size[0] / planes.shape[2], size[1] / planes.shape[3]
    result = np.empty((*planes.shape[:2], *size), planes.dtype)
    for index in np.ndindex(planes.shape[:2]):
        # "mirror" equals the default mode, except that the default turns a last pixel that rounding puts a hair
        # outside (63 pixels to 31, say) into 0
        ndimage.zoom(planes[index], factors, output=result[index], order=3, mode="mirror")
    return torch.from_numpy(result).to(images.device)


def _nearest(frame: FrameMap, axis: int) -> Int64[Tensor, " content"]:
    """For each row (axis 0) or column (axis 1) of the content, the row or column of the slice to take."""
    source, content = frame.source[axis], frame.content[axis]
    places = torch.arange(content, dtype=torch.float64)
    if frame.interpolation == "cubic":
        # scipy's operations in scipy's order, so that ties fall to the same side
        step = (source - 1) / (content - 1) if content > 1 else 1.0
        return (places * step + 0.5).floor().long()
    return ((places + 0.5) * (source / content)).floor().long().clamp(max=source - 1)


def _check_size(what: str, tensor: Tensor, size: Size) -> None:
    if tuple(tensor.shape[-2:]) != tuple(size):
        raise ValueError(f"the {what} are {tuple(tensor.shape[-2:])} pixels (height, width), but the map has {size}")
