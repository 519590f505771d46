"""Points and boxes drawn into the mask prompt, beside their tokens.

SAM tells its decoder about a click or a box by tokens alone. What a token means in the picture is learnt from very many
pictures; a drawing is understood from few, because it lies where the object lies. So a model may be trained to get both
(nnInteractive and other click-based methods draw theirs, too).

A drawing is a mask prompt, logits at four values per token: 0 where nothing is known, -8 outside a box, +8 and -8 in a
disk around a click on the object and beside it. Where there is a mask already, clicks are drawn over it.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from voxelsam.nn.prompt_encoder import OBJECT, PADDING, PromptBatch

SURE = 8.0
"""Logit of what a user has drawn."""

RADIUS = 1.5
"""Of the disk around a click, in values of the mask prompt."""


def drawn(prompts: PromptBatch, size: tuple[int, int], image_size: tuple[int, int]) -> PromptBatch:
    """The same prompts with their points and boxes drawn into the masks.

    Args:
        prompts: stay as they are.
        size: of mask prompts (height, width).
        image_size: of the model's input, pixels (height, width), in which points and boxes are.
    """
    boxes = prompts.boxes if prompts.boxes is not None and prompts.boxes.shape[1] else None
    if boxes is None and not prompts.points.shape[1]:
        return prompts
    y, x = (_places(size[axis], image_size[axis], prompts.points) for axis in (0, 1))
    masks = prompts.masks
    if masks is None:
        masks = prompts.points.new_zeros(len(prompts.points), 1, *size)
        if boxes is not None:
            masks = torch.where(_within(boxes, y, x), masks, -SURE)
    reach = RADIUS * torch.tensor([image_size[0] / size[0], image_size[1] / size[1]], device=masks.device)
    for point, label in zip(prompts.points.unbind(1), prompts.point_labels.unbind(1), strict=True):
        down = (y - point[:, 1, None]) / reach[0]
        across = (x - point[:, 0, None]) / reach[1]
        disk = down[:, :, None].square() + across[:, None, :].square() <= 1
        sign = torch.where(label == OBJECT, SURE, -SURE)[:, None, None]
        masks = torch.where((disk & (label != PADDING)[:, None, None])[:, None], sign[:, None].to(masks), masks)
    return replace(prompts, masks=masks)


def _places(count: int, pixels: int, like: Tensor) -> Float[Tensor, " count"]:
    """Where the values of a mask prompt lie, in pixels of the model's input."""
    return (torch.arange(count, device=like.device) + 0.5) * (pixels / count) - 0.5


def _within(
    boxes: Float[Tensor, "frames m 4"], y: Float[Tensor, " height"], x: Float[Tensor, " width"]
) -> Bool[Tensor, "frames 1 height width"]:
    """Whether each place lies in one of the boxes of its frame."""
    x0, y0, x1, y1 = boxes[..., None].unbind(2)
    rows, columns = (y >= y0) & (y <= y1), (x >= x0) & (x <= x1)
    return (rows[..., :, None] & columns[..., None, :]).any(1, keepdim=True)
