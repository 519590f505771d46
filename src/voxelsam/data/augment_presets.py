"""Lists of random changes, but for MA-SAM's, which has a file of its own.

Each takes pictures, mask and a source of randomness, and gives both changed. In every list the three channels of a
slice and all slices of a stack get the same change.
"""

import numpy as np

from voxelsam.data.augment_grey import (
    Grey,
    blurred,
    brightness,
    coarse,
    contrast,
    gamma,
    multiplied,
    noisy,
    shaded,
    shifted,
    stretched,
)
from voxelsam.data.augment_warp import (
    Pictures,
    Target,
    Warp,
    mirrored,
    quarter_turns,
    rotation,
    scaling,
    shear,
    translation,
    waves,
)


def light(
    pictures: Pictures, target: Target, random: np.random.Generator, warp: Warp, strength: float
) -> tuple[Pictures, Target]:
    """One gentle warp, then contrast, brightness, gamma and noise, each in half of the stacks; never mirrors."""

    def within(reach: float) -> float:
        return strength * random.uniform(-reach, reach)

    size = (pictures.shape[2], pictures.shape[3])
    turn = rotation(within(10)) @ scaling(np.exp(within(0.1)))
    pictures, target = warp(pictures, target, turn @ translation(within(0.06) * size[0], within(0.06) * size[1]))
    if random.random() < 0.5:
        pictures = contrast(pictures, float(np.exp(within(0.2))))
    if random.random() < 0.5:
        pictures = brightness(pictures, float(np.exp(within(0.15))))
    if random.random() < 0.5:
        pictures = gamma(pictures, float(np.exp(within(0.25))))
    if random.random() < 0.5:
        pictures = noisy(pictures, strength * random.uniform(0, 0.04), seed_from(random))
    return pictures.clamp_(0, 1), target


def few(
    pictures: Pictures, target: Target, random: np.random.Generator, warp: Warp, strength: float
) -> tuple[Pictures, Target]:
    """For 1 to 20 cases: strong warps, half of them bent, and strong changes of grey values; never mirrors.

    Ours: the operations of nnU-Net's list more often and in wider ranges, with shear, smooth bends and shading added.
    """

    def within(reach: float) -> float:
        return strength * random.uniform(-reach, reach)

    size = (pictures.shape[2], pictures.shape[3])
    turn = rotation(within(25)) @ scaling(np.exp(within(0.3))) @ shear(within(0.15), within(0.15))
    move = translation(within(0.1) * size[0], within(0.1) * size[1])
    bend = waves(size, random, strength * random.uniform(0, 0.012)) if random.random() < 0.5 else None
    pictures, target = warp(pictures, target, turn @ move, bend=bend)
    if random.random() < 0.2:
        pictures = shaded(pictures, strength * 0.15, seed_from(random))
    if random.random() < 0.3:
        pictures = contrast(pictures, float(np.exp(within(0.35))))
    if random.random() < 0.3:
        pictures = brightness(pictures, float(np.exp(within(0.25))))
    if random.random() < 0.4:
        pictures = gamma(pictures, float(np.exp(within(0.5))), inverted=bool(random.random() < 0.3))
    if random.random() < 0.2:
        pictures = blurred(pictures, 0.3 + strength * random.uniform(0, 1.2))
    if random.random() < 0.2:
        pictures = coarse(pictures, 1 / (1 + strength * random.uniform(0, 1)))
    if random.random() < 0.3:
        pictures = noisy(pictures, strength * random.uniform(0, 0.08), seed_from(random))
    return pictures.clamp_(0, 1), target


def nnunet(
    pictures: Pictures, target: Target, random: np.random.Generator, warp: Warp, mirror: bool
) -> tuple[Pictures, Target]:
    """nnU-Net's default list (version 2, ``nnUNetTrainer.get_training_transforms``), in its order, on each slice.

    As nnU-Net does it where slices lie far apart: rotations and scalings stay within the slice. Its grey values are
    z-scored, so those of the stack are, too, before they are changed, and go back afterwards. Differences: channels are
    changed together, so the share of changed channels is put into the probability; what comes from outside is black.

    Args:
        pictures: the stack.
        target: its mask.
        random: draws everything.
        warp: resamples.
        mirror: flip rows and columns, each with p 0.5, as nnU-Net does. Left and right are then one to the network.
    """
    height, width = pictures.shape[2:]
    reach = 15 if max(height, width) / min(height, width) > 1.5 else 180
    matrix = rotation(random.uniform(-reach, reach)) if random.random() < 0.2 else None
    if random.random() < 0.2:
        zoom = scaling(1 / random.uniform(0.7, 1.4))
        matrix = zoom if matrix is None else matrix @ zoom
    if matrix is not None:
        pictures, target = warp(pictures, target, matrix)
    mean, deviation = float(pictures.mean()), max(float(pictures.std(correction=0)), 1e-6)
    scored = nnunet_grey((pictures - mean) / deviation, random)
    pictures = (scored * deviation + mean).clamp_(0, 1)
    for axis in (0, 1):
        if mirror and random.random() < 0.5:
            pictures, target = mirrored(pictures, target, axis)
    return pictures, target


def nnunet_grey(values: Grey, random: np.random.Generator) -> Grey:
    """The part of nnU-Net's list that changes z-scored grey values.

    Args:
        values: mean 0 and standard deviation 1.
        random: draws everything.
    """
    if random.random() < 0.1:
        values = noisy(values, random.uniform(0, 0.1), seed_from(random))
    if random.random() < 0.2 * 0.5:
        values = blurred(values, random.uniform(0.5, 1))
    if random.random() < 0.15:
        values = multiplied(values, around_one(random, 0.75, 1.25))
    if random.random() < 0.15:
        values = stretched(values, around_one(random, 0.75, 1.25))
    if random.random() < 0.25 * 0.5:
        values = coarse(values, random.uniform(0.5, 1))
    if random.random() < 0.1:
        values = gamma(values, around_one(random, 0.7, 1.5), inverted=True, keep=True)
    if random.random() < 0.3:
        values = gamma(values, around_one(random, 0.7, 1.5), keep=True)
    return values


def med_sa(pictures: Pictures, target: Target, random: np.random.Generator) -> tuple[Pictures, Target]:
    """The list of Med-SA's released BTCV training: flips, quarter turns and a shift of grey values; it mirrors.

    Rows and columns are flipped with p 0.1 each, quarter turns (one to three) come with p 0.1, and with p 0.5 a number
    from -0.1 to 0.1 is added. Its flip of the slice order, p 0.1, is ``Augment.reverses``. Chosen here: grey values
    stay within 0..1, and slices that are not square are only turned by 180 degrees.
    """
    for axis in (0, 1):
        if random.random() < 0.1:
            pictures, target = mirrored(pictures, target, axis)
    if random.random() < 0.1:
        pictures, target = quarter_turns(pictures, target, int(random.integers(1, 4)))
    if random.random() < 0.5:
        pictures = shifted(pictures, random.uniform(-0.1, 0.1))
    return pictures, target


def around_one(random: np.random.Generator, low: float, high: float) -> float:
    """Below 1 as often as above it."""
    return random.uniform(low, 1) if random.random() < 0.5 else random.uniform(1, high)


def seed_from(random: np.random.Generator) -> int:
    """A seed for an operation that draws by itself."""
    return int(random.integers(2**31))
