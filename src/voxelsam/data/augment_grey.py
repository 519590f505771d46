"""What becomes of the grey values of a stack; every pixel stays where it is.

MONAI's operations where it has one of the same meaning; posterising, the table of 256 grey values, the sharpness of
Pillow and the erased rectangle are ours. Statistics (mean, range) are those of the whole stack.
"""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from voxelsam.data.augment_warp import Pictures, Target, through

Grey = Float[Tensor, "depth channels height width"]
"""Grey values in any units."""


def contrast(pictures: Pictures, factor: float) -> Pictures:
    """Distances to the mean of the stack times a factor."""
    from monai.transforms.intensity.array import ScaleIntensityFixedMean

    return through(ScaleIntensityFixedMean(factor=factor - 1), pictures).clamp_(0, 1)


def brightness(pictures: Pictures, factor: float) -> Pictures:
    """Grey values times a factor."""
    return multiplied(pictures, factor).clamp_(0, 1)


def multiplied(values: Grey, factor: float) -> Grey:
    """Values times a factor."""
    from monai.transforms.intensity.array import ScaleIntensity

    return through(ScaleIntensity(minv=None, maxv=None, factor=factor - 1), values)


def stretched(values: Grey, factor: float) -> Grey:
    """Distances to the mean times a factor; what leaves the range that the values had is cut off."""
    from monai.transforms.intensity.array import ScaleIntensityFixedMean

    return through(ScaleIntensityFixedMean(factor=factor - 1, preserve_range=True), values)


def shifted(pictures: Pictures, offset: float) -> Pictures:
    """A number added to every grey value."""
    from monai.transforms.intensity.array import ShiftIntensity

    return through(ShiftIntensity(offset), pictures).clamp_(0, 1)


def gamma(values: Grey, exponent: float, *, inverted: bool = False, keep: bool = False) -> Grey:
    """Values to a power, between the smallest and the largest of the stack.

    Args:
        values: any units.
        exponent: above 1 darkens.
        inverted: of the negative.
        keep: give the result the mean and standard deviation that the values had.
    """
    from monai.transforms.intensity.array import AdjustContrast

    return through(AdjustContrast(float(exponent), invert_image=inverted, retain_stats=keep), values)


def noisy(values: Grey, deviation: float, seed: int) -> Grey:
    """Normal noise added, the same in all channels of a slice.

    Args:
        values: any units.
        deviation: of the noise.
        seed: of the noise.
    """
    from monai.transforms.intensity.array import RandGaussianNoise

    noise = RandGaussianNoise(prob=1, std=deviation, sample_std=False).set_random_state(seed)
    depth, _, height, width = values.shape
    return values + through(noise, torch.zeros(depth, 1, height, width))


def blurred(values: Grey, sigma: float) -> Grey:
    """Smoothed on each slice.

    Args:
        values: any units.
        sigma: of the Gaussian, pixels.
    """
    from monai.transforms.intensity.array import GaussianSmooth

    smooth = through(GaussianSmooth(sigma), rearrange(values, "d c h w -> (d c) h w"))
    return rearrange(smooth, "(d c) h w -> d c h w", d=values.shape[0])


def coarse(values: Grey, zoom: float) -> Grey:
    """As if seen with larger pixels: the nearest of fewer pixels on each slice, then linear between them.

    Args:
        values: any units.
        zoom: share of the pixels along each side, above 0 to 1.
    """
    from monai.transforms.spatial.array import RandSimulateLowResolution

    low = RandSimulateLowResolution(1, "nearest-exact", "bilinear", zoom_range=(zoom, zoom)).set_random_state(0)
    changed = through(low, rearrange(values, "d c h w -> (d c) h w"))
    return rearrange(changed, "(d c) h w -> d c h w", d=values.shape[0])


def shaded(pictures: Pictures, reach: float, seed: int) -> Pictures:
    """Times the exponential of a smooth polynomial over the slice, as the coils of MR and uneven light do.

    Args:
        pictures: the stack.
        reach: of the coefficients of the polynomial, each -reach to reach.
        seed: of the coefficients.
    """
    from monai.transforms.intensity.array import RandBiasField

    field = RandBiasField(coeff_range=(-reach, reach), prob=1).set_random_state(seed)
    return (pictures * through(field, torch.ones(1, *pictures.shape[2:]))).clamp_(0, 1)


def gamma_curve(pictures: Pictures, exponent: float) -> Pictures:
    """Grey value to the power 1 / exponent, through a table of 256 values."""
    table = (torch.arange(256) / 255) ** (1 / exponent)
    return torch.round(table * 255).div(255)[(pictures.clamp(0, 1) * 255).round().long()]


def erase(pictures: Pictures, target: Target, random: np.random.Generator) -> tuple[Pictures, Target]:
    """One rectangle of 2-5 % of the area and aspect 0.3-3.3 becomes noise, the same in all slices, and background."""
    height, width = pictures.shape[2:]
    area = random.uniform(0.02, 0.05) * height * width
    aspect = random.uniform(0.3, 3.3)
    rows = min(max(1, round((area * aspect) ** 0.5)), height)
    columns = min(max(1, round((area / aspect) ** 0.5)), width)
    top, left = int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))
    pictures, target = pictures.clone(), target.clone()
    noise = torch.from_numpy(random.random((rows, columns), dtype=np.float32))
    pictures[:, :, top : top + rows, left : left + columns] = noise
    target[:, top : top + rows, left : left + columns] = 0
    return pictures, target


def eight_bit(pictures: Pictures) -> Pictures:
    """The nearest of 256 grey values."""
    return pictures.clamp(0, 1).mul(255).round().div(255)


def posterise(pictures: Pictures, bits: int) -> Pictures:
    """The upper bits of an 8-bit grey value; the lower ones become 0."""
    step = 1 << (8 - bits)
    return torch.floor((pictures * 255).round() / step) * step / 255


def sharpness(pictures: Pictures, factor: float) -> Pictures:
    """Between a smoothed copy (0) and the image (1), or beyond it; pixels on the rim stay as they are."""
    if min(pictures.shape[2:]) < 3:
        return pictures
    middle = pictures[..., 1:-1, 1:-1]
    smooth = pictures.clone()
    smooth[..., 1:-1, 1:-1] = (
        9 * F.avg_pool2d(pictures, 3, stride=1) + 4 * middle
    ) / 13  # the middle counts five times
    return (smooth + factor * (pictures - smooth)).clamp_(0, 1)
