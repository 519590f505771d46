"""MA-SAM's list of random changes (https://github.com/cchen-cc/MA-SAM, ``datasets/dataset.py``), in its order.

Not stated there and chosen here: mean grey values (contrast) are of the whole stack; images are resampled linearly in
the last step; slices that are not square are never turned by 90 degrees, because a batch has one size.
"""

from collections.abc import Mapping

import numpy as np

from voxelsam.data.augment_grey import (
    brightness,
    contrast,
    eight_bit,
    erase,
    gamma_curve,
    posterise,
    sharpness,
)
from voxelsam.data.augment_warp import (
    Matrix,
    Pictures,
    Size,
    Target,
    Warp,
    about_corner,
    mirrored,
    quarter_turns,
    rotation,
    scaling,
    shear,
    translation,
)

RANGES: Mapping[str, tuple[float, float]] = {
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
"""The ten operations of the last step, and the range of each one's strength."""


def ma_sam(pictures: Pictures, target: Target, random: np.random.Generator, warp: Warp) -> tuple[Pictures, Target]:
    """The whole list; half of the stacks are mirrored.

    1. p 0.5: quarter turns, then one flip. 2. p 0.5: rotation by -15 to 14 whole degrees, nearest pixels. 3. p 0.5:
    gamma curve, 0.5 to 3.5. 4. p 0.5: one erased rectangle. 5. always: two different ones of ten operations.
    """
    size = (pictures.shape[2], pictures.shape[3])
    if random.random() < 0.5:
        pictures, target = turn_and_flip(pictures, target, int(random.integers(4)), int(random.integers(2)))
    if random.random() < 0.5:
        pictures, target = warp(pictures, target, rotation(int(random.integers(-15, 15))), "nearest")
    if random.random() < 0.5:
        pictures = gamma_curve(pictures, random.uniform(0.5, 3.5))
    if random.random() < 0.5:
        pictures, target = erase(pictures, target, random)
    first, second = random.choice(sorted(RANGES), size=2, replace=False)
    strengths = {str(name): random.uniform(*RANGES[str(name)]) for name in (first, second)}
    return two_operations(pictures, target, strengths, warp, size)


def turn_and_flip(pictures: Pictures, target: Target, turns: int, axis: int) -> tuple[Pictures, Target]:
    """Quarter turns, then one flip.

    Args:
        pictures: the stack.
        target: its mask.
        turns: quarter turns, 0..3; odd ones become the half turn below them where slices are not square.
        axis: 0 flips rows, 1 flips columns.
    """
    return mirrored(*quarter_turns(pictures, target, turns), axis)


def two_operations(
    pictures: Pictures, target: Target, strengths: Mapping[str, float], warp: Warp, size: Size
) -> tuple[Pictures, Target]:
    """Named operations in the order given, on 8-bit grey values; neighbouring warps become one resampling."""
    pictures = eight_bit(pictures)
    pending: Matrix | None = None
    for name, strength in strengths.items():
        matrix = operation_matrix(name, strength, size)
        if matrix is not None:
            pending = matrix if pending is None else pending @ matrix
            continue
        if pending is not None:
            pictures, target = warp(pictures, target, pending)
            pending = None
        pictures = operation_on_grey(pictures, name, strength)
    if pending is not None:
        pictures, target = warp(pictures, target, pending)
    return eight_bit(pictures), target


def operation_matrix(name: str, strength: float, size: Size) -> Matrix | None:
    """The warp of an operation, or None if it changes grey values only."""
    height, width = size
    match name:
        case "shear_x":
            return about_corner(shear(0, strength), size)
        case "shear_y":
            return about_corner(shear(strength, 0), size)
        case "scale":
            return about_corner(scaling(strength), size)
        case "translate_x":
            return translation(0, strength * width)
        case "translate_y":
            return translation(strength * height, 0)
    return None


def operation_on_grey(pictures: Pictures, name: str, strength: float) -> Pictures:
    """An operation that leaves every pixel where it is."""
    match name:
        case "posterise":
            return posterise(pictures, int(strength))
        case "contrast":
            return contrast(pictures, strength)
        case "brightness":
            return brightness(pictures, strength)
        case "sharpness":
            return sharpness(pictures, strength)
    return pictures
