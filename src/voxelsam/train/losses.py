"""What training minimises: cross-entropy and soft Dice, weighed against each other.

Channel 0 is the background; soft-max runs over the channels. The Dice term is the one of MA-SAM: every class counts,
background included, sums run over the whole batch, denominators are squared, and a class that the batch does not
hold still costs nearly 1 as long as anything is predicted of it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

SMOOTH = 1e-5
"""Added to both sides of the Dice fraction."""


def dice_ce(
    logits: Float[Tensor, "frames classes height width"],
    target: Integer[Tensor, "frames height width"],
    dice_weight: float = 0.8,
    ignore: int | None = 255,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """``(1 - dice_weight) · cross-entropy + dice_weight · Dice``, computed in float32.

    Pixels labelled ``ignore`` enter neither term; where all are ignored, all three values are zero.

    Args:
        logits: scores before soft-max, one channel per class.
        target: class indices 0 … classes-1, or ``ignore``.
        dice_weight: share of the Dice term, 0 … 1.
        ignore: label of pixels that do not count; None where every pixel counts.

    Returns:
        The loss, and the two terms it is made of (cross-entropy, Dice).

    Raises:
        ValueError: the two arrays do not describe the same pixels.
    """
    if logits.shape[:1] + logits.shape[2:] != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} need a target without the channels, not {tuple(target.shape)}")
    counts = torch.ones_like(target, dtype=torch.bool) if ignore is None else target != ignore
    logits, target = logits.float(), target.long().where(counts, 0)
    pixels = F.cross_entropy(logits, target, reduction="none")
    ce = (pixels * counts).sum() / counts.sum().clamp(min=1)
    dice = _dice(logits.softmax(dim=1), target, counts)
    return (1 - dice_weight) * ce + dice_weight * dice, ce, dice


def _dice(
    probabilities: Float[Tensor, "frames classes height width"],
    target: Integer[Tensor, "frames height width"],
    counts: Bool[Tensor, "frames height width"],
) -> Float[Tensor, ""]:
    """Mean over classes of ``1 - (2·Σpy + s) / (Σp² + Σy² + s)``, sums over the pixels that count."""
    classes = torch.arange(probabilities.shape[1], device=target.device)
    truth = (target[:, None] == classes[:, None, None]) & counts[:, None]
    counted = probabilities * counts[:, None]
    overlap = (counted * truth).sum(dim=(0, 2, 3))
    sizes = counted.square().sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    return (1 - (2 * overlap + SMOOTH) / (sizes + SMOOTH)).mean()
