"""Views of one scan for test-time augmentation: what the model is shown, and the way back for its answer.

A view never loses a part of the slice, so that every pixel has an answer from every view. Which views are safe depends
on training: a mirrored patient has the liver on the left, and only a model that was trained on mirrored slices can
answer that rightly. All views keep the order of the slices.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from voxelsam.bundle import AugmentLearnt

Flip = Literal["rows", "columns"]

Maps = Float[Tensor, "batch depth channels height width"]


@dataclass(frozen=True)
class View:
    """One way to show a stack."""

    name: str
    flip: Flip | None = None
    """Upside down (``rows``), or left for right (``columns``)."""
    scale: float = 1.0
    """Size of the slice within the picture, at most 1; what is left free is 0."""
    shift: tuple[float, float] = (0.0, 0.0)
    """How far the shrunk slice lies off the middle, down and right, as shares of the picture's sides."""

    def there(self, images: Maps) -> Maps:
        """Stacks as this view shows them."""
        if self.flip is not None:
            return images.flip(-2 if self.flip == "rows" else -1)
        if self.scale == 1:
            return images
        down, right = (2 * share for share in self.shift)  # PyTorch counts from -1 to 1
        return _warped(images, 1 / self.scale, (-right / self.scale, -down / self.scale), "zeros")

    def back(self, maps: Maps) -> Maps:
        """Maps of a shown stack, on the pixels of the stack itself."""
        if self.flip is not None:
            return maps.flip(-2 if self.flip == "rows" else -1)
        if self.scale == 1:
            return maps
        down, right = (2 * share for share in self.shift)
        return _warped(maps, self.scale, (right, down), "border")


PLAIN = View("plain")

GENTLE = (PLAIN, View("95 %, up left", None, 0.95, (-0.02, -0.02)), View("95 %, down right", None, 0.95, (0.02, 0.02)))
"""For every model: slightly smaller and to a side, which leaves left on the left."""


def views(augment: AugmentLearnt) -> tuple[View, ...]:
    """The views that are safe for a model; the first is the stack as it is.

    Args:
        augment: what training showed. Without flips the views are those of ``GENTLE``.
    """
    flipped = tuple(View(f"{flip} reversed", flip) for flip in augment.flips)
    return (PLAIN, *flipped) if flipped else GENTLE


def _warped(maps: Maps, scale: float, shift: tuple[float, float], beyond: Literal["zeros", "border"]) -> Maps:
    """Each map sampled at ``scale · place + shift``, places (x, y) from -1 to 1."""
    flat = maps.flatten(0, 1)
    theta = torch.tensor([[scale, 0.0, shift[0]], [0.0, scale, shift[1]]], dtype=flat.dtype, device=flat.device)
    grid = F.affine_grid(theta[None], [1, 1, *flat.shape[2:]], align_corners=False).expand(len(flat), -1, -1, -1)
    return F.grid_sample(flat, grid, "bilinear", beyond, align_corners=False).view_as(maps)
