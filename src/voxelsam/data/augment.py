"""Random changes of whole stacks: every slice and the mask of a stack get the same one.

A change is a pure function of its seed, so it is the same in any process and in any order. Positions on a slice are
(row, column) in pixels from the middle of the slice; a warp is a 3×3 matrix that takes a pixel of the result to the
place in the original that it shows. What comes from outside the original is 0 in the image and background in the mask.

Presets:
    light: small rotation, scaling, shift, contrast and noise. No flips and no quarter turns, so left stays left.
    ma_sam: the list of MA-SAM's prompt-free training, in its order.
    none: nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Float64, Int
from torch import Tensor

from voxelsam.config import STRICT
from voxelsam.errors import ConfigError, InputError

Preset = Literal["light", "ma_sam", "none"]
Images = Float[Tensor, "depth 3 height width"]
Target = Int[Tensor, "planes height width"]
"""The mask of every slice; further planes of integers may follow them and are changed along."""
Matrix = Float64[np.ndarray, "3 3"]
Size = tuple[int, int]


@dataclass(frozen=True)
class AugmentConfig:
    """Which changes are made during training."""

    __pydantic_config__: ClassVar[Any] = STRICT

    preset: Preset = "light"
    """``light`` keeps left and right apart; ``ma_sam`` is the published list; ``none`` switches it off."""
    strength: float = 1.0
    """Multiplies the ranges of ``light``; the published list has one strength, 1."""

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset):
            raise ConfigError(f"no augmentation preset {self.preset!r}; there are: {', '.join(get_args(Preset))}")
        if not 0 <= self.strength <= 3:
            raise ConfigError(f"strength of the augmentation must lie in 0..3, but is {self.strength}")
        if self.preset == "ma_sam" and self.strength != 1:
            raise ConfigError("the preset ma_sam is a published list and has strength 1; use light to vary it")


class Augment:
    """The changes of a preset, as a function of a stack and a seed."""

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        self._warp = None if config.preset == "none" else Warp()

    def __call__(self, images: Images, target: Target, seed: int) -> tuple[Images, Target]:
        """A changed copy of a stack and its mask.

        Args:
            images: 0..1; stays there.
            target: class indices of every slice, then any further planes; no new numbers appear, and pixels without an
                original become 0.
            seed: 0 or more; the same seed always gives the same change.

        Raises:
            InputError: the mask does not have the size of the images.
        """
        if images.shape[0] > target.shape[0] or images.shape[2:] != target.shape[1:]:
            raise InputError(
                f"images are depth 3 height width and the mask depth height width, but they are "
                f"{tuple(images.shape)} and {tuple(target.shape)}"
            )
        if self._warp is None:
            return images, target
        random = np.random.default_rng(seed)
        if self.config.preset == "light":
            return light(images, target, random, self._warp, self.config.strength)
        return ma_sam(images, target, random, self._warp)


class Warp:
    """Resampling of a stack and its mask through one matrix."""

    def __call__(self, images: Images, target: Target, matrix: Matrix, mode: str = "bilinear") -> tuple[Images, Target]:
        """Both through one matrix; the mask always by the nearest pixel, 0 outside.

        Args:
            images: any values.
            target: class indices.
            matrix: result to original, (row, column) pixels from the middle.
            mode: ``bilinear`` or ``nearest``, for the images.
        """
        flat = self._resample(rearrange(images, "d c h w -> (d c) h w"), matrix, mode)
        mask = self._resample(target.float(), matrix, "nearest").round().to(target.dtype)
        return rearrange(flat, "(d c) h w -> d c h w", d=images.shape[0]), mask

    def _resample(
        self, data: Float[Tensor, "channels h w"], matrix: Matrix, mode: str
    ) -> Float[Tensor, "channels h w"]:
        half = np.array([data.shape[2], data.shape[1], 2.0]) / 2  # PyTorch counts x before y, from -1 to 1
        swapped = matrix[np.ix_((1, 0, 2), (1, 0, 2))]
        theta = torch.from_numpy(swapped * half / half[:, None])[None, :2].to(data.dtype)
        grid = F.affine_grid(theta, [1, *data.shape], align_corners=False)
        return F.grid_sample(data[None], grid, mode, padding_mode="zeros", align_corners=False)[0]


def light(
    images: Images, target: Target, random: np.random.Generator, warp: Warp, strength: float
) -> tuple[Images, Target]:
    """One gentle warp, then contrast, brightness, gamma and noise, each in half of the stacks."""

    def within(reach: float) -> float:
        return strength * random.uniform(-reach, reach)

    size = (images.shape[2], images.shape[3])
    turn = rotation(within(10)) @ scaling(np.exp(within(0.1)))
    images, target = warp(images, target, turn @ translation(within(0.06) * size[0], within(0.06) * size[1]))
    if random.random() < 0.5:
        images = contrast(images, float(np.exp(within(0.2))))
    if random.random() < 0.5:
        images = brightness(images, float(np.exp(within(0.15))))
    if random.random() < 0.5:
        images = images.clamp(0, 1) ** float(np.exp(within(0.25)))
    if random.random() < 0.5:
        noise = random.standard_normal((images.shape[0], 1, *size), dtype=np.float32)
        images = images + torch.from_numpy(noise) * (strength * random.uniform(0, 0.04))
    return images.clamp(0, 1), target


def ma_sam(images: Images, target: Target, random: np.random.Generator, warp: Warp) -> tuple[Images, Target]:
    """MA-SAM's list (https://github.com/cchen-cc/MA-SAM, ``datasets/dataset.py``), in its order.

    Not stated there and chosen here: mean grey values (contrast) are of the whole stack; images are resampled
    linearly in the last step; slices that are not square are never turned by 90 degrees, because a batch has one size.
    """
    size = (images.shape[2], images.shape[3])
    if random.random() < 0.5:
        images, target = turn_and_flip(images, target, int(random.integers(4)), int(random.integers(2)))
    if random.random() < 0.5:
        images, target = warp(images, target, rotation(int(random.integers(-15, 15))), "nearest")
    if random.random() < 0.5:
        images = gamma_curve(images, random.uniform(0.5, 3.5))
    if random.random() < 0.5:
        images, target = erase(images, target, random)
    first, second = random.choice(sorted(MA_SAM_RANGES), size=2, replace=False)
    strengths = {str(name): random.uniform(*MA_SAM_RANGES[str(name)]) for name in (first, second)}
    return two_operations(images, target, strengths, warp, size)


MA_SAM_RANGES: Mapping[str, tuple[float, float]] = {
    "shear_x": (-0.3, 0.3),
    "shear_y": (-0.3, 0.3),
    "scale": (0.8, 1.2),
    "translate_x": (-0.2, 0.2),  # share of the width
    "translate_y": (-0.2, 0.2),
    "posterise": (4, 9),  # bits, rounded down
    "contrast": (0.7, 1.3),
    "brightness": (0.7, 1.3),
    "sharpness": (0.1, 1.9),
    "identity": (0, 1),
}


def two_operations(
    images: Images, target: Target, strengths: Mapping[str, float], warp: Warp, size: Size
) -> tuple[Images, Target]:
    """Named operations in the order given, on 8-bit grey values; neighbouring warps become one resampling."""
    images = eight_bit(images)
    pending: Matrix | None = None
    for name, strength in strengths.items():
        matrix = operation_matrix(name, strength, size)
        if matrix is not None:
            pending = matrix if pending is None else pending @ matrix
            continue
        if pending is not None:
            images, target = warp(images, target, pending)
            pending = None
        images = operation_on_grey(images, name, strength)
    if pending is not None:
        images, target = warp(images, target, pending)
    return eight_bit(images), target


def operation_matrix(name: str, strength: float, size: Size) -> Matrix | None:
    """The warp of an operation, or None if it changes grey values only."""
    height, width = size
    match name:
        case "shear_x":
            return about_corner(np.array([[1, 0, 0], [strength, 1, 0], [0, 0, 1.0]]), size)
        case "shear_y":
            return about_corner(np.array([[1, strength, 0], [0, 1, 0], [0, 0, 1.0]]), size)
        case "scale":
            return about_corner(scaling(strength), size)
        case "translate_x":
            return translation(0, strength * width)
        case "translate_y":
            return translation(strength * height, 0)
    return None


def operation_on_grey(images: Images, name: str, strength: float) -> Images:
    """An operation that leaves every pixel where it is."""
    match name:
        case "posterise":
            return posterise(images, int(strength))
        case "contrast":
            return contrast(images, strength)
        case "brightness":
            return brightness(images, strength)
        case "sharpness":
            return sharpness(images, strength)
    return images


def rotation(degrees: float) -> Matrix:
    """About the middle."""
    angle = np.deg2rad(degrees)
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def scaling(factor: float) -> Matrix:
    """About the middle; a factor above 1 makes things larger."""
    return np.diag([1 / factor, 1 / factor, 1])


def translation(down: float, right: float) -> Matrix:
    """Moves what is seen by that many pixels."""
    return np.array([[1, 0, -down], [0, 1, -right], [0, 0, 1.0]])


def about_corner(matrix: Matrix, size: Size) -> Matrix:
    """The same warp with the top-left corner of the slice held in place instead of its middle."""
    to_corner = np.array([[1, 0, size[0] / 2], [0, 1, size[1] / 2], [0, 0, 1.0]])
    moved: Matrix = np.linalg.inv(to_corner) @ matrix @ to_corner
    return moved


def turn_and_flip(images: Images, target: Target, turns: int, axis: int) -> tuple[Images, Target]:
    """Quarter turns, then one flip.

    Args:
        images: the stack.
        target: its mask.
        turns: quarter turns, 0..3; odd ones become the half turn below them where slices are not square.
        axis: 0 flips rows, 1 flips columns.
    """
    if images.shape[2] != images.shape[3]:
        turns -= turns % 2
    return (
        torch.rot90(images, turns, (2, 3)).flip(2 + axis),
        torch.rot90(target, turns, (1, 2)).flip(1 + axis),
    )


def gamma_curve(images: Images, gamma: float) -> Images:
    """Grey value to the power 1 / gamma, through a table of 256 values."""
    table = (torch.arange(256) / 255) ** (1 / gamma)
    return torch.round(table * 255).div(255)[(images.clamp(0, 1) * 255).round().long()]


def erase(images: Images, target: Target, random: np.random.Generator) -> tuple[Images, Target]:
    """One rectangle of 2-5 % of the area and aspect 0.3-3.3 becomes noise, the same in all slices, and background."""
    height, width = images.shape[2:]
    area = random.uniform(0.02, 0.05) * height * width
    aspect = random.uniform(0.3, 3.3)
    rows = min(max(1, round((area * aspect) ** 0.5)), height)
    columns = min(max(1, round((area / aspect) ** 0.5)), width)
    top, left = int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))
    images, target = images.clone(), target.clone()
    noise = torch.from_numpy(random.random((rows, columns), dtype=np.float32))
    images[:, :, top : top + rows, left : left + columns] = noise
    target[:, top : top + rows, left : left + columns] = 0
    return images, target


def eight_bit(images: Images) -> Images:
    """The nearest of 256 grey values."""
    return images.clamp(0, 1).mul(255).round().div(255)


def posterise(images: Images, bits: int) -> Images:
    """The upper bits of an 8-bit grey value; the lower ones become 0."""
    step = 1 << (8 - bits)
    return torch.floor((images * 255).round() / step) * step / 255


def contrast(images: Images, factor: float) -> Images:
    """Distances to the mean of the stack times a factor."""
    mean = images.mean()
    return ((images - mean) * factor + mean).clamp(0, 1)


def brightness(images: Images, factor: float) -> Images:
    """Grey values times a factor."""
    return (images * factor).clamp(0, 1)


def sharpness(images: Images, factor: float) -> Images:
    """Between a smoothed copy (0) and the image (1), or beyond it; pixels on the rim stay as they are."""
    if min(images.shape[2:]) < 3:
        return images
    kernel = torch.ones(1, 1, 3, 3, dtype=images.dtype)
    kernel[0, 0, 1, 1] = 5
    frames = rearrange(images, "d c h w -> (d c) 1 h w")
    smooth = frames.clone()
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(frames, kernel / kernel.sum())
    blended: Tensor = rearrange(smooth + factor * (frames - smooth), "(d c) 1 h w -> d c h w", c=images.shape[1])
    return blended.clamp(0, 1)
