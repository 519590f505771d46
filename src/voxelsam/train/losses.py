"""What training minimises: cross-entropy and soft Dice, weighed against each other.

Channel 0 is the background; soft-max runs over the channels. The Dice term is the one of MA-SAM: every class counts,
background included, sums run over the whole batch, denominators are squared, and a class that the batch does not
hold still costs nearly 1 as long as anything is predicted of it.

Where nobody looked for a class, its pixels are drawn as background. There the marginal loss of Shi et al. holds
("Marginal loss and exclusion loss for partially supervised multi-organ segmentation", Medical Image Analysis 70, 2021):
background and all classes that nobody looked for are one class, whose probability is the sum of theirs. The paper's
exclusion loss is not used.

Where several processes train together, the losses that training uses (``dice_ce``, ``object_dice_ce``,
``quality_error``) are those of the whole batch: every sum runs over the shares of all processes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.autograd.function import once_differentiable

from voxelsam.train.distributed import total

SMOOTH = 1e-5
"""Added to both sides of the Dice fraction."""


def dice_ce(
    logits: Float[Tensor, "frames classes height width"],
    target: Integer[Tensor, "frames height width"],
    dice_weight: float = 0.8,
    ignore: int | None = 255,
    unlabelled: Bool[Tensor, "frames classes"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """``(1 - dice_weight) · cross-entropy + dice_weight · Dice``, computed in float32.

    Pixels labelled ``ignore`` enter neither term; where all are ignored, all three values are zero. On a frame where
    nobody looked for a class, that class is part of the background, and the frame is left out of the class's Dice; a
    class that nobody looked for on any frame is left out of the mean.

    Args:
        logits: scores before soft-max, one channel per class.
        target: class indices 0 … classes-1, or ``ignore``.
        dice_weight: share of the Dice term, 0 … 1.
        ignore: label of pixels that do not count; None where every pixel counts.
        unlabelled: classes that nobody looked for on a frame, never the background; None where all were looked for.

    Returns:
        The loss, and the two terms it is made of (cross-entropy, Dice).

    Raises:
        ValueError: the arrays do not describe the same pixels and classes.
    """
    if logits.shape[:1] + logits.shape[2:] != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} need a target without the channels, not {tuple(target.shape)}")
    counts = torch.ones_like(target, dtype=torch.bool) if ignore is None else target != ignore
    target = target.long().where(counts, 0)
    if unlabelled is not None:
        logits, target = _merged(logits.float(), target, unlabelled)
    pixels, overlap, sizes = _Sums.apply(logits, target, counts)  # type: ignore[no-untyped-call]
    looked = pixels.new_ones(logits.shape[1]) if unlabelled is None else (~unlabelled).sum(dim=0).to(pixels)
    sums = total(torch.cat((torch.stack((pixels, counts.sum())), overlap, sizes, looked)))
    ce = sums[0] / sums[1].clamp(min=1)
    overlap, sizes, looked = sums[2:].view(3, -1)
    by_class = 1 - (2 * overlap + SMOOTH) / (sizes + SMOOTH)
    seen = (looked > 0).to(by_class)
    dice = (by_class * seen).sum() / seen.sum()
    return (1 - dice_weight) * ce + dice_weight * dice, ce, dice


def _merged(
    logits: Float[Tensor, "frames classes height width"],
    target: Integer[Tensor, "frames height width"],
    unlabelled: Bool[Tensor, "frames classes"],
) -> tuple[Float[Tensor, "frames classes height width"], Integer[Tensor, "frames height width"]]:
    """Logits whose background has the probability of all classes that nobody looked for, and these none; target too."""
    if unlabelled.shape != logits.shape[:2]:
        raise ValueError(
            f"logits {tuple(logits.shape)} need one mark per frame and class, not {tuple(unlabelled.shape)}"
        )
    outside = unlabelled[:, :, None, None]
    behind = torch.cat((logits[:, :1], logits[:, 1:].masked_fill(~outside[:, 1:], -torch.inf)), dim=1)
    merged = torch.cat(
        (behind.logsumexp(dim=1, keepdim=True), logits[:, 1:].masked_fill(outside[:, 1:], -torch.inf)), 1
    )
    return merged, target.masked_fill(unlabelled.gather(1, target.flatten(1)).view_as(target), 0)


class _Sums(torch.autograd.Function):
    """``-Σ log p`` of the true classes, then ``Σpy`` and ``Σp² + Σy²`` of each class, over the pixels that count.

    One soft-max serves all three. The graph keeps the logits and nothing else of their size: the backward pass takes
    the soft-max again, frame by frame, and with the gradients g of the sums gives each logit
    ``p_k (d_k - Σ_c p_c d_c) + g_ce (p_k - y_k)``, where ``d = g_overlap y + 2 g_sizes p``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Float[Tensor, "frames classes height width"],
        target: Integer[Tensor, "frames height width"],
        counts: Bool[Tensor, "frames height width"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " classes"], Float[Tensor, " classes"]]:
        """The sums, at least in single precision."""
        ctx.save_for_backward(logits, target, counts)
        kind = torch.promote_types(logits.dtype, torch.float32)
        pixels = torch.zeros((), dtype=kind, device=logits.device)
        overlap, sizes = (torch.zeros(logits.shape[1], dtype=kind, device=logits.device) for _ in range(2))
        for frame, there, counted in zip(*(torch.split(x, 1) for x in (logits, target, counts)), strict=True):
            log = frame.to(kind).log_softmax(dim=1)
            pixels += (F.nll_loss(log, there, reduction="none") * counted).sum()
            p, y = log.exp_().mul_(counted[:, None]), _drawn(there, counted, logits.shape[1]).to(kind)
            overlap += (p * y).sum(dim=(0, 2, 3))
            sizes += p.square_().sum(dim=(0, 2, 3)) + y.sum(dim=(0, 2, 3))
        return pixels, overlap, sizes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of the logits."""
        logits, target, counts = ctx.saved_tensors
        of_pixels, of_overlap, of_sizes = grads[0], *(grad[:, None, None] for grad in grads[1:])
        result = torch.empty_like(logits)
        shares = zip(*(torch.split(x, 1) for x in (logits, target, counts, result)), strict=True)
        for frame, there, counted, given in shares:
            p = frame.to(of_pixels.dtype).softmax(dim=1)
            y = _drawn(there, counted, logits.shape[1]).to(p)
            d = (2 * of_sizes * p).add_(of_overlap * y)
            d -= (p * d).sum(dim=1, keepdim=True)
            given.copy_(d.mul_(p).add_(of_pixels * p).mul_(counted[:, None]).sub_(of_pixels * y))
        return result, None, None


def _drawn(
    target: Integer[Tensor, "frames height width"], counts: Bool[Tensor, "frames height width"], classes: int
) -> Bool[Tensor, "frames classes height width"]:
    """Where each class is drawn, and counts."""
    every = torch.arange(classes, device=target.device)
    return (target[:, None] == every[:, None, None]) & counts[:, None]


def object_dice_ce(
    logits: Float[Tensor, "objects height width"],
    truth: Bool[Tensor, "objects height width"],
    dice_weight: float = 0.8,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """``(1 - dice_weight) · cross-entropy + dice_weight · Dice`` of single masks, each object counting the same.

    No object in any process is a mistake of the caller and gives zero.

    The Dice term is ``1 - (2·Σpy + 1) / (Σp² + Σy² + 1)`` per object, so that a small object weighs as much as a large
    one, and an object that is not on its slice costs next to nothing once nothing is predicted.

    Args:
        logits: scores before the sigmoid.
        truth: where the objects are.
        dice_weight: share of the Dice term, 0 … 1.

    Returns:
        The loss, and the two terms it is made of (cross-entropy, Dice).

    Raises:
        ValueError: the two arrays do not describe the same pixels.
    """
    if logits.shape != truth.shape:
        raise ValueError(f"logits {tuple(logits.shape)} need a truth of the same shape, not {tuple(truth.shape)}")
    pixels, overlap, sizes = _ObjectSums.apply(logits, truth)  # type: ignore[no-untyped-call]
    ce, dice = _mean(torch.stack((pixels / truth.shape[1:].numel(), 1 - (2 * overlap + 1) / (sizes + 1)), dim=1))
    return (1 - dice_weight) * ce + dice_weight * dice, ce, dice


class _ObjectSums(torch.autograd.Function):
    """Cross-entropy, ``Σpy`` and ``Σp² + Σy²`` of each object.

    The graph keeps the logits and nothing else of their size: the backward pass takes the sigmoid again, object by
    object, and with the gradients g of the sums gives each logit
    ``p (1 - p) (g_overlap y + 2 g_sizes p) + g_ce (p - y)``.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Float[Tensor, "objects height width"], truth: Bool[Tensor, "objects height width"]
    ) -> tuple[Float[Tensor, " objects"], Float[Tensor, " objects"], Float[Tensor, " objects"]]:
        """The sums, at least in single precision."""
        ctx.save_for_backward(logits, truth)
        kind = torch.promote_types(logits.dtype, torch.float32)
        pixels, overlap, sizes = (torch.zeros(len(logits), dtype=kind, device=logits.device) for _ in range(3))
        for number, (some, known) in enumerate(zip(logits, truth, strict=True)):
            z, y = some.to(kind), known.to(kind)
            pixels[number] = F.binary_cross_entropy_with_logits(z, y, reduction="sum")
            p = z.sigmoid()
            overlap[number] = (p * y).sum()
            sizes[number] = p.square_().sum() + y.sum()
        return pixels, overlap, sizes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """The gradient of the logits."""
        logits, truth = ctx.saved_tensors
        result = torch.empty_like(logits)
        for some, y, given, of_pixels, of_overlap, of_sizes in zip(logits, truth, result, *grads, strict=True):
            p = some.to(of_pixels.dtype).sigmoid()
            d = (2 * of_sizes * p).add_(of_overlap * y).mul_(1 - p).mul_(p)
            given.copy_(d.add_(of_pixels * p).sub_(of_pixels * y))
        return result, None


def quality_error(
    said: Float[Tensor, " objects"],
    logits: Float[Tensor, "objects height width"],
    truth: Bool[Tensor, "objects height width"],
) -> Float[Tensor, ""]:
    """Mean squared error of the quality head against the IoU that its masks really have (arXiv 2304.02643, A).

    Args:
        said: the quality head's estimate for each mask.
        logits: the masks, before the threshold at 0; no gradient flows into them.
        truth: where the objects are. A mask that is rightly empty has the IoU 1.
    """
    mask = logits.detach() > 0
    both = (mask & truth).sum(dim=(1, 2))
    either = (mask | truth).sum(dim=(1, 2))
    iou = torch.where(either == 0, 1.0, both / either.clamp(min=1))
    return _mean((said - iou.to(said.dtype)).square()[:, None])[0]


def _mean(values: Float[Tensor, "objects terms"]) -> Float[Tensor, " terms"]:
    """Mean over the objects of all processes, of which this one may have none."""
    sums = total(torch.cat((values.sum(dim=0), values.new_tensor([len(values)]))))
    return sums[:-1] / sums[-1].clamp(min=1)


def bce(
    logits: Float[Tensor, "frames masks height width"],
    target: Float[Tensor, "frames masks height width"],
    positive_weight: float = 2.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of independent masks, mean over everything: Med-SA's loss on pictures (arXiv 2304.12620, code).

    Args:
        logits: scores before the sigmoid.
        target: 0 … 1; between them where raters disagree.
        positive_weight: factor of the term that wants pixels to belong to a mask; Med-SA takes 2.

    Raises:
        ValueError: the two arrays do not describe the same masks.
    """
    _check_same(logits, target)
    weight = logits.new_tensor(positive_weight)
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), pos_weight=weight)


def sigmoid_dice_ce(
    logits: Float[Tensor, "frames masks height width"], target: Float[Tensor, "frames masks height width"]
) -> Float[Tensor, ""]:
    """Dice plus cross-entropy, unweighted: Med-SA's loss on volumes (arXiv 2304.12620, code).

    This is MONAI's ``DiceCELoss(sigmoid=True, squared_pred=True)``. The Dice term is
    ``1 - (2·Σpy + s) / (Σp² + Σy² + s)`` of each mask of each frame, and their mean. As there, cross-entropy is that of
    the sigmoid for one mask, and that of the soft-max over the masks for several.

    Args:
        logits: scores before the sigmoid.
        target: 0 … 1.

    Raises:
        ValueError: the two arrays do not describe the same masks.
    """
    _check_same(logits, target)
    known = target.to(logits.dtype)
    probabilities = logits.sigmoid()
    overlap = (probabilities * known).sum(dim=(2, 3))
    sizes = probabilities.square().sum(dim=(2, 3)) + known.square().sum(dim=(2, 3))
    dice = (1 - (2 * overlap + SMOOTH) / (sizes + SMOOTH)).mean()
    single = logits.shape[1] == 1
    return dice + (F.binary_cross_entropy_with_logits if single else F.cross_entropy)(logits, known)


def _check_same(logits: Tensor, target: Tensor) -> None:
    if logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} need a target of the same shape, not {tuple(target.shape)}")
