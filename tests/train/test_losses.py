"""Cross-entropy and Dice: against sums written out, and at the edges."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import TypeCheckError
from torch import Tensor

from voxelsam.train.losses import bce, dice_ce, object_dice_ce, sigmoid_dice_ce


def example(ignored: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 6, generator=generator)
    target = torch.randint(0, 4, (3, 5, 6), generator=generator)
    return logits, target.masked_fill(torch.rand(3, 5, 6, generator=generator) < ignored, 255)


def by_hand(logits: Tensor, target: Tensor) -> tuple[float, float]:
    """The two terms, pixel by pixel in double precision."""
    overlap, predicted, present = ([0.0] * logits.shape[1] for _ in range(3))
    losses = []
    for frame, row, column in zip(*torch.nonzero(target != 255, as_tuple=True), strict=True):
        p = logits[frame, :, row, column].double().softmax(0).tolist()
        true = int(target[frame, row, column])
        losses.append(-math.log(p[true]))
        overlap[true] += p[true]
        present[true] += 1
        predicted = [total + value**2 for total, value in zip(predicted, p, strict=True)]
    dice = [1 - (2 * o + 1e-5) / (q + y + 1e-5) for o, q, y in zip(overlap, predicted, present, strict=True)]
    return sum(losses) / len(losses), sum(dice) / len(dice)


@pytest.mark.parametrize("ignored", [0.0, 0.4])
@pytest.mark.parametrize("weight", [0.0, 0.8, 1.0])
def test_terms_are_the_sums_written_out(ignored: float, weight: float) -> None:
    logits, target = example(ignored)
    loss, ce, dice = dice_ce(logits, target, weight)
    assert [ce.item(), dice.item()] == pytest.approx(by_hand(logits, target), rel=1e-5)
    assert loss.item() == pytest.approx((1 - weight) * ce.item() + weight * dice.item(), rel=1e-6)


def test_ignored_pixels_do_not_matter_and_get_no_gradient() -> None:
    logits, target = example(0.4)
    other = torch.where((target == 255)[:, None], 50 * torch.randn_like(logits), logits).requires_grad_()
    assert torch.stack(dice_ce(other, target)).tolist() == pytest.approx(torch.stack(dice_ce(logits, target)).tolist())
    dice_ce(other, target)[0].backward()
    assert (other.grad * (target == 255)[:, None]).abs().max() == 0
    assert other.grad.abs().max() > 0


def test_the_label_to_ignore_can_be_another_or_none() -> None:
    logits, target = example(0.4)
    theirs = target.masked_fill(target == 255, -100)
    assert torch.equal(dice_ce(logits, theirs, ignore=-100)[0], dice_ce(logits, target)[0])
    with pytest.raises(IndexError, match="out of bounds"):
        dice_ce(logits, target, ignore=None)


def test_nothing_that_counts_gives_zero_and_no_nan() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    values = dice_ce(logits, torch.full((1, 4, 4), 255))
    values[0].backward()
    assert torch.stack(values).tolist() == [0.0, 0.0, 0.0]
    assert logits.grad.abs().max() == 0


def test_a_class_that_is_absent_still_costs_nearly_one() -> None:
    logits = torch.zeros(1, 2, 8, 8)
    _, _, dice = dice_ce(logits, torch.zeros(1, 8, 8, dtype=torch.long))
    present = 1 - (2 * 32 + 1e-5) / (16 + 64 + 1e-5)
    absent = 1 - 1e-5 / (16 + 1e-5)
    assert dice.item() == pytest.approx((present + absent) / 2, rel=1e-5)


def test_the_right_answer_costs_nothing() -> None:
    _, target = example()
    logits = 100.0 * F.one_hot(target, 4).movedim(-1, 1)
    assert dice_ce(logits, target)[0].item() == pytest.approx(0, abs=1e-5)


def plain(
    logits: Tensor, target: Tensor, ignore: int | None = 255, unlabelled: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss from PyTorch's own cross-entropy and a soft-max beside it, with the graph that autograd makes."""
    counts = torch.ones_like(target, dtype=torch.bool) if ignore is None else target != ignore
    target = target.where(counts, 0)
    if unlabelled is not None:
        gone = unlabelled[:, :, None, None]
        behind = torch.cat((logits[:, :1], logits[:, 1:].masked_fill(~gone[:, 1:], -torch.inf)), 1).logsumexp(1)
        logits = torch.cat((behind[:, None], logits[:, 1:].masked_fill(gone[:, 1:], -torch.inf)), 1)
        target = target.masked_fill(unlabelled.gather(1, target.flatten(1)).view_as(target), 0)
    ce = (F.cross_entropy(logits, target, reduction="none") * counts).sum() / counts.sum()
    p, y = logits.softmax(1) * counts[:, None], F.one_hot(target, logits.shape[1]).movedim(-1, 1) * counts[:, None]
    dice = 1 - (2 * (p * y).sum((0, 2, 3)) + 1e-5) / ((p * p).sum((0, 2, 3)) + y.sum((0, 2, 3)) + 1e-5)
    seen = torch.ones(logits.shape[1]) if unlabelled is None else (~unlabelled).any(0)
    dice = (dice * seen).sum() / seen.sum()
    return 0.2 * ce + 0.8 * dice, ce, dice


MARKS = torch.tensor([[False, True, False, False], [False, True, True, False], [False, True, False, False]])


@pytest.mark.parametrize("marks", [None, MARKS], ids=["all looked for", "some not looked for"])
@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_one_soft_max_gives_the_loss_and_the_gradient_of_two(ignored: float, marks: Tensor | None) -> None:
    logits, target = example(ignored)
    found, wanted = (3 * logits.clone()).requires_grad_(), (3 * logits.clone()).requires_grad_()
    ours, theirs = dice_ce(found, target, unlabelled=marks), plain(wanted, target, unlabelled=marks)
    assert torch.stack(ours).tolist() == pytest.approx(torch.stack(theirs).tolist(), rel=1e-6)
    ours[0].backward()
    theirs[0].backward()
    assert (found.grad - wanted.grad).norm() < 1e-6 * wanted.grad.norm()


@pytest.mark.parametrize("term", [0, 1, 2])
def test_the_gradient_is_that_of_small_steps(term: int) -> None:
    logits, target = example(0.3)
    logits = logits[:2, :, :3, :2].double().contiguous().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dice_ce(x, target[:2, :3, :2])[term], (logits,))


def kept(loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]], logits: Tensor, target: Tensor) -> int:
    """Bytes that the graph of a loss holds until the backward pass, which is then run."""
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        total, _, _ = loss(logits, target)
    total.backward()
    return sum(held.values())


def test_the_graph_keeps_the_logits_once_and_no_soft_max() -> None:
    logits, target = torch.randn(2, 20, 16, 16, requires_grad=True), torch.randint(0, 20, (2, 16, 16))
    assert logits.nbytes <= kept(dice_ce, logits, target) < 1.3 * logits.nbytes


def objects() -> tuple[Tensor, Tensor]:
    """Masks of a small object, a large one, one that is not there, and one that fills the slice."""
    generator = torch.Generator().manual_seed(4)
    size = torch.tensor([0.1, 0.8, -1.0, 2.0]).view(-1, 1, 1)
    return 3 * torch.randn(4, 7, 9, generator=generator), torch.rand(4, 7, 9, generator=generator) < size


def plain_objects(logits: Tensor, truth: Tensor, weight: float = 0.8) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of single masks by PyTorch's own cross-entropy and a sigmoid beside it."""
    known = truth.to(logits.dtype)
    ce = F.binary_cross_entropy_with_logits(logits, known, reduction="none").mean((1, 2)).mean()
    p = logits.sigmoid()
    overlap, sizes = (p * known).sum((1, 2)), (p * p).sum((1, 2)) + known.sum((1, 2))
    dice = (1 - (2 * overlap + 1) / (sizes + 1)).mean()
    return (1 - weight) * ce + weight * dice, ce, dice


@pytest.mark.parametrize("weight", [0.0, 0.8, 1.0])
def test_one_sigmoid_gives_the_loss_and_the_gradient_of_two(weight: float) -> None:
    logits, truth = objects()
    found, wanted = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ours, theirs = object_dice_ce(found, truth, weight), plain_objects(wanted, truth, weight)
    assert torch.stack(ours).tolist() == pytest.approx(torch.stack(theirs).tolist(), rel=1e-6)
    ours[0].backward()
    theirs[0].backward()
    assert (found.grad - wanted.grad).norm() < 1e-6 * wanted.grad.norm()


@pytest.mark.parametrize("term", [0, 1, 2])
def test_the_gradient_of_objects_is_that_of_small_steps(term: int) -> None:
    logits, truth = objects()
    logits = logits[:, :3, :2].double().contiguous().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: object_dice_ce(x, truth[:, :3, :2])[term], (logits,))


def test_the_graph_of_objects_keeps_the_logits_once_and_no_sigmoid() -> None:
    logits, truth = torch.randn(3, 64, 64, requires_grad=True), torch.rand(3, 64, 64) < 0.5
    assert logits.nbytes <= kept(object_dice_ce, logits, truth) < 1.3 * logits.nbytes


def test_large_scores_of_objects_stay_finite() -> None:
    logits, truth = torch.tensor([[[-200.0, 200.0]], [[200.0, -200.0]]]).requires_grad_(), torch.ones(2, 1, 2) > 0
    loss, ce, _ = object_dice_ce(logits, truth)
    loss.backward()
    assert ce.item() == pytest.approx(100.0)
    assert logits.grad.isfinite().all()


def test_no_object_gives_zero_and_a_gradient_of_nothing() -> None:
    logits = torch.zeros(0, 7, 9, requires_grad=True)
    terms = object_dice_ce(logits, torch.zeros(0, 7, 9, dtype=torch.bool))
    terms[0].backward()
    assert torch.stack(terms).tolist() == [0, 0, 0]
    assert logits.grad.shape == (0, 7, 9)


def test_objects_in_half_precision_are_summed_in_single() -> None:
    logits, truth = objects()
    half = object_dice_ce(logits.bfloat16(), truth)
    assert half[0].dtype == torch.float32
    assert torch.equal(half[0], object_dice_ce(logits.bfloat16().float(), truth)[0])


def test_frames_are_summed_before_the_fraction() -> None:
    logits, target = example()
    together = dice_ce(logits, target)[2]
    apart = torch.stack([dice_ce(logits[i : i + 1], target[i : i + 1])[2] for i in range(3)]).mean()
    assert abs(together - apart) > 1e-4


def test_half_precision_is_summed_in_single() -> None:
    logits, target = example()
    half = dice_ce(logits.bfloat16(), target.to(torch.uint8))
    assert torch.equal(half[0], dice_ce(logits.bfloat16().float(), target)[0])


@pytest.mark.parametrize("shape", [(3, 5, 5), (2, 5, 6), (3, 1, 5, 6)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, TypeCheckError), match=r"without the channels|Type-check error"):
        dice_ce(example()[0], torch.zeros(shape, dtype=torch.long))


def masks(channels: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(3, channels, 4, 5, generator=generator)
    return logits, (torch.rand(3, channels, 4, 5, generator=generator) > 0.6).float()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_bce_is_the_sum_written_out(channels: int, weight: float) -> None:
    logits, target = masks(channels)
    p = logits.double().sigmoid()
    by_hand = -(weight * target * p.log() + (1 - target) * (1 - p).log()).mean()
    assert bce(logits, target, weight).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_bce_of_undecided_pixels() -> None:
    zeros = torch.zeros(1, 1, 2, 2)
    assert bce(zeros, zeros).item() == pytest.approx(math.log(2))
    assert bce(zeros, torch.ones(1, 1, 2, 2)).item() == pytest.approx(2 * math.log(2))
    assert bce(zeros, torch.full((1, 1, 2, 2), 0.5)).item() == pytest.approx(1.5 * math.log(2))


def test_bce_of_masks_is_the_mean_of_each() -> None:
    logits, target = masks(3)
    apart = [bce(logits[:, i : i + 1], target[:, i : i + 1]).item() for i in range(3)]
    assert bce(logits, target).item() == pytest.approx(sum(apart) / 3, rel=1e-5)


def test_sigmoid_dice_ce_is_the_sum_written_out() -> None:
    logits, target = masks()
    p, y = logits.double().sigmoid().flatten(1), target.flatten(1)
    shares = (2 * (p * y).sum(1) + 1e-5) / ((p * p).sum(1) + y.sum(1) + 1e-5)
    ce = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    assert sigmoid_dice_ce(logits, target).item() == pytest.approx((1 - shares.mean() + ce).item(), rel=1e-5)


def test_sigmoid_dice_ce_of_several_masks_takes_the_soft_max_for_cross_entropy() -> None:
    logits, target = masks(3)
    dice = [
        sigmoid_dice_ce(logits[:, i : i + 1], target[:, i : i + 1])
        - bce(logits[:, i : i + 1], target[:, i : i + 1], 1.0)
        for i in range(3)
    ]
    ce = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
    assert sigmoid_dice_ce(logits, target).item() == pytest.approx((sum(dice) / 3 + ce).item(), rel=1e-5)


@pytest.mark.parametrize("loss", [bce, sigmoid_dice_ce])
def test_masks_that_are_right_cost_nothing_and_wrong_ones_much(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    _, target = masks()
    assert loss(100 * (2 * target - 1), target).item() == pytest.approx(0, abs=1e-4)
    assert loss(100 * (1 - 2 * target), target).item() > 50


@pytest.mark.parametrize("loss", [bce, sigmoid_dice_ce])
def test_descending_leads_to_the_target(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits, target = masks()
    logits.requires_grad_()
    loss(logits, target).backward()
    assert ((logits.grad < 0) == (target > 0)).all()


@pytest.mark.parametrize("loss", [bce, sigmoid_dice_ce])
@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (3, 4, 5), (1, 1, 4, 5)])
def test_masks_of_other_shapes_are_refused(loss: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, TypeCheckError), match=r"of the same shape|Type-check error"):
        loss(masks()[0], torch.zeros(shape))
